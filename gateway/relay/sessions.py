"""Sessions: what the connections of this process are doing, for an operator who asks, and the end of one of them.

Rule: bounded, and some at a time: the data path does not notice that somebody looks.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterable
from itertools import chain, islice

from gateway.relay.connection import Connection
from gateway.relay.ending import By, place
from gateway.relay.engine import Engine
from gateway.relay.messages import Answer, ListSessions, Session, Sessions, ShutDown, Shutdown
from gateway.relay.tcp import TcpListener

SESSIONS_MAX = 1_000  # of one answer, whatever was asked for
PART_MAX = 50  # told in one turn, 0.5 ms; some 10 kB, and a message has room for ten times that

_TCP_INFO_BYTES = 60
_LAST_RECEIVED = struct.Struct("=I")  # tcpi_last_data_recv of struct tcp_info (linux/tcp.h), in milliseconds
_LAST_RECEIVED_AT = 52


def tell(
    order: ListSessions, listeners: Iterable[TcpListener], engine: Engine, answer: Callable[[Answer], None]
) -> None:
    """Answer `order`, the oldest of each listener first, in as many parts as it takes."""
    listeners = list(listeners)
    total = sum(len(listener.connections) for listener in listeners)
    wanted = list(
        islice(
            chain.from_iterable(listener.connections for listener in listeners), min(order.sessions_max, SESSIONS_MAX)
        )
    )

    def go_on(rest: list[Connection]) -> None:
        part, rest = rest[:PART_MAX], rest[PART_MAX:]
        # Some may have ended since they were picked.
        said = tuple(describe(each) for each in part if each in each.listener.connections)
        answer(Sessions(request=order.request, sessions=said, total=total, last=not rest))
        if rest:
            engine.soon(lambda: go_on(rest))

    go_on(wanted)


def shut_down(order: Shutdown, listeners: Iterable[TcpListener]) -> ShutDown:
    """Reset the connection that `order` names, if there is one."""
    for connection in chain.from_iterable(listener.connections for listener in listeners):
        if identity(connection) == order.session:
            connection.abort(By.OPERATOR)
            return ShutDown(request=order.request, found=True)
    return ShutDown(request=order.request, found=False)


def identity(connection: Connection) -> str:
    """Return what this process calls the connection: its place in memory, and its client's port.

    One that has ended may have left the first to a younger one, but hardly with the same port.
    """
    return f"{id(connection):x}.{connection.address[1] if connection.address is not None else 0}"


def describe(connection: Connection) -> Session:
    """Return one connection as it stands."""
    server, client = connection.server, connection.client
    host, port = (connection.address or ("?", 0))[:2]
    target = connection.target
    state = connection.state.name.lower()
    if connection.is_open and connection.epoch != connection.listener.route.epoch:
        state = "draining"
    ends = [client] if server is None else [client, server]
    return Session(
        id=identity(connection),
        listener=connection.listener.settings.name,
        client=place(host, port),
        server="" if target is None else place(*target),
        state=state,
        age_ms=max(0, round((time.monotonic() - connection.accepted_at) * 1000)),
        idle_ms=min(_silent_ms(end.sock) for end in ends),
        bytes_to_server=client.moved,
        bytes_to_client=0 if server is None else server.moved,
        waiting=sum(end.waiting() for end in ends),
    )


def _silent_ms(sock: socket.SocketType) -> int:
    """Return how long ago the kernel has received data on this socket; since it was opened where there were none."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return int(_LAST_RECEIVED.unpack_from(info, _LAST_RECEIVED_AT)[0])

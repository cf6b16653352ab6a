"""TCP listeners: accept in bursts, hand each client to a connection of its own.

Rule: nobody is accepted and left hanging: a client is served, or held for a bounded time, or reset at once.
"""

import socket
from collections.abc import Callable

from gateway.relay import sockets
from gateway.relay.connection import Connection
from gateway.relay.engine import Engine
from gateway.relay.listener import NO_DESCRIPTORS, Listener
from gateway.relay.messages import Listener as Settings
from gateway.relay.messages import ListenerStats, WhenDown
from gateway.relay.route import Route

ACCEPTS_PER_TURN_MAX = 64  # a burst of reconnecting clients; open connections must get their turn as well


class TcpListener(Listener):
    """One listening TCP port and its connections."""

    def __init__(self, settings: Settings, route: Route, engine: Engine, on_change: Callable[[Listener], None]) -> None:
        super().__init__(settings, route, engine, on_change)
        self.connections: dict[Connection, None] = {}

    def on_ready(self, events: int) -> None:
        """Accept who is waiting, up to a burst."""
        for _ in range(ACCEPTS_PER_TURN_MAX):
            if self.sock is None:
                return  # a REFUSE listener was closed by what an accepted connection met
            try:
                client, _address = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in NO_DESCRIPTORS:
                    self.pause()
                    return
                continue  # accept(2): errors of the new connection itself (ECONNABORTED, EPROTO); the next may be well
            self._admit(client)

    def _admit(self, client: socket.socket) -> None:
        self.counters.connections_total += 1
        if len(self.connections) >= self.settings.connections_max:
            self.counters.refused_total += 1
            sockets.reset(client)
            return
        client.setblocking(False)  # the one setting that Linux does not inherit from the listener
        connection = Connection(self, client)
        self.connections[connection] = None
        connection.start()

    def _close_socket(self) -> None:
        """Close the port. Who has connected to a REFUSE listener and was not accepted yet is refused gently."""
        if self.sock is not None and self.settings.when_down is WhenDown.REFUSE:
            for _ in range(ACCEPTS_PER_TURN_MAX):
                try:
                    client, _address = self.sock.accept()
                except OSError:
                    break
                self.counters.connections_total += 1
                client.setblocking(False)
                connection = Connection(self, client)
                self.connections[connection] = None
                connection.refuse()
        super()._close_socket()

    def close_clients(self) -> int:
        """Reset at once, on both sides, every connection that has a server."""
        closed = 0
        for connection in list(self.connections):
            if connection.is_open:
                connection.abort()
                closed += 1
        return closed

    def close_held(self) -> None:
        """Reset the clients that wait."""
        for connection in list(self.connections):
            connection.abort()

    def route_changed(self, *, switch: bool) -> int:
        """As every listener; and who is just connecting to another server than the route's waits for that one."""
        closed = super().route_changed(switch=switch)
        for connection in list(self.connections):
            connection.route_changed(switch=switch)
        return closed

    def stats(self) -> ListenerStats:
        """Return the counters of this moment."""
        held = sum(not connection.is_open for connection in self.connections)
        return self.counters.stats(
            self.settings.name, connections_now=len(self.connections), held_now=held, flows_now=0
        )

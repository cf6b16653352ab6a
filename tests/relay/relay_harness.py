"""Loopback servers, clients, and a real relay process."""

import errno
import itertools
import socket
import struct
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager, suppress

import msgspec
import trio

from gateway.config.settings import Endpoint
from gateway.relay.engine import Engine
from gateway.relay.messages import Answer, Configure, Listener, ListenFailed, Ready, Report, Route, Switched
from gateway.relay.worker import Worker

DEADLINE_S = 20  # for everything that should take milliseconds, on a machine that is busy with other things


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listener(protocol="tcp", name=None, route="pool", **settings):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    settings.setdefault("port", free_port(kind))
    return Listener(name=name or f"matchmaker-{protocol}", route=route, protocol=protocol, host="127.0.0.1", **settings)


async def wait_until(condition):
    await wait_until_async(_awaitable(condition))


async def wait_until_async(condition):
    with trio.fail_after(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110 (other processes set no event)
            await trio.sleep(0.01)


def _awaitable(condition):
    async def ask():
        return condition()

    return ask


class Harness:
    """A relay process, told what to do and asked what it did."""

    def __init__(self, relay):
        self.relay = relay
        self.seen = []
        self._epoch = itertools.count(1)

    async def event(self, kind):
        """The next event of `kind`; those before it are kept in `seen`."""
        with trio.fail_after(DEADLINE_S):
            while True:
                event = await self.relay.events.receive()
                self.seen.append(event)
                if isinstance(event, kind):
                    return event

    async def listen(self, *listeners):
        self.relay.configure(listeners)
        return await self.event((Ready, ListenFailed))

    async def switch(self, server, route="pool"):
        """Route to `server` (a port, or None) with a new epoch."""
        self.relay.route(route, server and Endpoint("127.0.0.1", server), next(self._epoch))
        return await self.event(Switched)

    def stats(self, name="matchmaker-tcp"):
        report = self.relay.latest_report
        return next((each for each in report.listeners if each.name == name), None) if report else None

    async def stats_when(self, condition, name="matchmaker-tcp"):
        await wait_until(lambda: self.stats(name) is not None and condition(self.stats(name)))
        return self.stats(name)


@asynccontextmanager
async def tcp_server(handler, port=0, backlog=128):
    """Serve each connection with `handler(stream)`; give the port."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1", backlog=backlog)
        nursery.start_soon(trio.serve_listeners, _quiet(handler), listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def _quiet(handler):
    async def handle(stream):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await handler(stream)

    return handle


async def echo(stream):
    async for chunk in stream:
        await stream.send_all(chunk)


def greeter(name):
    """A server that answers each chunk with its own name: who served me?"""

    async def handle(stream):
        async for _chunk in stream:
            await stream.send_all(name)

    return handle


async def connect(port):
    with trio.fail_after(DEADLINE_S):
        return await trio.open_tcp_stream("127.0.0.1", port)


async def is_reset(port):
    """Whether a new client is reset at once, without a word of its own."""
    try:
        async with await connect(port) as stream:
            return await how_it_ended(stream) == "reset"
    except OSError as error:
        return connect_errno(error) == "ECONNRESET"  # so early that connect itself tells


async def ask(port, question=b"?"):
    """Ask once on a connection of its own; return the answer, or an error's name."""
    try:
        async with await connect(port) as stream:
            return await ask_on(stream, question)
    except (OSError, trio.BrokenResourceError) as error:
        return connect_errno(error)


async def ask_on(stream, question=b"?"):
    with trio.fail_after(DEADLINE_S):
        await stream.send_all(question)
        return await stream.receive_some()


def connect_errno(error):
    """The errno's name within what trio.open_tcp_stream raises."""
    while error is not None:
        if getattr(error, "errno", None):
            return errno.errorcode[error.errno]
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    return "unknown"


async def how_it_ended(stream):
    """'reset', or 'closed', or the bytes that came instead."""
    try:
        with trio.fail_after(DEADLINE_S):
            return await stream.receive_some() or "closed"
    except trio.BrokenResourceError as error:
        return "reset" if isinstance(error.__cause__, ConnectionResetError) else repr(error.__cause__)


def reset(stream):
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def bound_datagrams(port=0):
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", port))
    return sock


@asynccontextmanager
async def udp_server(name=b"", port=0):
    """Answer each datagram with `name` + the datagram; give the port and the list of (datagram, source)."""
    heard = []
    sock = await bound_datagrams(port)

    async def serve():
        while True:
            try:
                datagram, source = await sock.recvfrom(65_536)
            except ConnectionRefusedError:
                continue
            heard.append((datagram, source))
            await sock.sendto(name + datagram, source)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield sock.getsockname()[1], heard
        nursery.cancel_scope.cancel()
    sock.close()


async def connected_datagrams(port):
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.connect(("127.0.0.1", port))
    return sock


async def ask_datagram(sock, datagram):
    with trio.fail_after(DEADLINE_S):
        await sock.send(datagram)
        return await sock.recv(65_536)


@asynccontextmanager
async def relay_in_this_process(*orders):
    """Run a relay here, for the sake of monkeypatching; it has obeyed `orders`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        engine = Engine()
        Worker(theirs, engine)
        for order in orders:
            ours.send(msgspec.msgpack.encode(order))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            await trio.lowlevel.wait_readable(ours)
            yield
            nursery.cancel_scope.cancel()


class RelayByHand:
    """A relay process without trio on our side: for threads, for Hypothesis, for namespaces."""

    def __init__(self, *command):
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(DEADLINE_S)
        self._epoch = 0
        with theirs:
            command = [*command, sys.executable, "-m", "gateway.relay", str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])

    def tell(self, order):
        self._ours.send(msgspec.msgpack.encode(order))

    def wait(self, kind, condition=lambda _answer: True):
        while True:
            answer = msgspec.msgpack.decode(self._ours.recv(200_000), type=Answer)
            if isinstance(answer, kind) and condition(answer):
                return answer

    def listen(self, *listeners):
        self.tell(Configure(listeners=listeners))
        return self.wait((Ready, ListenFailed))

    def switch(self, host, port, route="pool", **settings):
        self._epoch += 1
        self.tell(Route(route=route, server_host=host, server_port=port, epoch=self._epoch, **settings))
        return self.wait(Switched)

    def stats_when(self, condition):
        return self.wait(Report, lambda report: condition(report.listeners[0])).listeners[0]

    def close(self):
        self._ours.close()
        self.process.wait(timeout=DEADLINE_S)


@contextmanager
def relay_by_hand(*command):
    relay = RelayByHand(*command)
    try:
        yield relay
    finally:
        relay.close()

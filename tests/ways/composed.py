"""A pool with one way to forward: a client, a gateway, two managers on one switch. No HTCondor.

Clients and servers are sockets of the test itself, made in the namespaces of those hosts: so it sees both ends.
"""

import contextlib
import ctypes
import functools
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import trio

from gateway.config.settings import Forward
from tests.support.netns import Host, Segment
from tests.ways.hosts import (
    BACKEND,
    CLIENT_IP,
    DEADLINE_S,
    HOSTS,
    IP,
    MANAGERS,
    PORT,
    Agent,
    Way,
    run_gateway,
    run_manager,
    settings,
)

_CLONE_NEWNET = 0x40000000
_IP_FREEBIND = 15


@contextlib.contextmanager
def inside(host: Host) -> Iterator[None]:
    """Make the sockets that are opened here ones of `host`; they stay so. Nothing may be awaited inside."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{host.namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(there)
        os.close(home)


def _enter(namespace: int) -> None:
    if _libc().setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class Pool:
    """The four hosts with one way to forward."""

    def __init__(self, segment: Segment, folder: Path, way: Way) -> None:
        self.way = way
        self._wanted = settings(folder / "gw1", way)
        self.client = segment.host("client", f"{CLIENT_IP}/24")
        self.gateway = segment.host("gw1", f"{HOSTS['gw1']}/24")
        self.managers = {name: segment.host(name, f"{HOSTS[name]}/24") for name in MANAGERS}
        for name in HOSTS:
            (folder / name).mkdir()
        agents: list[Agent] = []
        for name, host in self.managers.items():
            agents.append(Agent(host, run_manager, agents, settings(folder / name, way), name))
        self._managers = dict(zip(MANAGERS, agents, strict=True))
        self._agent = Agent(self.gateway, run_gateway, agents, self._wanted)
        self._agent.say("begin")
        assert self._agent.hear()[0] == "ready"
        self._await_neighbours()

    def _await_neighbours(self) -> None:
        """Wait until everybody knows who is where: until then the relay carries what the kernel should."""
        until = time.monotonic() + DEADLINE_S
        for name in MANAGERS:
            self.elect(name)
            while not self._is_found(name):
                assert time.monotonic() < until, f"the way to {name} was never found"
                time.sleep(0.01)

    def _is_found(self, name: str) -> bool:
        if self.way.forward is Forward.DIRECT and self.status()["diversions"][f"{BACKEND}/vip"]["server_mac"] is None:
            return False
        returns = self._managers[name].ask("status")["returns"]
        return all(HOSTS["gw1"] in one["gateways"] for one in returns.values())

    def elect(self, leader: str | None) -> float:
        """Tell everybody of a decision, its winner first and the others last; return when the gateway took it."""
        if leader is not None:
            self._managers[leader].ask("follow", leader)
        at_s: float = self._agent.ask("follow", leader)
        for name, manager in self._managers.items():
            if name != leader:
                manager.ask("follow", leader)
        return at_s

    async def decide(self, leader: str | None) -> float:
        """Call `elect` beside the test's own clients and servers."""
        return await trio.to_thread.run_sync(self.elect, leader)

    def status(self) -> Any:
        """Return the gateway's status."""
        return self._agent.ask("status")

    def kernel_connections(self) -> int:
        """Return how many connections the kernel has taken past the relay so far."""
        counted = [one["counters"] for one in self.status()["diversions"].values()]
        return sum(one.get("connections_total", 0) + one.get("tcp_opened", 0) for one in counted)

    def close(self) -> None:
        """Let go of the hosts' processes; they end by it where the segment has not ended them."""
        for agent in (*self._managers.values(), self._agent):
            agent.control.close()

    # -- a reload

    def heir(self) -> Agent:
        """Start the process that is to take the gateway's place. Before any socket that the test looks at is open."""
        return Agent(self.gateway, run_gateway, [*self._managers.values(), self._agent], self._wanted)

    def hand_over(self, heir: Agent) -> None:
        """Let the gateway's process go, and the other go on, as a reload does."""
        self._agent.say("let_go")
        estate, descriptors = self._agent.hear()
        self._agent.child.result(DEADLINE_S)
        self._agent.control.close()
        heir.say("go_on", estate, descriptors=descriptors)
        for one in descriptors:
            os.close(one)
        self._agent = heir
        assert heir.hear()[0] == "ready"

    # -- sockets

    def open(self, host: Host, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """Open a socket of a host."""
        with inside(host):
            return socket.socket(socket.AF_INET, kind)

    def listen(self, name: str) -> socket.socket:
        """Open a manager's port for streams."""
        listening = self.open(self.managers[name])
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("0.0.0.0", PORT))
        listening.listen(2_000)
        return listening

    async def connect(self, rcvbuf: int = 0, port: int = 0) -> trio.SocketStream:
        """Connect the client, perhaps from a port."""
        opened = self.open(self.client)
        if port:
            opened.bind((CLIENT_IP, port))
        if rcvbuf:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock = trio.socket.from_stdlib_socket(opened)
        with trio.fail_after(DEADLINE_S):
            await sock.connect((IP, PORT))
        return trio.SocketStream(sock)  # sets TCP_NODELAY

    async def datagrams(self) -> Any:
        """Open a socket of the client for datagrams, connected to the address."""
        sock = trio.socket.from_stdlib_socket(self.open(self.client, socket.SOCK_DGRAM))
        await sock.connect((IP, PORT))
        return sock


Handler = Callable[[str, trio.SocketStream, str], Awaitable[None]]


async def echo(name: str, stream: trio.SocketStream, peer: str) -> None:
    """Say who serves whom as soon as the client has said something, then what it says."""
    await stream.send_all(f"{name} {peer}\n".encode() + await stream.receive_some())
    async for chunk in stream:
        await stream.send_all(chunk)


@contextlib.asynccontextmanager
async def serving(pool: Pool, handler: Handler = echo, *, only: str | None = None) -> AsyncIterator[None]:
    """Run a server on both managers (or on one): streams by `handler`, datagrams come back behind the same greeting."""
    async with trio.open_nursery() as nursery:
        for name in MANAGERS if only is None else (only,):
            listening = trio.SocketListener(trio.socket.from_stdlib_socket(pool.listen(name)))
            nursery.start_soon(trio.serve_listeners, functools.partial(_serve, name, handler), [listening])
            # One for each address, so that an answer comes from the one that was asked.
            for ip in (HOSTS[name], IP) if pool.way.forward is Forward.DIRECT else (HOSTS[name],):
                opened = pool.open(pool.managers[name], socket.SOCK_DGRAM)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
                opened.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)  # the elected one alone has the virtual address
                opened.bind((ip, PORT))
                nursery.start_soon(_serve_datagrams, name, trio.socket.from_stdlib_socket(opened))
        yield
        nursery.cancel_scope.cancel()


async def _serve(name: str, handler: Handler, stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        async with stream:
            await handler(name, stream, stream.socket.getpeername()[0])


async def _serve_datagrams(name: str, sock: Any) -> None:
    with sock:
        while True:
            data, source = await sock.recvfrom(65_536)
            await sock.sendto(f"{name} {source[0]}\n".encode() + data, source)

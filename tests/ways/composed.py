"""A pool as its hosts compose it: a client, a gateway, two managers on one switch. No HTCondor, no elections.

The gateway runs what the daemon runs, told by the test who is elected: its relay processes on the virtual address, its
diversions, its part of `transparent`. The managers run what receives and what routes back. Each is a process in its
own namespace. Clients and servers are sockets of the test itself, made in those namespaces: so it sees both ends.
"""

import contextlib
import ctypes
import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import trio

from gateway.config.settings import (
    Address,
    Backend,
    Bind,
    Endpoint,
    Forward,
    Frontend,
    LogFormat,
    Peer,
    Protocol,
    Role,
    Server,
    Settings,
)
from gateway.control.diversions import Diversions
from gateway.control.forwarding import ElectedServers, Forwarding, frontend_listeners
from gateway.control.receiving import Receivings
from gateway.control.returns import Returns
from gateway.core.actions import FollowLeader
from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from tests.support.netns import DEVICE, Child, Host, Segment

IP, PORT, BACKEND = "10.77.0.100", 9618, "managers"
CLIENT_IP = "10.77.0.5"
HOSTS = {"gw1": "10.77.0.91", "cm1": "10.77.0.11", "cm2": "10.77.0.12"}
MANAGERS = ("cm1", "cm2")
WORKERS = 2
DEADLINE_S = 20  # for what should take milliseconds, on a machine that is busy with other things
LEASE_MS = 3_600_000
_CLONE_NEWNET = 0x40000000
_IP_FREEBIND = 15
_COMMAND_BYTES_MAX = 65_536


class Way(NamedTuple):
    """How the backend's traffic is carried."""

    forward: Forward
    transparent: bool

    @property
    def seen_by_servers(self) -> str:
        """The address that a server takes for its client's, when the way itself carries the connection."""
        return CLIENT_IP if self.transparent or self.forward is Forward.DIRECT else HOSTS["gw1"]


WAYS = {
    "proxy": Way(Forward.PROXY, False),
    "nat": Way(Forward.NAT, False),
    "direct": Way(Forward.DIRECT, False),
    "proxy-transparent": Way(Forward.PROXY, True),
    "nat-transparent": Way(Forward.NAT, True),
}


def settings(folder: Path, way: Way) -> Settings:
    """Return the configuration of a gateway and two managers."""
    roles = {"gw1": Role.GATEWAY, "cm1": Role.MANAGER, "cm2": Role.MANAGER}
    both = frozenset({Protocol.TCP, Protocol.UDP})
    return Settings(
        cluster="ways",
        key_file="/none",
        state_dir=str(folder),
        log_format=LogFormat.JSON,
        relay_workers=WORKERS,
        peers_name="lan",
        heartbeat_ms=50,
        lease_ms=300,
        peers=tuple(
            Peer(name=name, endpoint=Endpoint(host, 9619), roles=frozenset({roles[name]}))
            for name, host in HOSTS.items()
        ),
        addresses=(Address(name="vip", ip=IP, prefix_length=32, device=DEVICE, holders=("gw1",)),),
        frontends=(Frontend(name="in", binds=(Bind(address="vip", port=PORT, protocols=both),), backend=BACKEND),),
        backends=(
            Backend(
                name=BACKEND,
                servers=tuple(Server(name=name, endpoint=Endpoint(HOSTS[name], PORT)) for name in MANAGERS),
                forward=way.forward,
                transparent=way.transparent,
            ),
        ),
    )


# -- the hosts' own processes ---------------------------------------------------------------------------------------


class Estate(NamedTuple):
    """What a gateway's process leaves to the next one; the sockets of its relays go along."""

    routes: dict[str, tuple[str | None, int, int]]
    relays: tuple[int, ...]  # their process numbers
    leader: str | None


def _spawn_relay(end: socket.socket) -> "_Orphan":
    """Start a relay that is nobody's child here, as one of the guard's: it dies with its parent's thread else."""
    command = ["sh", "-c", '"$@" >/dev/null & echo $!', "sh", sys.executable, "-P", "-m", "gateway.relay"]
    with end:
        done = subprocess.run(
            [*command, str(end.fileno())], pass_fds=[end.fileno()], stdout=subprocess.PIPE, check=True, text=True
        )
    return _Orphan(int(done.stdout))


class _Orphan:
    """A relay that is another process' child."""

    def __init__(self, pid: int) -> None:
        self.started, self.ended = trio.Event(), trio.Event()
        self.scope = trio.CancelScope(shield=True)
        self.status, self.reason = 0, ""
        self.pid: int | None = pid

    async def live(self) -> None:
        assert self.pid is not None
        opened = os.pidfd_open(self.pid)
        try:
            with self.scope:
                self.started.set()
                await trio.lowlevel.wait_readable(opened)
        finally:
            os.close(opened)
        self.ended.set()

    def kill(self) -> None:
        assert self.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


async def _commands(control: socket.socket) -> AsyncIterator[tuple[Any, ...]]:
    """Give what the test says, until it has gone."""
    while True:
        await trio.lowlevel.wait_readable(control)
        data, descriptors, _, _ = socket.recv_fds(control, _COMMAND_BYTES_MAX, 8)
        if not data:
            return
        yield (*pickle.loads(data), *([descriptors] if descriptors else []))


def _answer(control: socket.socket, value: Any, descriptors: list[int] | None = None) -> None:
    socket.send_fds(control, [pickle.dumps(value)], descriptors or [])


async def _until(true: Callable[[], bool]) -> None:
    with trio.fail_after(DEADLINE_S):
        while not true():  # noqa: ASYNC110 (other processes set no event)
            await trio.sleep(0.01)


class _Gateway:
    """The gateway's process: what `gateway.daemon` composes, without heartbeats and elections."""

    def __init__(self, control: socket.socket, wanted: Settings) -> None:
        me = wanted.peer("gw1")
        self._control = control
        listeners = frontend_listeners(wanted, me)
        self._forwarding = Forwarding(listeners, lambda _up, _why: None, wanted.relay_workers, _spawn_relay)
        self._diversions, self._returns = Diversions(wanted, me), Returns(wanted, me)
        self._elected = ElectedServers(wanted, self._forwarding, self._diversions)
        self._leader: str | None = None
        self._term = 0

    async def begin(self) -> None:
        await self._diversions.prepare(adopt=False)
        await self._returns.prepare(adopt=False)
        VirtualAddress(IP, 32, DEVICE).add()
        for one in self._diversions.of_address("vip"):
            one.grant(LEASE_MS)
        Announcer(IP, DEVICE).burst(1)

    async def go_on(self, estate: Estate, ends: list[int]) -> None:
        await self._diversions.prepare(adopt=True)
        await self._returns.prepare(adopt=True)
        self._forwarding.take_over(estate.routes)
        for relay, pid, end in zip(self._forwarding.workers.relays, estate.relays, ends, strict=True):
            relay.adopt(socket.socket(fileno=end), _Orphan(pid))
        self._follow(estate.leader)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._diversions.run)
            await nursery.start(self._returns.run)
            await nursery.start(self._forwarding.run)
            await _until(lambda: self._forwarding.listening == WORKERS)
            _answer(self._control, "ready")
            async for command, *arguments in _commands(self._control):
                _answer(self._control, *getattr(self, f"_on_{command}")(*arguments))
                if command == "let_go":
                    break
            nursery.cancel_scope.cancel()

    def _follow(self, leader: str | None) -> None:
        self._leader = leader
        self._term += leader is not None
        self._elected.follow(FollowLeader(BACKEND, leader, self._term))

    def _on_follow(self, leader: str | None) -> tuple[float]:
        at_s = time.monotonic()
        self._follow(leader)
        return (at_s,)

    def _on_status(self) -> tuple[Any]:
        return (
            {
                "diversions": self._diversions.status(),
                "relay": self._forwarding.status(),
                "returns": self._returns.status(),
            },
        )

    def _on_let_go(self) -> tuple[Estate, list[int]]:
        relays = self._forwarding.workers.relays
        pids = tuple(relay.pid or 0 for relay in relays)
        ends = [end for relay in relays if (end := relay.let_go()) is not None]
        self._diversions.keep()
        self._returns.keep()
        return Estate(self._forwarding.routes(), pids, self._leader), ends


def _run_gateway(control: socket.socket, theirs: list[socket.socket], wanted: Settings) -> None:
    _close(theirs)

    async def main() -> None:
        made = _Gateway(control, wanted)
        async for command, *arguments in _commands(control):
            assert command in ("begin", "go_on")
            await getattr(made, command)(*arguments)
            break
        else:
            return
        await made.run()

    trio.run(main)


def _run_manager(control: socket.socket, theirs: list[socket.socket], wanted: Settings, name: str) -> None:
    _close(theirs)

    async def main() -> None:
        receivings, returns = Receivings(wanted, wanted.peer(name)), Returns(wanted, wanted.peer(name))
        await receivings.prepare(adopt=False)
        await returns.prepare(adopt=False)
        term = 0
        async with trio.open_nursery() as nursery:
            await nursery.start(receivings.run)
            await nursery.start(returns.run)
            async for command, *arguments in _commands(control):
                if command == "follow":
                    term += 1
                    receivings.follow(FollowLeader(BACKEND, arguments[0], term))
                _answer(control, {"receivings": receivings.status(), "returns": returns.status()})
            nursery.cancel_scope.cancel()

    trio.run(main)


def _close(sockets: list[socket.socket]) -> None:
    """Close what a forked process has of its parent's: else neither would learn of the other's end."""
    for one in sockets:
        one.close()


class Agent:
    """A host's process, as the test speaks with it."""

    def __init__(self, host: Host, run: Callable[..., None], others: list["Agent"], *arguments: Any) -> None:
        self.control, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(DEADLINE_S)
        self.child: Child = host.start(run, end, [self.control, *(one.control for one in others)], *arguments)
        end.close()

    def say(self, *command: Any, descriptors: list[int] | None = None) -> None:
        socket.send_fds(self.control, [pickle.dumps(command)], descriptors or [])

    def hear(self) -> tuple[Any, list[int]]:
        data, descriptors, _, _ = socket.recv_fds(self.control, _COMMAND_BYTES_MAX, 8)
        if not data:
            self.child.result(DEADLINE_S)  # raises what has ended it
            raise AssertionError("the process has ended")
        return pickle.loads(data), descriptors

    def ask(self, *command: Any) -> Any:
        self.say(*command)
        return self.hear()[0]


# -- the pool, as tests see it --------------------------------------------------------------------------------------


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
            agents.append(Agent(host, _run_manager, agents, settings(folder / name, way), name))
        self._managers = dict(zip(MANAGERS, agents, strict=True))
        self._agent = Agent(self.gateway, _run_gateway, agents, self._wanted)
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
        return Agent(self.gateway, _run_gateway, [*self._managers.values(), self._agent], self._wanted)

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

    async def connect(self, host: str = IP, rcvbuf: int = 0) -> trio.SocketStream:
        """Connect the client."""
        opened = self.open(self.client)
        if rcvbuf:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock = trio.socket.from_stdlib_socket(opened)
        with trio.fail_after(DEADLINE_S):
            await sock.connect((host, PORT))
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

"""What runs on the hosts: as the daemon composes it, without heartbeats and elections. The test says who is elected.

On the gateway its relay processes on the virtual address, its diversions, and its part of `transparent`; on the
managers what receives and what routes back. Each host's is a process of its own, and ends with the test.
"""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
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
from tests.support.netns import DEVICE, Child, Host

IP, PORT, BACKEND = "10.77.0.100", 9618, "managers"
CLIENT_IP = "10.77.0.5"
HOSTS = {"gw1": "10.77.0.91", "cm1": "10.77.0.11", "cm2": "10.77.0.12"}
MANAGERS = ("cm1", "cm2")
WORKERS = 2
DEADLINE_S = 20  # for what should take milliseconds, on a machine that is busy with other things
LEASE_MS = 3_600_000
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
        frontends=(
            Frontend(
                name="in",
                binds=(Bind(address="vip", port=PORT, protocols=both),),
                backend=BACKEND,
                maxconn_source=0,  # all clients here are one host
                rate_source=0,
            ),
        ),
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


def run_gateway(control: socket.socket, theirs: list[socket.socket], wanted: Settings) -> None:
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


def run_manager(control: socket.socket, theirs: list[socket.socket], wanted: Settings, name: str) -> None:
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

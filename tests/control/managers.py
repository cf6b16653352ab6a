"""Managers of a pool with everything of theirs that concerns accounting, but for HTCondor: a writer stands in for it.

The writer does with its file what a negotiator does (src/condor_utils/classad_log.cpp): compacts it when it starts,
appends transactions, never reads it again. Disks, sockets, ciphers and the merging process are real.
"""

import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import trio

from gateway.config.settings import Backend, Endpoint, LogFormat, Peer, Role, Server, Settings
from gateway.control.accounting import Accounting
from gateway.control.door import Door
from gateway.core.reconcile import Pool
from gateway.core.timeline import Position
from gateway.matchmaker.condor import CondorHost
from gateway.wire.accountant import read_untrusted
from gateway.wire.compacted import compact
from gateway.wire.seal import Keyring

NAMES = ("cm1", "cm2", "cm3")
WAIT_S = 20.0


class Writer:
    """Stands in for a negotiator: one file, written as it does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        data = self._path.read_bytes() if self._path.exists() else b""
        state = read_untrusted(data)
        fresh = self._path.with_suffix(".tmp")
        fresh.write_bytes(b"".join(compact(state, sequence=self.starts, birthdate_s=1_000)))
        fresh.replace(self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        if not state:
            self.record("101 Accountant. * *", f"103 Accountant. LastUpdateTime {int(time.time()) - 1000}")

    def record(self, *records: str) -> None:
        assert self._file is not None, "no negotiator runs"
        os.write(self._file, ("105 \n" + "".join(f"{one}\n" for one in records) + "106 \n").encode())

    def append(self, record: str) -> None:
        """Write one record by itself."""
        assert self._file is not None, "no negotiator runs"
        os.write(self._file, f"{record}\n".encode())

    def stop(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    # what an administrator or a cycle does

    def charge(self, user: str, usage: float) -> None:
        """Charge as UpdatePriorities does; the user is made where it is not there."""
        state = self.state().get(f"Customer.{user}")
        before = float(state.get("WeightedAccumulatedUsage", "0")) if state else 0.0
        key = f"Customer.{user}"
        records = [] if state else [f"101 {key} * *", f"103 {key} PriorityFactor 1000.000000"]
        amount = f"{before + usage:.6f}"
        records += [f"103 {key} {name} {amount}" for name in ("AccumulatedUsage", "WeightedAccumulatedUsage")]
        self.record(*records, f"103 Accountant. LastUpdateTime {int(time.time())}")

    def set(self, user: str, attribute: str, value: str) -> None:
        self.record(f"103 Customer.{user} {attribute} {value}")

    def state(self) -> dict[str, dict[str, str]]:
        return read_untrusted(self._path.read_bytes())

    def usage(self, user: str) -> float:
        return float(self.state()[f"Customer.{user}"]["WeightedAccumulatedUsage"])


class Manager:
    """One manager. `alive` while it runs; what is on its disk outlives that."""

    def __init__(self, settings: Settings, peer: Peer, folder: Path) -> None:
        self.name = peer.name
        self._settings = settings
        self._peer = peer
        self.spool = folder / "spool" / "Accountantnew.log"
        self.spool.parent.mkdir(parents=True, exist_ok=True)
        self.state_dir = folder / "state"
        self.writer = Writer(self.spool)
        self._door: Door
        self.accounting: Accounting = self._make()
        self._scope: trio.CancelScope | None = None
        self.swaps = 0
        self.failures: list[str] = []

    def _make(self) -> Accounting:
        host = CondorHost(
            config_dir="/nowhere",
            spool=str(self.spool.parent),
            log="/nowhere",
            accountant_log=str(self.spool),
            master="/nowhere",
            negotiator="/nowhere",
            collector="/nowhere",
            uid=os.getuid(),
            gid=os.getgid(),
            version="23.9.6",
            shared_port_ad="/nowhere",
            alias="",
            full_hostname="",
        )
        # Each has a disk of its own: the folder of the configuration is the host's.
        settings = _with_state_dir(self._settings, str(self.state_dir))
        self._door = Door(self._peer.endpoint)
        return Accounting(
            settings=settings,
            backend=settings.backends[0],
            me=self._peer,
            keyring=Keyring({1: bytes(range(32))}, 1),
            host=host,
            door=self._door,
            pool_of=_pool,
        )

    async def start(self, nursery: trio.Nursery) -> None:
        """Start its process: what is on the disk is all it knows."""
        self.accounting = self._make()
        await self.accounting.recover()
        self._scope = trio.CancelScope()
        await nursery.start(self._run, self._scope)

    async def _run(self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._door.run)
                await self.accounting.run(lambda: None, task_status=task_status)

    async def take_over(self, term: int) -> None:
        await self.accounting.take_over(term, running=False)
        self.writer.start()
        self.accounting.lead(self._swap, self.failures.append)

    async def give_up(self, *, at_once: bool = False) -> None:
        self.writer.stop()
        await self.accounting.finish(at_once=at_once)
        await self.accounting.bring_back()

    def die(self) -> None:
        """Be killed, the negotiator too."""
        assert self._scope is not None, "it does not run"
        self.writer.stop()
        self._scope.cancel()

    async def _swap(self, work: Callable[[], Awaitable[None]]) -> int:
        self.writer.stop()
        self.swaps += 1
        try:
            await work()
        finally:
            self.writer.start()
        return 1


class Managers:
    """Three managers, who leads, and who is cut off from whom."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        ports = list(_free_ports(len(NAMES)))
        peers = tuple(
            Peer(name=name, endpoint=Endpoint("127.0.0.1", port), roles=frozenset({Role.MANAGER}))
            for name, port in zip(NAMES, ports, strict=True)
        )
        backend = Backend(
            name="managers",
            servers=tuple(Server(name=name, endpoint=Endpoint("127.0.0.1", 9618)) for name in NAMES),
            replicate_accounting=True,
        )
        settings = Settings(
            cluster="pool",
            key_file="/nowhere",
            state_dir="/nowhere",
            log_format=LogFormat.CONSOLE,
            peers_name="nodes",
            heartbeat_ms=50,
            lease_ms=300,
            peers=peers,
            addresses=(),
            frontends=(),
            backends=(backend,),
        )
        self._nursery = nursery
        self._all = {peer.name: Manager(settings, peer, folder / peer.name) for peer in peers}
        self.term = 0

    def __getitem__(self, name: str) -> Manager:
        return self._all[name]

    async def start(self, *names: str) -> None:
        for name in names or NAMES:
            await self._all[name].start(self._nursery)

    async def elect(self, name: str, *followers: str, term: int | None = None) -> Manager:
        """Have `name` lead, as far as itself and `followers` know."""
        self.term = self.term + 1 if term is None else term
        for one in (name, *followers):
            self._all[one].accounting.follow(name, self.term)
        await self._all[name].take_over(self.term)
        return self._all[name]

    def tell(self, leader: str, term: int, *names: str) -> None:
        """Let some know who leads."""
        for one in names:
            self._all[one].accounting.follow(leader, term)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Managers]:
    """Give three managers that are ended with the block."""
    async with trio.open_nursery() as nursery:
        yield Managers(folder, nursery)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds."""
    with trio.move_on_after(WAIT_S):
        while not condition():  # noqa: ASYNC110 (files have no events)
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not within {WAIT_S:g} s: {what}")


def caught_up(leader: Manager, standby: str) -> bool:
    """Tell whether a standby has acknowledged all that the leader has written."""
    status = leader.accounting.status()
    shipped = status["standbys"].get(standby)
    if not shipped or not shipped["connected"] or shipped["lag_records"]:
        return False
    # Of the file that is there now: another one may be as long, to the byte.
    file, (inode, position) = leader.spool.stat(), leader.accounting.known_file
    there = Position(shipped["term"], shipped["generation"], shipped["offset"])
    return file.st_ino == inode and there == msgspec.structs.replace(position, offset=file.st_size)


async def _pool(host: CondorHost) -> Pool:
    return Pool()


def _with_state_dir(settings: Settings, state_dir: str) -> Settings:
    return msgspec.structs.replace(settings, state_dir=state_dir)


def _free_ports(count: int) -> Iterator[int]:
    with _bound(count) as sockets:
        yield from [one.getsockname()[1] for one in sockets]


@contextmanager
def _bound(count: int) -> Iterator[list[socket.socket]]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        yield sockets
    finally:
        for one in sockets:
            one.close()

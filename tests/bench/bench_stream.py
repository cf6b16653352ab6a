"""What streaming costs, and how late a standby is: from each write of a record to the standby's fsync of it.

Rule: nothing is judged here. A writer, a leader and a standby, each a process of its own, on real sockets and disks;
one clock. Run as `python -m tests.bench.bench_stream --seconds 60 --rate 1000 --kills 50`.
"""

import argparse
import bisect
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import structlog
import trio

from gateway.config.settings import Endpoint, Peer, Role
from gateway.core.timeline import Position, Timeline
from gateway.kernel.inotify import FileWatch
from gateway.kernel.realtime import CONTROL_PRIORITY, prefer_realtime
from gateway.matchmaker.feed import Feed
from gateway.matchmaker.follow import follow
from gateway.matchmaker.journal import Store
from gateway.matchmaker.receive import serve
from gateway.matchmaker.ship import Shipped, ship
from gateway.matchmaker.stream import Material
from gateway.wire.seal import Keyring
from tests.bench.results import Table, add_arguments, print_table, report

TERM = 1
ACCOUNTS = 100
COMPACT_BYTES = 1_000_000  # MAX_ACCOUNTANT_DATABASE_SIZE
PATIENCE_S = 60
LIFE_S = 0.6  # of a standby, at least
TICKS = os.sysconf("SC_CLK_TCK")

Told = tuple[int, int, float]  # generation, offset, CLOCK_MONOTONIC


def material(me: str) -> Material:
    """Return what both ends are given."""
    return Material(cluster="bench", keyring=Keyring({1: bytes(32)}, 1), me=me, peers=frozenset({"cm1", "cm2"}))


class NoHistories:
    """Nobody comes back with one."""

    def wanted(self, standby: str, pending: Timeline) -> bool:
        """Tell no."""
        return False

    def room(self, standby: str, name: str) -> Path:
        """Have none."""
        raise NotImplementedError

    async def fetched(self, standby: str, pending: Timeline, path: Path, base: Path | None) -> None:
        """Take nothing."""


class Writer:
    """Writes as a negotiator does: one write a record, each transaction of several closed; a new file at 1 MB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[Told] = []
        self.records = 0
        self._generation = 0
        self._sequence = 0
        self.compact()

    def compact(self) -> None:
        """Replace the file by one of the live state."""
        self._sequence += 1
        self._generation += 1
        lines = [b"107 %d CreationTimestamp 1795380800\n" % self._sequence]
        for number in range(ACCOUNTS):
            lines += [b"101 Customer.user%d@pool * *\n" % number, b"103 Customer.user%d@pool Priority 0.5\n" % number]
        fresh = self.path.with_suffix(".tmp")
        fresh.write_bytes(b"".join(lines))
        os.replace(fresh, self.path)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self._length = os.fstat(self._descriptor).st_size

    def write(self) -> None:
        """Write one record."""
        self.records += 1
        user = self.records % ACCOUNTS
        data = b"103 Customer.user%d@pool AccumulatedUsage %d.000000\n" % (user, self.records)
        at_s = time.monotonic()
        os.write(self._descriptor, data)
        self._length += len(data)
        self.told.append((self._generation, self._length, at_s))
        if self._length >= COMPACT_BYTES:
            os.close(self._descriptor)
            self.compact()

    async def run(self, rate: int, seconds: float) -> None:
        """Write `rate` records a second for so long."""
        begun_s, written = time.monotonic(), 0
        while (passed_s := time.monotonic() - begun_s) < seconds:
            while written < rate * passed_s:
                self.write()
                written += 1
            await trio.sleep(0.001)


async def lead(path: Path, port: int) -> None:
    """Be the leader's process until SIGTERM; print the last report."""
    feed, store = Feed("cm1", Timeline(Position(TERM, 0, 0))), Store(path.parent / "leaders")
    await store.load()
    last: list[Shipped] = []

    async def opened(timeline: Timeline, inode: int, sequence: int) -> None:
        await trio.lowlevel.checkpoint()

    def keep(shipped: Shipped) -> None:
        last[:] = [shipped]

    async def follow_it() -> None:
        timeline = Timeline(Position(TERM, 0, 0))
        await follow(path, feed, timeline=timeline, resume=None, opened=opened, watch_writes=FileWatch)

    async def ship_it() -> None:
        standby = Peer(name="cm2", endpoint=Endpoint("127.0.0.1", port), roles=frozenset({Role.MANAGER}))
        await ship(standby, material("cm1"), feed, store, report=keep, histories=NoHistories())

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_it)
            nursery.start_soon(ship_it)
            print("ready", flush=True)
            await anext(signals)
            nursery.cancel_scope.cancel()
    found = msgspec.to_builtins(last[0]) if last else {}
    print(json.dumps(found), flush=True)


async def stand_by(directory: Path, port: int) -> None:
    """Be the standby's process until SIGTERM; print what was on the disk when."""
    store = Store(directory)
    await store.load()
    told: list[Told] = []

    def changed() -> None:
        head = store.held.timeline.head
        told.append((head.generation, head.offset, time.monotonic()))

    async def no_files(name: str, staged: Path) -> None:
        raise NotImplementedError

    async def serving(*, task_status: trio.TaskStatus[Endpoint]) -> None:
        await serve(
            Endpoint("127.0.0.1", port),
            material("cm2"),
            store,
            accept=lambda sender, term: True,
            changed=changed,
            install_file=no_files,
            task_status=task_status,
        )

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            endpoint = await nursery.start(serving)
            print(endpoint.port, flush=True)
            await anext(signals)
            nursery.cancel_scope.cancel()
    print(json.dumps(told), flush=True)


class Process:
    """One of the processes."""

    def __init__(self, role: str, folder: Path, port: int = 0) -> None:
        argv = [sys.executable, "-m", "tests.bench.bench_stream", "--role", role, str(folder), str(port)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.out = self.process.stdout

    async def said(self) -> str:
        """Return its next line."""
        return await trio.to_thread.run_sync(self.out.readline)

    def cpu_s(self) -> float:
        """Return the CPU time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def most_mib(self) -> float:
        """Return how much memory it has ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    async def end(self) -> str:
        """Have it end; return its last line."""
        self.process.terminate()
        line = await self.said()
        self.kill()
        return line

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self.out.close()


async def measure_lag(folder: Path, rate: int, seconds: float) -> dict[str, float | int]:
    """Return how late the standby was, and what it cost."""
    writer = Writer(folder / "Accountantnew.log")
    standby = Process("standby", folder / "standby")
    port = int(await standby.said())
    leader = Process("leader", folder / "Accountantnew.log", port)
    try:
        await leader.said()
        await writer.run(rate, 1)
        begun = len(writer.told)
        cpu_s = leader.cpu_s(), standby.cpu_s()
        await writer.run(rate, seconds)
        used_s = leader.cpu_s() - cpu_s[0], standby.cpu_s() - cpu_s[1]
        await trio.sleep(1)
        memory = leader.most_mib(), standby.most_mib()
        shipped = json.loads(await leader.end())
        durable = [tuple(one) for one in json.loads(await standby.end())]
    finally:
        leader.kill()
        standby.kill()
    lags = lags_ms(writer.told[begun:], durable)
    await require_equal(folder)
    return {
        "records/s": round(len(lags) / seconds),
        "p50 ms": at(lags, 0.5),
        "p99 ms": at(lags, 0.99),
        "max ms": lags[-1],
        "fsyncs/s": round(len(durable) / seconds),
        "files": shipped["snapshots_total"],
        "leader CPU %": 100 * used_s[0] / seconds,
        "standby CPU %": 100 * used_s[1] / seconds,
        "leader MiB": memory[0],
        "standby MiB": memory[1],
    }


def lags_ms(told: list[Told], durable: list[Told]) -> list[float]:
    """Return, in order of size, how long each record was not on the standby's disk."""
    ends = [one[:2] for one in durable]
    lags = []
    for generation, offset, at_s in told:
        found = bisect.bisect_left(ends, (generation, offset))
        lags.append((durable[found][2] - at_s) * 1000)  # fails where a record never came
    return sorted(lags)


def at(lags: list[float], part: float) -> float:
    """Return the lag that so many are within."""
    return lags[min(len(lags) - 1, int(part * len(lags)))]


async def measure_kills(folder: Path, rate: int, seconds: float, kills: int) -> dict[str, float | int]:
    """Kill the standby again and again while records are written; return how it went."""
    writer = Writer(folder / "Accountantnew.log")
    standby = Process("standby", folder / "standby")
    port = int(await standby.said())
    leader = Process("leader", folder / "Accountantnew.log", port)
    done = 0

    async def kill() -> None:
        nonlocal standby, done
        begun_s = trio.current_time()
        for number in range(kills):
            await trio.sleep(LIFE_S)
            await trio.sleep_until(begun_s + (number + 0.5) * seconds / kills)
            standby.kill()
            standby = Process("standby", folder / "standby", port)
            await standby.said()
            done += 1

    try:
        await leader.said()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            await writer.run(rate, seconds)
            while done < kills:  # a machine that is busy starts a process only slowly
                await writer.run(rate, 1)
        with trio.fail_after(PATIENCE_S):
            begun_s = time.monotonic()
            length = os.stat(writer.path).st_size
            while (await held(folder)) != length:  # noqa: ASYNC110 (another process's disk)
                await trio.sleep(0.05)
            caught_up_s = time.monotonic() - begun_s
        shipped = json.loads(await leader.end())
    finally:
        leader.kill()
        standby.kill()
    await require_equal(folder)
    return {
        "records": writer.records,
        "kills": done,
        "connections": shipped["connections_total"],
        "files": shipped["snapshots_total"],
        "MB sent": shipped["bytes_total"] / 1e6,
        "caught up s": caught_up_s,
        "byte-equal": 1,
    }


async def measure_joiner(folder: Path, megabytes: int) -> dict[str, float | int]:
    """Give an empty standby a long file; return how long that took, and how much memory."""
    path = folder / "Accountantnew.log"
    writer = Writer(path)
    with path.open("ab") as file:
        record = b'103 Customer.user1@pool Note "%s"\n' % (b"x" * 200)
        file.write(record * (megabytes * 1_000_000 // len(record)))
    standby = Process("standby", folder / "standby")
    port = int(await standby.said())
    leader = Process("leader", path, port)
    try:
        await leader.said()
        begun_s, length = time.monotonic(), os.stat(path).st_size
        cpu_s = leader.cpu_s(), standby.cpu_s()
        with trio.fail_after(PATIENCE_S):
            while not (folder / "standby" / "accounting.journal").exists():  # noqa: ASYNC110 (another process's disk)
                await trio.sleep(0.05)
        passed_s = time.monotonic() - begun_s
        used_s = leader.cpu_s() - cpu_s[0], standby.cpu_s() - cpu_s[1]
        await trio.sleep(0.5)
        memory = leader.most_mib(), standby.most_mib()
        writer.write()
        await trio.sleep(1)
        await leader.end()
    finally:
        leader.kill()
        standby.kill()
    await require_equal(folder)
    return {
        "MB": length / 1e6,
        "s": passed_s,
        "leader CPU s": used_s[0],
        "standby CPU s": used_s[1],
        "leader MiB": memory[0],
        "standby MiB": memory[1],
    }


async def held(folder: Path) -> int:
    """Return how long the standby's file is now, read beside it."""
    copy = folder / "look"
    await trio.to_thread.run_sync(_copy_journal, folder / "standby", copy)
    store = Store(copy)
    await store.load()
    return store.held.timeline.head.offset


def _copy_journal(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    (target / "accounting.journal").write_bytes((source / "accounting.journal").read_bytes())


async def require_equal(folder: Path) -> None:
    """Stop the show where the standby's bytes are not the leader's."""
    store = Store(folder / "standby")
    await store.load()
    path = store.path_of(store.held.timeline.head)
    assert path is not None
    await store.export(path, None, folder / "plain")
    if (folder / "plain").read_bytes() != (folder / "Accountantnew.log").read_bytes():
        raise SystemExit(f"the standby's file is not the leader's: see {folder}")


async def measure(chosen: argparse.Namespace) -> dict[str, Table]:
    """Return the tables, by their names."""
    lag: Table = {}
    for rate in sorted({chosen.rate, 10}):
        with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="bench-stream-") as folder:
            seconds = chosen.seconds if rate == chosen.rate else min(chosen.seconds, 10)
            lag[f"{rate} records/s for {seconds} s"] = await measure_lag(Path(folder), rate, seconds)
    kills: Table = {}
    if chosen.kills:
        with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="bench-stream-") as folder:
            found = await measure_kills(Path(folder), chosen.rate, chosen.seconds, chosen.kills)
            kills[f"{chosen.kills} x SIGKILL in {chosen.seconds} s"] = found
    joiner: Table = {}
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="bench-stream-") as folder:
        joiner["an empty standby"] = await measure_joiner(Path(folder), chosen.megabytes)
    tables = {"write to standby's fsync": lag, "a standby killed": kills, "a whole file": joiner}
    return {name: table for name, table in tables.items() if table}


def main() -> None:
    """Measure and print, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, default=1000, help="records a second")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--megabytes", type=int, default=60, help="of the file that a joiner is given")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on a disk like the nodes' own")
    parser.add_argument("--role", nargs=3, help=argparse.SUPPRESS)
    add_arguments(parser)
    chosen = parser.parse_args()
    if chosen.role is not None:
        role, path, port = chosen.role
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # figures go to the other one
        prefer_realtime(CONTROL_PRIORITY)  # as the control process, of which this is a part
        trio.run(lead if role == "leader" else stand_by, Path(path), int(port))
        return
    lag, *others = trio.run(measure, chosen).items()
    report(f"streaming: {lag[0]}", lag[1], chosen)
    for name, table in others:
        print_table(f"streaming: {name}", table)


if __name__ == "__main__":
    main()

"""What a merge costs: by the command, and as a node does it: rehearsed, finished without a negotiator, installed.

Rule: nothing is judged here. Run as `python -m tests.bench.bench_merge --customers 1000 10000 100000`.
"""

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import structlog
import trio

from gateway.core.reconcile import Pool
from gateway.matchmaker.merger import Merger, Story, open_merger
from tests.bench.results import Table, add_arguments, report

START_S = 1_800_000_000


def write(path: Path, customers: int, *, side: int, seconds: int, every: int) -> None:
    """Write a compacted file; on a side one customer in `every` has used something, all others have only aged."""
    chance = random.Random(1)
    with path.open("w") as file:
        print("107 3 CreationTimestamp 1700000000", file=file)
        print("101 Accountant. * *", f"103 Accountant. LastUpdateTime {START_S + seconds}", sep="\n", file=file)
        for number in range(customers):
            usage, priority = chance.random() * 1e6, 0.5 + 10 * chance.random() * (number % 5 == 0)
            if seconds and number % every == side:
                usage, priority = usage + 60, priority + 60 / 86_400
            priority = max(0.5, priority * 0.5 ** (seconds / 86_400))
            key = f"Customer.user{number:06d}@pool.example.org"
            print(f"101 {key} * *", file=file)
            for name, value in (
                ("Priority", f"{priority:f}"),
                ("PriorityFactor", "1000.000000"),
                ("ResourcesUsed", "0"),
                ("WeightedResourcesUsed", "0.000000"),
                ("UnchargedTime", "0"),
                ("WeightedUnchargedTime", "0.000000"),
                ("AccumulatedUsage", f"{usage:f}"),
                ("WeightedAccumulatedUsage", f"{2 * usage:f}"),
                ("BeginUsageTime", "1700000000"),
                ("LastUsageTime", str(START_S)),
            ):
                print(f"103 {key} {name} {value}", file=file)


def append_cycle(path: Path, customers: int, *, seconds: int, edits: int) -> None:
    """Append what a negotiator writes in a cycle: each priority above the lowest, and what some have used."""
    chance = random.Random(1)
    with path.open("a") as file:
        if seconds:
            print(f"103 Accountant. LastUpdateTime {START_S + seconds}", file=file)
        print("105 ", file=file)
        for number in range(customers):
            usage, priority = chance.random() * 1e6, 0.5 + 10 * chance.random() * (number % 5 == 0)
            key = f"Customer.user{number:06d}@pool.example.org"
            if seconds and number % 5 == 0:
                print(f"103 {key} Priority {max(0.5, priority * 0.5 ** (seconds / 86_400)):f}", file=file)
            if number < edits:
                print(f"103 {key} WeightedAccumulatedUsage {2 * usage + 120:f}", file=file)
        print("106 ", file=file)


def by_command(paths: list[Path]) -> dict[str, float]:
    """Return what one merge by the command takes."""
    names = [str(path) for path in paths]
    begun = time.monotonic()
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    command = [sys.executable, "-m", "gateway", "merge", *names[:3], "-o", names[3]]
    child = os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet)
    _, status, used = os.wait4(child, 0)
    assert status == 0, "the merge was refused"
    return {
        "file MB": round(paths[3].stat().st_size / 1e6, 1),
        "command s": time.monotonic() - begun,
        "cpu s": used.ru_utime + used.ru_stime,
        "rss MB": round(used.ru_maxrss / 1024, 1),
    }


async def as_a_node(paths: list[Path], customers: int) -> dict[str, float]:
    """Return what rehearsal and finish take, after a cycle, after a few records, and after a compaction."""
    base, ours, theirs, out = paths
    figures: dict[str, float] = {}

    async def one(what: str, between: str) -> None:
        fresh = ours.with_name("ours.now")
        shutil.copyfile(ours, fresh)
        stories = [Story(name="ours", path=str(fresh), term=2), Story(name="theirs", path=str(theirs), term=1)]
        async with open_merger(base, stories[0], stories[1:], out, Pool(), finish_ms_max=300_000) as merger:
            begun = time.monotonic()
            await merger.rehearse()
            figures["rehearse s"] = time.monotonic() - begun
            if between == "compacted":
                shutil.copyfile(ours, ours.with_name("ours.compacted"))
                ours.with_name("ours.compacted").replace(fresh)
            else:
                append_cycle(fresh, customers, seconds=between == "cycle" and 7300, edits=100)
            figures["node rss MB"] = round(peak_mb(merger), 1)
            begun = time.monotonic()
            await merger.finish()
            figures[f"finish {what} s"] = time.monotonic() - begun

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    await one("few", "records")
    await one("cycle", "cycle")
    await one("anew", "compacted")
    figures["install s"] = await trio.to_thread.run_sync(install, out, out.with_name("Accountantnew.log"))
    return figures


def peak_mb(merger: Merger) -> float:
    (line,) = [
        line for line in Path(f"/proc/{merger.pid}/status").read_text().splitlines() if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) / 1024


def install(path: Path, target: Path) -> float:
    """Put a file's bytes in a place of another file system, as into HTCondor's spool: written, synced, renamed."""
    begun = time.monotonic()
    beside = target.with_name(".install")
    with path.open("rb") as source, beside.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return time.monotonic() - begun


def loop_s() -> float:
    """Return the processor time of a fixed loop: 0.2 s where nobody else runs; what is above that, the others took."""
    begun = time.process_time()
    number = 0
    for step in range(5_000_000):
        number += step
    return time.process_time() - begun


def measure(customers: int, every: int) -> dict[str, float]:
    """Return the figures of one size. Seconds are of this machine, with all else that it does."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # a disk, where /tmp may be memory
        paths = [Path(folder) / name for name in ("base", "ours", "theirs", "out")]
        for side, path in enumerate(paths[:3]):
            write(path, customers, side=side, seconds=side * 3600, every=every)
        return {"loop s": loop_s()} | by_command(paths) | trio.run(as_a_node, paths, customers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--customers", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--every", type=int, default=10, help="one customer in so many has used something on each side")
    add_arguments(parser)
    chosen = parser.parse_args()
    table: Table = {f"{customers:,}": dict(measure(customers, chosen.every)) for customers in chosen.customers}
    report("customers", table, chosen)


if __name__ == "__main__":
    main()

"""What a merge costs: a base and two sides of many customers, written, merged by the command, and its own account.

Rule: nothing is judged here. Run as `python -m tests.bench.bench_merge --customers 100000`.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

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


def measure(customers: int, every: int) -> dict[str, float]:
    """Return seconds and megabytes of one merge by the command."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("base", "ours", "theirs", "out")]
        for side, path in enumerate(paths[:3]):
            write(path, customers, side=side, seconds=side * 3600, every=every)
        names = [str(path) for path in paths]
        begun = time.monotonic()
        child = os.spawnv(
            os.P_NOWAIT, sys.executable, [sys.executable, "-m", "gateway", "merge", *names[:3], "-o", names[3]]
        )
        _, status, used = os.wait4(child, 0)
        assert status == 0, "the merge was refused"
        return {
            "file MB": round(paths[3].stat().st_size / 1e6, 1),
            "wall s": round(time.monotonic() - begun, 2),
            "cpu s": round(used.ru_utime + used.ru_stime, 2),
            "rss MB": round(used.ru_maxrss / 1024, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=10, help="one customer in so many has used something on each side")
    chosen = parser.parse_args()
    for name, value in measure(chosen.customers, chosen.every).items():
        print(f"{name:<8} {value:>10}")


if __name__ == "__main__":
    main()

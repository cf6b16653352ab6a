"""The command `python -m tests.sim`: replay one seed, hunt through many, or measure takeovers."""

from __future__ import annotations

import argparse
import sys
import time

from . import takeover
from .mutants import MUTANTS
from .run import Result, SeedFailed, run_seed, simulate
from .shapes import SHAPES


def summary(result: Result) -> str:
    """Return one line on a run."""
    return (
        f"seed {result.seed:#010x} nodes {result.nodes} {result.simulated_s:>5} s {result.steps:>8} steps "
        f"{sum(result.faults.values()):>5} faults {result.lost:>6} lost {result.leaders:>5} leaders "
        f"settled in {result.settle_ms_max:>5} ms  trace {result.digest}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=lambda text: int(text, 0), default=1, help="the run's seed, or the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--nodes", type=int, choices=sorted(SHAPES), default=5)
    parser.add_argument("--minutes", type=int, default=10, help="simulated minutes")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break one rule of the core")
    parser.add_argument("--verbose", action="store_true", help="one line for each event")
    parser.add_argument("--takeovers", type=int, help="kill the leader so often and print how long it was missed")
    options = parser.parse_args()
    if options.takeovers:
        print(takeover.measure(options.takeovers, seed=options.seed, nodes=options.nodes))
        return 0
    failures = 0
    for seed in range(options.seed, options.seed + options.seeds):
        begun_s = time.process_time()
        try:
            if options.verbose:
                result = simulate(seed, options.nodes, options.minutes, mutant=options.mutant, trace=print)
            else:
                result = run_seed(seed, options.nodes, options.minutes, mutant=options.mutant)
        except (SeedFailed, AssertionError) as failure:
            print(f"seed {seed:#x}: {failure}")
            failures += 1
            continue
        print(f"{summary(result)} {time.process_time() - begun_s:6.2f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

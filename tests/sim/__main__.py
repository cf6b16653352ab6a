"""The command `python -m tests.sim`: replay one seed, hunt through many, run for long, or measure takeovers.

python -m tests.sim --seed 0x1f --shape 2-serve --verbose     one run, a line for each event
python -m tests.sim --seed 1 --seeds 100 --shape 3            a hundred runs of one shape
python -m tests.sim --hours 1000 --jobs 2 --seed 1            the long run (see `campaign`)
python -m tests.sim --takeovers 500 --shape 5                 how long a dead leader is missed
"""

from __future__ import annotations

import argparse
import sys
import time

from . import campaign, takeover
from .mutants import MUTANTS
from .run import Result, SeedFailed, run_seed, simulate
from .shapes import SHAPES

MINUTES = 10


def summary(result: Result) -> str:
    """Return one line on a run."""
    return (
        f"seed {result.seed:#010x} {result.shape:<9} {result.simulated_s:>5} s {result.steps:>8} steps "
        f"{sum(result.faults.values()):>5} faults {result.lost:>6} lost {result.leaders:>5} leaders "
        f"settled in {result.settle_ms_max:>5} ms  trace {result.digest}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=lambda text: int(text, 0), default=1, help="the run's seed, or the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--shape", choices=SHAPES, default="5", help="the cluster")
    parser.add_argument("--minutes", type=int, help="simulated minutes of one run: 10, or with --hours 30")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break one rule of the core")
    parser.add_argument("--verbose", action="store_true", help="one line for each event")
    parser.add_argument("--takeovers", type=int, help="kill the leader so often and print how long it was missed")
    parser.add_argument("--hours", type=float, help="simulate so many hours, over all shapes")
    parser.add_argument("--jobs", type=int, default=2, help="processes, with --hours")
    options = parser.parse_args()
    if options.hours:
        minutes = options.minutes or campaign.MINUTES
        return 1 if campaign.run(options.hours, jobs=options.jobs, seed=options.seed, minutes=minutes).failures else 0
    minutes = options.minutes or MINUTES
    if options.takeovers:
        print(takeover.measure(options.takeovers, seed=options.seed, shape=options.shape))
        return 0
    failures = 0
    for seed in range(options.seed, options.seed + options.seeds):
        begun_s = time.process_time()
        try:
            if options.verbose:
                result = simulate(seed, options.shape, minutes, mutant=options.mutant, trace=print)
            else:
                result = run_seed(seed, options.shape, minutes, mutant=options.mutant)
        except (SeedFailed, AssertionError) as failure:
            print(f"seed {seed:#x}: {failure}")
            failures += 1
            continue
        print(f"{summary(result)} {time.process_time() - begun_s:6.2f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

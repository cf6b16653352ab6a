"""Campaign: many seeds over all shapes of clusters, on several cores; the long run, and its figures.

`make simulate HOURS=1000` or `python -m tests.sim --hours 1000 --jobs 2 [--seed START]` runs seeds of 30 simulated
minutes from START on until so many hours are simulated; which shape a seed has depends on the seed alone. A line each
ten seconds says how far it is, with the seed to start from when it was interrupted. A broken promise is printed with
the command that shows it again, and saved with its trace; the exit status is then 1.

Measured, in seconds of CPU for a simulated hour, on two shared cores with Python 3.11: one node 0.4, two that hold 4.2,
two that serve 3.5, two and a witness 9.5, three 8.1, five 10.8, nine 9.2; all together 7.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter, defaultdict
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

import msgspec

from .run import Result, SeedFailed, run_seed
from .shapes import SHAPES, WEIGHTS

MINUTES = 30
PROGRESS_S = 10.0


class Outcome(msgspec.Struct, frozen=True):
    """What one seed came to: a result, or what was broken."""

    seed: int
    shape: str
    cpu_s: float
    result: Result | None
    failure: str = ""


def shape_of(seed: int) -> str:
    """Return the shape that a seed of a campaign has."""
    return random.Random(f"shape {seed}").choices(list(SHAPES), [WEIGHTS[name] for name in SHAPES])[0]


def run_one(seed: int, minutes: int = MINUTES, mutant: str | None = None) -> Outcome:
    """Run one seed of a campaign; never raises for a broken promise."""
    shape, begun_s = shape_of(seed), time.process_time()
    try:
        result = run_seed(seed, shape, minutes, mutant=mutant)
    except SeedFailed as failure:
        return Outcome(seed, shape, time.process_time() - begun_s, None, str(failure))
    return Outcome(seed, shape, time.process_time() - begun_s, result)


class Tally:
    """The sum of a campaign."""

    def __init__(self) -> None:
        self.simulated_s: Counter[str] = Counter()  # by shape
        self.cpu_s: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.leaders = 0
        self.steps = 0
        self.overlaps = 0
        self.overlap_ms_max = 0
        self.settle_ms_max = 0
        self.takeovers: dict[int, list[int]] = defaultdict(list)  # lease -> times
        self.failures: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        self.runs[outcome.shape] += 1
        self.cpu_s[outcome.shape] += outcome.cpu_s
        result = outcome.result
        if result is None:
            self.failures.append(outcome)
            return
        self.simulated_s[outcome.shape] += result.simulated_s
        self.kinds[result.kind] += 1
        self.faults.update(result.faults)
        self.refused.update(result.refused)
        self.leaders += result.leaders
        self.steps += result.steps
        self.overlaps += result.overlaps
        self.overlap_ms_max = max(self.overlap_ms_max, result.overlap_ms_max)
        self.settle_ms_max = max(self.settle_ms_max, result.settle_ms_max)
        for took_ms, lease_ms in result.takeovers:
            self.takeovers[lease_ms].append(took_ms)

    @property
    def hours(self) -> float:
        return self.simulated_s.total() / 3600

    def lines(self) -> list[str]:
        """Return the table."""
        lines = [f"{'shape':<10} {'runs':>6} {'hours':>9} {'CPU s/h':>8}"]
        for shape in SHAPES:
            hours = self.simulated_s[shape] / 3600
            per_hour = f"{self.cpu_s[shape] / hours:8.2f}" if hours else f"{'-':>8}"
            lines.append(f"{shape:<10} {self.runs[shape]:>6} {hours:>9.1f} {per_hour}")
        lines.append(f"{'all':<10} {self.runs.total():>6} {self.hours:>9.1f}")
        lines += ["", f"{'fault':<24} {'times':>12} {'per hour':>9}"]
        for name, times in sorted(self.faults.items()):
            lines.append(f"{name:<24} {times:>12} {times / max(self.hours, 1e-9):>9.1f}")
        if self.refused:
            lines += ["", f"{'refused by the seal':<24} {'times':>12}"]
            lines += [f"{name:<24} {times:>12}" for name, times in sorted(self.refused.items())]
        lines += ["", f"{'lease ms':>8} {'takeovers':>9} {'p50':>6} {'p99':>6} {'max':>6}  ms"]
        for lease_ms, times in sorted(self.takeovers.items()):
            times.sort()
            p50, p99 = times[len(times) // 2], times[min(len(times) * 99 // 100, len(times) - 1)]
            lines.append(f"{lease_ms:>8} {len(times):>9} {p50:>6} {p99:>6} {times[-1]:>6}")
        kinds = ", ".join(f"{name} {times}" for name, times in sorted(self.kinds.items()))
        lines += [
            "",
            f"runs              {kinds}",
            f"steps             {self.steps}",
            f"leaders           {self.leaders}",
            f"settled after     {self.settle_ms_max} ms at most",
            f"served apart      {self.overlaps} times, {self.overlap_ms_max} ms at most (on-partition serve only)",
            f"violations        {len(self.failures)}",
        ]
        return lines


def run(hours: float, *, jobs: int, seed: int, minutes: int = MINUTES, mutant: str | None = None) -> Tally:
    """Simulate so many hours from `seed` on; print what happens, return the sum."""
    tally, begun_s, said_s = Tally(), time.monotonic(), time.monotonic()
    last = seed + max(round(hours * 60 / minutes), 1)
    following = seed
    workers = min(jobs, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: dict[Future[Outcome], int] = {}
        while following < last or waiting:
            while following < last and len(waiting) < 2 * workers:
                waiting[pool.submit(run_one, following, minutes, mutant)] = following
                following += 1
            for future in wait(waiting, PROGRESS_S, FIRST_COMPLETED).done:
                del waiting[future]
                outcome = future.result()
                tally.add(outcome)
                if outcome.failure:
                    print(f"seed {outcome.seed:#x}: {outcome.failure}", flush=True)
            if time.monotonic() - said_s >= PROGRESS_S:
                said_s = time.monotonic()
                print(progress(tally, hours, said_s - begun_s, min(waiting.values(), default=following)), flush=True)
    print("\n".join(tally.lines()))
    return tally


def progress(tally: Tally, hours: float, spent_s: float, resume: int) -> str:
    """Return the line that says how far a campaign is."""
    left_s = (hours - tally.hours) * spent_s / max(tally.hours, 1e-9)
    return (
        f"{tally.hours:>8.1f} of {hours:g} h {tally.runs.total():>7} runs {tally.leaders:>9} leaders "
        f"{len(tally.failures):>3} violations {spent_s:>7.0f} s gone {left_s:>7.0f} s to go  "
        f"resume with --seed {resume:#x}"
    )

"""Run: one seed from its first fault to its last calm minute; what a test asks and the command line replays.

A run is cycles of a safety phase (faults; only safety is judged) and a liveness phase (everything healed; see `calm`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from . import mutants
from .calm import settle, stay_calm
from .faults import Faults
from .order_mutants import ORDER_MUTANTS
from .report import write_failure
from .shapes import SHAPES
from .world import SECOND_US, World

CALM_US = 60 * SECOND_US
CYCLES = 3
LINES_KEPT = 200


class Result(msgspec.Struct, frozen=True):
    """What one run came to."""

    seed: int
    shape: str
    kind: str  # plain, sealed, weak: see `World`
    simulated_s: int
    steps: int
    leaders: int  # how often somebody began to lead
    lost: int  # datagrams
    settle_ms_max: int  # longest time from a heal to one leader each
    takeovers: tuple[tuple[int, int], ...]  # (ms, lease in ms) from the death of a leader, in fair weather
    overlaps: int  # under `serve`: how often two led at once
    overlap_ms_max: int
    faults: dict[str, int]
    refused: dict[str, int]  # datagrams, by reason of the seal
    digest: str


class SeedFailed(AssertionError):  # noqa: N818 - an assertion's text is its message
    """A run broke a promise; the text says how to see it again."""


def command(seed: int, shape: str, minutes: int, mutant: str | None) -> str:
    extra = f" --mutant {mutant}" if mutant else ""
    return f"python -m tests.sim --seed {seed:#x} --shape {shape} --minutes {minutes}{extra}"


def run_seed(seed: int, shape: str, minutes: int = 10, *, mutant: str | None = None) -> Result:
    """Run one seed; raise `SeedFailed`, with a report on disk, where a promise is broken."""
    try:
        return simulate(seed, shape, minutes, mutant=mutant)
    except AssertionError as failure:
        lines: deque[str] = deque(maxlen=LINES_KEPT)
        try:
            simulate(seed, shape, minutes, mutant=mutant, trace=lines.append)
        except AssertionError:
            again = command(seed, shape, minutes, mutant)
            path = write_failure(again, str(failure), lines)
            raise SeedFailed(f"{failure}\nreplay: {again} --verbose\nreport: {path}") from failure
        raise SeedFailed(f"{failure}\nseed {seed:#x} of shape {shape} did not fail again") from failure


def simulate(
    seed: int,
    shape: str,
    minutes: int = 10,
    *,
    mutant: str | None = None,
    trace: Callable[[str], None] | None = None,
    ordered: bool | None = None,
) -> Result:
    """Run one seed; an `AssertionError` of the audit or of the core goes through."""
    if ordered is None and mutant in ORDER_MUTANTS:
        ordered = True  # or there would be nothing to see of it
    with mutants.applied(mutant):
        return _simulate(World(SHAPES[shape], seed, trace, ordered=ordered), seed, shape, minutes)


def _simulate(world: World, seed: int, shape: str, minutes: int) -> Result:
    faults = Faults(world)
    for host in world.hosts:
        host.start()
    length_us = minutes * 60 * SECOND_US
    cycles = max(min(CYCLES, length_us // (3 * CALM_US)), 1)
    calm_us = min(CALM_US, length_us // 5)
    settle_us_max = 0
    takeovers: list[tuple[int, int]] = []
    for cycle in range(cycles):
        until_us = length_us * (cycle + 1) // cycles
        faults.begin()
        world.run(until_us - calm_us)
        faults.end()
        settle_us_max = max(settle_us_max, settle(world))
        takeovers += stay_calm(world, until_us)
    world.check_bounds()
    return Result(
        seed=seed,
        shape=shape,
        kind=world.kind,
        simulated_s=minutes * 60,
        steps=world.steps,
        leaders=world.audit.started,
        lost=world.network.lost,
        settle_ms_max=settle_us_max // 1000,
        takeovers=tuple(takeovers),
        overlaps=len(world.audit.overlaps),
        overlap_ms_max=max((to - since for since, to in world.audit.overlaps.values()), default=0) // 1000,
        faults={**world.faults, **world.network.counts()},
        refused={} if world.sealed is None else dict(world.sealed.refused),
        digest=f"{world.digest & (1 << 64) - 1:016x}",
    )

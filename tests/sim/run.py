"""Run: one seed from its first fault to its last calm minute; what a test asks and the command line replays.

A run is cycles of a safety phase (faults; only safety is judged) and a liveness phase (everything healed: L1 a leader
soon, L3 no change of leader from then on, whatever a single follower does).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from . import mutants
from .audit import Violation
from .faults import Faults
from .host import Host
from .network import isolate
from .report import write_failure
from .shapes import SHAPES
from .world import SECOND_US, World

CALM_US = 60 * SECOND_US
CYCLES = 3
# L1, three election timeouts: a restarted node is silent for a promise, or the last promises end; then the best
# candidate's turn comes, and its round takes a write. A datagram that was late from before may cost one promise more.
SETTLE_LEASES = 3
LINES_KEPT = 200


class Result(msgspec.Struct, frozen=True):
    """What one run came to."""

    seed: int
    nodes: int
    simulated_s: int
    steps: int
    leaders: int  # how often somebody began to lead
    lost: int  # datagrams
    settle_ms_max: int  # longest time from a heal to one leader each
    faults: dict[str, int]
    digest: str
    failure: str | None = None


class SeedFailed(AssertionError):  # noqa: N818 - an assertion's text is its message
    """A run broke a promise; the text says how to see it again."""


def command(seed: int, nodes: int, minutes: int, mutant: str | None) -> str:
    extra = f" --mutant {mutant}" if mutant else ""
    return f"python -m tests.sim --seed {seed:#x} --nodes {nodes} --minutes {minutes}{extra}"


def run_seed(seed: int, nodes: int, minutes: int = 10, *, mutant: str | None = None) -> Result:
    """Run one seed; raise `SeedFailed`, with a report on disk, where a promise is broken."""
    try:
        return simulate(seed, nodes, minutes, mutant=mutant)
    except AssertionError as failure:
        lines: deque[str] = deque(maxlen=LINES_KEPT)
        try:
            simulate(seed, nodes, minutes, mutant=mutant, trace=lines.append)
        except AssertionError:
            again = command(seed, nodes, minutes, mutant)
            path = write_failure(again, str(failure), lines)
            raise SeedFailed(f"{failure}\nreplay: {again} --verbose\nreport: {path}") from failure
        raise SeedFailed(f"{failure}\nseed {seed:#x} of {nodes} nodes did not fail again") from failure


def simulate(
    seed: int, nodes: int, minutes: int = 10, *, mutant: str | None = None, trace: Callable[[str], None] | None = None
) -> Result:
    """Run one seed; an `AssertionError` of the audit or of the core goes through."""
    with mutants.applied(mutant):
        return _simulate(seed, nodes, minutes, trace)


def _simulate(seed: int, nodes: int, minutes: int, trace: Callable[[str], None] | None) -> Result:
    world = World(SHAPES[nodes], seed, trace)
    faults = Faults(world)
    for host in world.hosts:
        host.start()
    length_us = minutes * 60 * SECOND_US
    cycles = max(min(CYCLES, length_us // (3 * CALM_US)), 1)
    calm_us = min(CALM_US, length_us // 5)
    settle_us_max = 0
    for cycle in range(cycles):
        faults.begin()
        world.run(length_us * (cycle + 1) // cycles - calm_us)
        faults.end()
        settle_us_max = max(settle_us_max, settle(world))
        stay_calm(world, length_us * (cycle + 1) // cycles)
    world.check_bounds()
    return Result(
        seed=seed,
        nodes=nodes,
        simulated_s=minutes * 60,
        steps=world.steps,
        leaders=world.audit.started,
        lost=world.network.lost,
        settle_ms_max=settle_us_max // 1000,
        faults=dict(world.faults),
        digest=f"{world.digest & (1 << 64) - 1:016x}",
    )


def settle(world: World) -> int:
    """Wait for one leader in each election (L1); return how long it took, in microseconds."""
    begun_us = since_us = world.now_us
    lease_us = world.timing.lease_ms * 1000
    started = world.audit.started
    # A leader that nobody answers any more still looks well until its lease ends: one that outlives a lease is one.
    while world.now_us - since_us < 1.1 * lease_us:
        world.run(world.now_us + lease_us // 20)
        if world.settled() is not None or world.audit.started != started:
            since_us, started = world.now_us, world.audit.started
        if since_us - begun_us > SETTLE_LEASES * lease_us:
            world.require_settled(f"L1: {SETTLE_LEASES} leases after everything was healed")
            raise Violation("L1: the leader keeps changing after everything was healed")
    return since_us - begun_us


def stay_calm(world: World, until_us: int) -> None:
    """Let followers come, go, and be deaf or mute: no leader may change for it (L3)."""
    started, begun_us, terms = world.audit.started, world.now_us, _terms(world)
    leaders = {host for plan in world.shape.plans for host in world.audit.serving(plan.name, world.now_us)}
    followers = [host for host in world.hosts if host.index not in leaders]
    if followers and len(world.hosts) > 2:  # two nodes have nobody to spare: without both there is no majority
        troubles = (_blink, _deafen, _silence, _reboot)
        gap_us = (until_us - begun_us) // (len(troubles) + 1)
        for turn, trouble in enumerate(troubles):
            # One at a time, with room to recover: two at once are a lost majority, and then a change is right.
            host, span_us = world.rng.choice(followers), min(gap_us // 2, 5 * SECOND_US)
            world.call(gap_us * turn + gap_us // 2, partial(trouble, world, host, span_us))
    world.run(until_us)
    if world.audit.started != started:
        raise Violation("L3: the leader changed though nothing was wrong")
    world.require_settled("L3: nothing was wrong")
    if _terms(world) != terms:
        raise Violation(f"rule 5: the terms rose from {terms} to {_terms(world)} though a majority heard a leader")


def _terms(world: World) -> dict[str, int]:
    """Return the highest term that anybody has heard of, by election."""
    cores = [host.core for host in world.hosts if host.core is not None]
    return {plan.name: max(core.elections[plan.name].term for core in cores) for plan in world.shape.plans}


def _blink(world: World, host: Host, _: int) -> None:
    world.note("calm-restart", host.name)
    host.crash()
    world.call(50_000, host.start)


def _reboot(world: World, host: Host, span_us: int) -> None:
    world.note("calm-reboot", host.name)
    host.crash()

    def back() -> None:
        host.clock.reboot(world.now_us, 5 * SECOND_US)
        host.start()

    world.call(span_us, back)


def _deafen(world: World, host: Host, span_us: int) -> None:
    _cut_off(world, host, "calm-deaf", span_us, hears=False, is_heard=True)


def _silence(world: World, host: Host, span_us: int) -> None:
    _cut_off(world, host, "calm-mute", span_us, hears=True, is_heard=False)


def _cut_off(world: World, host: Host, name: str, span_us: int, *, hears: bool, is_heard: bool) -> None:
    links = isolate(len(world.hosts), host.index, hears=hears, is_heard=is_heard)
    world.note(name, host.name)
    world.network.cut(links)
    world.call(span_us, lambda: world.network.heal(links))

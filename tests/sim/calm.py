"""Calm: the liveness phase. Everything is healed; a leader must come, and stay, and be followed soon when it goes.

L1: a leader within three leases. L3: no change of leader, whatever a single follower does; at most one for each leader
that dies or becomes unfit. L2: its successor is there within three leases. L6: a leader that turns unfit time and
again, because its host is broken, does not get the lead back from one that is well.
"""

from __future__ import annotations

from functools import partial

import msgspec

from .audit import Violation
from .host import Host
from .network import isolate
from .ordering import LEASES_OF_OBEYING, obey, require_agreement
from .world import SECOND_US, World

# L1, three election timeouts: a restarted node is silent for a promise, or the last promises end; then the best
# candidate's turn comes, and its round takes a write. A datagram that was late from before may cost one promise more.
SETTLE_LEASES = 3
# L2: what is left of the promises, and a round. Half a lease more for slow timers and disks of short leases.
TAKEOVER_LEASES = 2.5
TRIALS_LEASES = 14  # what the deaths at the end of a calm take
ROOM_LEASES = 3
CHURN = 3  # how often a broken leader comes back, and tries again


def settle(world: World) -> int:
    """Wait for one leader in each election (L1); return how long it took, in microseconds."""
    # A slow disk may still have a vote of before, a full one may still end its process, a supervisor start it again.
    while world.ending or any(host.writing or host.writing_orders or host.core is None for host in world.hosts):
        world.run(world.now_us + 1_000)
    begun_us = since_us = world.now_us
    lease_us = world.lease_ms_longest * 1000
    started = world.audit.started
    # A leader that nobody answers any more still looks well until its lease ends: one that outlives a lease is one.
    while world.now_us - since_us < 1.1 * lease_us:
        world.run(world.now_us + lease_us // 20)
        if world.settled() is not None or world.audit.started != started:
            since_us, started = world.now_us, world.audit.started
        if since_us - begun_us > SETTLE_LEASES * lease_us:
            world.require_settled(f"L1: {SETTLE_LEASES} leases after everything was healed")
            raise Violation("L1: the leader keeps changing after everything was healed")
    require_agreement(world)
    return since_us - begun_us


def stay_calm(world: World, until_us: int) -> list[tuple[int, int]]:
    """Let followers come, go, and be deaf or mute: no leader may change for it (L3). Then let leaders die.

    Return how long each dead leader was missed, and the lease, in ms.
    """
    trials_us = TRIALS_LEASES * world.lease_ms_longest * 1000
    has_trials = len(world.hosts) > 1 and (len(world.hosts) > 2 or world.shape.serve)
    obeying_us = LEASES_OF_OBEYING * world.lease_ms_longest * 1000 if world.ordered and len(world.hosts) > 1 else 0
    has_trials = has_trials and until_us - world.now_us > 2 * trials_us + obeying_us
    if until_us - world.now_us <= trials_us + obeying_us:
        obeying_us = 0
    followers_trouble(world, until_us - obeying_us - (trials_us if has_trials else 0))
    times: list[tuple[int, int]] = []
    if has_trials:
        times = let_leader_die(world)
        if len(world.hosts) > 2:
            break_leader(world)
        world.run(until_us - obeying_us)
        world.require_settled("L3: after the leader's death")
    if obeying_us:
        obey(world)
        world.run(until_us)
        world.require_settled("O4: after the orders were obeyed")
    return times


def followers_trouble(world: World, until_us: int) -> None:
    """Trouble one follower after the other (L3)."""
    started, begun_us, terms = world.audit.started, world.now_us, _terms(world)
    leaders = {host for plan in world.shape.plans for host in world.audit.serving(plan.name, world.now_us)}
    followers = [host for host in world.hosts if host.index not in leaders]
    if followers and (len(world.hosts) > 2 or world.shape.serve):  # of two that hold, none can be spared
        # Of two that serve apart, the deaf one must take the lead, and one that has just started is heard, so that
        # the other counts on its answer, and promises nothing yet (rule 4): the leader's lease runs out.
        troubles = (_silence,) if world.shape.serve else (_blink, _deafen, _silence, _reboot)
        # Each has room to be down for a promise, and silent for another, before the next one comes.
        room = (until_us - begun_us) // (ROOM_LEASES * world.lease_ms_longest * 1000) - 1
        troubles = troubles[: max(room, 0)]
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


def let_leader_die(world: World) -> list[tuple[int, int]]:
    """Kill a leader (L2, L3): each election that it led has one new leader soon, and no other has."""
    lease_us = world.lease_ms_longest * 1000
    plan = world.rng.choice(world.shape.plans)
    leader = world.hosts[world.audit.serving(plan.name, world.now_us)[0]]
    led = {one.name for one in world.shape.plans if leader.index in world.audit.serving(one.name, world.now_us)}
    world.note("calm-kill", leader.name)
    died_us, before = world.now_us, len(world.audit.starts)
    leader.crash()
    world.run(died_us + int(TAKEOVER_LEASES * lease_us))
    starts = world.audit.starts[before:]
    if {name for name, _ in starts} != led or len(starts) != len(led):
        raise Violation(f"L2, L3: {leader.name} led {sorted(led)} and died; then these were led: {starts}")
    leader.start()
    world.run(world.now_us + 2 * lease_us)
    world.require_settled("L1: after the dead leader's return")
    return [((at_us - died_us) // 1000, world.lease_ms_longest) for _, at_us in starts]


def break_leader(world: World) -> None:
    """Let one host turn unfit each time that it leads: a change for the first time, and none after (L6)."""
    lease_us = world.lease_ms_longest * 1000
    plan = world.rng.choice(world.shape.plans)
    broken = world.hosts[world.audit.serving(plan.name, world.now_us)[0]]
    world.note("calm-unfit", f"{broken.name} {plan.name}")
    before = len(world.audit.starts)
    for _ in range(CHURN):
        if broken.index in world.audit.serving(plan.name, world.now_us):
            broken.change(msgspec.structs.replace(broken.standings[plan.name], fit=False))
        world.run(world.now_us + lease_us)
        broken.change(msgspec.structs.replace(broken.standings[plan.name], fit=True))
        world.run(world.now_us + lease_us)
    if len(world.audit.starts) - before != 1:
        raise Violation(f"L6: {broken.name} was unfit again and again: {world.audit.starts[before:]}")


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

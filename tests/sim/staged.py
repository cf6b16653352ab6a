"""Staged: faults that hurt only together, at moments that chance seldom finds. Never touches the core, like `faults`.

Every one was written for a mutant that runs of single faults let live.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.core.events import ResignationRequested
from gateway.core.timing import Timing

from .network import isolate

if TYPE_CHECKING:
    from .faults import Faults
    from .host import Host


def strand_leader(faults: Faults) -> None:
    """The answers to a leader are slow; then nobody hears it any more, while they still come in."""
    leader, hosts, lease_us = faults.victim().index, len(faults.world.hosts), faults.lease_us
    begin_us, span_us = faults.rng.randrange(lease_us), 2 * lease_us
    for other in range(hosts):
        if other != leader:
            faults.slow_link(other, leader, faults.rng.randrange(lease_us // 2), begin_us + span_us)
    mute = isolate(hosts, leader, hears=True, is_heard=False)
    faults.later(begin_us, lambda: faults.cut("stranded", mute, span_us))


def return_during_stop(faults: Faults) -> None:
    """A candidate that was cut off is back while the leader, told to resign, has not stopped yet."""
    leader, other = faults.victim(), faults.rng.choice(faults.world.hosts)
    away_us = int(faults.lease_us * faults.rng.uniform(0.5, 2.0))
    faults.cut("away", isolate(len(faults.world.hosts), other.index, hears=False, is_heard=False), away_us)
    leader.stop_us = (faults.lease_us // 3, 3 * faults.lease_us)

    def quick() -> None:
        leader.stop_us = faults.stop_us

    asked_us = max(away_us - faults.rng.randrange(faults.lease_us // 2), 0)
    faults.later(asked_us, lambda: _ask_to_resign(leader))
    faults.later(away_us + 2 * faults.lease_us, quick)


def _ask_to_resign(host: Host) -> None:
    for plan in host.world.shape.plans:
        if host.running():
            host.take(ResignationRequested(plan.name, "told to"))


def late_resignation(faults: Faults) -> None:
    """A leader wakes up long after it was succeeded, and resigns, while a candidate can't hear the successor."""
    world, lease_us = faults.world, faults.lease_us
    plan = faults.rng.choice(world.shape.plans)
    serving = world.audit.serving(plan.name, world.now_us)
    if not serving or not world.hosts[serving[0]].running():
        return
    old = world.hosts[serving[0]]
    world.note("late-resignation", old.name)
    old.freeze()

    def deafen() -> None:
        successor = world.audit.serving(plan.name, world.now_us)
        suitors = [world.index[name] for name in plan.candidates if world.index[name] not in (old.index, *successor)]
        if successor and suitors:
            faults.cut("deaf-to-leader", ((successor[0], faults.rng.choice(suitors)),), 4 * lease_us)

    faults.later(2 * lease_us, deafen)
    faults.later(int(lease_us * faults.rng.uniform(3.2, 5.5)), lambda: faults.thaw(old))


def slow_suitor(faults: Faults) -> None:
    """A candidate's round takes as long as a promise, and its voters hear their leader again in the middle of it.

    One voter is free when it is asked in advance, hears the leader once more and is free again when the request comes;
    the other votes, and only then hears the leader. But for its promise it would now serve two.
    """
    world, lease_us, rng = faults.world, faults.lease_us, faults.rng
    plan = rng.choice(world.shape.plans)
    serving = world.audit.serving(plan.name, world.now_us)
    suitors = [name for name in plan.candidates if serving and world.index[name] != serving[0]]
    if len(world.hosts) < 5 or not suitors:
        return
    leader, suitor = serving[0], world.index[rng.choice(suitors)]
    waverer, voter = rng.sample([host for host in range(len(world.hosts)) if host not in (leader, suitor)], 2)

    def leases(number: float) -> int:
        return int(lease_us * (number + rng.uniform(0.0, 0.05)))

    def unheard(by: int, begin_us: int, end_us: int) -> None:
        faults.later(begin_us, lambda: faults.cut("courted", ((leader, by),), end_us - begin_us))

    unheard(suitor, 0, leases(3.0))
    unheard(waverer, 0, leases(1.05))
    unheard(waverer, leases(1.22), leases(2.8))
    unheard(voter, leases(0.34), leases(1.9))
    faults.slow_link(suitor, voter, leases(0.38), leases(1.4))
    faults.later(leases(1.5), lambda: faults.slow_link(suitor, waverer, leases(0.41), lease_us))
    host = world.hosts[suitor]
    host.fsync_us = (int(0.43 * lease_us), int(0.48 * lease_us))

    def quick() -> None:
        host.fsync_us = faults.fsync_us

    faults.later(3 * lease_us, quick)


def retune_leader(faults: Faults) -> None:
    """A leader is given other periods, and is lost in the middle of a lease.

    It is a longer one that nobody has promised yet, or a shorter one while the longer still runs.
    """
    world, lease_us = faults.world, faults.lease_us
    leader = faults.victim()
    heartbeat_ms, lease_ms = faults.rng.choice(world.shape.timings)
    if not leader.leads() or lease_ms == leader.timing.lease_ms:
        return

    def retune() -> None:
        if leader.running() and leader.reload(Timing(heartbeat_ms=heartbeat_ms, lease_ms=lease_ms)):
            world.note("retune", f"{leader.name} {heartbeat_ms} {lease_ms}")

    links = isolate(len(world.hosts), leader.index, hears=False, is_heard=False)
    lost_us = faults.rng.randrange(lease_us // 2)
    faults.later(lost_us, lambda: faults.cut("retuned-apart", links, 6 * lease_us))
    faults.later(int(lost_us * faults.rng.choice((0.5, 1.0, 1.1))) + faults.rng.randrange(lease_us // 8), retune)


def reload_voters(faults: Faults) -> None:
    """A candidate can't hear its leader and asks for votes, while those that are bound to the leader are reloaded."""
    world, lease_us = faults.world, faults.lease_us
    plan = faults.rng.choice(world.shape.plans)
    serving = world.audit.serving(plan.name, world.now_us)
    suitors = [world.index[name] for name in plan.candidates if serving and world.index[name] != serving[0]]
    if not suitors or len(world.hosts) < 3:
        return
    suitor = faults.rng.choice(suitors)
    faults.cut("reloaded-apart", ((serving[0], suitor),), 3 * lease_us)

    def reload() -> None:
        for host in world.hosts:
            if host.index not in (serving[0], suitor) and host.running() and host.reload():
                world.note("reload", host.name)

    for turn in range(24):
        faults.later(lease_us + turn * lease_us // 24, reload)


STAGED: tuple[Callable[[Faults], None], ...] = (
    strand_leader,
    return_during_stop,
    late_resignation,
    slow_suitor,
    retune_leader,
    reload_voters,
)

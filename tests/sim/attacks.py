"""Attacks: datagrams that nobody of the cluster has sent just now, and hosts that come back from a snapshot.

Only for runs whose datagrams are sealed. What the seal must refuse is judged by `sealed`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.wire.heartbeat import encode
from gateway.wire.messages import Resignation, VoteReply
from gateway.wire.seal import Seal

from .sealed import CLUSTER, SealedPost

if TYPE_CHECKING:
    from .faults import Faults

BURST_MAX = 40


def _inject(faults: Faults, receiver: int, datagram: bytes) -> None:
    world = faults.world
    world.later(faults.rng.randrange(1, faults.lease_us), world.DATAGRAM, receiver, 0, datagram)


def _post(faults: Faults) -> SealedPost:
    post = faults.world.sealed
    assert post is not None, "attacks are for runs with a seal"
    return post


def replay(faults: Faults) -> None:
    """Old datagrams come again, some at another host than they were made for, some at the one that sent them."""
    recorded = _post(faults).recorded
    if not recorded:
        return
    faults.world.note("replay")
    for _ in range(faults.rng.randrange(1, BURST_MAX)):
        receiver, datagram = faults.rng.choice(recorded)
        astray = faults.rng.random() < 0.2
        _inject(faults, faults.rng.randrange(len(faults.world.hosts)) if astray else receiver, datagram)


def forge(faults: Faults) -> None:
    """Somebody without the key pretends to be a peer: another key, another cluster, noise, flipped bits."""
    post, rng, voters = _post(faults), faults.rng, faults.world.shape.voters
    faults.world.note("forge")
    for _ in range(rng.randrange(1, BURST_MAX)):
        receiver = rng.randrange(len(voters))
        sender = rng.choice(voters)
        if sender == voters[receiver]:
            continue
        lie = rng.choice((Resignation("address", 1, ""), VoteReply("address", 1, False, 0, True, 1, 0)))
        liar = Seal(CLUSTER, post.stranger, sender, rng.randbytes(16), voters)
        foreign = Seal("another", post.stranger, sender, rng.randbytes(16), voters)
        forged = [
            liar.seal(voters[receiver], encode(lie)),
            foreign.seal(voters[receiver], encode(lie)),
            rng.randbytes(rng.randrange(200)),
        ]
        if post.recorded:
            forged.append(post.rotten(rng.choice(post.recorded)[1]))
        _inject(faults, receiver, rng.choice(forged))


def rotate_key(faults: Faults) -> None:
    """Runs that begin from now on seal with the other key; all of them open both."""
    post = _post(faults)
    post.active_key = 3 - post.active_key
    faults.world.note("rotate-key", str(post.active_key))


def roll_back(faults: Faults) -> None:
    """A virtual machine goes back to its snapshot: memory, disk and clock, and a run that had been replaced speaks.

    Whoever has seen it replaced must not hear it again (rule 4 of the seal); who started later cannot know. A run that
    was not replaced is refused until its sequence has caught up. Its disk has forgotten votes: the weaker promise.

    Assumed: going back takes longer than a promise, and who leads is not rolled back (the kernel's lease would be, too,
    and nothing in the machine could tell).
    """
    if not faults.world.weak:
        return
    world, post = faults.world, _post(faults)
    host = faults.victim()
    if not host.running() or host.core is None or host.leads():
        return
    core, door, disk = copy.deepcopy(host.core), post.snapshot(host.name), dict(host.disk)
    clock_us, life = host.clock.read_us(world.now_us), host.life

    def replace() -> None:
        """The run of the snapshot ends, and a new one is met by the peers."""
        if host.life == life and host.running():
            host.crash()
            faults.later(faults.lease_us // 10, lambda: host.start() if host.core is None else None)

    def restore() -> None:
        if not host.running():
            return
        host.crash()
        faults.later(2 * faults.lease_us, wake)

    def wake() -> None:
        if host.core is not None:
            return
        world.note("rolled-back", host.name)
        host.disk = disk
        post.doors[host.name] = door
        host.wake_as(core, clock_us)
        faults.out_of_time[host.index] = core
        faults.later(faults.span_us(), restart)

    def restart() -> None:
        if host.core is core:
            host.crash()
            faults.restart_later(host)

    if faults.rng.random() < 0.5:
        faults.later(faults.rng.randrange(2 * faults.lease_us), replace)
    faults.later(3 * faults.lease_us + faults.span_us(), restore)


ATTACKS: tuple[Callable[[Faults], None], ...] = (replay, forge, rotate_key, roll_back)

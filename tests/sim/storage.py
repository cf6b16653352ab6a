"""Storage: disks that are full, slow, or lie. Never touches the core, like `faults`.

A vote file is written whole, synced and renamed: a crash leaves the old one or the new one, never a torn one (that is
drawn at every crash, in `Host.crash`). A write that fails ends the process, as in production.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .faults import Faults

FSYNC_US_MAX = 500_000


def slow_disk(faults: Faults) -> None:
    host = faults.victim()
    faults.world.note("slow-disk", host.name)
    host.fsync_us = (500, faults.rng.choice((faults.lease_us // 10, FSYNC_US_MAX)))

    def quick() -> None:
        host.fsync_us = faults.fsync_us

    faults.later(faults.span_us(), quick)


def full_disk(faults: Faults) -> None:
    """No vote can be written: full, read-only or broken. Each attempt ends the process; its supervisor restarts it."""
    host = faults.victim()
    faults.world.note("full-disk", host.name)
    host.disk_full = True

    def room() -> None:
        host.disk_full = False

    faults.later(faults.span_us(), room)


def lying_disk(faults: Faults) -> None:
    """A disk that says "written" and is not: the next crash loses its last votes. Only where `World.weak`."""
    if not faults.world.weak:
        return
    host = faults.victim()
    faults.world.note("lying-disk", host.name)
    host.synced = dict(host.disk)

    def honest() -> None:
        host.synced = None

    faults.later(faults.span_us(), honest)


STORAGE: tuple[Callable[[Faults], None], ...] = (slow_disk, full_disk, lying_disk)

"""A diversion: packets that the kernel takes to the elected server before the relay sees them. What its ways share.

Rule: a diversion only ever takes work off the relay. The relay listens in any case; what the kernel does not take,
because nobody is elected, because a MAC is not known, or because the rules are gone, the relay holds or carries.
So a refusal of the kernel ends nothing: it is said once, and a task tries again.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog
import trio

from gateway.config.settings import Backend, Forward, Settings
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nft_expressions import Rate
from gateway.relay.sources import BURST_S

MEND_S: Final = 2.0  # between two tries to make rules that the kernel has refused, or that are gone
LOOK_S: Final = 5.0  # between two looks whether they are still there


class Carried(NamedTuple):
    """What the kernel does for one backend at one place, and has done. Figures as in `gateway.control.figures`."""

    carries: bool  # it takes what is new to the elected server; else the relay does, or holds it
    state: str
    fault: str
    refused: str | None  # why the elected server is not to be reached in this way
    figures: Mapping[str, Any]
    servers: Mapping[str, Mapping[str, Any]]


class Diversion:
    """What the ways have in common."""

    def __init__(self, backend: str, way: Forward) -> None:
        self.backend = backend
        self.fault = ""  # why the relay does the work now
        self.way = way
        self._broken = trio.Event()
        self.keeping = False
        self.log = structlog.get_logger().bind(backend=backend, forward=str(way))

    def keep(self) -> None:
        """Leave the rules as they are when `run` ends."""
        self.keeping = True

    def attempt(self, act: Callable[[], Any]) -> None:
        """Do what takes microseconds; a refusal is a fault that the task mends."""
        if self.fault:
            return
        try:
            act()
        except KernelRefused as error:
            self.failed(str(error))

    def failed(self, reason: str) -> None:
        """Leave the work to the relay until the task has mended it."""
        self.fault = reason
        self.log.error("diversion.refused", reason=reason)
        self._broken.set()

    async def mend(self, intact: Callable[[], bool], rebuild: Callable[[], Awaitable[None]]) -> None:
        """Look after the rules; ends by cancellation."""
        while True:
            with trio.move_on_after(LOOK_S):
                await self._broken.wait()
            if not self.fault:
                self._look(intact)
            if self.fault:
                await trio.sleep(MEND_S)
                await self._rebuild(rebuild)

    def _look(self, intact: Callable[[], bool]) -> None:
        try:
            if not intact():
                self.failed("the rules are gone")
        except KernelRefused as error:
            self.failed(str(error))

    async def _rebuild(self, rebuild: Callable[[], Awaitable[None]]) -> None:
        self._broken = trio.Event()
        try:
            await rebuild()
        except KernelRefused as error:
            if str(error) != self.fault:
                self.log.error("diversion.refused", reason=str(error))
            self.fault = str(error)
            self._broken.set()
        else:
            self.log.info("diversion.mended")


def rate_of_source(settings: Settings, backend: Backend) -> Rate | None:
    """Return how fast one client address may make new connections to a backend; None: as fast as it likes.

    The kernel does not ask by which frontend they came: the most that one of them allows.
    """
    rates = [one.rate_source for one in settings.frontends if one.backend == backend.name]
    return None if not rates or 0 in rates else Rate(max(rates), BURST_S * max(rates))


def counted(read: Callable[[], dict[str, int]]) -> dict[str, int]:
    """Return what the kernel has counted; nothing where it does not say: the fault tells why."""
    try:
        return read()
    except KernelRefused:
        return {}

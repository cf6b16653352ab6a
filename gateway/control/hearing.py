"""Hearing: does this manager's collector hear what comes to the pool's addresses? Where it can't, the manager is unfit.

Rule: HTCondor is asked at the start, and again when its collector is another process: until then nothing has changed.
"""

from collections.abc import Callable

import structlog
import trio

from gateway.config.settings import Backend, Forward, Settings
from gateway.matchmaker.interfaces import deafness


class Hearing:
    """One backend's manager, on this host.

    Args:
        settings: of this node.
        backend: whose manager it is; only `forward direct` leaves the address that a packet was sent to as it is.
        changed: called when `reason` is another one.
    """

    def __init__(self, settings: Settings, backend: Backend, changed: Callable[[], None]) -> None:
        bound = {bind.address for one in settings.frontends if one.backend == backend.name for bind in one.binds}
        direct = backend.forward is Forward.DIRECT
        self._virtual = [address.ip for address in settings.addresses if direct and address.name in bound]
        self._changed = changed
        self._restarted = trio.Event()
        self._log = structlog.get_logger().bind(matchmaker=backend.name)
        self.reason = ""  # why the pool is not heard; "": it is

    def restarted(self) -> None:
        """Note that the collector is another process: it may have been configured anew."""
        self._restarted.set()

    async def ask(self) -> None:
        """Ask HTCondor now."""
        if not self._virtual:
            return
        reason = await deafness(self._virtual)
        if reason != self.reason:
            self.reason = reason
            if reason:
                self._log.error("matchmaker.deaf", reason=reason)
            else:
                self._log.info("matchmaker.hears")
            self._changed()

    async def run(self) -> None:
        """Ask whenever the collector is another one; ends by cancellation."""
        while True:
            await self._restarted.wait()
            self._restarted = trio.Event()
            await self.ask()

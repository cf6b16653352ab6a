"""Diversions: all of one gateway's, by backend and address. None where every backend says `forward proxy`.

Rule: what is decided comes from the elections; here it only finds its way to the rules.
"""

from typing import Any, Final

import trio

from gateway.config.settings import Endpoint, Forward, Peer, Settings
from gateway.control.direct_diversion import DirectDiversion
from gateway.control.diversion import Carried, rate_of_source
from gateway.control.nat_diversion import NatDiversion
from gateway.kernel.link import Event as LinkEvent

COUNT_S: Final = 1.0  # as often as the relay reports


class Diversions:
    """All of one gateway. Empty where every backend says `forward proxy`."""

    def __init__(self, settings: Settings, me: Peer) -> None:
        self._backends = {backend.name: backend for backend in settings.backends}
        held = {address.name: address for address in settings.addresses if me.name in address.holders}
        ways = {
            (bind.address, frontend.backend)
            for frontend in settings.frontends
            for bind in frontend.binds
            if bind.address in held and self._backends[frontend.backend].forward is Forward.DIRECT
        }
        self.direct = tuple(
            DirectDiversion(
                settings.cluster,
                held[address],
                self._backends[backend],
                rate=rate_of_source(settings, self._backends[backend]),
            )
            for address, backend in sorted(ways)
        )
        wants_nat = held and any(backend.forward is Forward.NAT for backend in settings.backends)
        self.nat = NatDiversion(settings, me) if wants_nat else None

    def of_address(self, name: str) -> tuple[DirectDiversion, ...]:
        """Return those that live by the lease of an address."""
        return tuple(one for one in self.direct if one.address == name)

    async def prepare(self, *, adopt: bool) -> list[str]:
        """Build all rules; return what an operator should know. Raises `KernelRefused`."""
        warnings: list[str] = []
        for one in self._all():
            warnings += await one.prepare(adopt=adopt)
        return warnings

    def set_server(self, backend: str, server: Endpoint | None, drain_ms: int) -> None:
        """Let the clients of `backend` go to `server`; None: nobody is elected, and the relay holds who is new."""
        for one in self.direct:
            if one.backend == backend:
                one.set_server(server, drain_ms=drain_ms)
        if self.nat is not None and self._backends[backend].forward is Forward.NAT:
            self.nat.set_server(backend, server, drain_ms=drain_ms)

    def link_changed(self, event: LinkEvent) -> None:
        """Take a change of a device."""
        for one in self.direct:
            one.link_changed(event)

    def keep(self) -> None:
        """Leave all rules as they are at the end of `run`."""
        for one in self._all():
            one.keep()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all; ends by cancellation."""
        async with trio.open_nursery() as nursery:
            for one in self._all():
                await nursery.start(one.run)
            task_status.started()
            while True:
                self._count()
                await trio.sleep(COUNT_S)

    def _count(self) -> None:
        for one in self._all():
            one.count()

    @property
    def warnings(self) -> list[str]:
        """What an operator should know now."""
        return [] if self.nat is None else self.nat.warnings

    def carried(self) -> dict[str, list[Carried]]:
        """Return backend -> what the kernel does for it, at each of its addresses; `forward proxy` is not in it."""
        self._count()
        found: dict[str, list[Carried]] = {}
        for one in self.direct:
            found.setdefault(one.backend, []).append(one.carried())
        if self.nat is not None:
            found |= {name: [self.nat.carried_of(name)] for name in self.nat.tallies}
        return found

    def status(self) -> dict[str, Any]:
        """Return them by backend, those of `direct` by address as well."""
        self._count()
        found: dict[str, Any] = {f"{one.backend}/{one.address}": one.status() for one in self.direct}
        if self.nat is not None:
            found |= {name: self.nat.status_of(name) for name in self.nat.tallies}
        return found

    def _all(self) -> tuple[DirectDiversion | NatDiversion, ...]:
        return (*self.direct, *(() if self.nat is None else (self.nat,)))

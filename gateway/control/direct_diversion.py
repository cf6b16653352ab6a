"""The diversion of `forward direct`: all that comes to an address goes to the elected server's MAC, in the kernel.

Rule: it forwards only inside the lease of the address' holder, and for a moment after a graceful move.
"""

from functools import partial
from typing import Any, Final

import trio

from gateway.config.settings import Address, Backend, Endpoint, Forward
from gateway.control.diversion import Carried, Diversion, counted
from gateway.control.figures import errors, kernel_figures
from gateway.control.tally import Tally
from gateway.kernel.direct import Direct
from gateway.kernel.link import Event as LinkEvent
from gateway.kernel.link import LinkChanged, MacChanged
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nft_expressions import Rate
from gateway.kernel.resolver import Event as ResolverEvent
from gateway.kernel.resolver import OffSegment, Resolved, Resolver, Unresolved

LINGER_S: Final = 0.5  # neighbours follow a gratuitous ARP within milliseconds (measured); the lease ends after 1 s

# name of `gateway.control.figures` -> counter of `Direct`
_COUNTERS: Final = {
    "connections": "connections_total",
    "refused": "refused_total",
    "bytes_to_server": "bytes_total",
    "datagrams_to_server": "datagrams_total",
}


class DirectDiversion(Diversion):
    """Everything to one address goes to the elected server's MAC. Lives by the lease of the address' holder."""

    def __init__(self, cluster: str, address: Address, backend: Backend, *, rate: Rate | None = None) -> None:
        super().__init__(backend.name, Forward.DIRECT)
        self.address = address.name
        self._device = address.device
        self._direct = Direct(address.ip, address.device, f"{cluster}-{address.name}", rate=rate)
        self._resolver = Resolver((server.endpoint.host for server in backend.servers), address.device, self._resolved)
        self._server: Endpoint | None = None
        self._mac: str | None = None  # what the rules send to now
        self._looked = False  # for neighbours: before that, what an earlier process has left goes on
        self._lingering = False
        self._names = {server.endpoint: server.name for server in backend.servers}
        self._counters: dict[str, int] = {}
        self.tally = Tally()
        self._rebuilt = False  # without a lease: the next extension grants it

    async def prepare(self, *, adopt: bool) -> list[str]:
        """Build the rules, without lease and server; return what an operator should know. Raises `KernelRefused`."""
        await trio.to_thread.run_sync(partial(self._direct.install, keep=adopt))
        return await trio.to_thread.run_sync(self._direct.hazards)

    def set_server(self, server: Endpoint | None, *, drain_ms: int) -> None:
        """Send everything to `server`. Nothing drains: an open connection of another server is reset by this one."""
        self._server = server
        self._turn(force=True)
        self.count()
        self.tally.follow(None if server is None else self._names[server])

    def _resolved(self, event: ResolverEvent) -> None:
        match event:
            case Resolved(ip, mac):
                self.log.info("server.resolved", server=ip, mac=mac)
            case Unresolved(ip):
                self.log.warning("server.unresolved", server=ip)
            case OffSegment(ip, reason):
                self.log.warning("server.not-direct", server=ip, reason=f"it is {reason}: the relay carries it")
        self._turn(force=False)

    def _turn(self, *, force: bool) -> None:
        if not self._looked:
            return
        mac = None if self._server is None else self._resolver.mac(self._server.host)
        if self._server is not None and mac is None and self._mac is not None and not force:
            # Silent for a moment, or for good: then another is elected. The relay would break what is open.
            return
        if mac != self._mac or force:
            self._mac = mac
            self.attempt(lambda: self._direct.switch(mac))

    # -- the lease of the address ----------------------------------------------------------------------------------

    def grant(self, lease_ms: int) -> None:
        """Forward for `lease_ms` from now: this gateway holds the address."""
        self._lingering = False
        self.attempt(lambda: self._direct.grant(lease_ms))

    def extend(self, lease_ms: int) -> None:
        """The lease ends `lease_ms` from now. One that has ended is not revived: a frozen process finds out by that."""
        if self._rebuilt:
            self._rebuilt = False
            self.attempt(lambda: self._direct.grant(lease_ms))
        else:
            self.attempt(lambda: self._direct.extend(lease_ms))

    def linger(self) -> None:
        """The address goes to another gateway: forward a little longer, for who has not learned its MAC."""
        self._lingering = True
        self.attempt(self._direct.linger)

    def revoke(self) -> None:
        """Forward nothing: the lease is over."""
        self.attempt(self._direct.revoke)

    # -- tasks -----------------------------------------------------------------------------------------------------

    def link_changed(self, event: LinkEvent) -> None:
        """Follow the device's MAC."""
        match event:
            case LinkChanged(device, _) | MacChanged(device, _) if device == self._device:
                self.attempt(self._direct.follow)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the servers' MACs and keep the rules whole; ends by cancellation."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._resolver.run)
                self._looked = True
                self._turn(force=True)
                task_status.started()
                await self.mend(self._direct.intact, self._install_again)
        finally:
            if self.keeping:
                self._direct.close()
            else:
                await self._leave()

    async def _leave(self) -> None:
        """Take the rules away; after a graceful move only when neighbours have had time to learn the new MAC."""
        with trio.CancelScope(shield=True):
            if self._lingering and not self.fault:
                await trio.sleep(LINGER_S)
            try:
                self._direct.remove()
            except KernelRefused as error:
                self.log.error("diversion.refused", reason=str(error))

    async def _install_again(self) -> None:
        await trio.to_thread.run_sync(self._direct.install)
        self.fault = ""
        self._rebuilt = True
        self._turn(force=True)

    # -- observation -----------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Read the counters, 0.1 ms. Not while rules are made anew: that is another thread's work."""
        if self.fault:
            return
        if said := counted(self._direct.counters):
            self._counters = said
            figures = {name: said[counter] for name, counter in _COUNTERS.items()}
            self.tally.take(figures, trio.current_time())

    def carried(self) -> Carried:
        """Return what the kernel has carried, and what keeps it from that."""
        tally = self.tally
        return Carried(
            self._mac is not None and not self.fault,
            self._direct.state,
            self.fault,
            self._refused(),
            kernel_figures(self.way, tally.totals, tally.rates) | {"errors": errors(tally.totals)},
            {
                name: kernel_figures(self.way, of_server, tally.rates if name == tally.elected else {})
                for name, of_server in tally.servers.items()
            },
        )

    def _refused(self) -> str | None:
        return None if self._server is None else self._resolver.refusal(self._server.host)

    def status(self) -> dict[str, Any]:
        """Return what an operator sees."""
        return {
            "way": str(self.way),
            "address": self.address,
            "state": self._direct.state,
            "fault": self.fault,
            "server": None if self._server is None else str(self._server),
            "server_mac": self._mac,
            "refused": self._refused(),
            "counters": self._counters,
        }

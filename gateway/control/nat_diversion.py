"""The diversion of `forward nat`: new flows are translated to their elected servers, in the kernel. One for a node.

Rule: a flow stays with the server that it began with until its time is over; then it is dropped and its client roused.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import trio

from gateway.config.settings import Address, Backend, Endpoint, Forward, Peer, Settings
from gateway.control.diversion import LOOK_S, Carried, Diversion, counted, rate_of_source
from gateway.control.figures import errors, kernel_figures
from gateway.control.tally import Tally
from gateway.kernel.conntrack import Conntrack, Fill
from gateway.kernel.nat import Nat, forwarding_sysctls
from gateway.kernel.nat_rules import Listener, Service
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.sysctl import Sysctls

SYSCTLS_FILE: Final = "gateway-sysctls.json"
TABLE_FULL: Final = "table of flows full (packets of this host)"
FLOWS_COUNTED_MAX: Final = 10_000  # 70 ms every 5 s, of an ordinary thread; in a greater table nobody counts ours

# name of `gateway.control.figures` -> counters of `Nat`, which is their sum
_COUNTERS: Final = {
    "connections": ("tcp_opened",),
    "refused": ("tcp_refused",),
    "flows": ("udp_opened",),
    "bytes_to_server": ("tcp_received_bytes", "udp_received_bytes"),
    "bytes_to_client": ("tcp_sent_bytes", "udp_sent_bytes"),
    "datagrams_to_server": ("udp_received_packets",),
    "datagrams_to_client": ("udp_sent_packets",),
}


class _Table(NamedTuple):
    """What the kernel's table of flows shows."""

    warnings: frozenset[str]
    fill: Fill | None = None
    dropped: int = 0  # packets of this host since boot, because it was full
    open: Mapping[str, tuple[int, int]] = MappingProxyType({})  # service -> connections to its server, to former ones


class NatDiversion(Diversion):
    """New flows of the backends that say `forward nat` are translated to their elected servers. One for the node."""

    def __init__(self, settings: Settings, me: Peer) -> None:
        backends = [backend for backend in settings.backends if backend.forward is Forward.NAT]
        super().__init__(" ".join(backend.name for backend in backends), Forward.NAT)
        self._services = tuple(_service(settings, backend, me) for backend in backends)
        self._addresses = _addresses_of(settings, me, Forward.NAT)
        self._nat = Nat(settings.cluster, self._services)
        self._conntrack = Conntrack()
        self._sysctls = Sysctls(Path(settings.state_dir) / SYSCTLS_FILE)
        self._servers: dict[str, Endpoint | None] = {}
        self._due: dict[str, float] = {}  # service -> when what it had with former servers ends
        self._due_changed = trio.Event()
        self._following: list[str] = []  # whose datagrams are to go to the new server now
        self._following_changed = trio.Event()
        self._names = {one.name: {server.endpoint: server.name for server in one.servers} for one in backends}
        self._counters: dict[str, dict[str, int]] = {one.name: {} for one in backends}
        self._table = _Table(frozenset())
        self._dropped_before: int | None = None
        self.tallies = {one.name: Tally() for one in backends}
        self._thread = trio.Lock()  # `install`, `expel` and `remove` never beside one another
        self.expelled_total: Counter[str] = Counter()  # by service
        self.roused_total: Counter[str] = Counter()

    async def prepare(self, *, adopt: bool) -> list[str]:
        """Let the host forward, and build the rules; return what an operator should know. Raises `KernelRefused`."""
        await trio.to_thread.run_sync(self._install, adopt)
        return []  # the table of flows is watched all the time

    def _install(self, keep: bool) -> None:
        devices = {address.device for address in self._addresses}
        versions = {":" in address.ip for address in self._addresses}
        transparent = any(service.transparent for service in self._services)
        self._sysctls.set(
            forwarding_sysctls(
                devices, version_4=False in versions, version_6=True in versions, transparent=transparent
            )
        )
        self._nat.install(keep=keep)

    def set_server(self, service: str, server: Endpoint | None, *, drain_ms: int) -> None:
        """Let new flows of `service` go to `server`; those of a former one are dropped when their time is over."""
        self._servers[service] = server

        def turn() -> None:
            if self._nat.switch(server, service):
                self._due[service] = trio.current_time() + drain_ms / 1000
                self._due_changed.set()
                if not drain_ms:
                    self._following.append(service)
                    self._following_changed.set()

        self.attempt(turn)
        self.count()
        self.tallies[service].follow(None if server is None else self._names[service][server])

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drop flows when they are due and keep the rules whole; ends by cancellation."""
        for service in self._nat.lingering:  # of an earlier process
            self._due[service] = trio.current_time()
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_due)
                nursery.start_soon(self._expel_due)
                nursery.start_soon(self._watch_table)
                await self.mend(self._nat.intact, self._install_again)
        finally:
            self._conntrack.close()
            if self.keeping:
                self._nat.close()
            else:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._remove)

    def _remove(self) -> None:
        try:
            self._nat.remove()
            self._sysctls.restore()
        except KernelRefused as error:
            self.log.error("diversion.refused", reason=str(error))

    async def _install_again(self) -> None:
        async with self._thread:
            await trio.to_thread.run_sync(self._install, False)
        self.fault = ""
        for service, server in self._servers.items():
            self.set_server(service, server, drain_ms=0)

    async def _follow_due(self) -> None:
        """Let datagrams follow at once, beside whatever is being expelled: that may take a second."""
        while True:
            self._following_changed = trio.Event()
            if not self._following:
                await self._following_changed.wait()
                continue
            service = self._following.pop(0)
            try:
                await trio.to_thread.run_sync(self._nat.follow, service)
            except KernelRefused as error:
                self.failed(str(error))

    async def _expel_due(self) -> None:
        while True:
            self._due_changed = trio.Event()
            wait_s = min(self._due.values(), default=float("inf")) - trio.current_time()
            if wait_s > 0:
                with trio.move_on_after(wait_s):
                    await self._due_changed.wait()
                continue
            service = min(self._due, key=lambda name: self._due[name])
            del self._due[service]
            await self._expel(service)

    async def _expel(self, service: str) -> None:
        async with self._thread:
            try:
                expelled = await trio.to_thread.run_sync(self._nat.expel, service)
            except KernelRefused as error:
                self.failed(str(error))
                return
        self.expelled_total[service] += expelled.connections
        self.roused_total[service] += expelled.roused
        self.log.info("diversion.expelled", service=service, connections=expelled.connections, roused=expelled.roused)

    async def _watch_table(self) -> None:
        """Warn of a table of flows that is nearly full; the kernel drops packets of new ones then. Count what is open.

        Nobody else uses its socket: answers would be taken for one another's.
        """
        while True:
            table = await trio.to_thread.run_sync(self._look_at_table)
            for warning in sorted(table.warnings - self._table.warnings):
                self.log.warning("conntrack.warning", reason=warning)
            if self._dropped_before is None and table.fill is not None:
                self._dropped_before = table.dropped
            self._table = table
            await trio.sleep(LOOK_S)

    def _look_at_table(self) -> _Table:
        try:
            warnings, fill = frozenset(self._conntrack.warnings()), self._conntrack.fill()
            count = fill.flows <= FLOWS_COUNTED_MAX and not self.fault
            names = [service.name for service in self._services] if count else []
            opened = {name: self._nat.established(name, self._conntrack) for name in names}
            return _Table(warnings, fill, self._conntrack.losses().drop, opened)
        except KernelRefused as error:
            return _Table(frozenset({str(error)}))

    # -- observation -----------------------------------------------------------------------------------------------

    @property
    def warnings(self) -> list[str]:
        """What an operator should know of the table of flows."""
        return sorted(self._table.warnings)

    def count(self) -> None:
        """Read the counters, 0.2 ms. Not while rules are made anew: that is another thread's work."""
        if self.fault:
            return
        said = counted(self._nat.counters)
        for service, tally in self.tallies.items():
            prefix = f"{service}."
            mine = {key.removeprefix(prefix): value for key, value in said.items() if key.startswith(prefix)}
            if mine:
                self._counters[service] = mine
                figures = {name: sum(mine.get(one, 0) for one in counters) for name, counters in _COUNTERS.items()}
                tally.take(figures | {"reset": self.expelled_total[service]}, trio.current_time())

    def carried_of(self, service: str) -> Carried:
        """Return what the kernel has carried of one backend, and what keeps it from that."""
        tally, opened = self.tallies[service], self._table.open.get(service)
        figures = kernel_figures(
            self.way,
            tally.totals,
            tally.rates,
            None if opened is None else {"now": sum(opened), "draining": opened[1]},
        )
        full = self._table.dropped - (self._dropped_before or 0)
        return Carried(
            self._servers.get(service) is not None and not self.fault,
            self._nat.state,
            self.fault,
            None,
            figures | {"errors": errors(tally.totals) | ({TABLE_FULL: full} if full else {})},
            {name: self._figures_of_server(service, name) for name in self._names[service].values()},
        )

    def _figures_of_server(self, service: str, name: str) -> dict[str, Any]:
        tally, opened = self.tallies[service], self._table.open.get(service)
        rates = tally.rates if name == tally.elected else {}
        now: dict[str, int | None] = {"now": 0, "draining": 0}
        if opened is None:
            now = {"now": None, "draining": None}
        elif name == tally.elected:
            now = {"now": opened[0], "draining": 0}
        elif name == tally.former:
            now = {"now": opened[1], "draining": opened[1]}
        return kernel_figures(self.way, tally.servers.get(name, {}), rates, now)

    def status_of(self, service: str) -> dict[str, Any]:
        """Return what an operator sees of one backend."""
        server, fill = self._servers.get(service), self._table.fill
        return {
            "way": str(self.way),
            "state": self._nat.state,
            "fault": self.fault,
            "server": None if server is None else str(server),
            "expelled_total": self.expelled_total[service],
            "roused_total": self.roused_total[service],
            "conntrack_fill": None if fill is None else round(fill.fraction, 4),
            "warnings": self.warnings,
            "counters": self._counters[service],
        }


def _service(settings: Settings, backend: Backend, me: Peer) -> Service:
    held = {address.name: address for address in settings.addresses if me.name in address.holders}
    listeners = tuple(
        Listener(held[bind.address].ip, str(protocol), bind.port)
        for frontend in settings.frontends
        if frontend.backend == backend.name
        for bind in frontend.binds
        if bind.address in held
        for protocol in sorted(bind.protocols)
    )
    return Service(backend.name, listeners, backend.transparent, rate_of_source(settings, backend))


def _addresses_of(settings: Settings, me: Peer, way: Forward) -> tuple[Address, ...]:
    backends = {backend.name for backend in settings.backends if backend.forward is way}
    bound = {bind.address for one in settings.frontends if one.backend in backends for bind in one.binds}
    return tuple(one for one in settings.addresses if one.name in bound and me.name in one.holders)

"""The diversion of `forward nat`: new flows are translated to their elected servers, in the kernel. One for a node.

Rule: a flow stays with the server that it began with until its time is over; then it is dropped and its client roused.
"""

from pathlib import Path
from typing import Any, Final

import trio

from gateway.config.settings import Address, Backend, Endpoint, Forward, Peer, Settings
from gateway.control.diversion import LOOK_S, Diversion, counted
from gateway.kernel.conntrack import Conntrack
from gateway.kernel.nat import Nat, forwarding_sysctls
from gateway.kernel.nat_rules import Listener, Service
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.sysctl import Sysctls

SYSCTLS_FILE: Final = "gateway-sysctls.json"


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
        self._told: set[str] = set()
        self._thread = trio.Lock()  # `install`, `expel` and `remove` never beside one another
        self.expelled_total = 0
        self.roused_total = 0

    async def prepare(self, *, adopt: bool) -> list[str]:
        """Let the host forward, and build the rules; return what an operator should know. Raises `KernelRefused`."""
        await trio.to_thread.run_sync(self._install, adopt)
        return []  # the table of flows is watched all the time

    def _install(self, keep: bool) -> None:
        devices = {address.device for address in self._addresses}
        versions = {":" in address.ip for address in self._addresses}
        self._sysctls.set(forwarding_sysctls(devices, version_4=False in versions, version_6=True in versions))
        self._nat.install(keep=keep)

    def set_server(self, service: str, server: Endpoint | None, *, drain_ms: int) -> None:
        """Let new flows of `service` go to `server`; those of a former one are dropped when their time is over."""
        self._servers[service] = server

        def turn() -> None:
            if self._nat.switch(server, service, drain=drain_ms > 0):
                self._due[service] = trio.current_time() + drain_ms / 1000
                self._due_changed.set()

        self.attempt(turn)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drop flows when they are due and keep the rules whole; ends by cancellation."""
        for service in self._nat.lingering:  # of an earlier process
            self._due[service] = trio.current_time()
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
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
        self.expelled_total += expelled.connections
        self.roused_total += expelled.roused
        self.log.info("diversion.expelled", service=service, connections=expelled.connections, roused=expelled.roused)

    async def _watch_table(self) -> None:
        """Warn of a table of flows that is nearly full; the kernel drops packets of new ones then."""
        while True:
            try:
                warnings = set(await trio.to_thread.run_sync(self._conntrack.warnings))
            except KernelRefused as error:
                warnings = {str(error)}
            for warning in sorted(warnings - self._told):
                self.log.warning("conntrack.warning", reason=warning)
            self._told = warnings
            await trio.sleep(LOOK_S)

    def status_of(self, service: str) -> dict[str, Any]:
        """Return what an operator sees of one backend."""
        server = self._servers.get(service)
        try:
            fill: float | None = round(self._conntrack.fill().fraction, 4)
        except KernelRefused:
            fill = None
        prefix = f"{service}."
        counters = counted(self._nat.counters)
        return {
            "way": str(self.way),
            "state": self._nat.state,
            "fault": self.fault,
            "server": None if server is None else str(server),
            "expelled_total": self.expelled_total,
            "roused_total": self.roused_total,
            "conntrack_fill": fill,
            "warnings": sorted(self._told),
            "counters": {key.removeprefix(prefix): value for key, value in counters.items() if key.startswith(prefix)},
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
    return Service(backend.name, listeners, backend.transparent)


def _addresses_of(settings: Settings, me: Peer, way: Forward) -> tuple[Address, ...]:
    backends = {backend.name for backend in settings.backends if backend.forward is way}
    bound = {bind.address for one in settings.frontends if one.backend in backends for bind in one.binds}
    return tuple(one for one in settings.addresses if one.name in bound and me.name in one.holders)

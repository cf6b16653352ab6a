"""Returns: under `transparent`, answers to clients find back to the gateway that carried the question.

Rule: each host changes only itself: a manager's node routes what its collector answers, a gateway's takes the answers
to its relay for its own. Which gateway is which the kernel's neighbour tables say, and they may change.
"""

from typing import Any

import trio

from gateway.config.settings import Backend, Forward, Peer, Settings
from gateway.control.diversion import Diversion
from gateway.kernel.nat_rules import Listener
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.resolver import Event, Resolver
from gateway.kernel.return_route import Gateway, ReturnRoute, TransparentReturn


class ManagerReturn(Diversion):
    """A manager's routes back to the gateways on one device."""

    def __init__(self, settings: Settings, me: Peer, device: str, backends: tuple[Backend, ...]) -> None:
        super().__init__(" ".join(backend.name for backend in backends), backends[0].forward)
        self.device = device
        self._cluster = settings.cluster
        holders = {
            name
            for backend in backends
            for address in settings.addresses
            if address.device == device and address.name in _bound(settings, backend)
            for name in address.holders
            if name != me.name
        }
        self._gateways = [settings.peer(name).endpoint.host for name in sorted(holders)]
        self._listeners = [
            Listener(server.endpoint.host, protocol, server.endpoint.port)
            for backend in backends
            for server in backend.servers
            if server.name == me.name
            for protocol in ("tcp", "udp")
        ]
        self._resolver = Resolver(self._gateways, device, self._resolved)
        self._changed = trio.Event()
        self._route: ReturnRoute | None = None
        self._known: list[Gateway] = []

    def _resolved(self, event: Event) -> None:
        self._changed.set()

    async def prepare(self, *, adopt: bool) -> None:
        """Nothing is known before the gateways are."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the routes as the gateways' MACs are; ends by cancellation, taking them away."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._resolver.run)
                task_status.started()
                nursery.start_soon(self._follow_gateways)
                await self.mend(self._intact, self._install)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._close)

    async def _follow_gateways(self) -> None:
        while True:
            self._changed = trio.Event()
            macs = ((ip, self._resolver.mac(ip)) for ip in self._gateways)
            # A gateway that is silent keeps its route: it may only be slow, and nobody else has its MAC.
            last = {one.ip: one.mac for one in self._known}
            known = [Gateway(ip, mac) for ip, mac in ((ip, mac or last.get(ip)) for ip, mac in macs) if mac]
            if known != self._known:
                self._known = known
                try:
                    await self._install()
                except KernelRefused as error:
                    self.failed(str(error))
            await self._changed.wait()

    def _intact(self) -> bool:
        return self._route is None or self._route.intact()

    async def _install(self) -> None:
        await trio.to_thread.run_sync(self._make)
        self.fault = ""
        self.log.info("return.routed", gateways=[f"{one.ip} {one.mac}" for one in self._known])

    def _make(self) -> None:
        if self._route is not None:
            self._route.close()
        self._route = ReturnRoute(self._cluster, self.device, self._known, self._listeners)
        self._route.install(keep=True)

    def _close(self) -> None:
        try:
            if self._route is None:
                return
            if self.keeping:
                self._route.close()
            else:
                self._route.remove()
        except KernelRefused as error:
            self.log.error("diversion.refused", reason=str(error))

    def status(self) -> dict[str, Any]:
        """Return what an operator sees."""
        return {
            "device": self.device,
            "gateways": {one.ip: one.mac for one in self._known},
            "state": self._route.state if self._route is not None else "none: no gateway is known yet",
            "fault": self.fault,
        }


class GatewayReturn(Diversion):
    """A gateway's own part, for its relay's sockets with clients' addresses."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("", Forward.PROXY)
        addresses = [address.ip for address in settings.addresses]
        version_6 = any(":" in ip for ip in addresses)
        version_4 = any(":" not in ip for ip in addresses)
        translates = any(backend.forward is Forward.NAT for backend in settings.backends)
        self._route = TransparentReturn(
            settings.cluster, version_4=version_4, version_6=version_6, translates=translates
        )

    async def prepare(self, *, adopt: bool) -> None:
        """Install it. Raises `KernelRefused`."""
        await trio.to_thread.run_sync(lambda: self._route.install(keep=adopt))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep it whole; ends by cancellation."""
        task_status.started()
        try:
            await self.mend(self._route.intact, self._install_again)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._close)

    async def _install_again(self) -> None:
        await trio.to_thread.run_sync(self._route.install)
        self.fault = ""

    def _close(self) -> None:
        try:
            if self.keeping:
                self._route.close()
            else:
                self._route.remove()
        except KernelRefused as error:
            self.log.error("diversion.refused", reason=str(error))

    def status(self) -> dict[str, Any]:
        """Return what an operator sees."""
        return {"state": self._route.state, "fault": self.fault}


class Returns:
    """All of one node: none where no backend says `transparent`."""

    def __init__(self, settings: Settings, me: Peer) -> None:
        transparent = [backend for backend in settings.backends if backend.transparent]
        own = tuple(one for one in transparent if any(server.name == me.name for server in one.servers))
        devices = sorted(
            {
                address.device
                for backend in own
                for address in settings.addresses
                if address.name in _bound(settings, backend)
            }
        )
        self._manager = tuple(ManagerReturn(settings, me, device, own) for device in devices)
        holds = any(me.name in address.holders for address in settings.addresses)
        # Also of `nat`: the relay carries what it has held, and under the clients' addresses as well.
        self._gateway = GatewayReturn(settings) if holds and transparent else None

    async def prepare(self, *, adopt: bool) -> None:
        """Make what can be made before the first election. Raises `KernelRefused`."""
        for one in self._all():
            await one.prepare(adopt=adopt)

    def keep(self) -> None:
        """Leave everything as it is at the end of `run`."""
        for one in self._all():
            one.keep()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all; ends by cancellation."""
        async with trio.open_nursery() as nursery:
            for one in self._all():
                await nursery.start(one.run)
            task_status.started()
            await trio.sleep_forever()

    def status(self) -> dict[str, Any]:
        """Return the routes by device, and the gateway's part."""
        found: dict[str, Any] = {one.device: one.status() for one in self._manager}
        if self._gateway is not None:
            found["relay"] = self._gateway.status()
        return found

    def _all(self) -> tuple[ManagerReturn | GatewayReturn, ...]:
        return (*self._manager, *(() if self._gateway is None else (self._gateway,)))


def _bound(settings: Settings, backend: Backend) -> frozenset[str]:
    return frozenset(bind.address for one in settings.frontends if one.backend == backend.name for bind in one.binds)

"""Receiving: what a manager's host needs so that packets sent past the relay reach its collector, and answers go back.

Rule: the virtual address of a `direct` backend is on the loopback device of the elected manager alone, for a host that
holds it reaches nobody else there. What is open stays open while nobody is elected, and ends when another one is.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from gateway.config.settings import Address, Backend, Forward, Peer, Settings
from gateway.core.actions import FollowLeader
from gateway.kernel.loopback import LoopbackAddress, remove_leftovers
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.sock_destroy import SOCKETS_MAX, destroy_connections
from gateway.kernel.sysctl import Sysctls
from gateway.matchmaker.interfaces import interface_hazards, session_hazards

SYSCTLS_FILE: Final = "manager-sysctls.json"
RECORD: Final = "loopback-{name}.json"
ORPHANED_S: Final = 1.0  # after `timeout drain`: the gateways have dropped their flows by then
ORPHANS_MAX: Final = 200  # ended in control's own loop, some 3 ms; more take a thread


class Receiving:
    """One backend's virtual addresses on one of its managers.

    Args:
        backend: it says `forward direct`.
        addresses: those that its frontends bind.
        me: this host's node.
        sysctls: shared by all backends of this host.
        state_dir: for the records that survive a crash.
    """

    def __init__(
        self, backend: Backend, addresses: Iterable[Address], me: Peer, sysctls: Sysctls, state_dir: Path
    ) -> None:
        self.backend = backend.name
        self._me = me.name
        self._own, self._port = next(
            (server.endpoint.host, server.endpoint.port) for server in backend.servers if server.name == me.name
        )
        self._records = {address.name: state_dir / RECORD.format(name=address.name) for address in addresses}
        self._loopbacks = tuple(
            LoopbackAddress(address.ip, address.device, sysctls, self._records[address.name]) for address in addresses
        )
        self._log = structlog.get_logger().bind(backend=backend.name)
        self._leads = False
        self._left = trio.Event()
        self._keeping = False
        self.destroyed_total = 0
        self.undestroyed_total = 0
        self.fault = ""

    @property
    def farewells(self) -> tuple[bytes, ...]:
        """The requests on a NETLINK_ROUTE socket that take the addresses away when this process has died."""
        return tuple(one.farewell for one in self._loopbacks)

    async def prepare(self, *, adopt: bool) -> list[str]:
        """Make the host's settings; return what an operator should know. Raises `KernelRefused`."""

        def make() -> list[str]:
            warnings: list[str] = []
            if not adopt:
                for record in self._records.values():
                    remove_leftovers(record)
            for one in self._loopbacks:
                warnings += one.prepare()
            return warnings

        made = await trio.to_thread.run_sync(make)
        return made + await interface_hazards(self._own, [one.ip for one in self._loopbacks])

    def follow(self, change: FollowLeader) -> None:
        """Take the addresses when this manager is elected, give them up when another is."""
        if change.election != self.backend or change.leader is None:
            return
        if change.leader == self._me:
            self._take()
        elif self._leads or any(one.present() for one in self._loopbacks):
            self._give_up()

    def _take(self) -> None:
        self._leads = True
        try:
            added = [one.ip for one in self._loopbacks if one.add()]
        except KernelRefused as error:
            self.fault = str(error)
            self._log.error("receiving.refused", reason=self.fault)
        else:
            self.fault = ""
            if added:
                self._log.info("receiving.begun", addresses=added)

    def _give_up(self) -> None:
        """End the connections, then let the address go: their resets leave by it. Many are ended by the task."""
        self._leads = False
        if all(self._ended(one, ORPHANS_MAX) for one in self._loopbacks):
            self._let_go()
        else:
            self._left.set()

    def _ended(self, one: LoopbackAddress, sockets_max: int) -> bool:
        """End connections; return whether there were fewer than `sockets_max`."""
        try:
            ended = destroy_connections(one.ip, self._port, sockets_max=sockets_max)
        except KernelRefused as error:
            self._refused(error)
            return True
        self.destroyed_total += ended.destroyed
        self.undestroyed_total += ended.left
        self._log.info("receiving.ended", address=one.ip, connections=ended.destroyed, left=ended.left)
        return sum(ended) < sockets_max

    def _let_go(self) -> None:
        for one in self._loopbacks:
            try:
                one.remove()
            except KernelRefused as error:
                self._refused(error)

    def _refused(self, error: KernelRefused) -> None:
        self.fault = str(error)
        self._log.error("receiving.refused", reason=self.fault)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End what was too much for one go; ends by cancellation, giving the addresses up."""
        task_status.started()
        try:
            while True:
                await self._left.wait()
                self._left = trio.Event()
                for one in self._loopbacks:
                    await trio.to_thread.run_sync(self._ended, one, SOCKETS_MAX)
                if not self._leads:  # not elected again meanwhile
                    self._let_go()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._close)

    def _close(self) -> None:
        for one in self._loopbacks:
            try:
                one.close(keep=self._keeping)
            except KernelRefused as error:
                self._log.error("receiving.refused", reason=str(error))

    def keep(self) -> None:
        """Leave the addresses as they are when `run` ends: another process is to go on with them."""
        self._keeping = True

    def status(self) -> dict[str, Any]:
        """Return what an operator sees."""
        return {
            "addresses": {one.ip: one.present() for one in self._loopbacks},
            "destroyed_total": self.destroyed_total,
            "undestroyed_total": self.undestroyed_total,
            "fault": self.fault,
        }


class Orphans:
    """Connections that gateways have translated to this manager, and another is elected now: their clients are gone.

    The gateways have dropped those flows and told the clients; here the sockets would stay until keepalive ends them,
    and fill HTCondor's file descriptors at the next switches. Not under `transparent`: there the peers are the clients,
    some of which may have come here by themselves.
    """

    def __init__(self, settings: Settings, backend: Backend, me: Peer) -> None:
        self.backend = backend.name
        self._me = me.name
        self._own = next(server.endpoint for server in backend.servers if server.name == me.name)
        managers = {server.name for server in backend.servers}  # their collectors forward to this one
        holders = {name for address in _bound(settings, backend) for name in address.holders}
        self._gateways = frozenset(settings.peer(name).endpoint.host for name in holders - managers)
        self._log = structlog.get_logger().bind(backend=backend.name)
        self._drain_s = backend.drain_ms / 1000
        self._led = False
        self._superseded = trio.Event()
        self.destroyed_total = 0

    def follow(self, change: FollowLeader) -> None:
        """Take a change of leader in any election."""
        if change.election != self.backend or change.leader is None:
            return
        if self._led and change.leader != self._me:
            self._superseded.set()
        self._led = change.leader == self._me

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End them, in a thread, when their time is over; ends by cancellation."""
        task_status.started()
        while True:
            await self._superseded.wait()
            self._superseded = trio.Event()
            await trio.sleep(self._drain_s + ORPHANED_S)
            if self._led or not self._gateways:
                continue
            end = partial(destroy_connections, self._own.host, self._own.port, peers=self._gateways)
            try:
                ended = await trio.to_thread.run_sync(end)
            except KernelRefused as error:
                self._log.error("receiving.refused", reason=str(error))
                continue
            self.destroyed_total += ended.destroyed
            self._log.info("receiving.orphans-ended", connections=ended.destroyed, left=ended.left)

    def status(self) -> dict[str, Any]:
        """Return what an operator sees."""
        return {"addresses": {}, "destroyed_total": self.destroyed_total, "undestroyed_total": 0, "fault": ""}


class Receivings:
    """All of one manager: none where no backend of its is forwarded by the kernel."""

    def __init__(self, settings: Settings, me: Peer) -> None:
        state_dir = Path(settings.state_dir)
        self._sysctls = Sysctls(state_dir / SYSCTLS_FILE)
        self._keeping = False
        mine = [one for one in settings.backends if any(server.name == me.name for server in one.servers)]
        self._forwards_ads = any(one.warm_standby for one in mine)
        self.each = tuple(
            Receiving(backend, addresses, me, self._sysctls, state_dir)
            for backend in settings.backends
            if backend.forward is Forward.DIRECT and any(server.name == me.name for server in backend.servers)
            for addresses in (_bound(settings, backend),)
        )
        self._orphans = tuple(
            Orphans(settings, backend, me)
            for backend in settings.backends
            if backend.forward is Forward.NAT and not backend.transparent
            if any(server.name == me.name for server in backend.servers)
        )

    async def prepare(self, *, adopt: bool) -> list[str]:
        """Make the host's settings; return what an operator should know. Raises `KernelRefused`."""
        warnings = await session_hazards() if self._forwards_ads else []
        for one in self.each:
            warnings += await one.prepare(adopt=adopt)
        return warnings

    def follow(self, change: FollowLeader) -> None:
        """Take a change of leader in any election."""
        for one in self._all():
            one.follow(change)

    def farewells(self, backend: str) -> tuple[bytes, ...]:
        """Return the requests that take a backend's addresses away."""
        return tuple(request for one in self.each if one.backend == backend for request in one.farewells)

    def keep(self) -> None:
        """Leave everything as it is at the end of `run`."""
        self._keeping = True
        for one in self.each:
            one.keep()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all; ends by cancellation, putting the host's settings back."""
        try:
            async with trio.open_nursery() as nursery:
                for one in self._all():
                    await nursery.start(one.run)
                task_status.started()
                await trio.sleep_forever()
        finally:
            if self.each and not self._keeping:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._restore)

    def _restore(self) -> None:
        try:
            self._sysctls.restore()
        except KernelRefused as error:
            structlog.get_logger().error("receiving.refused", reason=str(error))

    def status(self) -> dict[str, Any]:
        """Return them by backend."""
        return {one.backend: one.status() for one in self._all()}

    def _all(self) -> tuple[Receiving | Orphans, ...]:
        return (*self.each, *self._orphans)


def _bound(settings: Settings, backend: Backend) -> tuple[Address, ...]:
    names = {bind.address for one in settings.frontends if one.backend == backend.name for bind in one.binds}
    return tuple(address for address in settings.addresses if address.name in names)

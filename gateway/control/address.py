"""The virtual address as a service of its election: held, announced, defended, dropped. Dropping it never waits.

The address is on the host only inside the lease: every act asks `holds()` first, which reads the clock again.
"""

from collections.abc import Callable

import structlog
import trio

from gateway.config.settings import Address
from gateway.core.actions import Cause
from gateway.core.events import Event, ResignationRequested, ServingStopped, StandingChanged
from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from gateway.kernel.clock import boot_ms
from gateway.kernel.fence import Fence
from gateway.kernel.link import AddressRemoved, LinkChanged, link_up
from gateway.kernel.link import Event as LinkEvent
from gateway.kernel.neighbour import ConflictWatch
from gateway.kernel.netlink import KernelRefused
from gateway.wire.messages import Standing

BURST_ROUNDS = 3  # announcements at once: single frames get lost in switches that are just learning
SETTLE_S = 0.01  # between the end of a hold by the clock and another look at it


class AddressService:
    """One virtual address on one gateway.

    Args:
        cluster: the cluster's name.
        address: its section of the configuration; the section's name is the election's.
        post: takes the service's events.

    Raises:
        KernelRefused: no such device, no permission, or the kernel can't do it.
    """

    def __init__(self, cluster: str, address: Address, post: Callable[[Event], None]) -> None:
        self._cluster = cluster
        self.settings = address
        self._post = post
        self._virtual = VirtualAddress(address.ip, address.prefix_length, address.device)
        self._announcer = Announcer(address.ip, address.device)
        self._fence: Fence | None = None
        self._log = structlog.get_logger().bind(address=str(self._virtual), device=address.device)
        self._term: int | None = None
        self._until_ms = 0
        self._held = trio.Event()
        self._hold = trio.CancelScope()  # of the tasks of the present hold
        self._mending = False
        self._mend = trio.Event()  # the device is back: is the fence still there?
        self._relay_ready = False
        self._link_up = link_up(address.device)
        self._told: tuple[bool, str] | None = None
        self.held_since_ms: int | None = None
        self.conflicts_total = 0

    @property
    def name(self) -> str:
        """Name of the address and of its election."""
        return self.settings.name

    async def prepare(self) -> str | None:
        """Remove what an earlier process has left on the device and shut the fence, before the first election.

        Returns:
            A warning where this kernel can't keep the lease by itself: a killed or frozen process then leaves the
            address answering until another gateway has announced it.
        """
        if self._virtual.remove():
            self._log.warning("address.stale-removed")
        try:
            fence = Fence(self.settings.ip, self.settings.device, f"{self._cluster}-{self.name}")
            await trio.to_thread.run_sync(fence.install)
        except KernelRefused as error:
            return f"the lease of '{self.name}' is not kept by the kernel: {error}"
        self._fence = fence
        return None

    def holds(self) -> bool:
        """Tell whether the address is this node's, now."""
        return self._term is not None and boot_ms() < self._until_ms

    # -- Service -------------------------------------------------------------------------------------------------

    def start(self, term: int, until_ms: int) -> None:
        """Put the address on the device and announce it."""
        self._term, self._until_ms = term, until_ms
        if not self.holds():
            return  # too late already: the core is about to say so
        try:
            if self._fence is not None and not self._fence.grant(until_ms - boot_ms()):
                return
            self._virtual.add()
        except KernelRefused as error:
            self._log.error("address.refused", reason=str(error))
            self._tell(fit=False, reason=str(error))
            return
        self._announcer.burst(BURST_ROUNDS, self.holds)
        self.held_since_ms = boot_ms()
        self._log.info("address.held", term=term)
        self._held.set()

    def extend(self, until_ms: int) -> None:
        """Take the new end of the lease; let the kernel have it too, unless its own count has run out."""
        self._until_ms = until_ms
        if self._fence is None or self.held_since_ms is None:
            return
        try:
            renewed = self._fence.renew(until_ms - boot_ms())
        except KernelRefused as error:
            self._log.error("fence.refused", reason=str(error))
            renewed = False
        if not renewed:
            # Frozen until the kernel's lease had ended, or robbed of the fence: what another may hold is not defended.
            self._post(ResignationRequested(self.name, "the kernel's lease has ended"))

    def stop(self, term: int, cause: Cause, *, at_once: bool) -> None:
        """Drop the address, in microseconds."""
        self._term, self._until_ms, self.held_since_ms = None, 0, None
        self._held = trio.Event()
        self._hold.cancel()
        try:
            self._virtual.remove()
        except KernelRefused as error:
            self._log.error("address.stuck", reason=str(error))
            raise  # whoever can't drop the address must not live on pretending that it did
        finally:
            self._shut_fence()
        self._log.info("address.dropped", term=term, cause=cause)
        self._post(ServingStopped(self.name, term))

    def _shut_fence(self) -> None:
        if self._fence is None:
            return
        try:
            self._fence.revoke()
        except KernelRefused as error:
            # Gone with its device, or taken away: there is nothing left that could let a frame pass or stop it.
            self._log.warning("fence.refused", reason=str(error))

    # -- fitness -------------------------------------------------------------------------------------------------

    def relay_changed(self, *, ready: bool, reason: str = "") -> None:
        """Take whether this gateway could forward anything if it held the address."""
        self._relay_ready = ready
        self._tell_fitness(reason)

    def link_changed(self, event: LinkEvent) -> None:
        """Take a change of a device: fitness, and an address that someone has removed under us."""
        match event:
            case LinkChanged(device, up) if device == self.settings.device:
                self._link_up = up
                if up:
                    self._mend.set()
                self._tell_fitness()
            case AddressRemoved(ip, prefix_length, device) if self.holds() and (ip, prefix_length, device) == (
                self.settings.ip,
                self.settings.prefix_length,
                self.settings.device,
            ):
                # systemd-networkd and dhclient do that when they restart.
                self._log.warning("address.removed-by-other")
                if self._virtual.add():
                    self._announcer.burst(BURST_ROUNDS, self.holds)

    async def _mend_fence(self) -> None:
        """Build the fence again where the device took it along when it vanished. Takes milliseconds."""
        while True:  # ends by cancellation
            await self._mend.wait()
            self._mend = trio.Event()
            if self._fence is None or self.holds() or self._fence.intact():
                continue
            self._mending = True  # unfit meanwhile: nobody else may use the fence's socket
            self._tell_fitness()
            try:
                await trio.to_thread.run_sync(self._fence.install)
                self._log.info("fence.rebuilt")
            except KernelRefused as error:
                self._log.error("fence.refused", reason=str(error))
            self._mending = False
            self._tell_fitness()

    def _tell_fitness(self, reason: str = "") -> None:
        if self._mending:
            self._tell(fit=False, reason="the fence is being rebuilt")
        elif not self._link_up:
            self._tell(fit=False, reason=f"link {self.settings.device} is down")
        elif not self._relay_ready:
            self._tell(fit=False, reason=reason or "the relay is not ready")
        else:
            self._tell(fit=True, reason="")

    def _tell(self, *, fit: bool, reason: str) -> None:
        if self._told == (fit, reason):
            return
        self._told = (fit, reason)
        self._log.info("address.fitness", fit=fit, reason=reason)
        self._post(StandingChanged(Standing(self.name, fit, True, 0, 0, ""), reason))

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce while held, and watch for other claims; ends by cancellation, dropping the address."""
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._mend_fence)
                while True:
                    await self._held.wait()
                    with trio.CancelScope() as self._hold:
                        await self._defend(self._term)
        finally:
            self._virtual.remove()
            if self._fence is not None:
                self._fence.remove()

    async def _defend(self, term: int | None) -> None:
        """Announce the address and watch it for as long as it is held in `term`."""
        watch = ConflictWatch(self.settings.ip, self.settings.device, self._claimed, self._unclaimed)
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.run)
            await self._announcer.run(lambda: self._term == term and self.holds())
            nursery.cancel_scope.cancel()
        await trio.sleep(SETTLE_S)  # the lease has ended by the clock; the core will say so

    def _claimed(self, mac: str) -> None:
        self.conflicts_total += 1
        if self.holds():
            self._log.warning("address.conflict", claimed_by=mac)
            self._announcer.burst(1, self.holds)  # RFC 5227 §2.4: defend

    def _unclaimed(self, mac: str) -> None:
        if self.holds():
            self._log.info("address.conflict-over", claimed_by=mac)
            self._announcer.burst(BURST_ROUNDS, self.holds)

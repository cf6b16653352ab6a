"""The virtual address as a service of its election: held, announced, defended, dropped. Dropping it never waits.

The address is on the host only inside the lease: every act asks `holds()` first, which reads the clock again.
"""

import errno
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
import trio

from gateway.config.settings import Address
from gateway.control.conflicts import Conflicts
from gateway.control.preflight import address_hazards
from gateway.core.actions import Cause
from gateway.core.events import Event, ResignationRequested, ServingStopped, StandingChanged
from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from gateway.kernel.clock import boot_ms
from gateway.kernel.fence import Fence
from gateway.kernel.link import AddressRemoved, LinkChanged, MacChanged, link_up
from gateway.kernel.link import Event as LinkEvent
from gateway.kernel.neighbour import ConflictWatch
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.sock_destroy import destroy_connections
from gateway.wire.messages import Standing

AT_ONCE = frozenset({Cause.LEASE_EXPIRED, Cause.SUSPENDED})  # another may hold the address already
BURST_ROUNDS = 3  # announcements at once: single frames get lost in switches that are just learning
SETTLE_S = 0.01  # between the end of a hold by the clock and another look at it
CONNECTIONS_MAX = 500  # ended where the address is given up in good order: 5 to 10 ms in control's own loop
RETRY_S = 2.0  # after the kernel has refused: what it refuses for good must not become an election without end


class Follower(Protocol):
    """What lives by the lease of an address. None of the methods may wait, or raise for what the kernel refuses."""

    def grant(self, lease_ms: int) -> None:
        """The address is held from now on, for `lease_ms` at first."""

    def extend(self, lease_ms: int) -> None:
        """The lease ends `lease_ms` from now."""

    def linger(self) -> None:
        """The address has been given up in good order."""

    def revoke(self) -> None:
        """The lease is over."""


class AddressService:
    """One virtual address on one gateway.

    Args:
        cluster: the cluster's name.
        address: its section of the configuration; the section's name is the election's.
        post: takes the service's events.
        followers: what lives by the lease of the address.

    Raises:
        KernelRefused: no such device, no permission, or the kernel can't do it.
    """

    def __init__(
        self, cluster: str, address: Address, post: Callable[[Event], None], followers: Sequence[Follower] = ()
    ) -> None:
        self._cluster = cluster
        self.settings = address
        self._post = post
        self._followers = tuple(followers)
        self._virtual = VirtualAddress(address.ip, address.prefix_length, address.device)
        self._announcer = Announcer(address.ip, address.device)
        self._fence: Fence | None = None
        self.fence_state = "none: not built yet"
        self.warnings: list[str] = []  # what an operator should know of this host; complete after `prepare`
        self._log = structlog.get_logger().bind(address=str(self._virtual), device=address.device)
        self._term: int | None = None
        self._until_ms = 0
        self._held = trio.Event()
        self._hold = trio.CancelScope()  # of the tasks of the present hold
        self._fault = ""  # why the kernel could not be made to serve; unfit until it is mended
        self._mend = trio.Event()
        self._mend_after_s = 0.0
        self._mending = False  # a thread has the fence's socket
        self._ungranted = True  # the fence was built, shut, and has had no lease since
        self._keeping = False
        self._relay_ready = False
        self._link_up = link_up(address.device)
        self._told: tuple[bool, str] | None = None
        self.held_since_ms: int | None = None
        self.conflicts = Conflicts()
        self.on_phase: Callable[[int | None, str], None] = _nobody  # told (term, phase) of a hold that begins

    @property
    def place(self) -> str:
        """Where the address is when it is held."""
        return f"as {self._virtual} on {self.settings.device}"

    @property
    def name(self) -> str:
        """Name of the address and of its election."""
        return self.settings.name

    async def prepare(self, *, adopt: bool = False) -> str | None:
        """Remove what an earlier process has left on the device and shut the fence, before the first election.

        With `adopt` address and lease are left as the earlier process has left them, for `resume` to go on with.

        Returns:
            All `warnings` as one sentence; first where this kernel can't keep the lease by itself: a killed or
            frozen process then leaves the address answering until another gateway has announced it.
        """
        if not adopt and self._virtual.remove():
            self._log.warning("address.stale-removed")
        try:
            fence = Fence(self.settings.ip, self.settings.device, f"{self._cluster}-{self.name}")
            self._ungranted = not await trio.to_thread.run_sync(lambda: fence.install(keep_lease=adopt))
        except KernelRefused as error:
            self.fence_state = f"none: {error}"
            self.warnings.append(f"the lease of '{self.name}' is not kept by the kernel: {error}")
        else:
            self._fence = fence
            self.fence_state = fence.state
        if not adopt:  # it takes a question to the segment and its answers: longer than a lease may be
            self.warnings += await address_hazards(self.settings)
        return "; ".join(self.warnings) or None

    def farewell(self) -> tuple[bytes, ...]:
        """Return the requests on a NETLINK_ROUTE socket that drop the address in our name when we have died.

        They want no answer and carry the sequence number 0. Ask anew at the start of each hold: they name the device
        by its index.
        """
        return (self._virtual.farewell,)

    def holds(self) -> bool:
        """Tell whether the address is this node's, now."""
        return self._term is not None and boot_ms() < self._until_ms

    # -- Service -------------------------------------------------------------------------------------------------

    def start(self, term: int, until_ms: int) -> None:
        """Put the address on the device and announce it, in microseconds."""
        self._term, self._until_ms = term, until_ms
        if self._fault:  # a task may be using the fence's socket; unfit, so this is not asked for long
            self._post(ResignationRequested(self.name, self._fault))
            return
        self._take_hold(term)

    def _take_hold(self, term: int) -> None:
        if not self.holds():
            return  # too late already: the core is about to say so
        try:
            if self._fence is not None and not self._fence.grant(self._until_ms - boot_ms()):
                return  # less than a tick of the kernel's clock is left: the first extension comes with more
            self._ungranted = False
            # First what forwards: from the moment at which it is on the device this host answers for the address,
            # and what clients then send must not reach its own ports, which would reset it.
            for one in self._followers:
                one.grant(self._until_ms - boot_ms())
            self._virtual.add()
        except KernelRefused as error:
            self._log.error("address.refused", reason=str(error))
            self._failed(str(error), 0 if error.errno == errno.ENOENT else RETRY_S)
            return
        self._announcer.burst(BURST_ROUNDS, self.holds)
        self.on_phase(term, "announced_ms")
        self._begin_hold(term)

    def resume(self, term: int, until_ms: int) -> None:
        """Go on with the hold of an earlier process, after `prepare(adopt=True)`. Its lease may have run out.

        The fence of another version was replaced by a shut one. The kernel's lease is gone with it, but that was no
        more than a copy: what counts is the end of the lease that the votes gave to this term, and until then nobody
        else can have been elected. So what is left of it by the clock is granted, as at the start of a hold.
        """
        self._term, self._until_ms = term, until_ms
        self.assume_fit()
        self._begin_hold(term)
        self.extend(until_ms)
        if self.holds():
            self._put_back()

    def assume_fit(self) -> None:
        """Take an earlier process' word for the fitness until a task has seen otherwise."""
        self._relay_ready = True
        self._told = (True, "")

    def _begin_hold(self, term: int) -> None:
        self.held_since_ms = boot_ms()
        self._log.info("address.held", term=term)
        self._held.set()

    def extend(self, until_ms: int) -> None:
        """Take the new end of the lease; let the kernel have it too, unless its own count has run out."""
        in_time = self.holds()
        self._until_ms = until_ms
        if self.held_since_ms is None:
            if self._term is not None and not self._fault:
                self._take_hold(self._term)  # the votes took so long that `start` had no time left
            return
        if self._fence is not None and not self._renewed(self._fence, in_time=in_time):
            # Frozen until the lease had ended: what another may hold is not defended.
            self._post(ResignationRequested(self.name, "the kernel's lease has ended"))
            return
        if not self.holds():  # without its fence it has just given up
            return
        for one in self._followers:
            one.extend(until_ms - boot_ms())

    def _renewed(self, fence: Fence, *, in_time: bool) -> bool:
        """Return False if the kernel's lease has ended. Without a fence there is none: that is a fault.

        A fence that is built during the hold has none to renew, and can't tell whether the extension comes before the
        end of what it extends. Then the clock has said whether it is `in_time`: what has ended is not granted anew.
        """
        if self._mending:
            return in_time
        try:
            if self._ungranted and in_time:
                self._opened(fence)  # or with the next extension, where too little is left
                return True
            return fence.renew(self._until_ms - boot_ms())
        except KernelRefused as error:
            if not self._fault:
                self._log.error("fence.refused", reason=str(error))
                self._failed(str(error), 0)
            return True

    def _opened(self, fence: Fence) -> bool:
        """Grant what is left of a hold's lease to a fence that was built during the hold; False: that was too little.

        Raises:
            KernelRefused: the fence stays shut.
        """
        if self._ungranted:
            self._ungranted = not fence.grant(self._until_ms - boot_ms())
        return not self._ungranted

    def announce_again(self) -> None:
        """Begin the announcements anew: somebody may have learned another MAC while we could not be heard."""
        if self.holds():
            self._announcer.again()

    def keep(self) -> None:
        """Leave address and fence as they are when `run` ends: another process is to go on with them."""
        self._keeping = True

    def stop(self, term: int, cause: Cause, *, at_once: bool) -> None:
        """Drop the address, in microseconds."""
        graceful = not at_once and cause not in AT_ONCE
        self._term, self._until_ms, self.held_since_ms = None, 0, None
        self._held = trio.Event()
        self._hold.cancel()
        self.conflicts.forget()
        for one in self._followers:
            if graceful:
                one.linger()
            else:
                one.revoke()
        if graceful:
            self._end_connections()
        try:
            self._virtual.remove()
        except KernelRefused as error:
            self._log.error("address.stuck", reason=str(error))
            raise  # whoever can't drop the address must not live on pretending that it did
        finally:
            self._shut_fence()
        self._log.info("address.dropped", term=term, cause=cause)
        self._post(ServingStopped(self.name, term))

    def _end_connections(self) -> None:
        """Reset what ends on this host at the address, as long as a reset can leave by it, and let no more come.

        Who is waiting for an answer then sends nothing that the next holder could reset, and would wait until its own
        patience ends: HTCondor's tools for 20 s. So would one who is let in after the others have been found.

        Who comes now is dropped, not refused: its kernel tries again after a second (RFC 6298 §2) and finds the next
        holder. A refusal would come at once, and end what it wanted.
        """
        self._deafen()
        try:
            ended = destroy_connections(self.settings.ip, sockets_max=CONNECTIONS_MAX)
        except KernelRefused as error:
            self._log.warning("address.connections-left", reason=str(error))
        else:
            self._log.info("address.connections-ended", connections=ended.destroyed, left=ended.left)

    def _deafen(self) -> None:
        if self._fence is None or self._mending:
            return
        try:
            self._fence.deafen()
        except KernelRefused as error:
            self._log.warning("fence.refused", reason=str(error))

    def _shut_fence(self) -> None:
        if self._fence is None or self._mending:  # a fence is built shut
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
                    self._look_at_device()
                self._tell_fitness()
            case MacChanged(device, _) if device == self.settings.device:
                self._look_at_device()
            case AddressRemoved(ip, prefix_length, device) if self.holds() and (ip, prefix_length, device) == (
                self.settings.ip,
                self.settings.prefix_length,
                self.settings.device,
            ):
                # systemd-networkd and dhclient do that when they restart.
                self._log.warning("address.removed-by-other")
                self._put_back()

    def _put_back(self) -> None:
        try:
            added = self._virtual.add()
        except KernelRefused as error:  # removed because its device is being removed
            self._log.error("address.refused", reason=str(error))
            self._failed(str(error), 0)
        else:
            if added:
                self._announcer.burst(BURST_ROUNDS, self.holds)

    def _look_at_device(self) -> None:
        """Follow the device, which may have been made anew or have got another MAC; it took the fence along then."""
        try:
            changed = self._announcer.follow()
            whole = self._fence is None or self._mending or self._fence.intact()
        except KernelRefused as error:
            self._failed(str(error), 0)
            return
        if changed:
            self._log.warning("device.changed", mac=self._announcer.mac)
            self.announce_again()
        if self._fault or not whole:
            self._failed(self._fault or "the fence went away with its device", 0)

    def _failed(self, reason: str, mend_after_s: float) -> None:
        """Be unfit until a task has mended it."""
        self._fault, self._mend_after_s = reason, mend_after_s
        self._mend.set()
        self._tell_fitness()

    async def _mend_faults(self) -> None:
        # Whoever is unfit gives up before this task runs, unless the cluster is paused: then nobody could follow, and
        # the fault is mended where the address is.
        while True:  # ends by cancellation
            await self._mend.wait()
            await trio.sleep(self._mend_after_s)
            self._mend = trio.Event()
            if not await self._mended():
                self._mend_after_s = RETRY_S
                self._mend.set()

    async def _mended(self) -> bool:
        """Make the announcer follow its device and the fence whole. Takes milliseconds, in a thread."""
        try:
            self._announcer.follow()
            if self._fence is not None and not self._fence.intact():
                self._mending = True
                await trio.to_thread.run_sync(self._fence.install)
                self._ungranted = True
                self._log.info("fence.rebuilt")
        except KernelRefused as error:
            self._log.error("fence.refused", reason=str(error))
            self._fault = str(error)
            self._tell_fitness()
            return False
        finally:
            self._mending = False
        self._fault = ""
        if self.held_since_ms is not None and self.holds():
            self._go_on()
        self._tell_fitness()
        return not self._fault

    def _go_on(self) -> None:
        """Serve again in the hold during which the fault came."""
        try:
            if self._fence is not None and not self._opened(self._fence):
                self._fault = "too little of the lease was left to open the fence"
                return
        except KernelRefused as error:
            self._fault = str(error)
            return
        self._put_back()
        self.announce_again()

    def _tell_fitness(self, reason: str = "") -> None:
        if not self._link_up:
            self._tell(fit=False, reason=f"link {self.settings.device} is down")
        elif self._fault:
            self._tell(fit=False, reason=self._fault)
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
                nursery.start_soon(self._mend_faults)
                while True:
                    await self._held.wait()
                    with trio.CancelScope() as self._hold:
                        await self._defend(self._term)
        finally:
            if self._keeping:
                if self._fence is not None:
                    self._fence.close()
            else:
                self._virtual.remove()
                if self._fence is not None:
                    self._fence.remove()

    async def _defend(self, term: int | None) -> None:
        """Announce the address and watch it for as long as it is held in `term`."""
        settle_s = SETTLE_S
        try:
            watch = ConflictWatch(self.settings.ip, self.settings.device, self._claimed, self._unclaimed)
            async with trio.open_nursery() as nursery:
                await nursery.start(watch.run)
                await self._announcer.run(lambda: self._term == term and self.holds())
                nursery.cancel_scope.cancel()
        except* KernelRefused as group:  # the device is gone, and with it the address
            settle_s = RETRY_S
            if not self._fault:
                self._failed(str(group.exceptions[0]), 0)
        await trio.sleep(settle_s)  # the lease has ended by the clock, or this node is unfit; the core will say so

    def _claimed(self, mac: str) -> None:
        new = mac not in self.conflicts.claimants
        defend = self.conflicts.claimed(mac, boot_ms())
        if not self.holds():
            return
        if new:
            self._log.warning("address.conflict", claimed_by=mac)
        if defend:
            self._announcer.burst(1, self.holds)

    def _unclaimed(self, mac: str) -> None:
        self.conflicts.ended(mac)
        if self.holds():
            self._log.info("address.conflict-over", claimed_by=mac)
            self.announce_again()  # caches point to the other

    def status(self) -> dict[str, Any]:
        """Return what an operator sees of the address on this node."""
        return {
            "held": self.holds(),
            "held_since_ms": self.held_since_ms,
            "fence": self.fence_state,
            "announced_total": self._announcer.sent_total,
            "unannounced_total": self._announcer.failed_total,
            **self.conflicts.status(boot_ms()),
        }


def _nobody(term: int | None, phase: str) -> None:
    """Nobody wants to know."""

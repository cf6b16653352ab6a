"""Links: which devices are up and which addresses they hold, as they change. Reports changes only, loses none.

The kernel drops notifications when the socket's queue is full (ENOBUFS); then everything is read again and the
differences are reported. Where the links change so fast that they cannot be read, they are read a little later.
"""

import errno
import fcntl
import ipaddress
import socket
import struct
import time
from collections.abc import Callable

import msgspec
import structlog
import trio

from gateway.kernel import address, ethernet, netlink
from gateway.kernel.netlink import KernelRefused, Message

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_SIOCGIFFLAGS = 0x8913
_NOTIFICATION_BYTES_MAX = 65_536
READ_AGAIN_S = 0.01  # between two times that everything is read: a flood must not become our own load
LOG_EVERY_S = 10.0


class LinkChanged(msgspec.Struct, frozen=True):
    """A device came up (`up`: switched on, with a carrier), went down, appeared or vanished."""

    device: str
    up: bool


class AddressAdded(msgspec.Struct, frozen=True):
    """A device got an address."""

    ip: str
    prefix_length: int
    device: str


class AddressRemoved(msgspec.Struct, frozen=True):
    """A device lost an address."""

    ip: str
    prefix_length: int
    device: str


class MacChanged(msgspec.Struct, frozen=True):
    """A device got another MAC address; what neighbours have learned of it is stale."""

    device: str
    mac: str


Event = LinkChanged | AddressAdded | AddressRemoved | MacChanged


def link_up(device: str) -> bool:
    """Return whether `device` is switched on and has a carrier; False where there is no such device. Microseconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked, _SIOCGIFFLAGS, struct.pack("16sH14x", device.encode()[:15], 0))
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO):
                return False
            raise KernelRefused(f"ask for the state of {device!r}", error.errno or 0, "no more is known") from error
    (flags,) = struct.unpack_from("=H", answer, 16)
    return _is_up(flags)


class LinkWatch:
    """Watches all devices of this network namespace.

    `resyncs_total` counts the times that the queue was full, `interrupted_total` those that the tables changed while
    they were read, which is then tried again until it succeeds; at the start all is reported then, as if it were new.
    `receive_bytes` is the queue's size; None leaves the kernel's default, some hundred notifications.

    Raises:
        KernelRefused: the kernel cannot be asked.
    """

    def __init__(self, *, receive_bytes: int | None = None) -> None:
        self.resyncs_total = 0
        self.interrupted_total = 0
        self._log = structlog.get_logger()
        self._log_after = 0.0
        self._requests = netlink.RouteSocket()
        self._link_dump = netlink.link_dump_request()
        self._address_dump = netlink.address_dump_request()
        # Subscribed before anything is read: what changes meanwhile is in the queue.
        groups = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR
        self._notifications = netlink.open_route_socket(groups)
        if receive_bytes is not None:
            self._notifications.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._links: dict[int, LinkChanged] = {}
        self._macs: dict[int, str] = {}
        self._addresses: set[tuple[str, int, int]] = set()  # address, prefix length, device index
        self._behind = False  # something was missed: everything is to be read again
        self._read_all()

    async def run(
        self,
        on_event: Callable[[Event], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Call `on_event` for each change since construction until cancelled. It must return within microseconds."""
        task_status.started()
        read_again_at = trio.current_time()
        try:
            while True:  # until cancelled
                with trio.move_on_at(read_again_at if self._behind else float("inf")):
                    await trio.lowlevel.wait_readable(self._notifications)
                for event in self._drain():
                    on_event(event)
                # Only now that the queue is empty: what it held is older than the tables, and while it was full the
                # kernel dropped what came, without another word.
                if self._behind and trio.current_time() >= read_again_at:
                    for event in self._read_all():
                        on_event(event)
                    read_again_at = trio.current_time() + READ_AGAIN_S
        finally:
            self._notifications.close()
            self._requests.close()

    def _drain(self) -> list[Event]:
        events: list[Event] = []
        while True:  # until the queue is empty
            try:
                data = self._notifications.recv(_NOTIFICATION_BYTES_MAX)
            except BlockingIOError:
                return events
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelRefused("watch the links", error.errno or 0, "no more is known") from error
                self.resyncs_total += 1
                self._behind = True
                continue
            for message in netlink.split(data):
                events += self._apply(message)

    def _apply(self, message: Message) -> list[Event]:
        if message.kind in (netlink.RTM_NEWLINK, netlink.RTM_DELLINK):
            return self._apply_link(message)
        if message.kind in (netlink.RTM_NEWADDR, netlink.RTM_DELADDR):
            return self._apply_address(message)
        return []

    def _apply_link(self, message: Message) -> list[Event]:
        family, _, index, flags, _ = netlink.LINK_HEADER.unpack_from(message.body)
        if family != socket.AF_UNSPEC:  # a bridge's view of its own port
            return []
        before = self._links.get(index)
        if message.kind == netlink.RTM_DELLINK:
            return self._forget_link(index)
        name = before.device if before is not None else ""
        mac = ""
        for kind, value in netlink.attributes(message.body, netlink.LINK_HEADER.size):
            if kind == netlink.IFLA_IFNAME:
                name = bytes(value).rstrip(b"\0").decode("utf-8", "replace")
            elif kind == netlink.IFLA_ADDRESS:
                mac = ethernet.mac_text(bytes(value))
        after = LinkChanged(name, _is_up(flags))
        events: list[Event] = []
        if after != before:
            renamed = before is not None and before.device != name
            events = self._forget_link(index) if renamed else []
            self._links[index] = after
            events.append(after)
        if mac:  # not every notification of a link repeats it
            if mac != self._macs.get(index, mac):
                events.append(MacChanged(name, mac))
            self._macs[index] = mac
        return events

    def _apply_address(self, message: Message) -> list[Event]:
        family, prefix_length, _, _, index = netlink.ADDRESS_HEADER.unpack_from(message.body)
        packed = address.address_of(message.body)
        if family not in (socket.AF_INET, socket.AF_INET6) or not packed:
            return []
        key = (str(ipaddress.ip_address(packed)), prefix_length, index)
        if message.kind == netlink.RTM_DELADDR:
            return self._forget_address(key)
        if key in self._addresses:
            return []
        self._addresses.add(key)
        return [AddressAdded(key[0], prefix_length, self._name(index))]

    def _forget_link(self, index: int) -> list[Event]:
        events: list[Event] = []
        for key in [key for key in self._addresses if key[2] == index]:
            events += self._forget_address(key)
        gone = self._links.pop(index, None)
        self._macs.pop(index, None)
        if gone is not None and gone.up:
            events.append(LinkChanged(gone.device, up=False))
        return events

    def _forget_address(self, key: tuple[str, int, int]) -> list[Event]:
        if key not in self._addresses:
            return []
        self._addresses.remove(key)
        return [AddressRemoved(key[0], key[1], self._name(key[2]))]

    def _name(self, index: int) -> str:
        link = self._links.get(index)
        return link.device if link is not None else ""

    def _read_all(self) -> list[Event]:
        """Read all links and addresses, and return what is different from what was known; nothing if interrupted."""
        try:
            links = self._requests.dump(self._link_dump)
            addresses = self._requests.dump(self._address_dump)
        except KernelRefused as error:
            if error.errno != errno.EINTR:
                raise
            self._behind = True
            self._count_interruption()
            return []
        self._behind = False
        events: list[Event] = []
        indexes = {netlink.LINK_HEADER.unpack_from(message.body)[2] for message in links}
        for index in [index for index in self._links if index not in indexes]:
            events += self._forget_link(index)
        for message in links:
            events += self._apply_link(message)
        known = set(self._addresses)
        for message in addresses:
            events += self._apply_address(message)
            known.discard(_key_of(message))
        for key in known:
            events += self._forget_address(key)
        return events

    def _count_interruption(self) -> None:
        self.interrupted_total += 1
        now = time.monotonic()
        if now >= self._log_after:
            self._log_after = now + LOG_EVERY_S
            self._log.warning("links.unsteady", interrupted_total=self.interrupted_total)


def _key_of(message: Message) -> tuple[str, int, int]:
    _, prefix_length, _, _, index = netlink.ADDRESS_HEADER.unpack_from(message.body)
    packed = address.address_of(message.body)
    return (str(ipaddress.ip_address(packed)) if packed else "", prefix_length, index)


def _is_up(flags: int) -> bool:
    """IFF_UP is the administrator's word, IFF_RUNNING the operational state of RFC 2863, which needs a carrier."""
    return bool(flags & _IFF_UP and flags & _IFF_RUNNING)

"""Resolver: the MAC address of each server, as the kernel's neighbour tables have it, and as it changes.

Rule: the kernel asks, never this module; here it is only reminded to (NTF_USE), because frames that are forwarded by
MAC give it no reason to. A server that is not a neighbour on the device has no MAC: that is said by its reason.
"""

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog
import trio

from gateway.kernel import ethernet, netlink
from gateway.kernel.netlink import ATTRIBUTE, HEADER, KernelRefused, Message, RouteSocket

REMIND_S: Final = 1.0  # how soon a server that was silent is asked for again; one that answers is asked every 30 s
NOTIFICATIONS_AT_ONCE: Final = 256  # a big segment's neighbours change all the time; the heartbeat comes first

_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH, _RTM_GETROUTE = 28, 29, 30, 26
_RTMGRP_NEIGH = 0x4
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, device index, state, flags, type
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, bits of target and source, tos, table, ..., type, flags
_NDA_DST, _NDA_LLADDR = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_VIA = 1, 4, 5, 18
_NTF_USE = 0x01
# Of the states in which a neighbour has a MAC: REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT.
_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
_RTN_UNICAST, _RTN_LOCAL = 1, 2


class Resolved(msgspec.Struct, frozen=True):
    """A server has this MAC now; said again when it is another one."""

    ip: str
    mac: str


class Unresolved(msgspec.Struct, frozen=True):
    """A server that had a MAC does not answer for it any more."""

    ip: str


class OffSegment(msgspec.Struct, frozen=True):
    """A server is not a neighbour on the device, by the routes of this host; `reason` completes "it is ..."."""

    ip: str
    reason: str


Event = Resolved | Unresolved | OffSegment


class Resolver:
    """Follows the MACs of `servers` at `device`. All methods but `run` are synchronous and take microseconds.

    Raises:
        KernelRefused: no such device, or no netlink.
        ValueError: a server is not an IP address.
    """

    def __init__(self, servers: Iterable[str], device: str, on_event: Callable[[Event], None]) -> None:
        self.device = device
        self.resyncs_total = 0
        self._packed = {ipaddress.ip_address(ip).packed: ip for ip in servers}
        self._on_event = on_event
        self._said: dict[str, Event] = {}
        self._index = netlink.device_index(device)
        self._log = structlog.get_logger().bind(device=device)
        self._requests = RouteSocket()
        # Subscribed before anything is read: what changes meanwhile is in the queue.
        self._notifications = netlink.open_route_socket(_RTMGRP_NEIGH)

    def mac(self, ip: str) -> str | None:
        """Return the MAC of a server, None where it has none (yet)."""
        said = self._said.get(ip)
        return said.mac if isinstance(said, Resolved) else None

    def refusal(self, ip: str) -> str | None:
        """Return why a server cannot be forwarded to directly, None where nothing is known against it."""
        said = self._said.get(ip)
        return said.reason if isinstance(said, OffSegment) else None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Call `on_event` for each change until cancelled; what is known at the start is reported before `started`.

        `on_event` must return within microseconds. While the device is gone all its servers are unresolved.
        """
        try:
            self._look_at_all()
            task_status.started()
            while True:  # until cancelled
                with trio.move_on_after(REMIND_S):
                    while True:  # until everything is to be looked at again
                        await trio.lowlevel.wait_readable(self._notifications)
                        if not self._drain():
                            break
                self._look_at_all()
        finally:
            self._notifications.close()
            self._requests.close()

    def _drain(self) -> bool:
        """Take the queued notifications. False: some were lost."""
        for _ in range(NOTIFICATIONS_AT_ONCE):
            try:
                data = self._notifications.recv(netlink.ANSWER_BYTES_MAX)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelRefused("watch the neighbours", error.errno or 0, "no more is known") from error
                self.resyncs_total += 1
                return False
            for message in netlink.split(data):
                self._heard(message)
        return True

    def _heard(self, message: Message) -> None:
        if message.kind not in (_RTM_NEWNEIGH, _RTM_DELNEIGH):
            return
        _, index, state, _, _ = _NEIGHBOUR.unpack_from(message.body)
        fields = dict(netlink.attributes(message.body, _NEIGHBOUR.size))
        ip = self._packed.get(bytes(fields.get(_NDA_DST, b"")))
        if ip is None or index != self._index or isinstance(self._said.get(ip), OffSegment):
            return
        self._take(ip, None if message.kind == _RTM_DELNEIGH else _mac_of(state, fields))

    def _look_at_all(self) -> None:
        """Remind the kernel of every server, and take what it knows now."""
        for packed, ip in self._packed.items():
            try:
                self._index = netlink.device_index(self.device)
                reason = off_segment(self._requests, ip, self.device)
                if reason is None:
                    self._requests.request(_remind(packed, self._index))
                    self._take(ip, self._known(packed))
                else:
                    self._say(OffSegment(ip, reason))
            except KernelRefused as error:  # the device is gone for now
                self._take(ip, None)
                self._log.debug("neighbour.refused", server=ip, reason=str(error))

    def _known(self, packed: bytes) -> str | None:
        request = _neighbour_request(_RTM_GETNEIGH, netlink.NLM_F_REQUEST, packed, self._index, 0)
        try:
            found = self._requests.ask(request)
        except KernelRefused as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return None
            raise
        _, _, state, _, _ = _NEIGHBOUR.unpack_from(found.body)
        return _mac_of(state, dict(netlink.attributes(found.body, _NEIGHBOUR.size)))

    def _take(self, ip: str, mac: str | None) -> None:
        if mac is not None:
            self._say(Resolved(ip, mac))
        elif ip in self._said and not isinstance(self._said[ip], Unresolved):
            self._say(Unresolved(ip))

    def _say(self, event: Event) -> None:
        if self._said.get(event.ip) != event:
            self._said[event.ip] = event
            self._on_event(event)


def off_segment(requests: RouteSocket, ip: str, device: str) -> str | None:
    """Return why `ip` is no neighbour of this host on `device`, by its routes; None: it is one.

    Completes "it is ...". Raises `KernelRefused` where the kernel cannot be asked.
    """
    packed = ipaddress.ip_address(ip).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + _attribute(_RTA_DST, packed)
    try:
        route = requests.ask(_request(_RTM_GETROUTE, netlink.NLM_F_REQUEST, body))
    except KernelRefused as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return "not reached by any route of this gateway"
        raise
    kind = _ROUTE.unpack_from(route.body)[7]
    fields = dict(netlink.attributes(route.body, _ROUTE.size))
    if kind == _RTN_LOCAL:
        return "this gateway itself"
    if kind != _RTN_UNICAST:
        return "not reached by any route of this gateway"
    if _RTA_GATEWAY in fields or _RTA_VIA in fields:
        return f"behind the router {_router(fields)}, not on the segment of {device!r}"
    (index,) = struct.unpack("=I", fields[_RTA_OIF])
    if index != netlink.device_index(device):
        return f"reached by {_name_of(index)!r}, not by {device!r}"
    return None


def _router(fields: dict[int, memoryview]) -> str:
    # RTA_VIA is a router of the other IP version: its family stands first.
    packed = bytes(fields[_RTA_GATEWAY]) if _RTA_GATEWAY in fields else bytes(fields[_RTA_VIA][2:])
    return str(ipaddress.ip_address(packed))


def _name_of(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"device {index}"


def _mac_of(state: int, fields: dict[int, memoryview]) -> str | None:
    mac = bytes(fields.get(_NDA_LLADDR, b""))
    # NOARP entries are those of groups and of everybody: no single host's.
    if not state & _KNOWN or len(mac) != 6 or mac[0] & 1 or not any(mac):
        return None
    return ethernet.mac_text(mac)


def _remind(packed: bytes, index: int) -> bytearray:
    """Return the request that makes the kernel ask for a neighbour, unless it has heard of it within some 30 s."""
    flags = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK | netlink.NLM_F_CREATE
    return _neighbour_request(_RTM_NEWNEIGH, flags, packed, index, _NTF_USE)


def _neighbour_request(kind: int, flags: int, packed: bytes, index: int, neighbour_flags: int) -> bytearray:
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = _NEIGHBOUR.pack(family, index, 0, neighbour_flags, 0) + _attribute(_NDA_DST, packed)
    return _request(kind, flags, body)


def _request(kind: int, flags: int, body: bytes) -> bytearray:
    return bytearray(HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body)


def _attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value

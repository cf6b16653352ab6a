"""Policy routes: packets with a mark of ours go by a routing table of ours, which has one route.

Rule: only rules and routes that carry our protocol number are looked at, changed or removed.
"""

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from gateway.kernel import netlink
from gateway.kernel.marks import MARK_MASK
from gateway.kernel.netlink import HEADER, KernelRefused, RouteSocket

PRIORITY: Final = 9_618  # after the host's own addresses (0), before its usual routes (32,766)
TABLE_FIRST: Final = 9_618_000  # and as many as there are marks
_PROTOCOL: Final = 196  # who made a rule or route: linux/rtnetlink.h and iproute2's rt_protos do not have it

_NEWROUTE, _DELROUTE, _GETROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 26, 32, 33, 34
_REPLACE: Final = 0x100  # NLM_F_REPLACE
_RULE: Final = struct.Struct("=BBBBBxxBI")  # struct fib_rule_hdr: family, lengths, tos, table, action, flags
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, lengths, tos, table, protocol, scope, type, flags
_TO_TABLE: Final = 1  # FR_ACT_TO_TBL
_FRA_PRIORITY, _FRA_MARK, _FRA_TABLE, _FRA_MASK, _FRA_PROTOCOL = 6, 10, 15, 16, 21
_RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 4, 5, 15
_UNICAST, _LOCAL = 1, 2  # RTN_*
_ONLINK: Final = 4  # RTNH_F_ONLINK
_SCOPE_HOST: Final = 254


class PolicyRoute(NamedTuple):
    """Packets of one IP version with `mark` go to `gateway` on `device`; None: to this host itself."""

    version: int
    mark: int
    device: str
    gateway: str | None = None

    @property
    def table(self) -> int:
        """The number of its routing table."""
        return TABLE_FIRST + (self.mark >> 16)


class PolicyRoutes:
    """The policy routes for the marks of one purpose: those of `marks` are ours to remove.

    Raises:
        KernelRefused: no netlink.
    """

    def __init__(self, marks: range) -> None:
        self._marks = marks
        self._socket = RouteSocket()

    def close(self) -> None:
        """Close the socket. The routes stay."""
        self._socket.close()

    def bring(self, wanted: Iterable[PolicyRoute]) -> None:
        """Let these be the policy routes, whatever an earlier process has left; those that stay are not interrupted.

        Raises:
            KernelRefused: no permission, or a gateway or device that this host cannot reach.
        """
        routes = list(wanted)
        for one in routes:
            self._request("route packets back", _route_message(_NEWROUTE, one, netlink.NLM_F_CREATE | _REPLACE))
        present = set(self._rules())
        for one in routes:
            if (one.version, one.mark) not in present:
                flags = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
                self._request("route packets back", _rule_message(_NEWRULE, one.version, one.mark, flags), errno.EEXIST)
        for version, mark in present - {(one.version, one.mark) for one in routes}:
            self._request("remove a rule", _rule_message(_DELRULE, version, mark, 0), errno.ENOENT)
        kept = {(one.version, one.table) for one in routes}
        for version, message in self._routes():
            if (version, _table_of(message)) not in kept:
                self._request("remove a route", _again(_DELROUTE, message), errno.ESRCH)

    def present(self, wanted: Iterable[PolicyRoute]) -> bool:
        """Return whether all of these are there; routes vanish with their device.

        Raises:
            KernelRefused: the kernel cannot be asked.
        """
        rules = set(self._rules())
        tables = {(version, _table_of(message)) for version, message in self._routes()}
        return all((one.version, one.mark) in rules and (one.version, one.table) in tables for one in wanted)

    def _rules(self) -> Iterator[tuple[int, int]]:
        """Yield IP version and mark of each rule of ours."""
        for version, family in _FAMILIES.items():
            for message in self._socket.dump(_dump(_GETRULE, _RULE.pack(family, 0, 0, 0, 0, 0, 0))):
                numbers = dict(netlink.attributes(message.body, _RULE.size))
                mark = _native(numbers.get(_FRA_MARK))
                if _native(numbers.get(_FRA_PROTOCOL)) == _PROTOCOL and mark in self._marks:
                    yield version, mark

    def _routes(self) -> Iterator[tuple[int, netlink.Message]]:
        tables = range(TABLE_FIRST + (self._marks[0] >> 16), TABLE_FIRST + (self._marks[-1] >> 16) + 1)
        for version, family in _FAMILIES.items():
            request = _dump(_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, _PROTOCOL, 0, 0, 0))
            for message in self._socket.dump(request):
                # Older kernels list all that there is, whatever the request says.
                if _ROUTE.unpack_from(message.body)[5] == _PROTOCOL and _table_of(message) in tables:
                    yield version, message

    def _request(self, operation: str, message: bytearray, accepted: int = 0) -> None:
        answer = self._socket.request(message)
        if answer.errno not in (0, accepted):
            remedies = {errno.EPERM: "run as root or give the service CAP_NET_ADMIN"}
            remedy = remedies.get(answer.errno) or answer.said or "is the gateway on a network of this host?"
            raise KernelRefused(operation, answer.errno, remedy)


_FAMILIES: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}


def _rule_message(kind: int, version: int, mark: int, flags: int) -> bytearray:
    header = _RULE.pack(_FAMILIES[version], 0, 0, 0, 0, _TO_TABLE, 0)
    numbers = {
        _FRA_PRIORITY: PRIORITY,
        _FRA_MARK: mark,
        _FRA_MASK: MARK_MASK,
        _FRA_TABLE: TABLE_FIRST + (mark >> 16),
    }
    attributes = b"".join(_attribute(kind, struct.pack("=I", value)) for kind, value in numbers.items())
    return _message(
        kind, flags | netlink.NLM_F_ACK, header + attributes + _attribute(_FRA_PROTOCOL, bytes([_PROTOCOL]))
    )


def _route_message(kind: int, route: PolicyRoute, flags: int) -> bytearray:
    family = _FAMILIES[route.version]
    if route.gateway is None:
        header = _ROUTE.pack(family, 0, 0, 0, 0, _PROTOCOL, _SCOPE_HOST, _LOCAL, 0)
        to = b""
    else:
        header = _ROUTE.pack(family, 0, 0, 0, 0, _PROTOCOL, 0, _UNICAST, _ONLINK)
        to = _attribute(_RTA_GATEWAY, ipaddress.ip_address(route.gateway).packed)
    index = _attribute(_RTA_OIF, struct.pack("=I", netlink.device_index(route.device)))
    table = _attribute(_RTA_TABLE, struct.pack("=I", route.table))
    return _message(kind, flags | netlink.NLM_F_ACK, header + to + index + table)


def _again(kind: int, message: netlink.Message) -> bytearray:
    return _message(kind, netlink.NLM_F_ACK, bytes(message.body))


def _dump(kind: int, body: bytes) -> bytearray:
    return _message(kind, netlink.NLM_F_DUMP, body)


def _message(kind: int, flags: int, body: bytes) -> bytearray:
    return bytearray(HEADER.pack(HEADER.size + len(body), kind, flags | netlink.NLM_F_REQUEST, 0, 0) + body)


def _attribute(kind: int, value: bytes) -> bytes:
    return netlink.ATTRIBUTE.pack(netlink.ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _table_of(message: netlink.Message) -> int:
    return _native(dict(netlink.attributes(message.body, _ROUTE.size)).get(_RTA_TABLE))


def _native(value: memoryview | None) -> int:
    """Return a number in the host's byte order; 0 where there is none."""
    return int.from_bytes(value, sys.byteorder) if value is not None else 0

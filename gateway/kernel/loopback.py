"""The virtual address on a manager's loopback device, for `forward direct`: heard there, claimed nowhere.

Rule: the host must neither answer for the address nor choose it as a source by itself. So the settings for ARP stand
before the address does, and fall after it.

IPv6 needs no settings: a solicitation is answered only for an address of the device it came by (RFC 4861 §7.2.3), and
the loopback device has no neighbours to tell anything.

Only the *elected* manager should hold the address: a host that holds it reaches nobody else there. A standby's own
daemons must get to the elected one.
"""

import errno
import ipaddress
import socket
import struct
from pathlib import Path
from typing import Final

from gateway.kernel import netlink
from gateway.kernel.address import address_of
from gateway.kernel.netlink import ADDRESS_HEADER, HEADER, KernelRefused, RouteSocket
from gateway.kernel.record import read_record, write_record
from gateway.kernel.sysctl import Sysctls, read_sysctl

DEVICE: Final = "lo"
_SCOPE_GLOBAL, _SCOPE_HOST = 0, 254
_IFA_CACHEINFO, _IFA_FLAGS = 6, 8
_NODAD, _NOPREFIXROUTE = 0x02, 0x200
_CACHEINFO = struct.Struct("=IIII")  # preferred and valid for so many seconds, two stamps
_FOREVER_S = 0xFFFFFFFF
_CONF = "net/ipv4/conf"
# ip-sysctl: arp_ignore 1 answers only for addresses of the device that was asked; arp_announce 2 never names an
# address of another device as the asker's. Of `all` and the device the greater value counts, and all devices are
# meant: a second one on the same segment would answer for the address as well.
_WANTED: Final = {"arp_ignore": 1, "arp_announce": 2}


class LoopbackAddress:
    """`ip` on the loopback device of a host whose traffic comes by `device`.

    Call `prepare` first, at start, in a thread: it waits for the disk. `add`, `remove` and `present` are synchronous
    and take microseconds. `sysctls` is shared by all addresses of this host, and restored when the last one is gone.

    Args:
        ip: the virtual address.
        device: where its frames arrive.
        sysctls: what changes this host's settings.
        record: a file that says, after a crash, that the address may be there (`remove_leftovers`).

    Raises:
        KernelRefused: no netlink.
        ValueError: `ip` is not an IP address.
    """

    def __init__(self, ip: str, device: str, sysctls: Sysctls, record: Path) -> None:
        address = ipaddress.ip_address(ip)
        self.ip = str(address)
        self.device = device
        self._packed = address.packed
        self._sysctls = sysctls
        self._record = record
        self._socket = RouteSocket()
        self._add = _request(netlink.RTM_NEWADDR, self._packed)
        self._remove = _request(netlink.RTM_DELADDR, self._packed)
        self.prepared = False

    @property
    def farewell(self) -> bytes:
        """The request on a NETLINK_ROUTE socket that removes the address: sequence number 0, no answer wanted."""
        return netlink.without_answer(self._remove)

    def prepare(self) -> list[str]:
        """Record the address, and change the settings that it needs. Returns what an operator should know.

        Raises:
            KernelRefused: no permission, no such device, or the disk does not take the record.
        """
        netlink.device_index(self.device)
        write_record(self._record, {"loopback": self.ip})
        if len(self._packed) == 4:
            wanted = {f"{_CONF}/{of}/{name}": value for of in ("all", self.device) for name, value in _WANTED.items()}
            # A greater value claims even less.
            self._sysctls.set({name: str(value) for name, value in wanted.items() if int(read_sysctl(name)) < value})
        self.prepared = True
        return self._warnings()

    def _warnings(self) -> list[str]:
        if len(self._packed) != 4:
            return []
        if max(int(read_sysctl(f"{_CONF}/{of}/rp_filter")) for of in ("all", self.device)) != 1:
            return []
        return [
            f"rp_filter is 1 on {self.device!r}: clients that this host answers by another device are dropped in "
            f"silence; give it a route to them by {self.device!r}, or set net.ipv4.conf.{self.device}.rp_filter to 2"
        ]

    def add(self) -> bool:
        """Put the address on the loopback device. True: it was not there.

        Raises:
            KernelRefused: no permission, IPv6 is off there, or `prepare` was not called.
        """
        if not self.prepared:
            raise KernelRefused(f"add {self.ip} to {DEVICE!r}", errno.EBUSY, "its settings are not made yet")
        answer = self._socket.request(self._add)
        if answer.errno not in (0, errno.EEXIST):
            raise self._refused("add", answer)
        return answer.errno == 0

    def remove(self) -> bool:
        """Take it away. False: it was not there.

        Raises:
            KernelRefused: no permission.
        """
        answer = self._socket.request(self._remove)
        if answer.errno not in (0, errno.EADDRNOTAVAIL):
            raise self._refused("remove", answer)
        return answer.errno == 0

    def present(self) -> bool:
        """Return whether the loopback device holds the address."""
        family = socket.AF_INET if len(self._packed) == 4 else socket.AF_INET6
        listed = self._socket.dump(netlink.address_dump_request(family, netlink.device_index(DEVICE)))
        return any(address_of(message.body) == self._packed for message in listed)

    def close(self, *, keep: bool = False) -> None:
        """Remove the address and its record, unless another process is to go on with it. Waits for the disk.

        Restore the settings afterwards, when the last address is gone.
        """
        if not keep:
            self.remove()
            write_record(self._record, {})
        self._socket.close()

    def _refused(self, verb: str, answer: netlink.Answer) -> KernelRefused:
        remedies = {
            errno.EPERM: "run as root or give the service CAP_NET_ADMIN",
            errno.EACCES: f"IPv6 is switched off on {DEVICE}: see net.ipv6.conf.{DEVICE}.disable_ipv6",
        }
        remedy = remedies.get(answer.errno) or answer.said or "nothing was changed"
        return KernelRefused(f"{verb} {self.ip} {'to' if verb == 'add' else 'from'} {DEVICE!r}", answer.errno, remedy)


def remove_leftovers(record: Path) -> str | None:
    """Remove the address that a process which crashed has left, and its record; return the address, None: none.

    For a start that does not need it any more; before the settings are restored. Waits for the disk.

    Raises:
        KernelRefused: no permission, or the record cannot be read.
    """
    ip = read_record(record).get("loopback")
    if not isinstance(ip, str):
        return None
    opened = RouteSocket()
    try:
        answer = opened.request(_request(netlink.RTM_DELADDR, ipaddress.ip_address(ip).packed))
    finally:
        opened.close()
    if answer.errno not in (0, errno.EADDRNOTAVAIL):
        raise KernelRefused(f"remove {ip} from {DEVICE!r}", answer.errno, answer.said or "nothing was changed")
    write_record(record, {})
    return ip if answer.errno == 0 else None


def _request(kind: int, packed: bytes) -> bytearray:
    """Return the request that adds or removes the address, alone in its network.

    IPv4: of scope host, which is never chosen as a source. IPv6: deprecated, for the same reason (RFC 6724 §5), and
    without duplicate address detection.
    """
    version_4 = len(packed) == 4
    family = socket.AF_INET if version_4 else socket.AF_INET6
    scope = _SCOPE_HOST if version_4 else _SCOPE_GLOBAL
    body = ADDRESS_HEADER.pack(family, len(packed) * 8, 0, scope, netlink.device_index(DEVICE))
    body += _attribute(netlink.IFA_LOCAL, packed) + _attribute(netlink.IFA_ADDRESS, packed)
    flags = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK
    if kind == netlink.RTM_NEWADDR:
        flags |= netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
        if not version_4:
            body += _attribute(_IFA_FLAGS, struct.pack("=I", _NODAD | _NOPREFIXROUTE))
            body += _attribute(_IFA_CACHEINFO, _CACHEINFO.pack(0, _FOREVER_S, 0, 0))
    return bytearray(HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body)


def _attribute(kind: int, value: bytes) -> bytes:
    return netlink.ATTRIBUTE.pack(netlink.ATTRIBUTE.size + len(value), kind) + value

"""The virtual address on its device: put there, taken away, looked for. Only the exact address and prefix is touched.

Every method is synchronous and takes microseconds, so that dropping the address needs no other task to run.
"""

import errno
import ipaddress
import socket

from gateway.kernel import netlink
from gateway.kernel.netlink import KernelRefused, RouteSocket

_SECONDARY = 0x01  # IFA_F_SECONDARY


class VirtualAddress:
    """One address with its prefix length on one device of this network namespace. Messages are built here, once.

    An IPv6 address is added without duplicate address detection (it would be silent for a second, and for ever
    after a lost race) and deprecated, so that this host never chooses it as the source of its own connections.

    Raises:
        KernelRefused: this host has no such device (the message lists those that it has), or no netlink.
        ValueError: `ip` is not an IP address, or the prefix is too long for it.
    """

    def __init__(self, ip: str, prefix_length: int, device: str) -> None:
        interface = ipaddress.ip_interface(f"{ip}/{prefix_length}")
        self.ip = str(interface.ip)
        self.prefix_length = prefix_length
        self.device = device
        self._packed = interface.ip.packed
        self._network = interface.network
        self._family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        self._index = netlink.device_index(device)
        self._socket = RouteSocket()
        self._build()

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix_length}"

    @property
    def farewell(self) -> bytes:
        """The request that removes the address, for another process to send: sequence number 0, no answer wanted."""
        return self._farewell

    def close(self) -> None:
        """Close the netlink socket. The address stays as it is."""
        self._socket.close()

    def add(self) -> bool:
        """Put the address on the device. True: it was not there. False: it was there already.

        Raises:
            KernelRefused: no permission, or the device is gone.
        """
        answer = self._request("_add")
        if answer.errno in (0, errno.EEXIST):
            return answer.errno == 0
        raise self._refused("add", answer)

    def remove(self) -> bool:
        """Take the address with exactly this prefix from the device. False: it was not there, and nothing changed.

        Raises:
            KernelRefused: no permission.
        """
        at_risk = self._dependents()
        answer = self._request("_remove")
        if answer.errno == 0:
            for message in at_risk:
                self._socket.request(netlink.put_back_request(message))
        if answer.errno in (0, errno.EADDRNOTAVAIL, errno.ENODEV):
            return answer.errno == 0
        raise self._refused("remove", answer)

    def _dependents(self) -> list[netlink.Message]:
        """Return the addresses that Linux may remove with ours.

        Of IPv4 addresses with one prefix on one network the first is primary, and without promote_secondaries the
        others go with it. A /32 is alone in its network.
        """
        if self._family != socket.AF_INET or self.prefix_length == 32:
            return []
        return [message for message in self._socket.dump(self._list) if self._is_dependent(message)]

    def _is_dependent(self, message: netlink.Message) -> bool:
        _, prefix_length, flags, _, index = netlink.ADDRESS_HEADER.unpack_from(message.body)
        packed = address_of(message.body)
        like_ours = prefix_length == self.prefix_length and index == self._index and packed != self._packed
        return bool(flags & _SECONDARY) and like_ours and ipaddress.ip_address(packed) in self._network

    def present(self) -> bool:
        """Return whether the device holds the address with exactly this prefix."""
        try:
            messages = self._socket.dump(self._list)
        except KernelRefused as refused:
            if refused.errno == errno.ENODEV:
                return False
            raise
        return any(self._is_ours(message) for message in messages)

    def _is_ours(self, message: netlink.Message) -> bool:
        _, prefix_length, _, _, index = netlink.ADDRESS_HEADER.unpack_from(message.body)
        return prefix_length == self.prefix_length and index == self._index and address_of(message.body) == self._packed

    def _request(self, which: str) -> netlink.Answer:
        answer = self._socket.request(getattr(self, which))
        if answer.errno != errno.ENODEV:
            return answer
        # A device that was deleted and made anew keeps its name and gets another index.
        index = netlink.device_index(self.device) if which == "_add" else _index_or_none(self.device)
        if index is None or index == self._index:
            return answer
        self._index = index
        self._build()
        return self._socket.request(getattr(self, which))

    def _build(self) -> None:
        self._add = netlink.address_request("address-add", self.ip, self.prefix_length, self._index)
        self._remove = netlink.address_request("address-remove", self.ip, self.prefix_length, self._index)
        self._farewell = netlink.without_answer(self._remove)
        self._list = netlink.address_dump_request(self._family, self._index)

    def _refused(self, verb: str, answer: netlink.Answer) -> KernelRefused:
        remedies = {
            errno.EPERM: "run as root or give the service CAP_NET_ADMIN",
            errno.EACCES: f"IPv6 is switched off on {self.device}: see net.ipv6.conf.{self.device}.disable_ipv6",
            errno.ENODEV: f"the device {self.device!r} has gone away",
        }
        remedy = remedies.get(answer.errno) or answer.said or "nothing was changed"
        preposition = "to" if verb == "add" else "from"
        return KernelRefused(f"{verb} {self} {preposition} {self.device!r}", answer.errno, remedy)


def address_of(body: memoryview) -> bytes:
    """Return the packed address of an RTM_*ADDR message, b"" where it has none.

    IFA_ADDRESS is the peer's address on a point-to-point link; where IFA_LOCAL is given, it is the host's own.
    """
    found = b""
    for kind, value in netlink.attributes(body, netlink.ADDRESS_HEADER.size):
        if kind == netlink.IFA_LOCAL:
            return bytes(value)
        if kind == netlink.IFA_ADDRESS:
            found = bytes(value)
    return found


def local_addresses() -> frozenset[str]:
    """Return every IP address that this host's devices hold, as text. Synchronous; for the start.

    Raises:
        KernelRefused: the kernel cannot be asked.
    """
    packed = (address_of(message.body) for message in _dump(netlink.address_dump_request()))
    return frozenset(str(ipaddress.ip_address(address)) for address in packed if address)


def addresses_of(device: str) -> list[str]:
    """Return the IPv4 addresses of one device, the kernel's first choice first.

    Raises:
        KernelRefused: the kernel cannot be asked, or there is no such device.
    """
    request = netlink.address_dump_request(socket.AF_INET, netlink.device_index(device))
    packed = (address_of(message.body) for message in _dump(request))
    return [str(ipaddress.ip_address(address)) for address in packed if address]


def _dump(request: bytearray) -> list[netlink.Message]:
    opened = RouteSocket()
    try:
        return opened.dump(request)
    finally:
        opened.close()


def _index_or_none(device: str) -> int | None:
    try:
        return netlink.device_index(device)
    except KernelRefused:
        return None

"""Rouse: make clients notice that the server of their open connection is gone, also those that say nothing.

Rule: only a client's own words end its connection; what is sent here says nothing but "are you still there?".

After a switch an open connection's next packet reaches a server that does not know it, and is answered by a reset. A
client that only waits sends no packet, and waits on. So it is sent a segment that no connection can be in: SYN and ACK,
from the address that it knows. Whatever the sequence number, it answers with an ACK that has its own right numbers
(RFC 9293 §3.10.7.4, RFC 5961 §4.2), and this packet gets it the reset. A SYN alone would be dropped by the stateful
filters of clients. Linux answers one such segment of a connection in 0.5 s (tcp_invalid_ratelimit).
"""

import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import Final

from gateway.kernel.conntrack import Flow
from gateway.kernel.netlink import KernelRefused

ROUSED_MAX: Final = 50_000  # of one switch: a second's work
_SO_MARK: Final = 36
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")  # RFC 791 §3.1
_IPV6: Final = struct.Struct("!IHBB16s16s")  # RFC 8200 §3
_TCP: Final = struct.Struct("!HHIIBBHHH")  # RFC 9293 §3.1
_SYN_ACK: Final = 0x12
_HOPS: Final = 64


def rouse(flows: Iterable[Flow], mark: int) -> int:
    """Send each established flow's client one segment that it has to answer; return how many were sent.

    Args:
        flows: as their clients opened them: the target is the virtual address.
        mark: of the packets, which a rule keeps out of connection tracking.

    Raises:
        KernelRefused: no permission for raw sockets.
    """
    sent = 0
    with _raw(socket.AF_INET, mark) as version_4, _raw(socket.AF_INET6, mark) as version_6:
        for flow in flows:
            if not flow.established or flow.protocol != socket.IPPROTO_TCP:
                continue
            if sent >= ROUSED_MAX:
                break
            chosen = version_4 if len(flow.source) == 4 else version_6
            to = str(ipaddress.ip_address(flow.source))
            try:
                chosen.sendto(_packet(flow), (to, 0))
            except OSError:  # no route any more, a queue is full: this client finds out by itself, as all did once
                continue
            sent += 1
    return sent


def _packet(flow: Flow) -> bytes:
    """Return the packet, from the virtual address to the client."""
    tcp = _TCP.pack(flow.target_port, flow.source_port, 0, 0, 5 << 4, _SYN_ACK, 0, 0, 0)
    ends = flow.target + flow.source
    summed = _checksum(ends + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp)) + tcp)
    tcp = tcp[:16] + summed.to_bytes(2, "big") + tcp[18:]
    if len(flow.source) == 16:
        return _IPV6.pack(6 << 28, len(tcp), socket.IPPROTO_TCP, _HOPS, flow.target, flow.source) + tcp
    # The kernel fills in the length, the identification and the sum (raw(7)).
    header = _IPV4.pack(0x45, 0, 20 + len(tcp), 0, 0, _HOPS, socket.IPPROTO_TCP, 0, flow.target, flow.source)
    return header + tcp


def _checksum(data: bytes) -> int:
    """Return the internet checksum of an even number of bytes (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _raw(family: int, mark: int) -> socket.socket:
    try:
        opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
        opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    except OSError as error:
        remedy = "run as root or give the service CAP_NET_RAW and CAP_NET_ADMIN"
        raise KernelRefused("tell clients of a switch", error.errno or 0, remedy) from error
    return opened

"""Rouse: make clients notice that the server of their open connection is gone, also those that say nothing.

Rule: only a client's own words end its connection; what is sent here says nothing but "are you still there?".

After a switch an open connection's next packet reaches a server that does not know it, and is answered by a reset. A
client that only waits sends no packet, and waits on. So it is sent a segment that no connection can be in: SYN and ACK,
from the address that it knows. Whatever the sequence number, it answers with an ACK that has its own right numbers
(RFC 9293 §3.10.7.4, RFC 5961 §4.2), and this packet gets it the reset. A SYN alone would be dropped by the stateful
filters of clients, and start a flow on this host. Linux answers one such segment of a connection in 0.5 s
(tcp_invalid_ratelimit).
"""

import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from gateway.kernel.conntrack import Flow
from gateway.kernel.netlink import KernelRefused

ROUSED_MAX: Final = 50_000  # of one switch: a second's work
_SO_SNDBUFFORCE: Final = 32  # of asm-generic/socket.h
_QUEUED_BYTES_MAX: Final = 32 << 20  # some 40,000 packets that the device has not sent yet; beyond, they are not sent
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")  # RFC 791 §3.1
_IPV6: Final = struct.Struct("!IHBB16s16s")  # RFC 8200 §3
_TCP: Final = struct.Struct("!HHIIHHHH")  # RFC 9293 §3.1
_FLAGS: Final = 5 << 12 | 0x12  # a header of five words; SYN and ACK
_WORDS_4, _WORDS_6 = struct.Struct("!4H"), struct.Struct("!16H")
_HOPS: Final = 64


class Roused(NamedTuple):
    """How many connections were open, and how many of their clients were told."""

    connections: int
    roused: int


def rouse(flows: Iterable[Flow]) -> Roused:
    """Send each established flow's client one segment that it has to answer.

    Args:
        flows: as their clients opened them: the target is the virtual address.

    Raises:
        KernelRefused: no permission for raw sockets.
    """
    connections = sent = 0
    with _raw(socket.AF_INET) as version_4, _raw(socket.AF_INET6) as version_6:
        for flow in flows:
            if not flow.established or flow.protocol != socket.IPPROTO_TCP:
                continue
            connections += 1
            if sent >= ROUSED_MAX:
                continue
            family, chosen = (socket.AF_INET, version_4) if len(flow.source) == 4 else (socket.AF_INET6, version_6)
            try:
                chosen.sendto(_packet(flow), (socket.inet_ntop(family, flow.source), 0))
            except OSError:  # no route any more, a queue is full: this client finds out by itself, as all did once
                continue
            sent += 1
    return Roused(connections, sent)


def _packet(flow: Flow) -> bytes:
    """Return the packet, from the virtual address to the client."""
    source, target, client, port = flow.target, flow.source, flow.source_port, flow.target_port
    if len(source) == 16:
        sum_of = _WORDS_6.unpack(source + target)
        header = _IPV6.pack(6 << 28, _TCP.size, socket.IPPROTO_TCP, _HOPS, source, target)
    else:
        sum_of = _WORDS_4.unpack(source + target)
        # The kernel fills in the identification and the sum (raw(7)).
        header = _IPV4.pack(0x45, 0, 20 + _TCP.size, 0, 0, _HOPS, socket.IPPROTO_TCP, 0, source, target)
    # RFC 1071, RFC 9293 §3.1: over addresses, protocol, length, and what is not zero in the segment.
    total = sum(sum_of) + socket.IPPROTO_TCP + _TCP.size + port + client + _FLAGS
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return header + _TCP.pack(port, client, 0, 0, _FLAGS, 0, ~total & 0xFFFF, 0)


def _raw(family: int) -> socket.socket:
    try:
        opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
        opened.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _QUEUED_BYTES_MAX)
    except OSError as error:
        remedy = "run as root or give the service CAP_NET_RAW and CAP_NET_ADMIN"
        raise KernelRefused("tell clients of a switch", error.errno or 0, remedy) from error
    return opened

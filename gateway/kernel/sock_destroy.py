"""Orphans: TCP connections at a virtual address whose packets go to another host now. Destroyed through sock_diag.

Rule: only sockets whose own address is the given one, and never one that listens. The peer gets a reset.

After `forward direct` has switched to another manager, this host never hears of its old connections again: the peers'
resets go to the new one. Without this the sockets stay until keepalive or a retransmission limit ends them.
"""

import errno
import ipaddress
import socket
import struct
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from gateway.kernel import netlink
from gateway.kernel.netlink import HEADER, KernelRefused, Message

SOCKETS_MAX: Final = 100_000  # looked at in one call, 2 s; more are left to the next one
_AT_ONCE: Final = 128  # requests in one datagram, whose refusals must fit into the socket's queue

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21  # linux/sock_diag.h; SOCK_DESTROY: Linux 4.5
_BYTECODE = 1  # INET_DIAG_REQ_BYTECODE
_SOURCE_IS = 7  # INET_DIAG_BC_S_COND
_REQUEST = struct.Struct("=BBBxI48s")  # struct inet_diag_req_v2: family, protocol, extensions, states, socket's id
_MESSAGE = struct.Struct("=BBBB48s")  # struct inet_diag_msg: family, state, timer, retransmissions, socket's id
_OPERATION = struct.Struct("=BBH")  # struct inet_diag_bc_op: code, bytes to the next, bytes to go on at if untrue
_HOST = struct.Struct("=BBxxi")  # struct inet_diag_hostcond: family, prefix length, port (-1: any); address follows
_ANY_PORT = -1
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 §2.5.5.2
# Neither LISTEN (10), nor what has no peer to tell: CLOSE (7), TIME_WAIT (6).
_STATES = sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 11, 12))


class Destroyed(NamedTuple):
    """What became of the connections: destroyed, ended by themselves meanwhile, left because this kernel can't."""

    destroyed: int
    gone: int
    left: int


def destroy_connections(
    ip: str, port: int | None = None, *, peers: Collection[str] = (), sockets_max: int = SOCKETS_MAX
) -> Destroyed:
    """Destroy this host's TCP connections whose own address is `ip` (and own port `port`), IPv4 on IPv6 sockets too.

    Only those with one of `peers`, where there are any.

    Takes 10 to 20 us for each, the reset on its way included, and a millisecond to find them: call it in a thread,
    while the host still holds the address (a reset needs it as its source). Where the kernel has no
    CONFIG_INET_DIAG_DESTROY they are counted as left, and keepalive has to end them.

    Raises:
        KernelRefused: no permission, or the kernel has no sock_diag.
    """
    address = ipaddress.ip_address(ip)
    families = (socket.AF_INET, socket.AF_INET6) if address.version == 4 else (socket.AF_INET6,)
    wanted = frozenset(ipaddress.ip_address(peer).packed for peer in peers)
    total = Destroyed(0, 0, 0)
    for family in families:
        with _open() as listing:  # closed with what it would still list
            found = _connections(listing, family, address.packed, port, wanted, sockets_max)
        with _open() as opened:
            for start in range(0, len(found), _AT_ONCE):
                done = _destroy(opened, found[start : start + _AT_ONCE])
                total = Destroyed(*(one + other for one, other in zip(total, done, strict=True)))
    return total


def _open() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)
    except OSError as error:
        raise KernelRefused("open a sock_diag socket", error.errno or 0, "the kernel needs CONFIG_INET_DIAG") from error
    opened.setsockopt(netlink.SOL_NETLINK, netlink.NETLINK_CAP_ACK, 1)
    return opened


def _connections(
    opened: socket.socket, family: int, packed: bytes, port: int | None, peers: frozenset[bytes], sockets_max: int
) -> list[tuple[int, bytes]]:
    """Return family and id of each connection that the kernel finds."""
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _STATES, bytes(48)) + _own_address_is(packed, port)
    flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
    _send(opened, HEADER.pack(HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body)
    found: list[tuple[int, bytes]] = []
    for part in _answers(opened):
        if part.kind == netlink.NLMSG_DONE:
            return found
        if part.kind == netlink.NLMSG_ERROR:
            (code,) = struct.unpack_from("=i", part.body)
            remedy = "the kernel needs CONFIG_INET_TCP_DIAG (module tcp_diag)"
            raise KernelRefused("list this host's connections", -code, remedy)
        if len(found) >= sockets_max:
            return found  # who has thousands of connections is not held up by those that are not wanted
        of_family, _, _, _, identity = _MESSAGE.unpack_from(part.body)
        if not peers or _peer_of(of_family, identity) in peers:
            found.append((of_family, identity))
    return found  # cut short: the next call sees the rest


def _peer_of(family: int, identity: bytes) -> bytes:
    """Return the peer's address in a socket's identity: two ports, own address (16 bytes), peer's (16 bytes), ..."""
    packed = identity[20:36]
    if family == socket.AF_INET:
        return packed[:4]
    return packed[12:] if packed.startswith(_MAPPED) else packed


def _own_address_is(packed: bytes, port: int | None) -> bytes:
    """Return the filter as an attribute: one condition, which lets pass or jumps past the end, which refuses.

    A condition on an IPv4 address is true of an IPv6 socket with that address mapped, too.
    """
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    host = _HOST.pack(family, len(packed) * 8, _ANY_PORT if port is None else port) + packed
    length = _OPERATION.size + len(host)
    program = _OPERATION.pack(_SOURCE_IS, length, length + 4) + host
    return netlink.ATTRIBUTE.pack(netlink.ATTRIBUTE.size + len(program), _BYTECODE) + program


def _destroy(opened: socket.socket, found: list[tuple[int, bytes]]) -> Destroyed:
    """Destroy these; an identity holds the socket's cookie, so that a new one on the same ports is not meant."""
    data = bytearray()
    for number, (family, identity) in enumerate(found, 1):
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _STATES, identity)
        flags = netlink.NLM_F_REQUEST | (netlink.NLM_F_ACK if number == len(found) else 0)
        data += HEADER.pack(HEADER.size + len(body), _SOCK_DESTROY, flags, number, 0) + body
    _send(opened, data)
    gone, left = 0, 0
    for part in _answers(opened):
        if part.kind != netlink.NLMSG_ERROR:
            continue
        (code,) = struct.unpack_from("=i", part.body)
        if code in (-errno.ENOENT, -errno.ESTALE):
            gone += 1
        elif code == -errno.EOPNOTSUPP:
            left += 1
        elif code:
            raise KernelRefused("destroy a connection", -code, "run as root or give the service CAP_NET_ADMIN")
        if part.sequence == len(found):
            break
    return Destroyed(len(found) - gone - left, gone, left)


def _send(opened: socket.socket, data: bytes | bytearray) -> None:
    try:
        opened.send(data)
    except OSError as error:
        raise KernelRefused("ask sock_diag", error.errno or 0, "nothing was changed") from error


def _answers(opened: socket.socket) -> Iterator[Message]:
    """Yield the answers to what was sent: all is in the queue, or is made while it is read."""
    while True:  # until the queue is empty
        try:
            data = opened.recv(netlink.ANSWER_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError as error:
            raise KernelRefused("read sock_diag's answer", error.errno or 0, "what it did is unknown") from error
        yield from netlink.split(data)

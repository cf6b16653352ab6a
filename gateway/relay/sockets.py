"""Sockets of the relay: how each kind is made. All non-blocking; addresses are IPv4 or IPv6 literals, never names."""

import contextlib
import errno
import os
import socket
import struct
from typing import Any

from gateway.relay.messages import Listener, WhenDown

# <linux/in.h>, <linux/in6.h>: not in Python's socket module.
IP_FREEBIND = 15
IPV6_FREEBIND = 78
IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75
IP_BIND_ADDRESS_NO_PORT = 24
_SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>

LISTEN_BACKLOG = 4_096  # the kernel cuts it to net.core.somaxconn; a whole pool reconnects at once after a switch
UDP_RECEIVE_BYTES = 16 << 20  # a burst waits here for our turn: half a second of 20,000 datagrams of 1 KB a second

# A peer that vanished without a word is found after 2 + 4 x 0.5 minutes: long against any outage that a failover
# bridges, short against the days that a daemon's update connection lives.
KEEPALIVE_IDLE_S = 120
KEEPALIVE_INTERVAL_S = 30
KEEPALIVE_PROBES = 4

# Keepalive is silent while data is on its way: a server's host that has vanished behind a router with a question of
# ours would be waited for as long as net.ipv4.tcp_retries2 says, some 15 minutes (on our own segment the kernel knows
# after 3 s: nobody answers ARP). TCP_USER_TIMEOUT bounds it, and has two more effects (Linux 6.18, measured):
# - a peer that acknowledges every probe of its closed window, but takes nothing, is cut as well. So it is not for
#   clients: a negotiator in its cycle reads nothing for minutes. A collector for which that is true is long deaf to the
#   checks, and another one elected; and only who has sent it more than its buffers hold is cut.
# - keepalive ends by it instead of by its own number of probes, at the first unanswered one after that time. Less than
#   what keepalive takes would end connections for one lost packet: hence the same.
USER_TIMEOUT_MS = (KEEPALIVE_IDLE_S + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL_S) * 1_000

_LINGER_RESET = struct.pack("ii", 1, 0)

Address = tuple[Any, ...]  # (host, port) or (host, port, flowinfo, scope)


def family_of(host: str) -> socket.AddressFamily:
    """Return the address family of a literal; raise `OSError` (from inet_pton) where `host` is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.inet_pton(family, host)  # a name would send us to a resolver, which blocks
    return family


def keep_alive(sock: socket.SocketType) -> None:
    """Let the kernel ask a silent peer whether it still lives."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def outlive(sock: socket.SocketType) -> None:
    """Let the kernel find out when the server of a connection that lasts is gone, also while data is on its way."""
    keep_alive(sock)
    if not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):  # a view's is shorter
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


def bind(settings: Listener) -> socket.socket:
    """Return a socket bound as `settings` say, not yet listening. Raises `OSError` with the kernel's errno."""
    family = family_of(settings.host)
    tcp = settings.protocol == "tcp"
    sock = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if tcp:
            # Accepted sockets inherit all of this from their listener (Linux), which saves five calls each.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock)
            if settings.hello_ms and settings.when_down is WhenDown.HOLD:
                _acknowledge_by_answers(sock)
            # For TCP only: on UDP it would let two relays share a port, and each get some of the datagrams.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_RECEIVE_BYTES)
            with contextlib.suppress(PermissionError):  # without CAP_NET_ADMIN it is as much as net.core.rmem_max
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, UDP_RECEIVE_BYTES)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if settings.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if settings.freebind:
            if family is socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        sock.bind((settings.host, settings.port))
    except BaseException:
        sock.close()
        raise
    return sock


def listen(settings: Listener) -> socket.socket:
    """Return a bound socket, for TCP a listening one. Raises `OSError` with the kernel's errno.

    EPERM: `transparent` needs CAP_NET_ADMIN (or CAP_NET_RAW). Said here, where it can be mended, not to each client.
    """
    if settings.transparent:
        with socket.socket(family_of(settings.host), socket.SOCK_STREAM) as probe:
            _be_transparent(probe, probe.family)
    sock = bind(settings)
    if settings.protocol == "tcp":
        try:
            sock.listen(LISTEN_BACKLOG)
        except BaseException:
            sock.close()
            raise
    return sock


def accept(listener: socket.socket, family: int) -> tuple[socket.SocketType, Address]:
    """Return the next client and its address. Raises `OSError` (EAGAIN, EMFILE, ECONNABORTED).

    A plain `SocketType`, because `socket.socket` costs more to make than all that we do with it: its `accept` looks
    up two enumerations and reads two settings back.
    """
    fd, address = listener._accept()  # type: ignore[attr-defined]
    sock = socket.SocketType(family, socket.SOCK_STREAM, 0, fd)
    sock.setblocking(False)  # the one setting that Linux does not inherit from the listener
    return sock, address


def server_stream(family: int, user_timeout_ms: int, *, speaks: bool) -> socket.SocketType:
    """Return a TCP socket, ready to connect. Raises `OSError` (EMFILE, ENFILE). Keep-alive comes later, see `tcp`.

    Args:
        family: of the server's address.
        user_timeout_ms: TCP_USER_TIMEOUT; 0 leaves the kernel's default.
        speaks: there is something to be sent as soon as it is connected.
    """
    sock = socket.SocketType(family, _STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if speaks:
        _acknowledge_by_answers(sock)
    if user_timeout_ms:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
    return sock


_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


def _acknowledge_by_answers(sock: socket.socket | socket.SocketType) -> None:
    """Let acknowledgements wait for data to go with (tcp(7), TCP_QUICKACK), up to 40 ms.

    Questions and answers take turns: this saves each connection some three packets of sixteen (measured: 8 % more
    connections a second). Bulk is acknowledged every other segment all the same.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


def come_from(sock: socket.SocketType, family: int, client: Address) -> None:
    """Let `sock` connect from the client's own address, from a port of the kernel's choice (ip(7), IP_TRANSPARENT).

    Raises `OSError`: EPERM without CAP_NET_ADMIN, EAFNOSUPPORT where the client's address is of the other IP version.
    """
    if (family == socket.AF_INET6) != (":" in client[0]):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    _be_transparent(sock, family)
    # The port is chosen at connect, where it need be free towards this one server only.
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((client[0], 0, *client[2:]))


def _be_transparent(sock: socket.SocketType, family: int) -> None:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)


def server_datagrams(family: int, server: tuple[str, int], client: Address | None = None) -> socket.SocketType:
    """Return a UDP socket connected to `server`, from the address of `client` where one is given (see `come_from`).

    Raises `OSError`: EMFILE, ENETUNREACH, and with a client EADDRINUSE where it has no free port.
    """
    sock = socket.SocketType(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if client is not None:
            come_from(sock, family, client)
        sock.connect(server)
    except BaseException:
        sock.close()
        raise
    return sock


def reset(sock: socket.SocketType) -> None:
    """Close `sock` so that its peer gets a RST: it must not take a broken stream for a finished one."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    finally:
        sock.close()

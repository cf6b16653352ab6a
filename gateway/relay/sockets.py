"""Sockets of the relay: how each kind is made. All non-blocking; addresses are IPv4 or IPv6 literals, never names."""

import socket
import struct

from gateway.relay.messages import Listener

# <linux/in.h>, <linux/in6.h>: not in Python's socket module.
IP_FREEBIND = 15
IPV6_FREEBIND = 78

LISTEN_BACKLOG = 4_096  # the kernel cuts it to net.core.somaxconn; a whole pool reconnects at once after a switch
UDP_RECEIVE_BYTES = 4 << 20  # asked for, cut by net.core.rmem_max: a burst of updates waits here for our turn

# A peer that vanished without a word is found after 2 + 4 x 0.5 minutes: long against any outage that a failover
# bridges, short against the days that a daemon's update connection lives.
KEEPALIVE_IDLE_S = 120
KEEPALIVE_INTERVAL_S = 30
KEEPALIVE_PROBES = 4

_LINGER_RESET = struct.pack("ii", 1, 0)


def family_of(host: str) -> socket.AddressFamily:
    """Return the address family of a literal; raise `OSError` (from inet_pton) where `host` is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.inet_pton(family, host)  # a name would send us to a resolver, which blocks
    return family


def _prepare(sock: socket.socket, *, keepalive: bool) -> None:
    sock.setblocking(False)
    if keepalive:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def bind(settings: Listener) -> socket.socket:
    """Return a socket bound as `settings` say, not yet listening. Raises `OSError` with the kernel's errno."""
    family = family_of(settings.host)
    tcp = settings.protocol == "tcp"
    sock = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    try:
        # Accepted sockets inherit all of this from their listener (Linux), which saves five calls each.
        _prepare(sock, keepalive=tcp)
        if tcp:
            # For TCP only: on UDP it would let two relays share a port, and each get some of the datagrams.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_RECEIVE_BYTES)
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
    """Return a bound socket, for TCP a listening one. Raises `OSError` with the kernel's errno."""
    sock = bind(settings)
    if settings.protocol == "tcp":
        try:
            sock.listen(LISTEN_BACKLOG)
        except BaseException:
            sock.close()
            raise
    return sock


def server_stream(host: str, user_timeout_ms: int) -> socket.socket:
    """Return a TCP socket, ready to connect to `host`. Raises `OSError` (EMFILE, ENFILE)."""
    sock = socket.socket(family_of(host), socket.SOCK_STREAM)
    try:
        _prepare(sock, keepalive=True)
        if user_timeout_ms:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
    except BaseException:
        sock.close()
        raise
    return sock


def server_datagrams(host: str, port: int) -> socket.socket:
    """Return a UDP socket connected to the server. Raises `OSError` (EMFILE, ENETUNREACH)."""
    sock = socket.socket(family_of(host), socket.SOCK_DGRAM)
    try:
        _prepare(sock, keepalive=False)
        sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def reset(sock: socket.socket) -> None:
    """Close `sock` so that its peer gets a RST: it must not take a broken stream for a finished one."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    finally:
        sock.close()

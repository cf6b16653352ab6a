"""Preflight: what must be true before a node starts. Changes nothing on the host; a refusal is one sentence."""

import errno
import os
import socket
from collections.abc import Iterable

from gateway.config.settings import Address, Peer, Settings
from gateway.kernel.neighbour import who_has
from gateway.kernel.netlink import KernelRefused
from gateway.relay.messages import Listener

PROBE_WAIT_MS = 600  # three probes 200 ms apart: RFC 5227 §1.1 waits 1-2 s each, for hosts that are asleep
PROBE_COUNT = 3
_IP_FREEBIND = 15  # <linux/in.h>; not in Python's socket module before 3.14
_IPV6_FREEBIND = 78


class StartRefused(Exception):  # noqa: N818 (an answer to the operator)
    """This node can't start here; the sentence says why and what to do."""


def require_root() -> None:
    """Raise `StartRefused` unless this process may change addresses and sockets of the host."""
    if os.geteuid() != 0:
        raise StartRefused("condor-gateway must be started as root: it moves an address and opens raw sockets")


def require_free_ports(listeners: Iterable[Listener]) -> None:
    """Raise `StartRefused` where a port that the relay needs is taken by another program."""
    for listener in listeners:
        family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
        kind = socket.SOCK_DGRAM if listener.protocol == "udp" else socket.SOCK_STREAM
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1 if kind == socket.SOCK_STREAM else 0)
            if listener.freebind:
                level, option = (
                    (socket.IPPROTO_IPV6, _IPV6_FREEBIND) if ":" in listener.host else (socket.IPPROTO_IP, _IP_FREEBIND)
                )
                trial.setsockopt(level, option, 1)
            try:
                trial.bind((listener.host, listener.port))
                if kind == socket.SOCK_STREAM:
                    trial.listen(1)
            except OSError as error:
                where = f"{listener.protocol.upper()} port {listener.host}:{listener.port} of '{listener.name}'"
                if error.errno == errno.EADDRINUSE:
                    raise StartRefused(
                        f"{where} is in use on this host: stop what listens there "
                        f"('ss -lnp sport = :{listener.port}' shows it), or bind it to this host's own address"
                    ) from error
                raise StartRefused(f"cannot listen on {where}: {error.strerror}") from error


async def require_no_stranger(settings: Settings, address: Address, me: Peer) -> None:
    """Raise `StartRefused` where a host that is no holder answers for the virtual address.

    A holder that answers is the cluster at work. IPv4 only: for IPv6 there is no probe without an address of one's own.
    """
    if ":" in address.ip:
        return
    try:
        macs = await who_has(address.ip, address.device, wait_ms=PROBE_WAIT_MS, count=PROBE_COUNT)
        for holder in address.holders:
            if macs and holder != me.name:
                known = await who_has(
                    settings.peer(holder).endpoint.host, address.device, wait_ms=PROBE_WAIT_MS, count=PROBE_COUNT
                )
                macs -= known
    except KernelRefused as error:
        raise StartRefused(str(error)) from error
    if macs:
        strangers = ", ".join(sorted(macs))
        raise StartRefused(
            f"address {address.ip} of '{address.name}' is answered on {address.device} by {strangers}, which is none "
            f"of its holders ({', '.join(address.holders)}): find that host and take the address from it"
        )

"""Preflight: what must be true before a node starts. Changes nothing on the host; a refusal is one sentence."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from gateway.config.settings import Address, Peer, Settings
from gateway.kernel.address import addresses_of
from gateway.kernel.ethernet import device_macs
from gateway.kernel.neighbour import answering_macs, who_has
from gateway.kernel.netlink import KernelRefused
from gateway.relay.messages import Listener

PROBE_WAIT_MS = 600  # three probes 200 ms apart: RFC 5227 §1.1 waits 1-2 s each, for hosts that are asleep
PROBE_COUNT = 3
FLUX_WAIT_MS = 100  # the question goes once around this host's own segment
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

    A holder that answers is the cluster at work.
    """
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


async def address_hazards(address: Address) -> list[str]:
    """Return what on this host could harm `address`: one sentence each, with its remedy. Changes nothing."""
    hazards = []
    if ":" not in address.ip:
        if address.prefix_length < 32 and not sysctl(address.device, "promote_secondaries"):
            hazards.append(
                f"'{address.name}' has a /{address.prefix_length} prefix on {address.device}: removing it may take "
                "this host's own addresses of that network along; write /32, or set "
                f"net.ipv4.conf.{address.device}.promote_secondaries=1"
            )
        hazards += await _flux(address)
    return hazards


async def _flux(address: Address) -> list[str]:
    """Ask, by ARP, for an address that this host has on the device; no other device of this host should answer.

    With arp_ignore=0 Linux answers for any of its addresses on any of its devices. On a second device of the same
    segment it would answer for the virtual address with a MAC that nobody announces and that no fence guards.
    """
    try:
        own = addresses_of(address.device)
        if not own:
            return []
        devices = {mac: device for device, mac in device_macs().items()}
        macs = await answering_macs(own[0], address.device, wait_ms=FLUX_WAIT_MS, count=1)
    except KernelRefused as error:
        return [f"cannot tell whether other devices answer for '{address.name}': {error}"]
    others = sorted(devices[mac] for mac in macs if mac in devices and devices[mac] != address.device)
    if not others:
        return []
    return [
        f"{', '.join(others)} of this host answers ARP for addresses of {address.device}, so '{address.name}' would "
        "have two MACs, one of them unfenced: set net.ipv4.conf.all.arp_ignore=1 and net.ipv4.conf.all.arp_announce=2"
    ]


def sysctl(device: str, name: str) -> int:
    """Return an IPv4 setting as it counts for `device`: the greater of its own and that of `all`; 0 where unreadable.

    The kernel's files: a read takes microseconds and never waits.
    """
    values = [0]
    for scope in ("all", device):
        with contextlib.suppress(OSError, ValueError):
            values.append(int(Path(f"/proc/sys/net/ipv4/conf/{scope}/{name}").read_text()))
    return max(values)

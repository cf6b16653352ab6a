"""Maker: prints the templates of `gateway.kernel.templates` as JSON, then ends. Alone imports scapy and pyroute2.

Run as `python -m gateway.kernel.maker`; the addresses in what it prints are the marks of that module.
"""

import ipaddress
import json
import logging
import socket
import sys
from typing import Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

from gateway.kernel import netlink
from gateway.kernel.templates import MARKS

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # it warns of a host without routes when imported

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6  # noqa: E402
from scapy.layers.l2 import ARP, Ether  # noqa: E402

_IFA_F_NODAD = 0x02
_LIFETIME_FOREVER_S = 0xFFFFFFFF
_BROADCAST = "ff:ff:ff:ff:ff:ff"
_NO_MAC = "00:00:00:00:00:00"


def frames() -> dict[str, bytes]:
    """Return every frame that this program sends, by name."""
    mac = MARKS["mac"].hex(":")
    ipv4 = str(ipaddress.IPv4Address(MARKS["ipv4"]))
    ipv6 = str(ipaddress.IPv6Address(MARKS["ipv6"]))
    tail = MARKS["ipv6_tail"]
    everybody = Ether(src=mac, dst=_BROADCAST)
    made: dict[str, Any] = {
        # RFC 5227 §3: sender and target are the address itself.
        "arp-request": everybody / ARP(op=1, hwsrc=mac, psrc=ipv4, hwdst=_NO_MAC, pdst=ipv4),
        # Linux takes a reply for gratuitous, and then overrides an entry that is younger than its locktime, only if
        # the target MAC is the sender's; RFC 5944 §4.6 asks for that too.
        "arp-reply": everybody / ARP(op=2, hwsrc=mac, psrc=ipv4, hwdst=mac, pdst=ipv4),
        # RFC 5227 §2.1.1: from 0.0.0.0, so that it changes nobody's cache.
        "arp-probe": everybody / ARP(op=1, hwsrc=mac, psrc="0.0.0.0", hwdst=_NO_MAC, pdst=ipv4),
        # RFC 4861 §7.2.6: unsolicited, to all nodes, overriding what they have cached.
        "advertisement": Ether(src=mac, dst="33:33:00:00:00:01")
        / IPv6(src=ipv6, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=ipv6, R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=mac),
        # RFC 4862 §5.4.2: from the unspecified address, hence without the option of the sender's MAC.
        "solicitation": Ether(src=mac, dst="33:33:ff:" + tail.hex(":"))
        / IPv6(src="::", dst=f"ff02::1:ff{tail[0]:02x}:{tail[1:].hex()}", hlim=255)
        / ICMPv6ND_NS(tgt=ipv6),
    }
    return {name: bytes(frame) for name, frame in made.items()}


def address_requests() -> dict[str, bytes]:
    """Return the requests that add and remove an address, by name; device and prefix length are zero.

    An IPv6 address is added without duplicate address detection (it would be silent for a second, and for ever
    after a lost race) and deprecated, so that this host never chooses it as the source of its own connections.
    """
    ipv4 = str(ipaddress.IPv4Address(MARKS["ipv4"]))
    ipv6 = str(ipaddress.IPv6Address(MARKS["ipv6"]))
    lifetime = {"ifa_preferred": 0, "ifa_valid": _LIFETIME_FOREVER_S, "cstamp": 0, "tstamp": 0}
    silent = [("IFA_FLAGS", _IFA_F_NODAD), ("IFA_CACHEINFO", lifetime)]
    return {
        "address-add-ipv4": _address_request(netlink.RTM_NEWADDR, socket.AF_INET, ipv4, []),
        "address-add-ipv6": _address_request(netlink.RTM_NEWADDR, socket.AF_INET6, ipv6, silent),
        "address-remove-ipv4": _address_request(netlink.RTM_DELADDR, socket.AF_INET, ipv4, []),
        "address-remove-ipv6": _address_request(netlink.RTM_DELADDR, socket.AF_INET6, ipv6, []),
    }


def _address_request(kind: int, family: int, ip: str, extra: list[tuple[str, object]]) -> bytes:
    create = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL if kind == netlink.RTM_NEWADDR else 0
    message = ifaddrmsg()
    message["family"] = family
    message["attrs"] = [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip), *extra]
    message["header"] = {
        "type": kind,
        "flags": netlink.NLM_F_REQUEST | netlink.NLM_F_ACK | create,
        "sequence_number": 0,
        "pid": 0,
    }
    message.encode()
    return bytes(message.data)


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: data.hex() for name, data in (frames() | address_requests()).items()}))

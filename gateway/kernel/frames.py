"""Frames: every frame that this program sends, as bytes, for an address and a MAC. Made of templates in microseconds.

Rule: the form is scapy's; only addresses and the checksum over them are written here.
"""

import ipaddress

from gateway.kernel.templates import templates

_ETHERNET_BYTES = 14
_IPV6_BYTES = 40
_IPV6_ADDRESSES = 8  # where the two addresses begin in the IPv6 header
_NEXT_HEADER_ICMPV6 = 58
_CHECKSUM = 2  # where it stands in an ICMPv6 message


def arp_frames(ip: str, mac: str) -> tuple[bytes, ...]:
    """Return the gratuitous ARP request (RFC 5227 §3) and reply for IPv4 `ip` at `mac`.

    Raises:
        TemplatesMissing: the first call of a process makes the templates, and could not.
    """
    return _arp("arp-request", ip, mac), _arp("arp-reply", ip, mac)


def probe_frame(ip: str, mac: str) -> bytes:
    """Return the ARP probe of RFC 5227 §2.1.1: asks for `ip` from 0.0.0.0, so that it changes nobody's cache.

    Raises:
        TemplatesMissing: as for `arp_frames`.
    """
    return _arp("arp-probe", ip, mac)


def neighbour_frames(ip: str, mac: str) -> tuple[bytes, ...]:
    """Return the unsolicited neighbour advertisement for IPv6 `ip` at `mac` (RFC 4861 §7.2.6), to all nodes.

    Raises:
        TemplatesMissing: as for `arp_frames`.
    """
    return (_icmpv6("advertisement", ip, mac),)


def solicitation_frame(ip: str, mac: str) -> bytes:
    """Return the neighbour solicitation of duplicate address detection (RFC 4862 §5.4.2): asks for IPv6 `ip` from `::`.

    It changes nobody's cache; who has the address answers to all nodes (RFC 4861 §7.2.4).

    Raises:
        TemplatesMissing: as for `arp_frames`.
    """
    return _icmpv6("solicitation", ip, mac)


def announcement_frames(ip: str, mac: str) -> tuple[bytes, ...]:
    """Return the frames that announce `ip` at `mac`, of either family.

    Raises:
        TemplatesMissing: as for `arp_frames`.
    """
    build = arp_frames if ipaddress.ip_address(ip).version == 4 else neighbour_frames
    return build(ip, mac)


def question_frame(ip: str, mac: str) -> bytes:
    """Return the frame that asks who has `ip`, of either family, and changes nobody's cache.

    Raises:
        TemplatesMissing: as for `arp_frames`.
    """
    build = probe_frame if ipaddress.ip_address(ip).version == 4 else solicitation_frame
    return build(ip, mac)


def _arp(name: str, ip: str, mac: str) -> bytes:
    return bytes(templates()[name].filled({"ipv4": ipaddress.IPv4Address(ip).packed, "mac": _packed(mac)}))


def _icmpv6(name: str, ip: str, mac: str) -> bytes:
    packed = ipaddress.IPv6Address(ip).packed
    frame = templates()[name].filled({"ipv6": packed, "ipv6_tail": packed[-3:], "mac": _packed(mac)})
    message = _ETHERNET_BYTES + _IPV6_BYTES
    at = message + _CHECKSUM
    frame[at : at + 2] = bytes(2)
    addresses = frame[_ETHERNET_BYTES + _IPV6_ADDRESSES : message]
    # RFC 8200 §8.1: addresses, length and protocol as a pseudo-header, then the message itself.
    pseudo = addresses + (len(frame) - message).to_bytes(4, "big") + bytes((0, 0, 0, _NEXT_HEADER_ICMPV6))
    frame[at : at + 2] = _checksum(pseudo + frame[message:]).to_bytes(2, "big")
    return bytes(frame)


def _checksum(data: bytes | bytearray) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    assert len(data) % 2 == 0, "neighbour discovery messages have an even length"
    # The one's complement sum of 16-bit words is the number itself modulo 0xFFFF, where 0xFFFF stands for zero.
    return ~(int.from_bytes(data, "big") % 0xFFFF or 0xFFFF) & 0xFFFF


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))

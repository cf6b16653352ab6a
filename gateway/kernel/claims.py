"""Claims: which frame says that a host has an address, and which host. Decides nothing, and opens no socket.

ARP: whoever sends with the address as its own (RFC 5227 §2.4). IPv6: whoever advertises it, or solicits from it with
its MAC (RFC 4861 §7.2.3 and §7.2.5: both change caches). A probe is a question, not a claim.
"""

import ipaddress

from gateway.kernel import ethernet
from gateway.kernel.ethernet import ETH_P_ARP, ETH_P_IPV6, FRAME_BYTES_MAX, Instruction

# Classic BPF, linux/filter.h: load a word, half-word or byte at an offset, jump if equal, return.
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06

# Neighbour discovery in an Ethernet frame; it has no extension headers (RFC 4861 §6.1.1, §7.1).
_NEXT_HEADER, _HOP_LIMIT, _SOURCE, _TYPE, _TARGET, _OPTIONS = 20, 21, 22, 54, 62, 78
_ICMPV6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_SOURCE_MAC_OPTION, _TARGET_MAC_OPTION = 1, 2
_OPTIONS_MAX = 16  # a solicitation or an advertisement has one or two


def protocol_of(packed: bytes) -> int:
    """Return the EtherType in which an address of that length is claimed."""
    return ETH_P_ARP if len(packed) == 4 else ETH_P_IPV6


def claims_of(packed: bytes) -> tuple[Instruction, ...]:
    """Return a BPF program that lets only claims to the address `packed` (4 or 16 bytes) pass."""
    if len(packed) == 4:
        return _program([(_LOAD_HALF, 12, ETH_P_ARP), *_words(28, packed)])
    head = [(_LOAD_HALF, 12, ETH_P_IPV6), (_LOAD_BYTE, _NEXT_HEADER, _ICMPV6)]
    advertised = [(_LOAD_BYTE, _TYPE, _ADVERTISEMENT), *_words(_TARGET, packed)]
    solicited = [(_LOAD_BYTE, _TYPE, _SOLICITATION), *_words(_SOURCE, packed)]
    return _program([*head, *advertised], otherwise=_program([*head, *solicited]))


def claimant_untrusted(frame: bytes, packed: bytes) -> str | None:
    """Return the MAC that `frame` claims the address `packed` for; None where it claims nothing. Never raises."""
    if len(packed) == 4:
        arp = ethernet.parse_arp_untrusted(frame)
        return arp.sender_mac if arp is not None and arp.sender_ip == packed else None
    if len(frame) < _OPTIONS or int.from_bytes(frame[12:14], "big") != ETH_P_IPV6:
        return None
    if frame[_NEXT_HEADER] != _ICMPV6 or frame[_HOP_LIMIT] != 255:  # RFC 4861 §7.1: else it came through a router
        return None
    if frame[_TYPE] == _ADVERTISEMENT and frame[_TARGET:_OPTIONS] == packed:
        return _mac_in_options(frame, _TARGET_MAC_OPTION) or ethernet.mac_text(frame[6:12])
    if frame[_TYPE] == _SOLICITATION and frame[_SOURCE : _SOURCE + 16] == packed:
        return _mac_in_options(frame, _SOURCE_MAC_OPTION) or ethernet.mac_text(frame[6:12])
    return None


def packed_of(ip: str) -> bytes:
    """Return the 4 or 16 bytes of an address. Raises `ValueError` for what is none."""
    return ipaddress.ip_address(ip).packed


def _mac_in_options(frame: bytes, wanted: int) -> str | None:
    """Return the MAC of the first such option (RFC 4861 §4.6.1); None where there is none, or the list is broken."""
    at = _OPTIONS
    for _ in range(_OPTIONS_MAX):
        if at + 8 > len(frame) or frame[at + 1] == 0:
            return None
        if frame[at] == wanted:
            return ethernet.mac_text(frame[at + 2 : at + 8])
        at += frame[at + 1] * 8
    return None


def _words(offset: int, packed: bytes) -> list[tuple[int, int, int]]:
    return [
        (_LOAD_WORD, offset + place, int.from_bytes(packed[place : place + 4], "big"))
        for place in range(0, len(packed), 4)
    ]


def _program(
    conditions: list[tuple[int, int, int]], otherwise: tuple[Instruction, ...] = ()
) -> tuple[Instruction, ...]:
    """Return the program that takes the frame if every (load, offset, value) holds, and else goes on with another."""
    made = []
    for place, (load, offset, value) in enumerate(conditions):
        left = 2 * (len(conditions) - place) - 1  # instructions after this jump, up to what follows "take"
        made += [Instruction(load, 0, 0, offset), Instruction(_JUMP_EQUAL, 0, left, value)]
    take = Instruction(_RETURN, 0, 0, FRAME_BYTES_MAX)
    return (*made, take, *(otherwise or (Instruction(_RETURN, 0, 0, 0),)))

"""Fence rules: what the tables of a fence hold, as netlink messages. Encodes only; nothing is sent here.

The strong form is one netdev table: its egress chain (Linux 5.16) sees every frame that leaves the device. The weak
form is for older kernels: what the host's own protocols say is dropped in the output hooks of the families arp and ip,
or ip6, and only frames that a program writes to a raw socket pass: the announcements of a process that was frozen
between its look at the clock and its `send`.
"""

import ipaddress

from gateway.kernel import nftables
from gateway.kernel.nftables import NFPROTO_ARP, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_NETDEV
from gateway.kernel.tables import Layout

LEASE = "lease"  # what passes at all
STREAMS = "streams"  # whether TCP may still come in: shut a little earlier where the address is handed over
PRIORITY = -500  # before every other chain of the device, forwarding rules of our own among them

_INGRESS, _EGRESS, _OUTPUT = "ingress", "egress", "output"
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_TCP, _ICMPV6 = b"\x06", b"\x3a"
_NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = b"\x87", b"\x88"
_KEY_TYPE_IPV4, _KEY_TYPE_IPV6 = 7, 8  # what `nft` calls ipv4_addr and ipv6_addr
_HOOK_OUTPUT = {NFPROTO_ARP: 1, NFPROTO_IPV4: 3, NFPROTO_IPV6: 3}  # NF_ARP_OUT, NF_INET_LOCAL_OUT


def strong(table: str, device: str, ip: str) -> Layout:
    """Return the fence that sees every frame."""
    key = ipaddress.ip_address(ip).packed
    ingress, egress = _netdev_rules(key)
    filling = [
        _set(NFPROTO_NETDEV, table, LEASE, key),
        _set(NFPROTO_NETDEV, table, STREAMS, key),
        nftables.new_chain(table, _INGRESS, nftables.HOOK_INGRESS, device, PRIORITY),
        nftables.new_chain(table, _EGRESS, nftables.HOOK_EGRESS, device, PRIORITY),
        *(nftables.new_rule(table, _INGRESS, rule) for rule in ingress),
        *(nftables.new_rule(table, _EGRESS, rule) for rule in egress),
    ]
    return Layout({NFPROTO_NETDEV: (_INGRESS, _EGRESS)}, tuple(filling))


def weak(table: str, device: str, ip: str) -> Layout:
    """Return the fence for a kernel without netdev egress. What the host says is dropped on every device."""
    key = ipaddress.ip_address(ip).packed
    ingress, _ = _netdev_rules(key)
    filling = [
        _set(NFPROTO_NETDEV, table, LEASE, key),
        _set(NFPROTO_NETDEV, table, STREAMS, key),
        nftables.new_chain(table, _INGRESS, nftables.HOOK_INGRESS, device, PRIORITY),
        *(nftables.new_rule(table, _INGRESS, rule) for rule in ingress),
    ]
    output = _output_rules(key)
    for family, rules in output.items():
        filling += [
            _set(family, table, LEASE, key),
            nftables.new_chain(table, _OUTPUT, _HOOK_OUTPUT[family], None, PRIORITY, family=family),
            *(nftables.new_rule(table, _OUTPUT, rule, family=family) for rule in rules),
        ]
    chains = {NFPROTO_NETDEV: (_INGRESS,)} | dict.fromkeys(output, (_OUTPUT,))
    return Layout(chains, tuple(filling))


def _set(family: int, table: str, name: str, key: bytes) -> bytes:
    key_type = _KEY_TYPE_IPV4 if len(key) == 4 else _KEY_TYPE_IPV6
    return nftables.new_set(table, name, key_type, len(key), family=family)


def _netdev_rules(key: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return what is told to the address, and what it says.

    IPv4: protocol at 9, source at 12, target at 16. ARP: sender's address at 14, target's at 24; a frame whose sender
    *is* the address is the holder's own announcement, which this host must hear as any other. IPv6: next header at 6,
    source at 8, target at 24. Neighbour discovery (RFC 4861 §4.3, §4.4) has no extension headers: type at 40, target
    address at 48; a TCP segment behind extension headers passes as long as everything does.
    """
    if len(key) == 4:
        packet, arp = nftables.protocol_is(_IPV4), nftables.protocol_is(_ARP)
        not_the_holder = nftables.field_is_not(14, key)
        return (
            [
                packet + _shut(16, key),
                packet + nftables.field_is(9, _TCP) + _shut(16, key, STREAMS),
                arp + not_the_holder + _shut(24, key),
            ],
            [packet + _shut(12, key), arp + _shut(14, key)],
        )
    packet = nftables.protocol_is(_IPV6)
    asked = packet + _discovery(_NEIGHBOUR_SOLICITATION)
    answered = packet + _discovery(_NEIGHBOUR_ADVERTISEMENT)
    return (
        [
            packet + _shut(24, key),
            packet + nftables.field_is(6, _TCP) + _shut(24, key, STREAMS),
            asked + _shut(48, key),
        ],
        [packet + _shut(8, key), answered + _shut(48, key)],
    )


def _output_rules(key: bytes) -> dict[int, list[bytes]]:
    """Return what the address says, by family; the offsets are those of `_netdev_rules`."""
    if len(key) == 4:
        return {NFPROTO_ARP: [_shut(14, key)], NFPROTO_IPV4: [_shut(12, key)]}
    return {NFPROTO_IPV6: [_shut(8, key), _discovery(_NEIGHBOUR_ADVERTISEMENT) + _shut(48, key)]}


def _discovery(kind: bytes) -> bytes:
    return nftables.field_is(6, _ICMPV6) + nftables.field_is(40, kind)


def _shut(offset: int, key: bytes, of_set: str = LEASE) -> bytes:
    """Return the expressions that drop a frame with the address at `offset`, unless that lives in the set."""
    return nftables.field_is(offset, key) + nftables.drop_unless_in(of_set, offset, len(key))

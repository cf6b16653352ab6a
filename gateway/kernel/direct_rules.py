"""Direct rules: what the table of `forward direct` holds, as netlink messages. Encodes only; nothing is sent here.

Rule: a frame is diverted only if it was sent to this gateway's own MAC (a standby sees flooded ones too), for the
address, while the lease lives. Its port is not looked at: fragments after the first have none.

As `nft` would say it, for IPv4:

    chain ingress {                                           # hook ingress, before the fence's
        ip protocol, ether daddr OWN, ip daddr VIP, @lease -> goto divert
    }
    chain divert {
        tcp -> goto stream
        icmp error about a connection of @held -> accept
        udp, @server -> counter datagrams
        @server -> counter forwarded, ether saddr OWN, ether daddr from @server, fwd
        icmp error, @last -> as above, by @last
    }
    chain stream {
        ip saddr . tcp sport @held -> goto kept
        tcp syn -> goto new
        @server -> as above
        @last -> as above, by @last                           # what is open goes on: its server may be elected again
        drop                                                  # whose? a reset would end what another gateway forwarded
    }
    chain kept {                                              # began without a server: the relay has it
        tcp not syn -> update @held
        accept
    }
    chain new {
        update @sources { ip saddr limit rate over .../second } counter refused drop
        @server -> counter connections, and as above
        counter held, update @held, accept                    # no server: the relay holds it
        drop                                                  # @held is full
    }

What falls off the end is this host's own. IPv6 has one rule more: neighbour discovery is this host's own.
"""

import ipaddress
import sys
from typing import Final, NamedTuple

from gateway.kernel import nft_expressions as nft
from gateway.kernel import nftables
from gateway.kernel.nft_expressions import (
    LINK_HEADER,
    NETWORK_HEADER,
    TRANSPORT_HEADER,
    Rate,
    compare,
    lookup,
    payload,
    word,
)
from gateway.kernel.nftables import NFPROTO_NETDEV
from gateway.kernel.tables import Layout

PRIORITY: Final = -600  # before the fence's -500: a graceful move leaves us forwarding after its lease has ended
LEASE, SERVER, LAST, HELD, SOURCES = "lease", "server", "last", "held", "sources"
FORWARDED, CONNECTIONS, DATAGRAMS, COUNTED_HELD = "forwarded", "connections", "datagrams", "held"
REFUSED: Final = "refused"
HELD_MAX: Final = 65_536  # 6 MB of the kernel's memory; the relay holds far fewer
HELD_NEW_MS: Final = 60_000  # a SYN alone: a flood of them has left no trace after this
HELD_MS: Final = 600_000  # after the client's last packet; the relay's keepalive has it say something every two minutes
SOURCES_MAX: Final = 65_536  # clients that have come of late: another 10 MB
SOURCE_MS: Final = 30_000  # a bucket that has been left alone for so long is full again, and may be forgotten

_INGRESS, _DIVERT, _STREAM, _KEPT, _NEW = "ingress", "divert", "stream", "kept", "new"
_CHAINS: Final = (_DIVERT, _STREAM, _KEPT, _NEW)
_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_FRAGMENT = 44
_DISCOVERY = (133, 137)  # RFC 4861 §4
_FLAGS, _FLAGS_MASK, _SYN = 13, b"\x17", b"\x02"  # RFC 9293 §3.1: of FIN, SYN, RST and ACK only SYN
_KEY, _MAC, _OTHER = word(0), word(8), word(12)  # a key takes five words at most, a MAC two


class Shape(NamedTuple):
    """Where an IP version has what these rules look at; `errors` are ranges of ICMP types."""

    ether_type: int
    key_type: int
    address_bytes: int
    source: int
    target: int
    protocol: int
    icmp: int
    errors: tuple[tuple[int, int], ...]
    quoted_protocol: int  # in the packet that an ICMP error quotes, from the ICMP header's start
    quoted_target: int
    quoted_port: int


# An ICMP error quotes the packet that it is about 8 bytes after its own start (RFC 792, RFC 4443 §3). That packet was
# this host's, so its target is the client, and it has no IP options.
_SHAPES: Final = {
    4: Shape(_IPV4, nft.TYPE_IPV4, 4, 12, 16, 9, _ICMP, ((3, 3), (11, 12)), 8 + 9, 8 + 16, 8 + 20 + 2),
    6: Shape(_IPV6, nft.TYPE_IPV6, 16, 8, 24, 6, _ICMPV6, ((1, 4),), 8 + 6, 8 + 24, 8 + 40 + 2),
}


class Place(NamedTuple):
    """What the rules of a gateway are made of: the table, the address, its device, and that device's present MAC.

    `rate` is how fast one client address may make new connections, None: as fast as it likes. One too many is dropped,
    not refused: the client's kernel tries again after a second.
    """

    table: str
    ip: str
    device: str
    device_index: int
    mac: bytes
    rate: Rate | None = None

    @property
    def key(self) -> bytes:
        """The address as sets and maps have it."""
        return ipaddress.ip_address(self.ip).packed

    @property
    def shape(self) -> Shape:
        """The layout of its packets."""
        return _SHAPES[ipaddress.ip_address(self.ip).version]


def layout(place: Place) -> Layout:
    """Return what the table holds, but for its rules, which change with the device's MAC: sets, counters, chains."""
    table, shape = place.table, place.shape
    address, mac = (shape.key_type, shape.address_bytes), (nft.TYPE_MAC, 6)
    origin = (nft.concatenated(shape.key_type, nft.TYPE_PORT), shape.address_bytes + 4)
    filling = [
        nft.new_collection(table, LEASE, nft.SET_TIMEOUT, address, family=NFPROTO_NETDEV),
        nft.new_collection(table, SERVER, nft.SET_MAP, address, mac, family=NFPROTO_NETDEV),
        nft.new_collection(table, LAST, nft.SET_MAP, address, mac, family=NFPROTO_NETDEV),
        nft.new_collection(table, HELD, nft.SET_TIMEOUT | nft.SET_EVAL, origin, family=NFPROTO_NETDEV, size=HELD_MAX),
        nft.new_collection(
            table, SOURCES, nft.SET_TIMEOUT | nft.SET_EVAL, address, family=NFPROTO_NETDEV, size=SOURCES_MAX
        ),
        *(
            nft.new_counter(table, name, family=NFPROTO_NETDEV)
            for name in (FORWARDED, CONNECTIONS, DATAGRAMS, COUNTED_HELD, REFUSED)
        ),
        *(nft.new_plain_chain(table, name, family=NFPROTO_NETDEV) for name in _CHAINS),
        nftables.new_chain(table, _INGRESS, nftables.HOOK_INGRESS, place.device, PRIORITY),
    ]
    return Layout({NFPROTO_NETDEV: (_INGRESS, *_CHAINS)}, tuple(filling))


def rules(place: Place) -> list[bytes]:
    """Return the messages that replace all rules of the table."""
    chains = {_INGRESS: [_ours(place)], _DIVERT: _divert(place), _STREAM: _stream(place), _KEPT: _kept(place)}
    chains[_NEW] = _new(place)
    return [
        *(nft.flush_rules(place.table, chain, family=NFPROTO_NETDEV) for chain in chains),
        *(nftables.new_rule(place.table, chain, rule) for chain, rules in chains.items() for rule in rules),
    ]


def server_is(place: Place, mac: bytes | None) -> list[bytes]:
    """Return the messages after which what is new goes to `mac`, or to nobody, and what is open to the last server."""
    changed = (SERVER,) if mac is None else (SERVER, LAST)
    messages = [nft.flush_elements(place.table, name, family=NFPROTO_NETDEV) for name in changed]
    if mac is not None:
        messages += [nft.add_element(place.table, name, place.key, family=NFPROTO_NETDEV, data=mac) for name in changed]
    return messages


def _ours(place: Place) -> bytes:
    to_us = payload(LINK_HEADER, 0, 6) + compare(place.mac)
    leased = nftables.field_is(place.shape.target, place.key) + lookup(LEASE)
    return nftables.protocol_is(place.shape.ether_type) + to_us + leased + nft.verdict(nft.GOTO, _DIVERT)


def _divert(place: Place) -> list[bytes]:
    shape, local, send = place.shape, nft.verdict(nft.ACCEPT), _send(place)
    return [
        *([_icmp_is(shape, _DISCOVERY) + local] if shape.icmp == _ICMPV6 else []),
        _is(shape, _TCP) + nft.verdict(nft.GOTO, _STREAM),
        *(_icmp_is(shape, types) + _is_about_held(shape) + local for types in shape.errors),
        *(datagram + _mac_in(place, SERVER) + nft.count(DATAGRAMS) for datagram in _datagrams(shape)),
        _mac_in(place, SERVER) + send,
        *(_icmp_is(shape, types) + _mac_in(place, LAST) + send for types in shape.errors),
    ]


def _stream(place: Place) -> list[bytes]:
    """Return what every segment of a connection meets: as few rules as can be."""
    send = _send(place)
    return [
        _origin(place.shape) + lookup(HELD) + nft.verdict(nft.GOTO, _KEPT),
        _flags_are(nft.EQUAL) + nft.verdict(nft.GOTO, _NEW),
        _mac_in(place, SERVER) + send,
        _mac_in(place, LAST) + send,
        nft.verdict(nft.DROP),
    ]


def _kept(place: Place) -> list[bytes]:
    refresh = nft.dynset(HELD, nft.DYNSET_UPDATE, timeout_ms=HELD_MS)
    return [_flags_are(nft.UNEQUAL) + _origin(place.shape) + refresh, nft.verdict(nft.ACCEPT)]


def _new(place: Place) -> list[bytes]:
    shape, drop = place.shape, nft.verdict(nft.DROP)
    hold = nft.dynset(HELD, nft.DYNSET_UPDATE, timeout_ms=HELD_NEW_MS)
    too_fast = []
    if place.rate:
        source = payload(NETWORK_HEADER, shape.source, shape.address_bytes, _KEY)
        over = nft.dynset(SOURCES, nft.DYNSET_UPDATE, timeout_ms=SOURCE_MS, over=place.rate)
        too_fast = [source + over + nft.count(REFUSED) + drop]
    return [
        *too_fast,
        _mac_in(place, SERVER) + nft.count(CONNECTIONS) + _send(place),
        nft.count(COUNTED_HELD) + _origin(shape) + hold + nft.verdict(nft.ACCEPT),
        drop,  # @held is full
    ]


def _mac_in(place: Place, of_map: str) -> bytes:
    """Return the expressions that go on only where the map has a MAC for the address: it is in `_MAC` then."""
    shape = place.shape
    return payload(NETWORK_HEADER, shape.target, shape.address_bytes, _KEY) + lookup(of_map, into=_MAC)


def _origin(shape: Shape) -> bytes:
    """Return the expressions that load the client's address and port, the key of @held."""
    source = payload(NETWORK_HEADER, shape.source, shape.address_bytes, _KEY)
    return source + payload(TRANSPORT_HEADER, 0, 2, _port_word(shape))


def _flags_are(operator: int) -> bytes:
    """Return the expressions that go on only for a segment that begins a connection (EQUAL), or for others."""
    flags = payload(TRANSPORT_HEADER, _FLAGS, 1, _OTHER) + nft.bitwise(_FLAGS_MASK, b"\0", _OTHER)
    return flags + compare(_SYN, _OTHER, operator)


def _send(place: Place) -> bytes:
    """Return the expressions that send the frame on to the MAC in `_MAC`, as ours.

    The sender's MAC must be ours: by the client's a switch would learn that the client is at our port.
    """
    sender = nft.immediate(place.mac) + nft.payload_set(LINK_HEADER, 6, 6)
    receiver = nft.payload_set(LINK_HEADER, 0, 6, _MAC)
    out = nft.immediate(place.device_index.to_bytes(4, sys.byteorder)) + nft.forward(_KEY)
    return nft.count(FORWARDED) + sender + receiver + out


def _is(shape: Shape, protocol: int) -> bytes:
    """Return the expressions that go on only for packets that have this protocol's header, not for later fragments.

    The kernel's own look at a transport header (its fast path, in 6.18 still) takes a later fragment's data for one.
    IPv6: whatever has another header between is not looked into, and goes where the address goes.
    """
    found = payload(NETWORK_HEADER, shape.protocol, 1) + compare(bytes([protocol]))
    if shape.ether_type == _IPV6:
        return found
    return found + payload(NETWORK_HEADER, 6, 2) + nft.bitwise(b"\x1f\xff", bytes(2)) + compare(bytes(2))


def _datagrams(shape: Shape) -> list[bytes]:
    """Return what matches each UDP datagram once: in IPv6 a fragmented one by its fragment header (RFC 8200 §4.5)."""
    whole = _is(shape, _UDP)
    if shape.ether_type == _IPV4:
        return [whole]
    of_udp = payload(NETWORK_HEADER, 40, 1) + compare(bytes([_UDP]))
    first = payload(NETWORK_HEADER, 42, 2) + nft.bitwise(b"\xff\xf8", bytes(2)) + compare(bytes(2))
    return [whole, _is(shape, _FRAGMENT) + of_udp + first]


def _icmp_is(shape: Shape, types: tuple[int, int]) -> bytes:
    first, last = types
    bounds = compare(bytes([first]), operator=nft.AT_LEAST) + compare(bytes([last]), operator=nft.AT_MOST)
    return _is(shape, shape.icmp) + payload(TRANSPORT_HEADER, 0, 1) + bounds


def _is_about_held(shape: Shape) -> bytes:
    about_tcp = payload(TRANSPORT_HEADER, shape.quoted_protocol, 1) + compare(bytes([_TCP]))
    client = payload(TRANSPORT_HEADER, shape.quoted_target, shape.address_bytes, _KEY)
    return about_tcp + client + payload(TRANSPORT_HEADER, shape.quoted_port, 2, _port_word(shape)) + lookup(HELD)


def _port_word(shape: Shape) -> int:
    """Return the register after a client's address: the two are one key of @held."""
    return word(shape.address_bytes // 4)

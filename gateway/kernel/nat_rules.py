"""Translation rules: what the tables of `forward nat` hold, as netlink messages. Encodes only; nothing is sent here.

Rule: nothing is translated that has no server; its packets go up to this host's own listener, as if no table were.

As `nft` would say it, for IPv4 (one table of each IP version that has a listener):

    map generation { ip . protocol . port : verdict }         # to one of two chains for each service and protocol
    map server     { ip . protocol . port : ip . port }       # an element only while a server is elected
    map traffic    { ct mark . ct direction : counter }
    chain prerouting, output { nat, priority dstnat            # output: the gateway's own clients
        ip daddr . meta l4proto . th dport vmap @generation
    }
    chain service_0_tcp_1 {                                    # a new flow; conntrack remembers the rest
        tcp flags syn, update @sources_0 { ip saddr limit rate over .../second } counter service_0_tcp_refused drop
        tcp flags syn                                          # not if transparent: see `_translate`
        ... @server                                            # no element: the rule ends, the packet goes up
        ct mark set (ct mark & ~ours) | 0x..., counter name service_0_tcp_opened, dnat to ...
    }
    chain postrouting { nat, priority srcnat, oif != lo
        ct mark & service @hidden -> masquerade                # so that the server's answers come back through here
        ct mark & ours, ip saddr @own -> masquerade            # this gateway's own clients, in every case
        ct mark & service . ip saddr . ip daddr @itself -> masquerade # a server that is its own client, in every case
    }
    chain arriving, leaving { filter, after the translation
        (ct mark & service . ct direction) counter name map @traffic
    }
    chain redirects { filter, output
        icmp type redirect drop                                # "go there yourself": neither client nor server may
    }

The mark of a flow says its service, its protocol, and its generation: 0 and 1 take turns, a switch of servers begins
the other one. So all flows of the last server, and no others, can be dropped by mark while new ones arrive.
"""

import ipaddress
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.kernel import nft_expressions as nft
from gateway.kernel import nftables
from gateway.kernel.marks import MARK_MASK, MARK_SHIFT
from gateway.kernel.nft_expressions import Counted, Rate, word
from gateway.kernel.nftables import NFPROTO_IPV4, NFPROTO_IPV6
from gateway.kernel.tables import Layout

GENERATION_BIT: Final = 1 << MARK_SHIFT
PROTOCOL_BIT: Final = 2 << MARK_SHIFT
PROTOCOLS: Final = ("tcp", "udp")

GENERATION, SERVER, TRAFFIC, HIDDEN, OWN, ITSELF = "generation", "server", "traffic", "hidden", "own", "itself"
TRANSLATE, COUNT, TRANSLATE_SOURCE = -100, -50, 100  # priorities

SOURCES_MAX: Final = 65_536  # clients of a service that have come of late; 10 MB of the kernel's memory
SOURCE_MS: Final = 30_000  # a bucket that has been left alone for so long is full again, and may be forgotten

_NUMBERS: Final = {"tcp": 6, "udp": 17}
_SYN: Final = (  # RFC 9293 §3.1: of FIN, SYN, RST and ACK only SYN
    nft.payload(nft.TRANSPORT_HEADER, 13, 1) + nft.bitwise(b"\x17", b"\0") + nft.compare(b"\2")
)
_LOOPBACK: Final = (1).to_bytes(4, sys.byteorder)  # the index of lo, in every network namespace
_BASE_CHAINS: Final = ("prerouting", "output", "postrouting", "arriving", "leaving", "redirects")


class Listener(NamedTuple):
    """Where clients connect: a virtual address, "tcp" or "udp", and a port."""

    ip: str
    protocol: str
    port: int

    @property
    def family(self) -> int:
        """The family of the table that it belongs to."""
        return NFPROTO_IPV6 if ":" in self.ip else NFPROTO_IPV4

    @property
    def key(self) -> bytes:
        """What the maps know it by."""
        number = _NUMBERS[self.protocol]
        return nft.joined([ipaddress.ip_address(self.ip).packed, bytes([number]), self.port.to_bytes(2, "big")])


class Service(NamedTuple):
    """Listeners that follow one election; `transparent`: the servers see the clients' own addresses.

    `rate` is how fast one client address may make new connections, None: as fast as it likes. One too many is dropped,
    not refused: the client's kernel tries again after a second.
    """

    name: str
    listeners: tuple[Listener, ...]
    transparent: bool = False
    rate: Rate | None = None


def mark(slot: int, protocol: str, generation: int) -> int:
    """Return the connection mark of a service (by its number) in one generation."""
    return ((slot + 1) << 2 | PROTOCOLS.index(protocol) << 1 | generation) << MARK_SHIFT


def chain(slot: int, protocol: str, generation: int) -> str:
    """Return the name of the chain that gives new flows this mark."""
    return f"service_{slot}_{protocol}_{generation}"


def of_chain(name: str) -> tuple[int, int]:
    """Return the number of the service, and the generation, that a chain belongs to."""
    _, slot, _, generation = name.split("_")
    return int(slot), int(generation)


def counter_name(slot: int, protocol: str, what: str) -> str:
    """Return the name of a counter: `what` is "opened" (new flows), "refused", "received" or "sent" (packets)."""
    return f"service_{slot}_{protocol}_{what}"


def sources(slot: int) -> str:
    """Return the name of the set of a service's clients."""
    return f"sources_{slot}"


def of_counter(name: str) -> tuple[int, str]:
    """Return the number of the service that a counter belongs to, and the rest of its name: "tcp_opened"."""
    _, slot, what = name.split("_", 2)
    return int(slot), what


def layout(table: str, services: Mapping[int, Service]) -> Layout:
    """Return the tables for these services by number, which is part of the marks of their flows.

    Their counters (`counters`) must be there before, and the elements of the maps `generation` and `server` come after.
    """
    families = _families(table, services)
    return Layout(
        {one.family: (*_BASE_CHAINS, *one.service_chains()) for one in families},
        tuple(part for one in families for part in one.filling()),
        purpose=repr({slot: one.listeners for slot, one in services.items()}).encode(),
    )


def counters(table: str, services: Mapping[int, Service], counted: Mapping[int, Mapping[str, Counted]]) -> list[bytes]:
    """Return the messages that make the counters; those that have `counted` something, by family, go on from there."""
    return [part for one in _families(table, services) for part in one.counters(counted.get(one.family, {}))]


def server_element(table: str, listener: Listener, ip: str, port: int) -> bytes:
    """Return the message that lets a listener's new flows go to a server."""
    data = nft.joined([ipaddress.ip_address(ip).packed, port.to_bytes(2, "big")])
    return nft.add_element(table, SERVER, listener.key, data=data, family=listener.family)


def no_server_element(table: str, listener: Listener) -> bytes:
    """Return the message that lets a listener's new flows go up to this host's own listener."""
    return nft.delete_element(table, SERVER, listener.key, family=listener.family)


def itself_element(table: str, slot: int, ip: str, *, present: bool) -> bytes:
    """Return the message that adds or deletes a server as one that may be its own client."""
    packed = ipaddress.ip_address(ip).packed
    key = _word_of(mark(slot, "tcp", 0)) + packed + packed
    family = NFPROTO_IPV6 if ":" in ip else NFPROTO_IPV4
    return (nft.add_element if present else nft.delete_element)(table, ITSELF, key, family=family)


def generation_element(table: str, listener: Listener, slot: int, generation: int) -> bytes:
    """Return the message that gives a listener's new flows the marks of a generation."""
    verdict = nft.JUMP, chain(slot, listener.protocol, generation)
    return nft.add_element(table, GENERATION, listener.key, verdict=verdict, family=listener.family)


def no_generation_element(table: str, listener: Listener) -> bytes:
    """Return the message that deletes it."""
    return nft.delete_element(table, GENERATION, listener.key, family=listener.family)


def _families(table: str, services: Mapping[int, Service]) -> list["_Family"]:
    made = []
    for family in (NFPROTO_IPV4, NFPROTO_IPV6):
        listened = {slot: one for slot, one in services.items() if any(at.family == family for at in one.listeners)}
        if listened:
            made.append(_Family(table, family, listened))
    return made


class _Family:
    """One table. Where a packet has its addresses: RFC 791 §3.1, RFC 8200 §3."""

    def __init__(self, table: str, family: int, services: Mapping[int, Service]) -> None:
        self.table = table
        self.family = family
        self.services = services
        version_4 = family == NFPROTO_IPV4
        self.source, self.target, self.address_bytes = (12, 16, 4) if version_4 else (8, 24, 16)
        self.address_type = nft.TYPE_IPV4 if version_4 else nft.TYPE_IPV6
        self.words = self.address_bytes // 4
        self.redirect = bytes([1, 5] if version_4 else [58, 137])  # protocol, type: RFC 792, RFC 4861 §4.5

    def service_chains(self) -> list[str]:
        return [
            chain(slot, protocol, generation)
            for slot, service in self.services.items()
            for protocol in self._protocols(service)
            for generation in (0, 1)
        ]

    def filling(self) -> list[bytes]:
        return [*self._collections(), *self._chains(), *self._rules(), *self._elements()]

    def _protocols(self, service: Service) -> list[str]:
        used = {at.protocol for at in service.listeners if at.family == self.family}
        return [protocol for protocol in PROTOCOLS if protocol in used]

    def _collections(self) -> list[bytes]:
        listener = nft.concatenated(self.address_type, nft.TYPE_PROTOCOL, nft.TYPE_PORT), self.address_bytes + 8
        place = nft.concatenated(self.address_type, nft.TYPE_PORT), self.address_bytes + 4
        way = nft.concatenated(nft.TYPE_MARK, nft.TYPE_CT_DIRECTION), 8
        itself = (
            nft.concatenated(nft.TYPE_MARK, self.address_type, self.address_type),
            2 * self.address_bytes + 4,
        )
        return [
            self._collection(GENERATION, nft.SET_MAP, listener, (nft.TYPE_VERDICT, 0)),
            self._collection(SERVER, nft.SET_MAP, listener, place),
            self._collection(TRAFFIC, nft.SET_OBJECT, way),
            self._collection(HIDDEN, 0, (nft.TYPE_MARK, 4)),
            self._collection(ITSELF, 0, itself),
            self._collection(OWN, 0, (self.address_type, self.address_bytes)),
            *(self._sources(slot) for slot, service in self.services.items() if service.rate),
        ]

    def _sources(self, slot: int) -> bytes:
        flags, key = nft.SET_EVAL | nft.SET_TIMEOUT, (self.address_type, self.address_bytes)
        return nft.new_collection(self.table, sources(slot), flags, key, family=self.family, size=SOURCES_MAX)

    def _collection(self, name: str, flags: int, key: tuple[int, int], data: tuple[int, int] | None = None) -> bytes:
        return nft.new_collection(self.table, name, flags, key, data, family=self.family)

    def counters(self, counted: Mapping[str, Counted]) -> list[bytes]:
        names = [
            counter_name(slot, protocol, what)
            for slot, service in self.services.items()
            for protocol in self._protocols(service)
            for what in ("opened", "refused", "received", "sent")
            if what != "refused" or protocol == "tcp"
        ]
        return [nft.new_counter(self.table, name, counted.get(name), family=self.family) for name in names]

    def _chains(self) -> list[bytes]:
        base = [
            ("prerouting", "nat", nft.HOOK_PREROUTING, TRANSLATE),
            ("output", "nat", nft.HOOK_OUTPUT, TRANSLATE),
            ("postrouting", "nat", nft.HOOK_POSTROUTING, TRANSLATE_SOURCE),
            ("arriving", "filter", nft.HOOK_PREROUTING, COUNT),
            ("leaving", "filter", nft.HOOK_OUTPUT, COUNT),
            ("redirects", "filter", nft.HOOK_OUTPUT, COUNT),
        ]
        return [
            *(nft.new_base_chain(self.table, *one, family=self.family) for one in base),
            *(nft.new_plain_chain(self.table, name, family=self.family) for name in self.service_chains()),
        ]

    def _rules(self) -> list[bytes]:
        by_listener = self._load_listener() + nft.lookup(GENERATION, word(0), into=0)
        not_loopback = nft.meta(nft.META_OIF) + nft.compare(_LOOPBACK, operator=nft.UNEQUAL)
        of_hidden = self._load_mark(GENERATION_BIT | PROTOCOL_BIT) + nft.lookup(HIDDEN, word(0))
        of_any = nft.ct(nft.CT_MARK) + nft.bitwise(_word_of(MARK_MASK), _word_of(0))
        of_any += nft.compare(_word_of(0), operator=nft.UNEQUAL)
        from_here = nft.payload(nft.NETWORK_HEADER, self.source, self.address_bytes) + nft.lookup(OWN, word(0))
        itself = self._load_mark(GENERATION_BIT | PROTOCOL_BIT)
        itself += nft.payload(nft.NETWORK_HEADER, self.source, self.address_bytes, word(1))
        itself += nft.payload(nft.NETWORK_HEADER, self.target, self.address_bytes, word(1 + self.words))
        itself += nft.lookup(ITSELF, word(0))
        traffic = self._load_mark(GENERATION_BIT) + nft.ct(nft.CT_DIRECTION, word(1)) + nft.count_by(TRAFFIC, word(0))
        redirects = nft.meta(nft.META_L4PROTO) + nft.compare(self.redirect[:1])
        redirects += nft.payload(nft.TRANSPORT_HEADER, 0, 1) + nft.compare(self.redirect[1:]) + nft.verdict(nft.DROP)
        rules = [
            ("prerouting", by_listener),
            ("output", by_listener),
            ("postrouting", not_loopback + of_hidden + nft.masquerade()),
            ("postrouting", not_loopback + of_any + from_here + nft.masquerade()),
            ("postrouting", not_loopback + itself + nft.masquerade()),
            ("arriving", traffic),
            ("leaving", traffic),
            ("redirects", redirects),
        ]
        for slot, service in self.services.items():
            for protocol in self._protocols(service):
                first = _SYN if protocol == "tcp" and not service.transparent else b""
                if protocol == "tcp" and service.rate:
                    too_fast = self._too_fast(slot, service.rate)
                    rules += [(chain(slot, protocol, turn), too_fast) for turn in (0, 1)]
                rules += [
                    (chain(slot, protocol, turn), first + self._translate(slot, protocol, turn)) for turn in (0, 1)
                ]
        return [nftables.new_rule(self.table, name, rule, family=self.family) for name, rule in rules]

    def _too_fast(self, slot: int, rate: Rate) -> bytes:
        return (
            _SYN
            + nft.payload(nft.NETWORK_HEADER, self.source, self.address_bytes)
            + nft.dynset(sources(slot), nft.DYNSET_UPDATE, timeout_ms=SOURCE_MS, over=rate)
            + nft.count(counter_name(slot, "tcp", "refused"))
            + nft.verdict(nft.DROP)
        )

    def _load_listener(self) -> bytes:
        return (
            nft.payload(nft.NETWORK_HEADER, self.target, self.address_bytes, word(0))
            + nft.meta(nft.META_L4PROTO, word(self.words))
            + nft.payload(nft.TRANSPORT_HEADER, 2, 2, word(self.words + 1))
        )

    def _load_mark(self, without: int) -> bytes:
        """Load our bits of the flow's mark, without some of them."""
        return nft.ct(nft.CT_MARK) + nft.bitwise(_word_of(MARK_MASK & ~without), _word_of(0))

    def _translate(self, slot: int, protocol: str, generation: int) -> bytes:
        """Return what gives a new flow its server and its mark.

        A connection that conntrack meets in its midst is somebody's already: of the relay, from before there was a
        translation; or its flow was dropped, and this host resets it. Only under `transparent` it may have come
        through another gateway, which has failed, and goes on here as if nothing had happened: then it is translated.
        """
        address, scratch = word(self.words + 2), word(15)
        return (
            self._load_listener()
            + nft.lookup(SERVER, word(0), into=address)
            + nft.ct(nft.CT_MARK, scratch)
            + nft.bitwise(_word_of(~MARK_MASK), _word_of(mark(slot, protocol, generation)), scratch)
            + nft.ct_set(nft.CT_MARK, scratch)
            + nft.count(counter_name(slot, protocol, "opened"))
            + nft.nat(nft.DNAT, self.family, address, address + self.words)
        )

    def _elements(self) -> list[bytes]:
        """Return the elements that stay; those of `generation` and `server` come and go."""
        made = []
        own: set[bytes] = set()
        for slot, service in self.services.items():
            if not service.transparent:
                hidden = _word_of(mark(slot, "tcp", 0))
                made.append(nft.add_element(self.table, HIDDEN, hidden, family=self.family))
            own |= {ipaddress.ip_address(at.ip).packed for at in service.listeners if at.family == self.family}
            for protocol in self._protocols(service):
                for direction, what in enumerate(("received", "sent")):
                    key = nft.joined([_word_of(mark(slot, protocol, 0)), bytes([direction])])
                    name = counter_name(slot, protocol, what)
                    made.append(nft.add_element(self.table, TRAFFIC, key, counter=name, family=self.family))
        made += [nft.add_element(self.table, OWN, key, family=self.family) for key in sorted(own)]
        return made


def _word_of(value: int) -> bytes:
    """Return a mark as a register holds it: in the host's byte order."""
    return (value & 0xFFFF_FFFF).to_bytes(4, sys.byteorder)

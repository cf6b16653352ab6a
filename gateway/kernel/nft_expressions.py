"""Expressions of nftables rules, and the maps, objects and chains that they use, as netlink attributes and messages.

Encodes only: numbers are those of linux/netfilter/nf_tables.h. A rule is a sequence of expressions that hand values on
in registers; one that does not match ends the rule. Every function returns bytes for `nftables.new_rule`, or a message
for a `nftables.Batch`.

Registers: `word(0)` to `word(15)` hold four bytes each. A value of n bytes occupies the next n / 4 of them, rounded
up, and a concatenated key is loaded part by part, each part from a word of its own: an IPv4 address, a protocol and a
port are `word(0)`, `word(1)` and `word(2)`, twelve bytes.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gateway.kernel import netlink, nftables
from gateway.kernel.nftables import attribute, message, nested, number, string

LINK_HEADER, NETWORK_HEADER, TRANSPORT_HEADER = 0, 1, 2
META_MARK, META_IIF, META_OIF, META_IIFNAME, META_OIFNAME, META_NFPROTO, META_L4PROTO = 3, 4, 5, 6, 7, 15, 16
META_IIFTYPE, META_PKTTYPE = 8, 19
CT_STATE, CT_DIRECTION, CT_STATUS, CT_MARK = 0, 1, 2, 3
CT_STATE_INVALID, CT_STATE_ESTABLISHED, CT_STATE_RELATED, CT_STATE_NEW, CT_STATE_UNTRACKED = 1, 2, 4, 8, 64
CT_STATUS_SNAT, CT_STATUS_DNAT = 0x10, 0x20  # of linux/netfilter/nf_conntrack_common.h
EQUAL, UNEQUAL, LESS, AT_MOST, MORE, AT_LEAST = 0, 1, 2, 3, 4, 5
SNAT, DNAT = 0, 1
DROP, ACCEPT = 0, 1
CONTINUE, BREAK, JUMP, GOTO, RETURN = -1, -2, -3, -4, -5
HOOK_PREROUTING, HOOK_INPUT, HOOK_FORWARD, HOOK_OUTPUT, HOOK_POSTROUTING = 0, 1, 2, 3, 4
SET_MAP, SET_TIMEOUT, SET_EVAL, SET_OBJECT = 0x08, 0x10, 0x20, 0x40
CHECKSUM_NONE, CHECKSUM_INET = 0, 1
DYNSET_ADD, DYNSET_UPDATE, DYNSET_DELETE = 0, 1, 2
OBJECT_COUNTER = 1
GETSETELEM, NEWOBJ, GETOBJ, DELOBJ = 13, 18, 19, 20
DELRULE = 8

# What the `nft` command calls the types of keys and data; the kernel only keeps the number. A concatenated type is its
# parts' numbers, six bits each (`concatenated`).
TYPE_VERDICT = 0xFFFFFF00
TYPE_IPV4, TYPE_IPV6, TYPE_MAC, TYPE_PROTOCOL, TYPE_PORT = 7, 8, 9, 12, 13
TYPE_MARK, TYPE_DEVICE, TYPE_CT_DIRECTION = 19, 20, 27

_VERDICT_REGISTER = 0
_WORD_0 = 8  # NFT_REG32_00


class Counted(NamedTuple):
    """What a named counter has counted."""

    packets: int
    bytes: int


class Rate(NamedTuple):
    """So many a second, and so many at once: what a bucket holds, and is filled to at that rate."""

    per_second: int
    burst: int


def word(place: int) -> int:
    """Return the register of four bytes at `place`, 0 to 15."""
    return _WORD_0 + place


# -- loading and comparing ---------------------------------------------------------------------------------------


def payload(base: int, offset: int, length: int, register: int = _WORD_0) -> bytes:
    """Load `length` bytes of the packet into a register."""
    where = number(2, base) + number(3, offset) + number(4, length)
    return _expression("payload", number(1, register), where)


def payload_set(
    base: int,
    offset: int,
    length: int,
    register: int = _WORD_0,
    *,
    checksum: int = CHECKSUM_NONE,
    checksum_offset: int = 0,
    pseudo_header: bool = False,
) -> bytes:
    """Write a register into the packet.

    With `checksum` the kernel corrects the sum at `checksum_offset` of that header, and with `pseudo_header` the
    transport header's as well.
    """
    where = number(2, base) + number(3, offset) + number(4, length) + number(5, register)
    sums = number(6, checksum) + number(7, checksum_offset) + number(8, int(pseudo_header))
    return _expression("payload", where, sums)


def meta(key: int, register: int = _WORD_0) -> bytes:
    """Load something that the kernel knows about the packet (META_*). Marks and indexes are in host order."""
    return _expression("meta", number(1, register), number(2, key))


def meta_set(key: int, register: int = _WORD_0) -> bytes:
    """Set it from a register: META_MARK, META_PKTTYPE."""
    return _expression("meta", number(2, key), number(3, register))


def ct(key: int, register: int = _WORD_0) -> bytes:
    """Load something of the packet's flow (CT_*): state, direction (one byte), status or mark, in host order."""
    return _expression("ct", number(1, register), number(2, key))


def ct_set(key: int, register: int = _WORD_0) -> bytes:
    """Set the mark of the packet's flow from a register."""
    return _expression("ct", number(2, key), number(4, register))


def compare(value: bytes, register: int = _WORD_0, operator: int = EQUAL) -> bytes:
    """Go on only if the register compares so with `value`, byte by byte from the first (big-endian)."""
    return _expression("cmp", number(1, register), number(2, operator), nested(3, attribute(1, value)))


def bitwise(mask: bytes, xor: bytes, register: int = _WORD_0, into: int | None = None) -> bytes:
    """Make `(register & mask) ^ xor`."""
    where = number(1, register) + number(2, register if into is None else into) + number(3, len(mask))
    return _expression("bitwise", where, nested(4, attribute(1, mask)), nested(5, attribute(1, xor)))


def lookup(of_set: str, register: int = _WORD_0, *, into: int | None = None, absent: bool = False) -> bytes:
    """Go on only if the register's value is in the set (or, with `absent`, is not); of a map load its data `into`.

    A map of verdicts is looked up `into=0`, and its verdict takes effect at once.
    """
    destination = number(3, into) if into is not None else b""
    inverted = number(5, 1) if absent else b""
    return _expression("lookup", string(1, of_set), number(2, register), destination, inverted)


def socket_is_transparent(register: int = _WORD_0) -> bytes:
    """Load one byte: 1 if the packet belongs to a socket of this host with IP_TRANSPARENT. No socket: no match."""
    return _expression("socket", number(1, 0), number(2, register))


# -- doing -------------------------------------------------------------------------------------------------------


def immediate(value: bytes, register: int = _WORD_0) -> bytes:
    """Load a constant."""
    return _expression("immediate", number(1, register), nested(2, attribute(1, value)))


def verdict(code: int, chain: str | None = None) -> bytes:
    """End the rule: DROP, ACCEPT, RETURN, or JUMP or GOTO with a chain."""
    return _expression("immediate", number(1, _VERDICT_REGISTER), nested(2, _verdict(code, chain)))


def counter() -> bytes:
    """Count in the rule itself."""
    return _expression("counter")


def count(name: str) -> bytes:
    """Count in the table's counter `name`."""
    return _expression("objref", number(1, OBJECT_COUNTER), string(2, name))


def count_by(of_map: str, register: int = _WORD_0) -> bytes:
    """Count in the counter that a map (SET_OBJECT) has for the register; none: the rule ends."""
    return _expression("objref", number(3, register), string(4, of_map))


def dynset(
    of_set: str,
    operation: int,
    register: int = _WORD_0,
    *,
    data: int | None = None,
    timeout_ms: int | None = None,
    over: Rate | None = None,
) -> bytes:
    """Add, update (which also restarts the timeout) or delete the register's value in a set (SET_EVAL).

    With `over` go on only if this element has come here more often than at that rate: each has a bucket of its own. A
    set that is full takes nobody in, and who is not in it is not limited.
    """
    of_data = number(5, data) if data is not None else b""
    timeout = attribute(6, struct.pack("!Q", timeout_ms)) if timeout_ms is not None else b""
    limit = nested(7, _over(over)) if over is not None else b""
    return _expression("dynset", string(1, of_set), number(3, operation), number(4, register), of_data, timeout, limit)


def _over(rate: Rate) -> bytes:
    """Return what `limit rate over N/second burst M packets` is inside another expression."""
    per_second, unit = attribute(1, struct.pack("!Q", rate.per_second)), attribute(2, struct.pack("!Q", 1))
    of_packets, inverted = number(4, 0), number(5, 1)
    return string(1, "limit") + nested(2, per_second, unit, number(3, rate.burst), of_packets, inverted)


def nat(kind: int, family: int, address: int, port: int | None = None) -> bytes:
    """Translate the flow's destination (DNAT) or source (SNAT) to the address and port in these registers."""
    ports = number(5, port) if port is not None else b""
    return _expression("nat", number(1, kind), number(2, family), number(3, address), ports)


def masquerade() -> bytes:
    """Translate the flow's source to an address of the device that it leaves by."""
    return _expression("masq")


def transparent_proxy(family: int, port: int) -> bytes:
    """Give the packet to this host's own listener at the port in this register.

    By its presence in any rule the kernel puts fragments together before it asks the rules (nft_tproxy.c).
    """
    return _expression("tproxy", number(1, family), number(3, port))


def forward(device: int) -> bytes:
    """Netdev: send the frame out of the device whose index is in this register."""
    return _expression("fwd", number(1, device))


def duplicate(device: int) -> bytes:
    """Netdev: send a copy of the frame out of the device whose index is in this register."""
    return _expression("dup", number(2, device))


# -- chains, maps, counters --------------------------------------------------------------------------------------


def new_base_chain(
    table: str, name: str, kind: str, hook: int, priority: int, *, family: int, device: str | None = None
) -> bytes:
    """Return the message that makes a base chain of a kind: "filter", "nat" or "route"; what no rule drops passes."""
    where = [string(3, device)] if device is not None else []
    hooked = nested(4, number(1, hook), number(2, priority), *where)
    attributes = string(1, table) + string(3, name) + hooked + number(5, ACCEPT) + string(7, kind)
    return message(nftables.NEWCHAIN, nftables.CREATE | nftables.EXCL, attributes, family)


def new_plain_chain(table: str, name: str, *, family: int) -> bytes:
    """Return the message that makes a chain to jump to."""
    return message(nftables.NEWCHAIN, nftables.CREATE | nftables.EXCL, string(1, table) + string(3, name), family)


def concatenated(*types: int) -> int:
    """Return the type of a concatenated key or data."""
    made = 0
    for one in types:
        made = made << 6 | one
    return made


def new_collection(
    table: str,
    name: str,
    flags: int,
    key: tuple[int, int],
    data: tuple[int, int] | None = None,
    *,
    family: int,
    size: int | None = None,
) -> bytes:
    """Return the message that makes a set or map.

    Args:
        table: the table it belongs to.
        name: what lookups call it.
        flags: SET_MAP with data; SET_OBJECT for a map to counters; SET_EVAL for one that rules fill; SET_TIMEOUT.
        key: type and length in bytes.
        data: type and length in bytes; `(TYPE_VERDICT, 0)` for verdicts.
        family: the table's.
        size: how many elements at most; what rules fill must have a limit.
    """
    attributes = string(1, table) + string(2, name) + number(3, flags) + number(4, key[0]) + number(5, key[1])
    if data is not None:
        attributes += number(6, data[0]) + number(7, data[1])
    if size is not None:
        attributes += nested(9, number(1, size))
    attributes += number(10, 1)  # an id that nobody uses, but the kernel wants one
    if flags & SET_OBJECT:
        attributes += number(15, OBJECT_COUNTER)
    return message(nftables.NEWSET, nftables.CREATE | nftables.EXCL, attributes, family)


def add_element(
    table: str,
    of_set: str,
    key: bytes,
    *,
    family: int,
    data: bytes | None = None,
    verdict: tuple[int, str | None] | None = None,
    counter: str | None = None,
    timeout_ms: int | None = None,
    exclusive: bool = True,
) -> bytes:
    """Return the message that adds an element with its data, its verdict (code and chain), or its counter's name."""
    inside = nested(1, attribute(1, key))
    if data is not None:
        inside += nested(2, attribute(1, data))
    if verdict is not None:
        inside += nested(2, _verdict(*verdict))
    if timeout_ms is not None:
        inside += attribute(4, struct.pack("!Q", timeout_ms))
    if counter is not None:
        inside += string(9, counter)
    flags = nftables.CREATE | (nftables.EXCL if exclusive else 0)
    return _of_elements(nftables.NEWSETELEM, flags, table, of_set, inside, family)


def delete_element(table: str, of_set: str, key: bytes, *, family: int) -> bytes:
    """Return the message that deletes an element; the whole transaction is refused (ENOENT) where there is none."""
    return _of_elements(nftables.DELSETELEM, 0, table, of_set, nested(1, attribute(1, key)), family)


def flush_elements(table: str, of_set: str, *, family: int) -> bytes:
    """Return the message that deletes all elements of a set or map."""
    return message(nftables.DELSETELEM, 0, string(1, table) + string(2, of_set), family)


def new_counter(table: str, name: str, counted: Counted | None = None, *, family: int) -> bytes:
    """Return the message that makes a named counter, perhaps one that goes on from what another has counted."""
    packets, counted_bytes = counted or (0, 0)
    data = nested(4, attribute(1, struct.pack("!Q", counted_bytes)), attribute(2, struct.pack("!Q", packets)))
    attributes = string(1, table) + string(2, name) + number(3, OBJECT_COUNTER) + data
    return message(NEWOBJ, nftables.CREATE | nftables.EXCL, attributes, family)


# -- reading back ------------------------------------------------------------------------------------------------


def counters_request(table: str) -> tuple[int, bytes]:
    """Return kind and attributes of the dump of a table's counters, for `Nftables.dump`."""
    return GETOBJ, string(1, table) + number(3, OBJECT_COUNTER)


def counters_of(messages: Iterable[netlink.Message]) -> dict[str, Counted]:
    """Return the counters by name that such a dump has shown."""
    found: dict[str, Counted] = {}
    for one in messages:
        parts = dict(netlink.attributes(one.body, nftables.GENERIC_BYTES))
        numbers = dict(netlink.attributes(parts.get(4, _NOTHING), 0))
        found[_text(parts.get(2, _NOTHING))] = Counted(
            int.from_bytes(numbers.get(2, _NOTHING), "big"), int.from_bytes(numbers.get(1, _NOTHING), "big")
        )
    return found


def elements_request(table: str, of_set: str) -> tuple[int, bytes]:
    """Return kind and attributes of the dump of a set's or map's elements, for `Nftables.dump`."""
    return GETSETELEM, string(1, table) + string(2, of_set)


def elements_of(messages: Iterable[netlink.Message]) -> dict[bytes, bytes | str]:
    """Return the elements that such a dump has shown: by key its data, or the chain that its verdict leads to."""
    found: dict[bytes, bytes | str] = {}
    for one in messages:
        for kind, listed in netlink.attributes(one.body, nftables.GENERIC_BYTES):
            if kind != 3:
                continue
            for _, inside in netlink.attributes(listed, 0):
                parts = dict(netlink.attributes(inside, 0))
                key = dict(netlink.attributes(parts[1], 0))
                found[bytes(key[1])] = _data_of(parts.get(2, _NOTHING))
    return found


def _data_of(data: memoryview) -> bytes | str:
    parts = dict(netlink.attributes(data, 0))
    if 2 in parts:
        return _text(dict(netlink.attributes(parts[2], 0)).get(2, _NOTHING))
    return bytes(parts.get(1, b""))


_NOTHING = memoryview(b"")


def _text(value: memoryview) -> str:
    return bytes(value).rstrip(b"\0").decode("utf-8", "replace")


def _verdict(code: int, chain: str | None) -> bytes:
    leads = string(2, chain) if chain is not None else b""
    return nested(2, number(1, code), leads)


def _of_elements(kind: int, flags: int, table: str, of_set: str, inside: bytes, family: int) -> bytes:
    return message(kind, flags, string(1, table) + string(2, of_set) + nested(3, nested(1, inside)), family)


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, string(1, name), nested(2, *attributes))


def joined(parts: Sequence[bytes]) -> bytes:
    """Return a concatenated key or data: each part padded to four bytes."""
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


def flush_rules(table: str, chain: str, *, family: int) -> bytes:
    """Return the message that deletes all rules of a chain."""
    return message(DELRULE, 0, string(1, table) + string(2, chain), family)

"""Rule sets: would a packet pass this host's firewall? Reads what `nft -j list ruleset` prints; pure.

Rule: what a rule depends on and is not known here may be or may not be, so that the answer is what is sure: the packet
passes, is dropped, or perhaps. A packet is the first of its connection.
"""

import enum
import fnmatch
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

OURS: Final = "condor-gateway-"  # tables of this program: their rules are its own affair
JUMPS_MAX: Final = 64  # deeper than any rule set that people write; the kernel itself takes 16
_FAMILIES: Final = {4: ("inet", "ip"), 6: ("inet", "ip6")}

_ACCEPT, _DROP, _RETURN, _CONTINUE = "accept", "drop", "return", "continue"
_VERDICTS: Final = {"accept": _ACCEPT, "drop": _DROP, "reject": _DROP, "return": _RETURN, "continue": _CONTINUE}
# Statements that change nothing about whether a packet passes.
_HARMLESS: Final = {"counter", "log", "mangle", "set", "meter", "notrack", "ct helper", "last", "comment"}


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """A packet, as far as it is known; None is 'any'. `kind` is the type of an ICMPv6 message, as nft calls it."""

    protocol: str  # "tcp", "udp", "icmpv6", "arp"
    port: int = 0
    version: int = 4
    source: str | None = None
    destination: str | None = None
    device: str | None = None  # by which it comes in, or goes out
    kind: str = ""


class Passage(enum.StrEnum):
    """What becomes of a packet."""

    PASSES = "passes"
    DROPPED = "dropped"
    PERHAPS = "perhaps"


class Answer(msgspec.Struct, frozen=True):
    """What becomes of a packet, and the chain that drops it: `table filter, chain input`."""

    passage: Passage
    chain: str = ""


def passage(objects: Iterable[Mapping[str, Any]], hook: str, packet: Packet) -> Answer:
    """Return what becomes of `packet` at `hook` (input, output, forward) of this host.

    Rules in a form that another version of nft prints and this does not know make it "perhaps".
    """
    try:
        return _passage(_Rules(objects), hook, packet)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Answer(Passage.PERHAPS, "rules of an unknown form")


def _passage(rules: "_Rules", hook: str, packet: Packet) -> Answer:
    perhaps = ""
    for chain in rules.base_chains(hook, packet):
        outcomes = rules.outcomes(chain, packet, 0)
        if _RETURN in outcomes:
            outcomes = (outcomes - {_RETURN}) | {_DROP if chain.get("policy") == "drop" else _ACCEPT}
        where = f"table {chain['table']}, chain {chain['name']}"
        if outcomes == {_DROP}:
            return Answer(Passage.DROPPED, where)
        if _DROP in outcomes:
            perhaps = perhaps or where
    return Answer(Passage.PERHAPS, perhaps) if perhaps else Answer(Passage.PASSES)


class _Rules:
    """A rule set, by its parts."""

    def __init__(self, objects: Iterable[Mapping[str, Any]]) -> None:
        self.chains: list[Mapping[str, Any]] = []
        self.rules: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        self.sets: dict[tuple[str, str, str], list[Any]] = {}
        for one in objects:
            if "chain" in one:
                self.chains.append(one["chain"])
            elif "rule" in one:
                rule = one["rule"]
                self.rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
            elif "set" in one:
                named = one["set"]
                self.sets[named["family"], named["table"], named["name"]] = list(named.get("elem", ()))

    def base_chains(self, hook: str, packet: Packet) -> list[Mapping[str, Any]]:
        families = ("arp",) if packet.protocol == "arp" else _FAMILIES[packet.version]
        found = [
            chain
            for chain in self.chains
            if chain.get("hook") == hook and chain["family"] in families and not chain["table"].startswith(OURS)
        ]
        return sorted(found, key=lambda chain: chain.get("prio", 0) if isinstance(chain.get("prio", 0), int) else 0)

    def outcomes(self, chain: Mapping[str, Any], packet: Packet, depth: int) -> set[str]:
        """Return how a walk through a chain may end: accept, drop, return."""
        if depth > JUMPS_MAX:
            return {_ACCEPT, _DROP}
        ends: set[str] = set()
        for rule in self.rules.get((chain["family"], chain["table"], chain["name"]), ()):
            sure, results = self._apply(rule, packet, depth)
            ends |= results - {_CONTINUE}
            if sure and _CONTINUE not in results:
                return ends
        return ends | {_RETURN}

    def _apply(self, rule: Mapping[str, Any], packet: Packet, depth: int) -> tuple[bool, set[str]]:
        """Return whether the rule surely matches, and what it may lead to."""
        sure = True
        for statement in rule.get("expr", ()):
            word, value = _one(statement)
            if word == "match":
                matched = self._matches(value, packet, rule)
                if matched is False:
                    return True, {_CONTINUE}
                sure = sure and matched is True
            elif word in _VERDICTS:
                return sure, {_VERDICTS[word]}
            elif word in {"jump", "goto"}:
                return sure, self._jump(value["target"], rule, packet, depth, back=word == "jump")
            elif word == "vmap":
                return sure, self._vmap(value, packet, rule, depth)
            elif word == "xt":
                kind = value.get("type") if isinstance(value, dict) else None
                sure = sure and kind == "target"  # of iptables: a match that nft can't show
            elif word not in _HARMLESS:
                sure = False  # a limit, a quota: at times it matches
        return sure, {_CONTINUE}

    def _jump(self, target: str, rule: Mapping[str, Any], packet: Packet, depth: int, *, back: bool) -> set[str]:
        chain = {"family": rule["family"], "table": rule["table"], "name": target}
        ends = self.outcomes(chain, packet, depth + 1)
        return (ends - {_RETURN}) | {_CONTINUE} if back and _RETURN in ends else ends

    def _vmap(self, value: Mapping[str, Any], packet: Packet, rule: Mapping[str, Any], depth: int) -> set[str]:
        data = value.get("data")
        pairs = data.get("set") if isinstance(data, dict) else None
        if not isinstance(pairs, list):
            return {_ACCEPT, _DROP, _CONTINUE}
        ends: set[str] = set()
        for key, verdict in pairs:
            matched = self._matches({"op": "==", "left": value["key"], "right": key}, packet, rule)
            if matched is False:
                continue
            _, results = self._apply({**rule, "expr": [verdict]}, packet, depth)
            ends |= results
            if matched is True:
                return ends
        return ends | {_CONTINUE}

    def _matches(self, match: Mapping[str, Any], packet: Packet, rule: Mapping[str, Any]) -> bool | None:
        actual = _actual(match["left"], packet)
        if actual is None:
            return None
        if actual is False:
            return False
        right = match["right"]
        if isinstance(right, str) and right.startswith("@"):
            right = self.sets.get((rule["family"], rule["table"], right[1:]))
            if right is None:
                return None
        found = _within(actual, right)
        return (not found if found is not None else None) if match["op"] == "!=" else found


def _one(statement: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the word of a statement and what belongs to it."""
    word = next(iter(statement)) if len(statement) == 1 else "?"
    return word, statement.get(word)


def _actual(left: Any, packet: Packet) -> str | int | bool | None:
    """Return the packet's value of an expression; None: not known; False: it has none, and nothing matches."""
    if not isinstance(left, dict) or len(left) != 1:
        return None
    ((word, value),) = left.items()
    if word == "meta":
        return _meta(value.get("key"), packet)
    if word == "ct":
        return "new" if value.get("key") == "state" else None
    if word == "payload":
        return _payload(value.get("protocol"), value.get("field"), packet)
    return None


def _meta(key: str, packet: Packet) -> str | int | None:
    known: dict[str, str | int | None] = {
        "l4proto": packet.protocol if packet.protocol != "icmpv6" else "ipv6-icmp",
        "nfproto": f"ipv{packet.version}",
        "iifname": packet.device,
        "oifname": packet.device,
        "iif": packet.device,
        "oif": packet.device,
    }
    return known.get(key)


def _payload(protocol: str, field: str, packet: Packet) -> str | int | bool | None:
    if protocol in {"tcp", "udp", "th"}:
        if protocol not in {packet.protocol, "th"} or not packet.port:
            return False
        return packet.port if field == "dport" else None
    if protocol in {"ip", "ip6"}:
        if protocol != ("ip" if packet.version == 4 else "ip6"):
            return False
        known = {"saddr": packet.source, "daddr": packet.destination, "protocol": packet.protocol, "nexthdr": None}
        return known.get(field)
    if protocol in {"icmp", "icmpv6"}:
        if protocol != packet.protocol:
            return False
        return packet.kind if field == "type" else None
    return None


def _within(actual: str | int | bool, right: Any) -> bool | None:
    """Return whether a value is what, or among what, stands on the right; None: this can't be told."""
    if isinstance(right, list):
        return _any(actual, right)
    if isinstance(right, dict):
        if "set" in right:
            return _any(actual, right["set"]) if isinstance(right["set"], list) else None
        if "elem" in right:
            return _within(actual, right["elem"].get("val"))
        if "range" in right:
            return _between(actual, right["range"])
        if "prefix" in right:
            return _in_network(actual, right["prefix"])
        return None
    if isinstance(right, str) and isinstance(actual, str):
        if right == "icmpv6":
            right = "ipv6-icmp"
        return fnmatch.fnmatchcase(actual, right) if "*" in right else actual == right or _same_address(actual, right)
    return bool(actual == right)


def _any(actual: str | int | bool, elements: Sequence[Any]) -> bool | None:
    found = [_within(actual, element) for element in elements]
    return True if True in found else None if None in found else False


def _between(actual: str | int | bool, bounds: Sequence[Any]) -> bool | None:
    low, high = bounds
    if isinstance(actual, int) and isinstance(low, int) and isinstance(high, int):
        return low <= actual <= high
    try:
        first, last, here = (ipaddress.ip_address(str(one)) for one in (low, high, actual))
    except ValueError:
        return None
    return first.version == here.version and int(first) <= int(here) <= int(last)


def _in_network(actual: str | int | bool, prefix: Mapping[str, Any]) -> bool | None:
    try:
        network = ipaddress.ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)
        return ipaddress.ip_address(str(actual)) in network
    except ValueError:
        return None


def _same_address(actual: str, right: str) -> bool:
    try:
        return ipaddress.ip_address(actual) == ipaddress.ip_address(right)
    except ValueError:
        return False

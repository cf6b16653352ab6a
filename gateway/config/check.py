"""Check: rules over the whole file, one function a rule. Each reports; none changes the tree or stops another.

A value that could not be read was reported by the parser: a rule that needs it passes over it in silence.
"""

import ipaddress
from collections.abc import Callable, Iterator

from gateway.config.advice import advise
from gateway.config.check_files import FILE_RULES
from gateway.config.check_forwarding import FORWARDING_RULES
from gateway.config.check_node import NODE_RULES
from gateway.config.check_references import REFERENCE_RULES
from gateway.config.check_times import TIME_RULES
from gateway.config.diagnostics import Reporter, quote
from gateway.config.keywords import SECTIONS
from gateway.config.lexer import Word
from gateway.config.limits import BINDS_MAX, PEERS_MAX
from gateway.config.settings import Endpoint, Protocol, Role
from gateway.config.tree import Statement, Tree
from gateway.config.values import BindPoint, Prefix


def check(tree: Tree, report: Reporter) -> None:
    """Apply every rule to `tree`."""
    for rule in RULES + TIME_RULES + REFERENCE_RULES + FORWARDING_RULES + FILE_RULES + NODE_RULES:
        rule(tree, report)
    if not report.has_errors:
        advise(tree, report)


def every_section_stands(tree: Tree, report: Reporter) -> None:
    """At least one of each kind of section that is required; clients that come in have somewhere to go."""
    if not tree.complete:
        return
    for kind in SECTIONS.values():
        required = kind.required or (kind.word == "backend" and tree.first("frontend") is not None)
        if required and tree.first(kind.word) is None:
            named = " NAME" if kind.named else ""
            report.error(report.end, f"no section '{kind.word}{named}' ({kind.help})")


def required_keywords_stand(tree: Tree, report: Reporter) -> None:
    """Every required keyword stands in each of its sections; it may stand in a file that could not be read."""
    if not tree.read:
        return
    for section in tree.sections:
        for keyword in SECTIONS[section.kind].keywords.values():
            if keyword.required and section.first(keyword.name) is None:
                report.error(section.word, f"{section.subject()} needs {quote(keyword.name)}: {keyword.usage()}")


def peers_are_distinct(tree: Tree, report: Reporter) -> None:
    """No two peers have one name or one address:port."""
    names: dict[str, Statement] = {}
    endpoints: dict[Endpoint, Statement] = {}
    hosts: dict[str, Statement] = {}
    for peer in _peers(tree):
        name, given = peer.argument("name"), peer.argument("address:port")
        if name is not None:
            first = names.setdefault(str(name.value), peer)
            if first is not peer:
                report.error(name.word, f"second {peer.subject()}: the first is on {first.word.where}")
        if given is None or not isinstance(given.value, Endpoint):
            continue
        endpoint = given.value
        same = endpoints.setdefault(endpoint, peer)
        neighbour = hosts.setdefault(endpoint.host, peer)
        if same is not peer:
            report.error(given.word, f"{peer.subject()}: {endpoint} is already {_of(same)}")
        elif neighbour is not peer:
            report.warning(given.word, f"{peer.subject()} is on the host of {_of(neighbour)}: both votes die with it")


def peers_have_one_version(tree: Tree, report: Reporter) -> None:
    """Heartbeats go from each peer to each: all have IPv4, or all IPv6. The fewer are reported, or those after."""
    at = [(peer, given) for peer in _peers(tree) if (given := peer.argument("address:port")) is not None]
    hosts = [(peer, given, given.value.host) for peer, given in at if isinstance(given.value, Endpoint)]
    versions = [_version(host) for _, _, host in hosts]
    if len(set(versions)) < 2:
        return
    most = max(versions, key=versions.count)  # of as many, the first
    example, _, common = hosts[versions.index(most)]
    for peer, given, host in hosts:
        if _version(host) != most:
            told = f"{host} is IPv{_version(host)}, but {common} of {_of(example)} is IPv{most}: give all one version"
            report.error(given.word, f"{peer.subject()}: {told}")


def peers_are_few(tree: Tree, report: Reporter) -> None:
    """At most PEERS_MAX peers, at least one of each role that acts; two must say what a partition does."""
    section = tree.first("peers")
    if section is not None:
        peers = list(section.all("peer"))
        if len(peers) > PEERS_MAX:
            report.error(
                peers[PEERS_MAX].word,
                f"more than {PEERS_MAX} peers: a vote of more is slower and no safer; leave the others out",
            )
        if len(peers) == 2 and section.first("on-partition") is None:
            report.error(
                section.word,
                f"{section.subject()}: two peers cannot both be safe and go on when they lose each other: add a third "
                "(a witness is enough), or write 'on-partition hold' (neither serves alone) or 'on-partition serve' "
                "(each serves its side, so that there are two leaders until they meet again)",
            )
        if not peers or any(len(peer.arguments.get("role", ())) == 0 for peer in peers):
            return
        for role in (Role.GATEWAY, Role.MANAGER):
            wanted = role is Role.GATEWAY or tree.first("backend") is not None or not tree.complete
            if wanted and not any(role in _roles(peer) for peer in peers):
                report.error(section.word, f"{section.subject()}: no peer has the role {quote(role)}")


def roles_agree(tree: Tree, report: Reporter) -> None:
    """A role stands once in a line, and a witness only votes."""
    for peer in _peers(tree):
        seen: set[object] = set()
        for role in peer.arguments.get("role", ()):
            if role.value in seen:
                report.error(role.word, f"{peer.subject()}: second {quote(str(role.value))}")
            elif role.value == Role.WITNESS and len(_roles(peer)) > 1:
                report.error(
                    role.word,
                    f"{peer.subject()}: a witness only votes, and every peer does: remove 'witness' or the other roles",
                )
            seen.add(role.value)


def addresses_are_free(tree: Tree, report: Reporter) -> None:
    """A virtual address can be any host's, belongs to no peer or server, and stands in one section."""
    owners: dict[str, Statement] = {}
    for peer in _peers(tree):
        given = peer.argument("address:port")
        if given is not None and isinstance(given.value, Endpoint):
            owners.setdefault(given.value.host, peer)
    taken: dict[str, str] = {}
    for section in tree.all("address"):
        statement = section.first("ip")
        given = statement.argument("address/prefix") if statement else None
        if statement is None or given is None or not isinstance(given.value, Prefix):
            continue
        host = given.value.host
        strange = _no_virtual_address(host)
        if strange:
            report.error(given.word, f"{section.subject()}: {host} is {strange}")
        if ipaddress.ip_address(host).is_loopback:
            report.warning(given.word, f"{section.subject()}: {host} is a loopback address: no other host reaches it")
        if host in owners:
            report.error(
                given.word,
                f"{section.subject()}: {host} is the own address of {_of(owners[host])}: use one that no host has",
            )
        if host in taken:
            report.error(given.word, f"{section.subject()}: {host} is already an address, on {taken[host]}")
        taken.setdefault(host, given.word.where)


def binds_are_distinct(tree: Tree, report: Reporter) -> None:
    """Two binds never share an address, a port and a protocol; a frontend has a limit of them."""
    taken: dict[tuple[BindPoint, Protocol], tuple[str, Word]] = {}
    for section in tree.all("frontend"):
        binds = list(section.all("bind"))
        if len(binds) > BINDS_MAX:
            report.error(binds[BINDS_MAX].word, f"{section.subject()}: more than {BINDS_MAX} binds")
        for bind in binds:
            given, proto = bind.argument("address:port"), bind.options.get("proto")
            if given is None or not isinstance(given.value, BindPoint):
                continue
            point = given.value
            protocols = proto.value if proto is not None else frozenset(Protocol)
            assert isinstance(protocols, frozenset | str)  # "" where it could not be read
            for protocol in sorted(protocols):
                subject, first = taken.setdefault((point, Protocol(protocol)), (section.subject(), given.word))
                if first.line != given.word.line:
                    written = quote(f"{point.address}:{point.port}")
                    told = f"{written} ({protocol}) is already bound by {subject} on {first.where}"
                    report.error(given.word, f"{section.subject()}: {told}")
                    break


RULES: tuple[Callable[[Tree, Reporter], None], ...] = (
    every_section_stands,
    required_keywords_stand,
    peers_are_distinct,
    peers_have_one_version,
    peers_are_few,
    roles_agree,
    addresses_are_free,
    binds_are_distinct,
)


def _peers(tree: Tree) -> Iterator[Statement]:
    return (peer for section in tree.all("peers") for peer in section.all("peer"))


def _roles(peer: Statement) -> set[object]:
    return {role.value for role in peer.arguments.get("role", ())}


def _of(statement: Statement) -> str:
    return f"{statement.subject()} on {statement.word.where}"


def _version(host: str) -> int:
    return ipaddress.ip_address(host).version


def _no_virtual_address(host: str) -> str:
    """Return why an address can be no virtual one; "" where it can."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"an IPv4 address in the form of IPv6: write {quote(str(address.ipv4_mapped))}"
        if address.is_link_local:
            return (
                "link-local, so that clients would have to name an interface with it: use one of fd00::/8 or 2000::/3"
            )
    return ""

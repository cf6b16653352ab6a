"""Check of references: what one section says of another must be there and be the right thing.

A name that is not there is searched among those that are, for a suggestion.
"""

from collections.abc import Callable

from gateway.config.advice import enabled_servers
from gateway.config.diagnostics import Reporter, did_you_mean, listing, quote
from gateway.config.limits import ELECTIONS_MAX
from gateway.config.settings import Endpoint, Role
from gateway.config.tree import Given, Section, Statement, Tree
from gateway.config.values import BindPoint


def holders_are_gateways(tree: Tree, report: Reporter) -> None:
    """Every holder is a peer with the role gateway, named once."""
    for section in tree.all("address"):
        holder = section.first("holder")
        seen: set[str] = set()
        for given in holder.arguments.get("peer", ()) if holder else ():
            name = str(given.value)
            if name in seen:
                report.error(given.word, f"{section.subject()}: second holder {quote(name)}")
            else:
                _is_peer(tree, given, Role.GATEWAY, "holder", report)
            seen.add(name)


def servers_are_managers(tree: Tree, report: Reporter) -> None:
    """A server is a peer with the role manager, on that peer's host, at another port; once in a backend."""
    for section in tree.all("backend"):
        seen: dict[str, str] = {}
        for server in section.all("server"):
            given = server.argument("name")
            if given is None:
                continue
            name = str(given.value)
            if name in seen:
                report.error(given.word, f"second {server.subject()}: the first is on {seen[name]}")
            elif _is_peer(tree, given, Role.MANAGER, "server", report):
                _server_is_at_its_peer(server, _peers(tree)[name], report)
            seen.setdefault(name, given.word.where)


def frontends_lead_somewhere(tree: Tree, report: Reporter) -> None:
    """A bind names an address, default_backend a backend."""
    for section in tree.all("frontend"):
        for bind in section.all("bind"):
            given = bind.argument("address:port")
            if given is not None and isinstance(given.value, BindPoint):
                _is_section(tree, "address", given.value.address, section, given, report)
        default = section.first("default_backend")
        given = default.argument("backend") if default else None
        if given is not None:
            _is_section(tree, "backend", str(given.value), section, given, report)


def managers_serve_one_pool(tree: Tree, report: Reporter) -> None:
    """A manager's host has one HTCondor with one negotiator, so that one election may say when it runs."""
    first: dict[str, tuple[Section, Statement]] = {}
    for section in tree.all("backend"):
        for server in section.all("server"):
            given = server.argument("name")
            if given is None:
                continue
            other, line = first.setdefault(str(given.value), (section, server))
            if _are_two(other, section):
                report.error(
                    given.word,
                    f"{section.subject()}: {server.subject()} is already one of {other.subject()}, on "
                    f"{line.word.where}, and a manager runs one negotiator, for one pool: let each pool have managers "
                    "of its own, or several frontends lead to one backend",
                )
                break  # the others are the same mistake


def a_server_stands(tree: Tree, report: Reporter) -> None:
    """A backend whose servers are all disabled has nobody to elect."""
    for section in tree.all("backend"):
        if section.first("server") is not None and not enabled_servers(section):
            told = "every server is disabled, nobody could be elected: leave one enabled"
            report.error(section.word, f"{section.subject()}: {told}")


def elections_have_names_of_their_own(tree: Tree, report: Reporter) -> None:
    """Every address and every backend is an election; votes are kept, sent and logged by its name."""
    addresses = {str(section.name.value): section for section in tree.all("address") if section.name is not None}
    for section in tree.all("backend"):
        address = addresses.get(str(section.name.value)) if section.name is not None else None
        if address is not None and section.name is not None:
            report.error(
                section.name.word,
                f"{section.subject()} has the name of the address on {address.word.where}, and each is an "
                "election, known by its name: rename one",
            )


def elections_are_few(tree: Tree, report: Reporter) -> None:
    """Every heartbeat tells of every election, and has room for so many."""
    elections = [section for section in tree.sections if section.kind in {"address", "backend"}]
    if len(elections) > ELECTIONS_MAX:
        told = f"more than {ELECTIONS_MAX} addresses and backends together: give the others a cluster of their own"
        report.error(elections[ELECTIONS_MAX].word, told)


REFERENCE_RULES: tuple[Callable[[Tree, Reporter], None], ...] = (
    holders_are_gateways,
    servers_are_managers,
    frontends_lead_somewhere,
    managers_serve_one_pool,
    a_server_stands,
    elections_have_names_of_their_own,
    elections_are_few,
)


def _are_two(one: Section, other: Section) -> bool:
    """Return whether two sections are meant as two; of the second one of a name that was said already."""
    return one.name is None or other.name is None or one.name.value != other.name.value


def _peers(tree: Tree) -> dict[str, Statement]:
    """Return the peers by name; of two with one name, the first."""
    peers: dict[str, Statement] = {}
    for section in tree.all("peers"):
        for peer in section.all("peer"):
            name = peer.argument("name")
            if name is not None:
                peers.setdefault(str(name.value), peer)
    return peers


def _all_peers_have_names(tree: Tree) -> bool:
    peers = [peer for section in tree.all("peers") for peer in section.all("peer")]
    return tree.complete and peers != [] and all(peer.argument("name") is not None for peer in peers)


def _has_role(peer: Statement, role: Role) -> bool:
    """Return whether a peer has a role; a peer whose roles could not be read has every role."""
    roles = peer.arguments.get("role", ())
    return not roles or any(given.value == role for given in roles)


def _is_peer(tree: Tree, given: Given, role: Role, subject: str, report: Reporter) -> bool:
    """Return whether a name is that of a peer with `role`; report it where not.

    Silent where that follows from another mistake: a peer without a readable name, no peer with the role at all.
    """
    name, peers = str(given.value), _peers(tree)
    fitting = [other for other, peer in peers.items() if _has_role(peer, role)]
    if name not in peers and _all_peers_have_names(tree):
        hint = did_you_mean(name, fitting) or f": those with the role {quote(role)} are {listing(fitting, 'and')}"
        report.error(given.word, f"{subject} {quote(name)}: no peer has this name{hint}")
    elif name in peers and name not in fitting and fitting:
        at = peers[name].word.where
        told = f"the peer on {at} does not have the role {quote(role)}: add {quote(role)} to that line"
        report.error(given.word, f"{subject} {quote(name)}: {told}")
    return name in fitting


def _server_is_at_its_peer(server: Statement, peer: Statement, report: Reporter) -> None:
    here, there = server.argument("address:port"), peer.argument("address:port")
    if here is None or there is None:
        return
    assert isinstance(here.value, Endpoint)
    assert isinstance(there.value, Endpoint)
    if here.value.host != there.value.host:
        report.error(
            here.word,
            f"{server.subject()}: {here.value.host} is not the address of its peer on {peer.word.where}: "
            f"write {quote(str(Endpoint(there.value.host, here.value.port)))}",
        )
    elif here.value.port == there.value.port:
        report.error(
            here.word,
            f"{server.subject()}: port {here.value.port} is taken by the heartbeats of its peer on "
            f"{peer.word.where}: HTCondor's collector has 9618",
        )


def _is_section(tree: Tree, kind: str, name: str, section: Section, given: Given, report: Reporter) -> None:
    """Report a name that no section of `kind` has, unless one of them has a name that could not be read."""
    names = [other.name for other in tree.all(kind)]
    known = [str(other.value) for other in names if other is not None]
    if name not in known and known and None not in names and tree.complete:
        hint = did_you_mean(name, known) or f": there is {listing(known, 'and')}"
        report.error(given.word, f"{section.subject()}: no section '{kind}' has the name {quote(name)}{hint}")

"""Check of references: what one section says of another must be there, be the right thing, and be used.

A name that is not there is searched among those that are, for a suggestion.
"""

from collections.abc import Callable, Iterator

from gateway.config.diagnostics import Reporter, did_you_mean, listing, quote
from gateway.config.settings import Endpoint, Role
from gateway.config.tree import Given, Section, Statement, Tree
from gateway.config.values import BindPoint, format_ms


def holders_are_gateways(tree: Tree, report: Reporter) -> None:
    """Every holder is a peer with the role gateway, named once; a gateway that holds nothing is a warning."""
    used: set[str] = set()
    for section in tree.all("address"):
        holder = section.first("holder")
        seen: set[str] = set()
        for given in holder.arguments.get("peer", ()) if holder else ():
            name = str(given.value)
            if name in seen:
                report.error(given.word, f"{section.subject()}: second holder {quote(name)}")
            elif not (tree.complete and _peers(tree)) or _is_peer(tree, given, Role.GATEWAY, "holder", report):
                used.add(name)
            seen.add(name)
    if tree.first("address") is not None:
        _unused(tree, Role.GATEWAY, used, "holds no address: name it after 'holder'", report)


def servers_are_managers(tree: Tree, report: Reporter) -> None:
    """A server is a peer with the role manager, on that peer's host, at another port; once in a backend."""
    used: set[str] = set()
    for section in tree.all("backend"):
        seen: dict[str, int] = {}
        for server in section.all("server"):
            given = server.argument("name")
            if given is None:
                continue
            name = str(given.value)
            if name in seen:
                report.error(given.word, f"second {server.subject()}: the first is on line {seen[name]}")
            elif _peers(tree) and _is_peer(tree, given, Role.MANAGER, "server", report):
                used.add(name)
                _server_is_at_its_peer(server, _peers(tree)[name], report)
            seen.setdefault(name, given.word.line)
    if tree.first("backend") is not None:
        _unused(tree, Role.MANAGER, used, "is no server of a backend: nothing would elect it", report)


def frontends_lead_somewhere(tree: Tree, report: Reporter) -> None:
    """A bind names an address, default_backend a backend."""
    addresses, backends = _names(tree, "address"), _names(tree, "backend")
    bound: set[str] = set()
    served: set[str] = set()
    for section in tree.all("frontend"):
        for bind in section.all("bind"):
            given = bind.argument("address:port")
            if given is not None and isinstance(given.value, BindPoint):
                bound.add(given.value.address)
                _is_section("address", given.value.address, addresses, section, given, report)
        default = section.first("default_backend")
        given = default.argument("backend") if default else None
        if given is not None:
            served.add(str(given.value))
            _is_section("backend", str(given.value), backends, section, given, report)
    if not tree.complete or tree.first("frontend") is None:
        return
    for name, section in addresses.items():
        if name not in bound:
            report.warning(section.word, f"{section.subject()} is not bound by any frontend")
    for name, section in backends.items():
        if name not in served:
            report.warning(section.word, f"{section.subject()} is not the default_backend of any frontend")


def one_negotiator(tree: Tree, report: Reporter) -> None:
    """A manager runs one negotiator, so that one backend may say when."""
    first: Statement | None = None
    for section in tree.all("backend"):
        negotiator = section.first("negotiator")
        if negotiator is not None and first is not None:
            report.error(
                negotiator.word,
                f"{section.subject()}: second backend with a negotiator: the first is on line {first.word.line}, "
                "and a cluster has one",
            )
        first = first or negotiator


def servers_are_checked(tree: Tree, report: Reporter) -> None:
    """A server that nobody checks stays elected when its collector is deaf."""
    for section in tree.all("backend"):
        default = False
        unchecked: list[Statement] = []
        for statement in section.statements:
            if statement.keyword == "default-server":
                default = is_checked(statement, default)
            elif statement.keyword == "server" and not is_checked(statement, default):
                unchecked.append(statement)
        if unchecked:
            names = listing((str(given.value) for s in unchecked if (given := s.argument("name"))), "and")
            report.warning(
                unchecked[0].word,
                f"{section.subject()}: nobody checks {names or 'a server'}: write 'default-server check' above",
            )
        elif section.first("server") is not None and section.first("option condor-check") is None:
            report.warning(
                section.word,
                f"{section.subject()}: servers are checked by a connect only, and a deaf collector still takes one: "
                "write 'option condor-check'",
            )


def holding_outlasts_an_election(tree: Tree, report: Reporter) -> None:
    """A held connection waits for a new leader, who can't come before the old one's lease is over."""
    peers = tree.first("peers")
    lease = peers.first("lease") if peers else None
    given_lease = lease.argument("time") if lease else None
    if given_lease is None or not isinstance(given_lease.value, int):
        return
    for section in tree.all("backend"):
        queue = section.first("timeout queue")
        given = queue.argument("time") if queue else None
        if given is not None and isinstance(given.value, int) and given.value <= given_lease.value:
            report.warning(
                given.word,
                f"{section.subject()}: connections are held for {format_ms(given.value)}, but no election ends within "
                f"the lease of {format_ms(given_lease.value)}: hold them longer",
            )


def is_checked(statement: Statement, default: bool) -> bool:
    """Return whether a server line, or a default-server line, leaves the check on; the later word wins."""
    for word in reversed(statement.options):
        if word in {"check", "no-check"}:
            return word == "check"
    return default


REFERENCE_RULES: tuple[Callable[[Tree, Reporter], None], ...] = (
    holders_are_gateways,
    servers_are_managers,
    frontends_lead_somewhere,
    one_negotiator,
    servers_are_checked,
    holding_outlasts_an_election,
)


def _peers(tree: Tree) -> dict[str, Statement]:
    """Return the peers by name; of two with one name, the first."""
    peers: dict[str, Statement] = {}
    for section in tree.all("peers"):
        for peer in section.all("peer"):
            name = peer.argument("name")
            if name is not None:
                peers.setdefault(str(name.value), peer)
    return peers


def _names(tree: Tree, kind: str) -> dict[str, Section]:
    named: Iterator[Section] = tree.all(kind)
    return {str(section.name.value): section for section in named if section.name is not None}


def _has_role(peer: Statement, role: Role) -> bool:
    """Return whether a peer has a role; a peer whose roles could not be read has every role."""
    roles = peer.arguments.get("role", ())
    return not roles or any(given.value == role for given in roles)


def _is_peer(tree: Tree, given: Given, role: Role, subject: str, report: Reporter) -> bool:
    """Return whether a name is that of a peer with `role`; report it where not."""
    name, peers = str(given.value), _peers(tree)
    fitting = [other for other, peer in peers.items() if _has_role(peer, role)]
    if name not in peers:
        hint = did_you_mean(name, fitting) or f": those with the role {quote(role)} are {listing(fitting, 'and')}"
        report.error(given.word, f"{subject} {quote(name)}: no peer has this name{hint}")
    elif name not in fitting:
        report.error(
            given.word,
            f"{subject} {quote(name)}: the peer on line {peers[name].word.line} has not the role {quote(role)}: "
            f"add {quote(role)} to that line",
        )
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
            f"{server.subject()}: {here.value.host} is not the address of its peer on line {peer.word.line}: "
            f"write {quote(str(Endpoint(there.value.host, here.value.port)))}",
        )
    elif here.value.port == there.value.port:
        report.error(
            here.word,
            f"{server.subject()}: port {here.value.port} is taken by the heartbeats of its peer on line "
            f"{peer.word.line}: HTCondor's collector has 9618",
        )


def _is_section(
    kind: str, name: str, known: dict[str, Section], section: Section, given: Given, report: Reporter
) -> None:
    if known and name not in known:
        hint = did_you_mean(name, known) or f": there is {listing(known, 'and')}"
        report.error(given.word, f"{section.subject()}: no section '{kind}' has the name {quote(name)}{hint}")


def _unused(tree: Tree, role: Role, used: set[str], told: str, report: Reporter) -> None:
    for name, peer in _peers(tree).items():
        roles = peer.arguments.get("role", ())
        if name not in used and any(given.value == role for given in roles) and tree.complete:
            report.warning(peer.word, f"{peer.subject()} {told}")

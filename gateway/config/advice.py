"""Advice: what a file may say and its writer probably did not mean. Warnings only, and only for a file without errors.

With errors about, half of it would be their consequences: a backend is unused because its name is misspelt elsewhere.
"""

from collections.abc import Callable

from gateway.config.diagnostics import Reporter, listing
from gateway.config.settings import OnPartition, Role
from gateway.config.tree import Section, Statement, Tree
from gateway.config.values import BindPoint

CONTRARIES = {"check": "no-check", "backup": "no-backup", "disabled": "enabled"}


def advise(tree: Tree, report: Reporter) -> None:
    """Apply every rule of this module to `tree`, which has no error."""
    for rule in RULES:
        rule(tree, report)


def peers_do_what_they_say(tree: Tree, report: Reporter) -> None:
    """A gateway holds an address; a manager is a server of a backend."""
    holders = {
        str(given.value)
        for section in tree.all("address")
        for holder in section.all("holder")
        for given in holder.arguments["peer"]
    }
    servers = {_name(server) for section in tree.all("backend") for server in section.all("server")}
    for peer in _peers(tree):
        if _has_role(peer, Role.GATEWAY) and _name(peer) not in holders:
            report.warning(peer.word, f"{peer.subject()} holds no address: name it after 'holder'")
        if _has_role(peer, Role.MANAGER) and _name(peer) not in servers:
            report.warning(peer.word, f"{peer.subject()} is no server of a backend: nothing would elect it")


def something_takes_over(tree: Tree, report: Reporter) -> None:
    """There are two of each, or the first to die takes the pool with it."""
    peers = _peers(tree)
    for role in (Role.GATEWAY, Role.MANAGER):
        having = [peer for peer in peers if _has_role(peer, role)]
        if len(having) == 1:
            report.warning(having[0].word, f"{having[0].subject()} is the only {role}: nothing takes over from it")
    for section in tree.all("backend"):
        servers = enabled_servers(section)
        if len(servers) == 1 and len([peer for peer in peers if _has_role(peer, Role.MANAGER)]) > 1:
            told = f"{servers[0].subject()} is alone in {section.subject()}: nothing takes over from it"
            report.warning(servers[0].word, told)


def sections_are_used(tree: Tree, report: Reporter) -> None:
    """Every address is bound, every backend served. A file without a frontend is about addresses alone."""
    bound: set[str] = set()
    served: set[str] = set()
    for frontend in tree.all("frontend"):
        for bind in frontend.all("bind"):
            point = bind.arguments["address:port"][0].value
            assert isinstance(point, BindPoint)
            bound.add(point.address)
        served |= {str(default.arguments["backend"][0].value) for default in frontend.all("default_backend")}
    for section in tree.sections:
        name = str(section.name.value) if section.name is not None else ""
        if section.kind == "address" and name not in bound and tree.first("frontend") is not None:
            report.warning(section.word, f"{section.subject()} is not bound by any frontend")
        if section.kind == "backend" and name not in served:
            report.warning(section.word, f"{section.subject()} is not the default_backend of any frontend")


def defaults_are_taken_from(tree: Tree, report: Reporter) -> None:
    """Defaults stand before those that they are for."""
    for section in tree.unused:
        told = "no frontend or backend takes from these defaults: they hold for the sections after them"
        report.warning(section.word, f"{section.subject()}: {told}")


def servers_are_checked(tree: Tree, report: Reporter) -> None:
    """A server that nobody checks stays elected when its collector is deaf."""
    for section in tree.all("backend"):
        default = False
        unchecked: list[Statement] = []
        enabled = {server.word.line for server in enabled_servers(section)}
        for statement in section.statements:
            if statement.keyword == "default-server":
                default = is_said(statement, "check", default)
            elif statement.word.line in enabled and not is_said(statement, "check", default):
                unchecked.append(statement)
        if unchecked:
            names = listing((_name(server) for server in unchecked), "and")
            told = f"nobody checks {names}: write 'default-server check' above"
            report.warning(unchecked[0].word, f"{section.subject()}: {told}")
        elif section.first("option condor-check") is None:
            told = "a deaf collector still takes the connection of a plain check: write 'option condor-check'"
            report.warning(section.word, f"{section.subject()}: {told}")


def enabled_servers(backend: Section) -> list[Statement]:
    """Return the servers of a backend that stand for election."""
    default, found = False, []
    for statement in backend.statements:
        if statement.keyword == "default-server":
            default = is_said(statement, "disabled", default)
        elif statement.keyword == "server" and not is_said(statement, "disabled", default):
            found.append(statement)
    return found


def is_said(statement: Statement, word: str, default: bool) -> bool:
    """Return whether a server line, or a default-server line, says `word` or its contrary; the later one wins."""
    for said in reversed(statement.options):
        if said in {word, CONTRARIES[word]}:
            return said == word
    return default


def serving_apart_is_meant(tree: Tree, report: Reporter) -> None:
    """Two leaders at a time: said aloud where a majority would do without, and where it costs usage records."""
    for section in tree.all("peers"):
        policy = section.first("on-partition")
        if policy is None or policy.arguments["policy"][0].value != OnPartition.SERVE:
            continue
        word = policy.arguments["policy"][0].word
        voters = len(list(section.all("peer")))
        if voters > 2:
            report.warning(
                word,
                f"on-partition serve: each part of the {voters} voters elects a leader of its own, so that two hosts "
                "have the address until the network heals; without this line the larger part goes on alone",
            )
        for backend in tree.all("backend"):
            if backend.first("negotiator") is not None and backend.first("replicate accounting") is None:
                report.warning(
                    word,
                    "on-partition serve: each side charges its users by itself, and without 'replicate accounting' in "
                    f"{backend.subject()} the usage of one side is lost when they meet again",
                )


RULES: tuple[Callable[[Tree, Reporter], None], ...] = (
    peers_do_what_they_say,
    something_takes_over,
    sections_are_used,
    defaults_are_taken_from,
    serving_apart_is_meant,
    servers_are_checked,
)


def _peers(tree: Tree) -> list[Statement]:
    return [peer for section in tree.all("peers") for peer in section.all("peer")]


def _name(statement: Statement) -> str:
    return str(statement.arguments["name"][0].value)


def _has_role(peer: Statement, role: Role) -> bool:
    return any(given.value == role for given in peer.arguments["role"])

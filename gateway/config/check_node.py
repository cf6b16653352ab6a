"""Check of the node's own sections: sockets, notification, the status page. One function a rule.

What others than root can reach gets a warning where the file opens it wider than it may be meant.
"""

import ipaddress
import posixpath
from collections.abc import Callable, Iterator

from gateway.config.diagnostics import Reporter, quote
from gateway.config.keywords import SECTIONS
from gateway.config.limits import COMMAND_WORDS_MAX, CONSOLE_HOSTS_MAX, NOTIFY_COMMANDS_MAX, STATS_SOCKETS_MAX
from gateway.config.settings import Endpoint, Level, Protocol
from gateway.config.tree import Given, Section, Statement, Tree
from gateway.config.values import BindPoint, Prefix

SOCKET_PATH_MAX = 107  # sun_path of Linux, less the final zero
FORGOTTEN = ("/run/", "/var/run/", "/dev/shm/", "/tmp/")
EVERYWHERE = frozenset({"0.0.0.0", "::"})
WORLD_WRITES = 0o002  # whoever may write to a UNIX socket may connect to it


def sockets_are_distinct(tree: Tree, report: Reporter) -> None:
    """A socket has a path of its own, short enough for the kernel, which is not that of the node's own socket."""
    own = f"{_path_of(tree, 'state-dir').rstrip('/')}/admin.sock"
    taken: dict[str, Statement] = {}
    for index, (statement, given, path) in enumerate(_sockets(tree)):
        if index == STATS_SOCKETS_MAX:
            report.error(statement.word, f"more than {STATS_SOCKETS_MAX} stats sockets")
        if len(path.encode()) > SOCKET_PATH_MAX:
            told = f"the kernel takes {SOCKET_PATH_MAX} bytes at most: write a shorter path"
            report.error(given.word, f"stats socket: {quote(path)} is too long, {told}")
        plain = posixpath.normpath(path)
        first = taken.setdefault(plain, statement)
        if plain == posixpath.normpath(own):
            told = "is the node's own socket, for root alone: give this one another path"
            report.error(given.word, f"stats socket: {quote(path)} {told}")
        elif first is not statement:
            report.error(given.word, f"stats socket: {quote(path)} is already one, on {first.word.where}")


def sockets_are_guarded(tree: Tree, report: Reporter) -> None:
    """A socket that everybody may connect to is said aloud, the more the more it may do."""
    for statement, _, path in _sockets(tree):
        mode, level = statement.options.get("mode"), statement.options.get("level")
        if mode is None or not isinstance(mode.value, int) or not mode.value & WORLD_WRITES:
            continue
        may = "look at everything" if level is None else _MAY.get(str(level.value), "look")
        report.warning(
            mode.word,
            f"stats socket: every user of this host may connect to {quote(path)}, and {may}: write 'mode 660 group "
            "NAME' where that is not meant",
        )


def notification_is_possible(tree: Tree, report: Reporter) -> None:
    """A command is an absolute path, because nothing searches for it; there is a limit of them."""
    section = tree.first("global")
    commands = list(section.all("notify command")) if section is not None else []
    for index, statement in enumerate(commands):
        words = statement.arguments.get("word", ())
        if index == NOTIFY_COMMANDS_MAX:
            report.error(statement.word, f"more than {NOTIFY_COMMANDS_MAX} notify commands: let one script run them")
        if len(words) > COMMAND_WORDS_MAX:
            told = f"notify command: more than {COMMAND_WORDS_MAX} words: put them into a script"
            report.error(words[COMMAND_WORDS_MAX].word, told)
        if words and not str(words[0].value).startswith("/"):
            report.error(
                words[0].word,
                f"notify command: {quote(str(words[0].value))} is not an absolute path: nothing searches PATH, and no "
                "shell reads the line",
            )


def notification_has_a_reader(tree: Tree, report: Reporter) -> None:
    """A word about commands stands where there is a command; a named pipe has an owner too."""
    section = tree.first("global")
    if section is None or section.first("notify command") is not None:
        return
    for word in ("notify timeout",) if section.first("notify fifo") is not None else ("notify user", "notify timeout"):
        statement = section.first(word)
        if statement is not None:
            report.warning(statement.word, f"{word}: there is no 'notify command' that it could be about")


def console_is_where_it_is_meant(tree: Tree, report: Reporter) -> None:
    """A page that other hosts reach is read by everybody who does, without encryption."""
    section = tree.first("console")
    bind = section.first("bind") if section is not None else None
    given = bind.argument("address:port") if bind is not None else None
    if section is None or given is None or not isinstance(given.value, Endpoint):
        return
    if ipaddress.ip_address(given.value.host).is_loopback:
        return
    token = section.first("admin token-file")
    more = "" if token is None else ", and the admin token passes over the network as it is"
    report.warning(
        given.word,
        f"bind: the status page at {given.value} is readable by everybody who reaches that address, and has no "
        f"TLS{more}: bind '127.0.0.1:{given.value.port}' and use a tunnel or a web server before it, or let a firewall "
        "choose",
    )


def keys_are_kept_apart(tree: Tree, report: Reporter) -> None:
    """The page's token is read by another user than root, and the cluster's key by nobody else."""
    section = tree.first("console")
    statement = section.first("admin token-file") if section is not None else None
    given = statement.argument("path") if statement is not None else None
    if given is not None and posixpath.normpath(str(given.value)) == posixpath.normpath(_path_of(tree, "key-file")):
        told = "is the key-file of the cluster: make a file of its own for the token"
        report.error(given.word, f"admin token-file: {quote(str(given.value))} {told}")


def promises_outlive_a_reboot(tree: Tree, report: Reporter) -> None:
    """A node that forgets what it has promised may vote twice in one term."""
    section = tree.first("global")
    statement = section.first("state-dir") if section is not None else None
    given = statement.argument("path") if statement is not None else None
    if given is not None and f"{posixpath.normpath(str(given.value))}/".startswith(FORGOTTEN):
        told = "is emptied at a reboot, and with it what the node has promised: write a place on a disk"
        report.warning(given.word, f"state-dir: {quote(str(given.value))} {told}")


def console_ports_are_free(tree: Tree, report: Reporter) -> None:
    """The page's port on every address is not one that clients or heartbeats use over TCP."""
    section = tree.first("console")
    hosts = (
        [given for statement in section.all("allow-host") for given in statement.arguments.get("host", ())]
        if (section is not None)
        else []
    )
    if len(hosts) > CONSOLE_HOSTS_MAX:
        report.error(hosts[CONSOLE_HOSTS_MAX].word, f"allow-host: more than {CONSOLE_HOSTS_MAX} hosts")
    bind = section.first("bind") if section is not None else None
    given = bind.argument("address:port") if bind is not None else None
    if given is None or not isinstance(given.value, Endpoint):
        return
    for peers in tree.all("peers"):
        for peer in peers.all("peer"):
            at = peer.argument("address:port")
            if at is None or not isinstance(at.value, Endpoint) or at.value.port != given.value.port:
                continue
            if at.value.host == given.value.host or given.value.host in EVERYWHERE:
                told = f"port {given.value.port} is that of {peer.subject()} on {peer.word.where}: write another"
                report.error(given.word, f"bind: {told}")
                return
    for frontend in tree.all("frontend"):
        for bound in frontend.all("bind"):
            point, proto = bound.argument("address:port"), bound.options.get("proto")
            if point is None or not isinstance(point.value, BindPoint) or point.value.port != given.value.port:
                continue
            if proto is not None and proto.value == frozenset({Protocol.UDP}):
                continue
            if given.value.host in {*EVERYWHERE, *_hosts_of(tree, point.value.address)}:
                told = f"port {given.value.port} is that of {frontend.subject()} on {bound.word.where}: write another"
                report.error(given.word, f"bind: {told}")
                return


NODE_RULES: tuple[Callable[[Tree, Reporter], None], ...] = (
    sockets_are_distinct,
    sockets_are_guarded,
    notification_is_possible,
    notification_has_a_reader,
    console_is_where_it_is_meant,
    console_ports_are_free,
    keys_are_kept_apart,
    promises_outlive_a_reboot,
)

_MAY = {
    Level.USER.value: "look",
    Level.OPERATOR.value: "look at everything",
    Level.ADMIN.value: "change everything: move the matchmaker, end connections",
}


def _hosts_of(tree: Tree, address: str) -> set[str]:
    """Return the address that a section of this name gives."""
    sections = [
        section for section in tree.all("address") if section.name is not None and section.name.value == address
    ]
    given = [one.argument("address/prefix") for section in sections if (one := section.first("ip")) is not None]
    return {one.value.host for one in given if one is not None and isinstance(one.value, Prefix)}


def _sockets(tree: Tree) -> Iterator[tuple[Statement, Given, str]]:
    section = tree.first("global")
    for statement in section.all("stats socket") if section is not None else ():
        given = statement.argument("path")
        if given is not None and isinstance(given.value, str):
            yield statement, given, given.value


def _path_of(tree: Tree, keyword: str) -> str:
    section: Section | None = tree.first("global")
    statement = section.first(keyword) if section is not None else None
    given = statement.argument("path") if statement is not None else None
    return str(given.value) if given is not None else SECTIONS["global"].keywords[keyword].arguments[0].default or ""

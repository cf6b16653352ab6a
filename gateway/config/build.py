"""Build: a tree without mistakes to `Settings`. Reports nothing: whatever could be wrong was refused before.

What was not written takes the default of the keyword table.
"""

from typing import TypeVar

from gateway.config.advice import is_said
from gateway.config.keywords import SECTIONS
from gateway.config.limits import SOURCE_AUTO, SOURCE_AUTO_MIN
from gateway.config.schema import Argument
from gateway.config.settings import (
    Address,
    Backend,
    Bind,
    Console,
    Endpoint,
    Forward,
    Frontend,
    Level,
    LogFormat,
    Notify,
    OnPartition,
    Peer,
    Protocol,
    Role,
    Server,
    Settings,
    StatsSocket,
)
from gateway.config.tree import Section, Statement, Tree
from gateway.config.values import BindPoint, Prefix, Value, read_value

T = TypeVar("T")


def build(tree: Tree) -> Settings:
    """Return the settings that `tree` says; it must have passed the parser and the check without an error."""
    node, peers = tree.first("global"), tree.first("peers")
    assert node is not None
    assert peers is not None
    return Settings(
        cluster=_argument(node, "cluster", str),
        description=_description(node),
        key_file=_argument(node, "key-file", str),
        state_dir=_argument(node, "state-dir", str),
        log_format=LogFormat(_option(node, "log", "format", str)),
        relay_workers=_argument(node, "relay-workers", int),
        stats_sockets=tuple(_stats_socket(statement) for statement in node.all("stats socket")),
        notify=_notify(node),
        console=_console(tree.first("console")),
        peers_name=_name(peers),
        heartbeat_ms=_argument(peers, "heartbeat", int),
        lease_ms=_argument(peers, "lease", int),
        on_partition=OnPartition(_argument(peers, "on-partition", str)),
        guard_dead_ms=_argument(peers, "guard-dead-time", int),
        peers=tuple(_peer(statement) for statement in peers.all("peer")),
        addresses=tuple(_address(section) for section in tree.all("address")),
        frontends=tuple(_frontend(section) for section in tree.all("frontend")),
        backends=tuple(_backend(section) for section in tree.all("backend")),
    )


def _stats_socket(statement: Statement) -> StatsSocket:
    return StatsSocket(
        path=_given(statement, "path", str),
        mode=_option_of(statement, "global", "mode", int),
        user=_option_or(statement, "user", ""),
        group=_option_or(statement, "group", ""),
        level=Level(_option_of(statement, "global", "level", str)),
    )


def _notify(node: Section) -> Notify:
    fifo = node.first("notify fifo")
    return Notify(
        commands=tuple(_many(statement, "word") for statement in node.all("notify command")),
        fifo=_given(fifo, "path", str) if fifo is not None else "",
        user=_argument(node, "notify user", str),
        timeout_ms=_argument(node, "notify timeout", int),
    )


def _console(section: Section | None) -> Console | None:
    if section is None:
        return None
    token = section.first("admin token-file")
    return Console(
        bind=_argument(section, "bind", Endpoint),
        token_file=_given(token, "path", str) if token is not None else "",
        user=_argument(section, "user", str),
        hosts=tuple(host for statement in section.all("allow-host") for host in _many(statement, "host")),
    )


def _peer(statement: Statement) -> Peer:
    roles = statement.arguments["role"]
    return Peer(
        name=_given(statement, "name", str),
        endpoint=_given(statement, "address:port", Endpoint),
        roles=frozenset(Role(_typed(role.value, str)) for role in roles),
    )


def _address(section: Section) -> Address:
    prefix = _argument(section, "ip", Prefix)
    holder = section.first("holder")
    assert holder is not None
    return Address(
        name=_name(section),
        ip=prefix.host,
        prefix_length=prefix.length,
        device=_option(section, "ip", "dev", str),
        holders=_many(holder, "peer"),
    )


def _frontend(section: Section) -> Frontend:
    maxconn, of_source = _argument(section, "maxconn", int), _argument(section, "maxconn-per-source", int)
    return Frontend(
        name=_name(section),
        description=_description(section),
        binds=tuple(_bind(statement) for statement in section.all("bind")),
        backend=_argument(section, "default_backend", str),
        client_ms=_argument(section, "timeout client", int),
        hello_ms=_argument(section, "timeout client-hello", int),
        maxconn=maxconn,
        maxconn_source=max(SOURCE_AUTO_MIN, maxconn // 4) if of_source == SOURCE_AUTO else of_source,
        rate_source=_argument(section, "rate-per-source", int),
        tcplog=section.first("option tcplog") is not None,
    )


def _bind(statement: Statement) -> Bind:
    point = _given(statement, "address:port", BindPoint)
    protocols: frozenset[Protocol] = _option_of(statement, "frontend", "proto", frozenset)
    return Bind(address=point.address, port=point.port, protocols=protocols)


def _backend(section: Section) -> Backend:
    forward, standby, advertise = (section.first(word) for word in ("forward", "warm-standby", "advertise"))
    condor_check = section.first("option condor-check") is not None
    return Backend(
        name=_name(section),
        description=_description(section),
        servers=_servers(section),
        forward=Forward(_argument(section, "forward", str)),
        transparent=forward is not None and "transparent" in forward.options,
        condor_check=condor_check,
        connect_ms=_argument(section, "timeout connect", int),
        queue_ms=_argument(section, "timeout queue", int),
        drain_ms=_argument(section, "timeout drain", int),
        negotiator_on_elected=section.first("negotiator") is not None,
        warm_standby=standby is not None and _given(standby, "switch", str) == "on",
        replicate_accounting=section.first("replicate accounting") is not None,
        replicate_files=tuple(_given(statement, "path", str) for statement in section.all("replicate file")),
        advertise=condor_check if advertise is None else _given(advertise, "switch", str) == "on",
    )


def _servers(section: Section) -> tuple[Server, ...]:
    """Return the servers that stand for election; each has what the default-server lines above it say, unless it says.

    The order of the file is that of preference, and backups come after all others.
    """
    servers = []
    flags: dict[str, bool] = {"check": False, "backup": False, "disabled": False}
    times = {word: _default_option("backend", "server", word, int) for word in ("inter", "fall", "rise")}
    for statement in section.statements:
        if statement.keyword not in {"default-server", "server"}:
            continue
        own = times | {word: _typed(given.value, int) for word, given in statement.options.items() if word in times}
        said = {word: is_said(statement, word, default) for word, default in flags.items()}
        if statement.keyword == "default-server":
            times, flags = own, said
        elif not said["disabled"]:
            servers.append(
                Server(
                    name=_given(statement, "name", str),
                    endpoint=_given(statement, "address:port", Endpoint),
                    backup=said["backup"],
                    check=said["check"],
                    inter_ms=own["inter"],
                    fall=own["fall"],
                    rise=own["rise"],
                )
            )
    return tuple(sorted(servers, key=lambda server: server.backup))


def _description(section: Section) -> str:
    statement = section.first("description")
    return " ".join(_many(statement, "text")) if statement is not None else ""


def _name(section: Section) -> str:
    assert section.name is not None
    return _typed(section.name.value, str)


def _given(statement: Statement, argument: str, kind: type[T]) -> T:
    given = statement.argument(argument)
    assert given is not None, f"{statement.keyword}: {argument} was not read"
    return _typed(given.value, kind)


def _many(statement: Statement, argument: str) -> tuple[str, ...]:
    return tuple(_typed(given.value, str) for given in statement.arguments[argument])


def _option_or(statement: Statement, option: str, default: str) -> str:
    given = statement.options.get(option)
    return _typed(given.value, str) if given is not None else default


def _argument(section: Section, keyword: str, kind: type[T]) -> T:
    """Return the first argument of a once-only keyword of `section`, or its default."""
    argument = SECTIONS[section.kind].keywords[keyword].arguments[0]
    statement = section.first(keyword)
    return _given(statement, argument.name, kind) if statement else _default(argument, kind)


def _option(section: Section, keyword: str, option: str, kind: type[T]) -> T:
    statement = section.first(keyword)
    if statement is None:
        return _default_option(section.kind, keyword, option, kind)
    return _option_of(statement, section.kind, option, kind)


def _option_of(statement: Statement, section: str, option: str, kind: type[T]) -> T:
    given = statement.options.get(option)
    if given is None:
        return _default_option(section, statement.keyword, option, kind)
    return _typed(given.value, kind)


def _default_option(section: str, keyword: str, option: str, kind: type[T]) -> T:
    options = {known.word: known for known in SECTIONS[section].keywords[keyword].options}
    argument = options[option].argument
    assert argument is not None, f"{option} takes no value"
    return _default(argument, kind)


def _default(argument: Argument, kind: type[T]) -> T:
    assert argument.default is not None, f"{argument.name} has no default"
    return _typed(read_value(argument, argument.default), kind)


def _typed(value: Value, kind: type[T]) -> T:
    assert isinstance(value, kind), f"{value!r} is not a {kind.__name__}"
    return value

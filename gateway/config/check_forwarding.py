"""Check of forwarding: what each way to carry traffic needs of addresses, ports and hosts, and the limits of frontends.

A rule looks at each bind together with the backend that it leads to; what can't be followed so far was reported before.
"""

import ipaddress
from collections.abc import Callable, Iterator

import msgspec

from gateway.config.diagnostics import Reporter, quote
from gateway.config.keywords import SECTIONS
from gateway.config.settings import Endpoint, Forward
from gateway.config.tree import Given, Section, Statement, Tree
from gateway.config.values import BindPoint, Prefix, format_ms, read_value

CLIENT_MS_WANTED = 900_000  # HTCondor's daemons leave connections to the collector idle for so long, on purpose
HELLO_MS_ENOUGH = 30_000  # HTCondor's tools have given up by then


class _Path(msgspec.Struct, frozen=True, kw_only=True):
    """One bind, the address section that it names, and the backend that its frontend leads to."""

    frontend: Section
    point: BindPoint
    given: Given
    address: Section
    backend: Section


def addresses_lead_to_other_hosts(tree: Tree, report: Reporter) -> None:
    """A gateway can't hand a packet to itself, nor take the answer to a client's address off its own way out.

    So no server of a direct backend, or of a proxy that shows the client's address, may hold an address leading there.
    """
    hosts = _hosts_of_peers(tree)
    told: set[int] = set()  # lines of servers
    for path in _paths(tree):
        way = _way(path.backend)
        if way is Forward.DIRECT:
            why = "'forward direct' would send its packets to the host that they came to: write 'forward nat' or"
        elif way is Forward.PROXY and _transparent(path.backend) is not None:
            why = "with 'forward proxy transparent' its answers would go to the client, past the relay beside it: write"
        else:
            continue
        holding = {hosts[name] for name in _holders(path.address) if name in hosts}
        for server, endpoint in _servers(path.backend):
            if endpoint.host in holding and server.word.line not in told:
                told.add(server.word.line)
                report.error(
                    server.arguments["address:port"][0].word,
                    f"{server.subject()} may hold {_of(path.address)}, and {why} 'forward proxy', or let other hosts "
                    "hold it",
                )


def direct_has_an_address_to_itself(tree: Tree, report: Reporter) -> None:
    """Packets of a direct backend are told by their address alone, because the later fragments have no port."""
    first: dict[str, _Path] = {}
    for path in _paths(tree):
        other = first.setdefault(path.point.address, path)
        if other.backend is path.backend:
            continue
        direct = next((known for known in (other, path) if _way(known.backend) is Forward.DIRECT), None)
        if direct is not None:
            report.error(
                path.given.word,
                f"{path.frontend.subject()}: {quote(path.point.address)} leads to {other.backend.subject()} on "
                f"{other.given.word.where}, and with 'forward direct' in {direct.backend.subject()} an address leads "
                "to one backend, because fragments carry no port: give each an address of its own",
            )


def direct_keeps_the_port(tree: Tree, report: Reporter) -> None:
    """A packet that is handed on as it is finds its server at the port that the client wrote."""
    for path in _paths(tree, Forward.DIRECT):
        for server, endpoint in _servers(path.backend):
            if endpoint.port != path.point.port:
                report.error(
                    path.given.word,
                    f"{path.frontend.subject()}: port {path.point.port} is not that of {_of(server)}, "
                    f"{endpoint.port}, and 'forward direct' leaves packets as they are: make the ports equal, or write "
                    "'forward nat'",
                )
                break


def transparent_is_a_choice(tree: Tree, report: Reporter) -> None:
    """A word that changes nothing is not taken: its reader would think that it did."""
    for section in tree.all("backend"):
        option = _transparent(section)
        if option is not None and _way(section) is Forward.DIRECT:
            report.error(
                option.word,
                f"{section.subject()}: 'forward direct' always keeps the client's address: remove 'transparent'",
            )


def versions_agree(tree: Tree, report: Reporter) -> None:
    """A client's IPv6 address can't stand in a packet of IPv4: only two connections can translate."""
    for path in _paths(tree):
        way, transparent = _way(path.backend), _transparent(path.backend) is not None
        host = _virtual(path.address)
        if host is None or (way is not Forward.NAT and not (way is Forward.PROXY and transparent)):
            continue
        for server, endpoint in _servers(path.backend):
            if _version(endpoint.host) != _version(host):
                words = f"forward {way}{' transparent' if transparent else ''}"
                report.error(
                    path.given.word,
                    f"{path.frontend.subject()}: {host} is IPv{_version(host)}, but {endpoint.host} of {_of(server)} "
                    f"is IPv{_version(endpoint.host)}, and {quote(words)} stays in one version: write 'forward proxy', "
                    "which translates",
                )
                break


def sources_are_fewer_than_connections(tree: Tree, report: Reporter) -> None:
    """A limit for one client that is above the limit for all is never reached."""
    for section in tree.all("frontend"):
        most, of_one = _number(section, "maxconn"), _number(section, "maxconn-per-source")
        written = section.first("maxconn-per-source")
        if written is not None and most is not None and of_one is not None and of_one > most:
            default = "" if section.first("maxconn") is not None else " (its default)"
            report.error(
                written.arguments["auto|count"][0].word,
                f"{section.subject()}: maxconn-per-source {of_one} is above maxconn {most}{default} and would never be "
                "reached: make it smaller, or maxconn greater",
            )


def idle_connections_are_left_alone(tree: Tree, report: Reporter) -> None:
    """HTCondor's daemons keep a connection to their collector and are silent on it between two updates."""
    for section, given, time_ms in _written_times(tree, "timeout client"):
        if time_ms < CLIENT_MS_WANTED:
            report.warning(
                given.word,
                f"{section.subject()}: timeout client {format_ms(time_ms)} closes connections that HTCondor's daemons "
                f"keep idle on purpose, for {format_ms(CLIENT_MS_WANTED)} and more: make it longer than that",
            )


def silent_clients_are_let_go(tree: Tree, report: Reporter) -> None:
    """Who connects and says nothing costs a place; HTCondor's clients speak first and at once."""
    for section, given, time_ms in _written_times(tree, "timeout client-hello"):
        if time_ms > HELLO_MS_ENOUGH:
            report.warning(
                given.word,
                f"{section.subject()}: timeout client-hello {format_ms(time_ms)} keeps the place of a client that says "
                "nothing for so long, and HTCondor's speak at once: 10s is enough",
            )


FORWARDING_RULES: tuple[Callable[[Tree, Reporter], None], ...] = (
    addresses_lead_to_other_hosts,
    direct_has_an_address_to_itself,
    direct_keeps_the_port,
    transparent_is_a_choice,
    versions_agree,
    sources_are_fewer_than_connections,
    idle_connections_are_left_alone,
    silent_clients_are_let_go,
)


def _paths(tree: Tree, way: Forward | None = None) -> Iterator[_Path]:
    """Yield every bind whose address and backend are there; with `way` those of backends that forward so."""
    addresses, backends = _by_name(tree, "address"), _by_name(tree, "backend")
    for frontend in tree.all("frontend"):
        default = frontend.first("default_backend")
        given = default.argument("backend") if default is not None else None
        backend = backends.get(str(given.value)) if given is not None else None
        if backend is None or (way is not None and _way(backend) is not way):
            continue
        for bind in frontend.all("bind"):
            at = bind.argument("address:port")
            if at is not None and isinstance(at.value, BindPoint) and at.value.address in addresses:
                address = addresses[at.value.address]
                yield _Path(frontend=frontend, point=at.value, given=at, address=address, backend=backend)


def _by_name(tree: Tree, kind: str) -> dict[str, Section]:
    return {str(section.name.value): section for section in tree.all(kind) if section.name is not None}


def _way(backend: Section) -> Forward | None:
    """Return how a backend's traffic is carried; None where it could not be read."""
    statement = backend.first("forward")
    if statement is None:
        return Forward.PROXY
    given = statement.argument("way")
    return Forward(str(given.value)) if given is not None else None


def _transparent(backend: Section) -> Given | None:
    statement = backend.first("forward")
    return statement.options.get("transparent") if statement is not None else None


def _servers(backend: Section) -> Iterator[tuple[Statement, Endpoint]]:
    for server in backend.all("server"):
        given = server.argument("address:port")
        if given is not None and isinstance(given.value, Endpoint):
            yield server, given.value


def _holders(address: Section) -> set[str]:
    holder = address.first("holder")
    return {str(given.value) for given in holder.arguments.get("peer", ())} if holder is not None else set()


def _hosts_of_peers(tree: Tree) -> dict[str, str]:
    """Return the address of each peer's host, by its name."""
    hosts: dict[str, str] = {}
    for peers in tree.all("peers"):
        for peer in peers.all("peer"):
            name, at = peer.argument("name"), peer.argument("address:port")
            if name is not None and at is not None and isinstance(at.value, Endpoint):
                hosts.setdefault(str(name.value), at.value.host)
    return hosts


def _virtual(address: Section) -> str | None:
    statement = address.first("ip")
    given = statement.argument("address/prefix") if statement is not None else None
    return given.value.host if given is not None and isinstance(given.value, Prefix) else None


def _version(host: str) -> int:
    return ipaddress.ip_address(host).version


def _of(thing: Section | Statement) -> str:
    return f"{thing.subject()} on {thing.word.where}"


def _number(frontend: Section, keyword: str) -> int | None:
    """Return the count that a frontend says after `keyword`, or its default; None where it could not be read."""
    statement = frontend.first(keyword)
    argument = SECTIONS["frontend"].keywords[keyword].arguments[0]
    if statement is None:
        assert argument.default is not None
        value = read_value(argument, argument.default)
    else:
        given = statement.argument(argument.name)
        value = given.value if given is not None else ""
    return value if isinstance(value, int) else None


def _written_times(tree: Tree, keyword: str) -> Iterator[tuple[Section, Given, int]]:
    for section in tree.all("frontend"):
        statement = section.first(keyword)
        given = statement.argument("time") if statement is not None else None
        if given is not None and isinstance(given.value, int):
            yield section, given, given.value

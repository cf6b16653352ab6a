"""HTCondor's configuration for each kind of host, as an administrator writes it, from the gateway's own file. Pure.

Rule: every line has a comment that says why it is there, and a submit or execute host has one line that matters.
"""

import enum
import textwrap

from gateway.config.settings import Backend, Endpoint, Forward, Settings
from gateway.matchmaker.pool_address import virtual_endpoints

CONDOR_PORT = 9618  # HTCondor's COLLECTOR_PORT
WIDTH = 100


class HostRole(enum.StrEnum):
    """What a host of the pool does, for HTCondor."""

    MANAGER = "manager"
    SUBMIT = "submit"
    EXECUTE = "execute"
    GATEWAY = "gateway"


class NoPool(Exception):  # noqa: N818 (an answer to the operator)
    """The file has no pool to write a configuration for, or several; the sentence says which."""


def pool_of(settings: Settings, name: str | None) -> Backend:
    """Return the backend called `name`; None: the only one.

    Raises:
        NoPool: there is none, or none of that name, or several and no name.
    """
    known = ", ".join(backend.name for backend in settings.backends)
    if not settings.backends:
        raise NoPool("this file has no backend: there is no pool whose HTCondor could be configured")
    if name is None and len(settings.backends) > 1:
        raise NoPool(f"this file has several pools: name one of them with --backend: {known}")
    for backend in settings.backends:
        if name in (None, backend.name):
            if not virtual_endpoints(settings, backend):
                raise NoPool(f"no frontend leads to backend '{backend.name}' by TCP: its pool has no virtual address")
            return backend
    raise NoPool(f"no backend '{name}' in this file: it has {known}")


def render(settings: Settings, backend: Backend, role: HostRole, *, node: str | None = None) -> str:
    """Return the text of a configuration file for hosts that are `role` in the pool of `backend`.

    `node` is the manager it is for; None: for any, and what differs between them is commented out.

    Raises:
        NoPool: `node` is no server of `backend`.
    """
    virtual = virtual_endpoints(settings, backend)
    assert virtual, "pool_of has looked"
    lines = _head(settings, backend, role, virtual)
    match role:
        case HostRole.MANAGER:
            lines += _manager(settings, backend, node)
        case HostRole.SUBMIT | HostRole.EXECUTE:
            lines += [*_address(virtual), *_security(), *_entity(settings, backend)]
        case HostRole.GATEWAY:
            lines += [*_address(virtual), *_security(), *_gateway()]
    return "\n".join(lines) + "\n"


def _say(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH - 2)]


def _line(why: str, line: str) -> list[str]:
    return ["", *_say(why), line]


def _head(settings: Settings, backend: Backend, role: HostRole, virtual: tuple[Endpoint, ...]) -> list[str]:
    where = f"'{backend.name}' behind {' and '.join(str(endpoint) for endpoint in virtual)}"
    return _say(f"HTCondor on {role} hosts of cluster '{settings.cluster}': the pool of backend {where}.") + _say(
        "Written by 'condor-gateway condor-config'; put it into a folder of LOCAL_CONFIG_DIR, as 50-pool.config."
    )


def bracketed(host: str) -> str:
    """Return an address as HTCondor's configuration has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _address(virtual: tuple[Endpoint, ...]) -> list[str]:
    first = virtual[0]
    lines = _line(
        "The pool's virtual address. Whichever gateway holds it leads to the elected manager, so that this line never "
        "changes again. One address only: in a list HTCondor sees several collectors and sends everything to each.",
        f"CONDOR_HOST = {bracketed(first.host)}",
    )
    if len(virtual) > 1:
        lines += _say(f"Hosts that speak IPv6 alone write instead: CONDOR_HOST = {bracketed(virtual[1].host)}")
    if first.port != CONDOR_PORT:
        lines += _line(
            f"The pool is reached at port {first.port}, not at HTCondor's own, {CONDOR_PORT}.",
            f"COLLECTOR_HOST = $(CONDOR_HOST):{first.port}",
        )
    return lines


def _security() -> list[str]:
    return _line(
        "Everybody proves who he is, by the pool's signing key or a token made with it; the same key on every host. "
        "Where you have security settings of your own, leave this line away.",
        "use SECURITY : recommended_v9_0",
    )


def _entity(settings: Settings, backend: Backend) -> list[str]:
    """Say what a site must add that authorises by host: the negotiator does not come from the virtual address."""
    managers = " ".join(server.endpoint.host for server in backend.servers)
    return [
        "",
        *_say(
            "Only where you authorise by host (use SECURITY : HOST_BASED): the negotiator connects from its manager's "
            "own address, and a new leader asks startds to send their ads again. HTCondor would let in nobody but "
            "CONDOR_HOST."
        ),
        f"# ALLOW_NEGOTIATOR = $(ALLOW_NEGOTIATOR) {managers}",
        f"# ALLOW_WRITE = $(ALLOW_WRITE) {managers}",
    ]


def _gateway() -> list[str]:
    return _line(
        "A gateway needs nothing of HTCondor. Where its tools are installed (condor_status), this keeps its daemons "
        "away. On a host that is a manager too, use the manager's configuration instead.",
        "DAEMON_LIST = MASTER",
    )


def _manager(settings: Settings, backend: Backend, node: str | None) -> list[str]:
    lines = _line(
        "A manager's own name, never the virtual address: it would look for its collector behind a gateway, on "
        "another manager or on none, and its start would stall for 20 s.",
        "CONDOR_HOST = $(FULL_HOSTNAME)",
    )
    port = backend.servers[0].endpoint.port
    if port != CONDOR_PORT:
        lines += _line(
            f"This pool's managers listen at port {port}: 'server ...:{port}' in the gateway's file.",
            f"COLLECTOR_HOST = $(CONDOR_HOST):{port}",
        )
        lines += _line("HTCondor's port is that of its shared port daemon.", f"SHARED_PORT_PORT = {port}")
    lines += _security()
    lines += _line(
        "No NEGOTIATOR here: condor-gateway starts it where it is elected and nowhere else, in a file of its own "
        "that does not outlive a boot. (So do not write 'use ROLE : CentralManager', which lists it.)",
        "DAEMON_LIST = MASTER COLLECTOR",
    )
    lines += _line(
        "Collector and negotiator share one port, so that one forwarded port reaches both.",
        "COLLECTOR_USES_SHARED_PORT = True",
    )
    lines += _line(
        "The negotiator's name behind that port is the same from one start to the next: who has found it finds its "
        "successor.",
        "NEGOTIATOR_ARGS = -sock negotiator",
    )
    if node is not None:
        _server(backend, node)
    if backend.forward is Forward.DIRECT:
        lines += _line(
            "forward direct: the virtual address is on 'lo' here while this manager is elected, and clients speak to "
            "it.",
            "BIND_ALL_INTERFACES = True",
        )
        lines += _own(backend, node, "What the daemons say of themselves is this manager's own address all the same.")
    elif shared_ports(settings, backend):
        lines += _line(
            "This host is a gateway too: the virtual address's port is the gateway's, HTCondor keeps to the host's own "
            "address.",
            "BIND_ALL_INTERFACES = False",
        )
        lines += _own(backend, node, "The host's own address.")
    lines += _intervals()
    return lines + _allowed(settings, backend)


def _server(backend: Backend, node: str) -> Endpoint:
    for server in backend.servers:
        if server.name == node:
            return server.endpoint
    known = ", ".join(server.name for server in backend.servers)
    raise NoPool(f"'{node}' is no server of backend '{backend.name}': it has {known}")


def shared_ports(settings: Settings, backend: Backend) -> bool:
    """Return whether managers of `backend` hold its address too, at the port at which their collectors listen."""
    ports = {endpoint.port for endpoint in virtual_endpoints(settings, backend)}
    holders = {name for address in settings.addresses for name in address.holders}
    return any(server.name in holders and server.endpoint.port in ports for server in backend.servers)


def _own(backend: Backend, node: str | None, why: str) -> list[str]:
    """Say which address is the manager's own; where it is not known for which manager this is, that of each."""
    if node is not None:
        return _line(why, f"NETWORK_INTERFACE = {_server(backend, node).host}")
    lines = ["", *_say(f"{why} Uncomment this host's line.")]
    return lines + [f"# {server.name}: NETWORK_INTERFACE = {server.endpoint.host}" for server in backend.servers]


def _intervals() -> list[str]:
    return [
        *_line(
            "A new job waits for the next cycle, HTCondor's default of a minute at most. 5 s cost 1 % of a CPU with "
            "416 slots; with more, take ten times the length of a cycle (LastNegotiationCycleDuration0).",
            "NEGOTIATOR_INTERVAL = 5",
        ),
        *_line("A cycle may begin so soon after the one before it.", "NEGOTIATOR_CYCLE_DELAY = 1"),
        *_line("The least time between the beginnings of two cycles.", "NEGOTIATOR_MIN_INTERVAL = 1"),
    ]


def _allowed(settings: Settings, backend: Backend) -> list[str]:
    managers = [server.endpoint.host for server in backend.servers]
    hidden = backend.forward is not Forward.DIRECT and not backend.transparent
    if hidden:
        told = (
            f"Only where you authorise by host: with 'forward {backend.forward}' this manager sees the gateways' "
            "addresses in place of the clients', so that a list by host lets in all clients or none. Authorise by "
            f"identity, or write 'forward {backend.forward} transparent' in the gateway's file."
        )
        return [
            "",
            *_say(told),
            f"# ALLOW_WRITE = $(ALLOW_WRITE) {' '.join([*_gateways(settings, backend), *managers])}",
        ]
    told = (
        "Only where you authorise by host: this manager sees the clients' own addresses. The other managers fill its "
        "collector with the pool's ads while it stands by."
    )
    return ["", *_say(told), f"# ALLOW_WRITE = $(ALLOW_WRITE) {' '.join(managers)}"]


def _gateways(settings: Settings, backend: Backend) -> list[str]:
    """Return the own addresses of the gateways that lead to `backend`."""
    addresses = {bind.address for front in settings.frontends if front.backend == backend.name for bind in front.binds}
    holders = {name for address in settings.addresses if address.name in addresses for name in address.holders}
    return [peer.endpoint.host for peer in settings.peers if peer.name in holders]

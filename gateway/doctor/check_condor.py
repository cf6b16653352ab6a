"""Checks of HTCondor's configuration on this host, against what the gateway's file says of its pool. Pure."""

import fnmatch
import ipaddress
import re
from typing import Final

from gateway.config.settings import Backend, Forward, Role, Server
from gateway.doctor.condor import Knob, truth, words
from gateway.doctor.facts import Facts
from gateway.doctor.findings import Check, Trouble, error, note, warning
from gateway.matchmaker.nodefile import NAME, ROLE_FILE, SESSION_NAME, SESSION_S
from gateway.matchmaker.pool_address import virtual_endpoints
from gateway.matchmaker.pool_config import shared_ports

# What is asked of HTCondor, in one call.
PATTERN: Final = (
    "^((COLLECTOR|NEGOTIATOR|MASTER)[.].*|CONDOR_HOST|COLLECTOR_HOST|COLLECTOR_PORT|DAEMON_LIST|NEGOTIATOR_ARGS"
    "|NEGOTIATOR_(INTERVAL|CYCLE_DELAY|MIN_INTERVAL)|SEC_.*SESSION_DURATION|TCP_FORWARDING_HOST|BIND_ALL_INTERFACES"
    "|NETWORK_INTERFACE|(USE|COLLECTOR_USES)_SHARED_PORT|SHARED_PORT_PORT|UPDATE_COLLECTOR_WITH_TCP|ALLOW_(READ|WRITE|DAEMON"
    "|NEGOTIATOR|ADVERTISE_.*)(_COLLECTOR)?|DENY_.*|LOCAL_CONFIG_DIR|FULL_HOSTNAME|HOSTNAME|IP_ADDRESS|CONDOR_VERSION"
    "|CONDOR_VIEW_HOST|UPDATE_INTERVAL|CLASSAD_LIFETIME|HAD_LIST|SPOOL|SECURITY_MODEL)$"
)
INTERVAL_S_MAX: Final = 20  # a new job waits for it: HTCondor's default of 60 s is what failover is measured against


def is_installed(facts: Facts) -> list[Trouble] | None:
    """A manager has HTCondor."""
    if not facts.managed():
        return None
    if facts.condor is None:
        return [
            error(
                f"HTCondor's configuration can't be read: {facts.condor_unknown}", "install HTCondor's central manager"
            )
        ]
    return []


def host_is_right(facts: Facts) -> list[Trouble] | None:
    """A manager looks for its collector at its own name; every other host of the pool at the virtual address."""
    if facts.condor is None or facts.settings is None or not facts.settings.backends:
        return None
    named = words(_value(facts, "CONDOR_HOST"))
    virtual = _virtual(facts)
    if facts.managed():
        if virtual & {_bare(name) for name in named}:
            return [
                error(
                    f"CONDOR_HOST is the virtual address ({', '.join(named)}) on a manager: it would report to another "
                    f"manager or to nobody, and its start stalls for 20 s{_at(facts, 'CONDOR_HOST')}",
                    "CONDOR_HOST = $(FULL_HOSTNAME) on managers",
                )
            ]
        own = {_value(facts, "FULL_HOSTNAME").lower(), _value(facts, "HOSTNAME").lower(), *_own_hosts(facts)}
        strange = [name for name in named if _bare(name).lower() not in own]
        if strange:
            told = f"CONDOR_HOST is {', '.join(named)}{_at(facts, 'CONDOR_HOST')}: a manager names itself alone"
            return [error(told, "CONDOR_HOST = $(FULL_HOSTNAME) on managers")]
        return []
    if not words(_value(facts, "DAEMON_LIST")) or not named:
        return None
    if not virtual & {_bare(name) for name in named}:
        told = f"CONDOR_HOST is {', '.join(named)}{_at(facts, 'CONDOR_HOST')}, not the pool's virtual address"
        return [note(told, f"CONDOR_HOST = {min(virtual)}, unless it is a name of that address")]
    return []


def collector_is_right(facts: Facts) -> list[Trouble] | None:
    """A manager's daemons report to its own collector alone."""
    if facts.condor is None or not facts.managed():
        return None
    listed = words(_value(facts, "COLLECTOR_HOST"))
    if _virtual(facts) & {_bare(name) for name in listed}:
        told = (
            f"COLLECTOR_HOST leads to the virtual address{_at(facts, 'COLLECTOR_HOST')}: the collector would not "
            "know itself"
        )
        return [error(told, "leave COLLECTOR_HOST away on managers")]
    if len(listed) > 1:
        told = (
            f"COLLECTOR_HOST has {len(listed)} collectors{_at(facts, 'COLLECTOR_HOST')}: condor-gateway forwards "
            "the ads itself"
        )
        return [warning(told, "leave COLLECTOR_HOST away on managers")]
    ports = [int(word.rpartition(":")[2]) for word in listed if re.search(r"[^:]:\d+$", word)]
    port = ports[0] if ports else int(_value(facts, "COLLECTOR_PORT") or "9618")
    mine = _servers(facts)
    if mine and mine[0].endpoint.port != port:
        told = f"HTCondor's collector listens on port {port}, but the file has it at {mine[0].endpoint}"
        return [error(told, "correct the server line, or COLLECTOR_HOST")]
    return []


def daemons_are_right(facts: Facts) -> list[Trouble] | None:
    """The collector is started by HTCondor, the negotiator by condor-gateway alone, and HAD by nobody."""
    if facts.condor is None or not facts.managed():
        return None
    knob = facts.condor.get("DAEMON_LIST", Knob(value=""))
    listed = [word.upper() for word in words(knob.value)]
    found = []
    # Where this manager is elected the node's own file has added one, at the end.
    ours = 1 if knob.where.startswith(ROLE_FILE) else 0
    if listed.count("NEGOTIATOR") > ours:
        found.append(
            error(
                f"NEGOTIATOR is in DAEMON_LIST{'' if ours else _at(facts, 'DAEMON_LIST')}: every manager would "
                "start one "
                "at boot, and each would match and charge the pool",
                "take it out ('use role:CentralManager' puts it there): condor-gateway starts it where it is elected",
            )
        )
    had = [word for word in listed if word in {"HAD", "REPLICATION"}]
    if had:
        told = (
            f"{' and '.join(had)} in DAEMON_LIST{_at(facts, 'DAEMON_LIST')}: condor_had would start and stop "
            "negotiators too"
        )
        found.append(error(told, "take it out; condor-gateway import-had says what else goes"))
    if "COLLECTOR" not in listed:
        found.append(
            error("no COLLECTOR in DAEMON_LIST: nothing here could be elected", "DAEMON_LIST = MASTER COLLECTOR")
        )
    return found


def negotiator_has_one_name(facts: Facts) -> list[Trouble] | None:
    """The negotiator's name behind the shared port does not change."""
    if facts.condor is None or not any(backend.negotiator_on_elected for backend in facts.managed()):
        return None
    if "-sock" not in _value(facts, "NEGOTIATOR_ARGS").split():
        told = (
            "the negotiator has another name behind HTCondor's port at each start: who has found it does not find "
            "its successor"
        )
        return [warning(told, "NEGOTIATOR_ARGS = -sock negotiator")]
    return []


def cycles_are_short(facts: Facts) -> list[Trouble] | None:
    """A new job does not wait for a minute."""
    if facts.condor is None or not any(backend.negotiator_on_elected for backend in facts.managed()):
        return None
    value = _value(facts, "NEGOTIATOR_INTERVAL") or "60"
    if value.isdecimal() and int(value) > INTERVAL_S_MAX:
        told = f"a new job waits for up to {value} s (NEGOTIATOR_INTERVAL), after a failover as ever"
        return [note(told, "NEGOTIATOR_INTERVAL = 5, or ten times the length of a cycle")]
    return []


def sessions_are_short(facts: Facts) -> list[Trouble] | None:
    """After a switch, clients authenticate anew instead of losing an update each."""
    if facts.condor is None or not facts.managed():
        return None
    found = []
    for name in (
        "COLLECTOR.SEC_DAEMON_SESSION_DURATION",
        "SEC_DAEMON_SESSION_DURATION",
        "COLLECTOR.SEC_WRITE_SESSION_DURATION",
    ):
        knob = facts.condor.get(name)
        if knob is not None and knob.where and knob.value.isdecimal() and int(knob.value) > SESSION_S:
            told = (
                f"{name} = {knob.value}{_at(facts, name)} counts before condor-gateway's {SESSION_S} s: after a switch "
                "each client's first update is refused and lost"
            )
            found.append(warning(told, "keep that line away from the managers' collectors"))
    short = facts.condor.get(f"COLLECTOR.{SESSION_NAME}")
    if short is not None and short.value.isdecimal() and int(short.value) > SESSION_S:
        told = (
            f"COLLECTOR.{SESSION_NAME} = {short.value}{_at(facts, f'COLLECTOR.{SESSION_NAME}')}: updates are lost "
            "after a switch"
        )
        found.append(warning(told, f"leave it to condor-gateway's own file ({NAME}), which says {SESSION_S}"))
    if short is None and facts.status is not None:
        told = f"condor-gateway's own file ({NAME}) is not read by HTCondor here"
        found.append(
            error(told, "let LOCAL_CONFIG_DIR end with a folder that condor-gateway can write to; condor_reconfig")
        )
    return found


def nothing_forwards_twice(facts: Facts) -> list[Trouble] | None:
    """TCP_FORWARDING_HOST is not set."""
    if facts.condor is None or not facts.managed():
        return None
    if _value(facts, "TCP_FORWARDING_HOST"):
        told = (
            f"TCP_FORWARDING_HOST is set{_at(facts, 'TCP_FORWARDING_HOST')}: the collector sends its own ad to "
            "itself and "
            "stands still for 20 s, after every start and every 15 minutes"
        )
        return [error(told, "remove it: condor-gateway gives the negotiator the virtual address by itself")]
    return []


def interfaces_are_right(facts: Facts) -> list[Trouble] | None:
    """HTCondor listens where it is reached, and leaves the virtual address's port to the gateway on the same host."""
    if facts.condor is None or facts.settings is None:
        return None
    found = []
    applies = False
    for backend in facts.managed():
        own = next(
            (server.endpoint.host for server in backend.servers if facts.me and server.name == facts.me.name), ""
        )
        everywhere = truth(facts.condor, "BIND_ALL_INTERFACES", default=True)
        interface = _value(facts, "NETWORK_INTERFACE") or "*"
        if backend.forward is Forward.DIRECT:
            applies = True
            if not everywhere:
                told = (
                    "BIND_ALL_INTERFACES is False: HTCondor never hears what 'forward direct' sends to the virtual "
                    "address"
                )
                found.append(error(told, "BIND_ALL_INTERFACES = True, and restart HTCondor"))
            taken = [ip for ip in _virtual(facts) if any(fnmatch.fnmatch(ip, one) for one in words(interface))]
            if taken:
                told = f"daemons that start while this manager is elected take {taken[0]} for their own address"
                found.append(warning(told, f"NETWORK_INTERFACE = {own}"))
        elif facts.is_(Role.GATEWAY) and shared_ports(facts.settings, backend):
            applies = True
            if everywhere:
                port = backend.servers[0].endpoint.port
                told = (
                    f"HTCondor takes port {port} on all addresses of this host, the virtual one's too, which the "
                    "gateway needs"
                )
                found.append(
                    error(told, f"BIND_ALL_INTERFACES = False and NETWORK_INTERFACE = {own}, and restart HTCondor")
                )
    return found if applies else None


def lists_let_gateways_in(facts: Facts) -> list[Trouble] | None:
    """Where HTCondor authorises by host, it lets in those whose addresses it sees."""
    if facts.condor is None or facts.settings is None or not facts.managed():
        return None
    found = []
    for backend in facts.managed():
        hidden = backend.forward is not Forward.DIRECT and not backend.transparent
        wanted = _gateways(facts, backend) if hidden else []
        wanted += [server.endpoint.host for server in backend.servers if facts.me and server.name != facts.me.name]
        for level in ("ALLOW_DAEMON", "ALLOW_WRITE", "ALLOW_READ"):
            entries = words(_value(facts, f"{level}_COLLECTOR") or _value(facts, level))
            missing = [host for host in wanted if entries and not any(_admits(entry, host) for entry in entries)]
            if missing:
                who = "gateways and managers" if hidden else "the other managers"
                told = (
                    f"{level} lets {', '.join(missing)} not in{_at(facts, level)}: this manager sees {who} in the "
                    "pool's traffic"
                )
                found.append(warning(told, f"{level} = $({level}) {' '.join(missing)}; better: authorise by identity"))
    return found


def leftovers_are_gone(facts: Facts) -> list[Trouble] | None:
    """A host that is no manager has no file of condor-gateway in HTCondor's configuration."""
    if facts.condor is None or facts.settings is None or facts.me is None or facts.managed():
        return None
    places = {knob.where for knob in facts.condor.values() if NAME in knob.where}
    if places:
        told = f"HTCondor reads condor-gateway's file here ({min(places)}), and this host is no manager"
        return [warning(told, f"delete {min(places).partition(',')[0]}, and run condor_reconfig")]
    return []


# ---- what they share


def _value(facts: Facts, name: str) -> str:
    knob = (facts.condor or {}).get(name)
    return knob.value if knob is not None else ""


def _at(facts: Facts, name: str) -> str:
    """Return where a parameter was set, to stand in a sentence."""
    knob = (facts.condor or {}).get(name)
    return f" ({knob.where})" if knob is not None and knob.where else ""


def _bare(name: str) -> str:
    """Return a host of HTCondor's configuration without port and brackets."""
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0] if name.count(":") == 1 else name


def _virtual(facts: Facts) -> set[str]:
    assert facts.settings is not None
    pools = facts.managed() or facts.settings.backends
    return {endpoint.host for pool in pools for endpoint in virtual_endpoints(facts.settings, pool)}


def _servers(facts: Facts) -> list[Server]:
    return [server for pool in facts.managed() for server in pool.servers if facts.me and server.name == facts.me.name]


def _own_hosts(facts: Facts) -> set[str]:
    return {server.endpoint.host for server in _servers(facts)} | {facts.me.name.lower() if facts.me else ""}


def _gateways(facts: Facts, backend: Backend) -> list[str]:
    assert facts.settings is not None
    fronts = [front for front in facts.settings.frontends if front.backend == backend.name]
    names = {bind.address for front in fronts for bind in front.binds}
    holders = {name for address in facts.settings.addresses if address.name in names for name in address.holders}
    return [peer.endpoint.host for peer in facts.settings.peers if peer.name in holders]


def _admits(entry: str, host: str) -> bool:
    """Return whether an entry of an ALLOW list lets `host` in; a name may be any host's, and is let pass."""
    parts = entry.split("/")
    if len(parts) == 1 and "@" in entry:
        return True  # an identity, from anywhere
    place = parts[-1]
    if len(parts) > 1 and place.isdecimal() and _is_address(parts[-2]):
        place = f"{parts[-2]}/{place}"  # 10.0.0.0/24, perhaps with an identity before it
    if place == "*" or fnmatch.fnmatch(host, place):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(place, strict=False)
    except ValueError:
        # Neither an address nor a pattern of addresses: a name, which this can't resolve.
        return not re.fullmatch(r"[0-9.*]+", place)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


CHECKS: tuple[Check, ...] = (
    Check("condor-installed", "HTCondor is installed and its configuration can be read", is_installed),
    Check("condor-host", "CONDOR_HOST is right for this host", host_is_right),
    Check("collector-host", "this manager's daemons report to its own collector", collector_is_right),
    Check("daemon-list", "no negotiator starts at boot, and no condor_had", daemons_are_right),
    Check("negotiator-args", "the negotiator keeps its name", negotiator_has_one_name),
    Check("negotiator-interval", "a new job does not wait long", cycles_are_short),
    Check("session-duration", "the collector's sessions are short", sessions_are_short),
    Check("forwarding-host", "TCP_FORWARDING_HOST is not set", nothing_forwards_twice),
    Check("condor-interface", "HTCondor listens where it should", interfaces_are_right),
    Check("condor-allow", "those whose addresses this manager sees may talk to it", lists_let_gateways_in),
    Check("condor-leftover", "no file of a manager is left here", leftovers_are_gone),
)

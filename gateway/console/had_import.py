"""From condor_had to this program: what HTCondor's own high availability is told, said in our language. Pure.

Rule: what can't be known from it is asked for, and where HAD behaves in another way than we would, the file says so.
"""

import ipaddress
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from gateway.config.settings import OnPartition
from gateway.doctor.condor import Knob, truth, words

CONDOR_PORT: Final = 9618
PEER_PORT: Final = 9619
HEARTBEAT_MS: Final = 50
LEASE_MS: Final = 300

# What is read of HTCondor, in one call.
PATTERN: Final = (
    "^(HAD_.*|REPLICATION_.*|TRANSFERER|MAX_TRANSFER_LIFETIME|NEWLY_JOINED_WAITING_VERSION_INTERVAL|STATE_FILE"
    "|NEGOTIATOR_STATE_FILE|MASTER_NEGOTIATOR_CONTROLLER|MASTER_HAD_.*|MASTER_HA_LIST|HAD|REPLICATION|DAEMON_LIST"
    "|CONDOR_HOST|COLLECTOR_HOST|SPOOL|UID_DOMAIN|COLLECTOR_NAME|ACCOUNTANT_DATABASE_FILE)$"
)
# Of these only what an administrator has set is of HAD alone, and goes.
_GONE: Final = re.compile(
    r"(HAD|REPLICATION)_.*|HAD|REPLICATION|TRANSFERER|MAX_TRANSFER_LIFETIME|NEWLY_JOINED_WAITING_VERSION_INTERVAL"
    r"|STATE_FILE|NEGOTIATOR_STATE_FILE|MASTER_NEGOTIATOR_CONTROLLER|MASTER_HAD_.*"
)


class NoHad(Exception):  # noqa: N818 (an answer to the operator)
    """There is nothing to import, or something that this program can't do; the sentence says what to do."""


class Host(msgspec.Struct, frozen=True):
    """A host by its name in the file and its address."""

    name: str
    address: str


class Had(msgspec.Struct, frozen=True, kw_only=True):
    """What HTCondor's configuration says of its high availability."""

    managers: tuple[str, ...]  # as written, without ports: names or addresses, most wanted first
    ports: Mapping[str, int]  # of collectors, by the manager's name as written
    primary: bool
    timeout_s: int
    replicated: bool
    replication_s: int
    state_file: str  # of HAD_USE_REPLICATION; "" the accounting's own
    cluster: str
    notes: tuple[str, ...]
    removals: tuple[str, ...]  # lines of HTCondor's configuration that go


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What HAD does not know, as the operator said it."""

    address: str
    device: str
    gateways: tuple[Host, ...] = ()
    witness: Host | None = None
    on_partition: OnPartition | None = None
    cluster: str | None = None


def read_had(knobs: Mapping[str, Knob]) -> Had:
    """Return what `knobs` say of HAD.

    Raises:
        NoHad: no HAD_LIST, or HAD does something else here than keep the negotiator alive.
    """
    listed = [split_host(word) for word in words(_value(knobs, "HAD_LIST"))]
    if not listed:
        raise NoHad("HAD_LIST is empty in HTCondor's configuration here: run this on a central manager that runs HAD")
    controllee = _value(knobs, "HAD_CONTROLLEE") or "NEGOTIATOR"
    if controllee.upper() != "NEGOTIATOR":
        raise NoHad(f"HAD_CONTROLLEE is {controllee}: condor-gateway keeps collector and negotiator alive, no others")
    managers = tuple(dict.fromkeys(host for host, _ in listed))
    collectors = dict(split_host(word) for word in words(_value(knobs, "COLLECTOR_HOST")))
    state_file = _value(knobs, "STATE_FILE") or _value(knobs, "NEGOTIATOR_STATE_FILE")
    return Had(
        managers=managers,
        ports={name: collectors.get(name) or CONDOR_PORT for name in managers},
        primary=truth(knobs, "HAD_USE_PRIMARY"),
        timeout_s=_number(knobs, "HAD_CONNECTION_TIMEOUT", 5),
        replicated=truth(knobs, "HAD_USE_REPLICATION") or bool(words(_value(knobs, "REPLICATION_LIST"))),
        replication_s=_number(knobs, "REPLICATION_INTERVAL", 300),
        state_file="" if state_file.endswith("/Accountantnew.log") else state_file,
        cluster=re.sub(r"[^A-Za-z0-9._-]+", "-", _value(knobs, "COLLECTOR_NAME")).strip("-._") or "pool",
        notes=tuple(_notes(knobs, managers, tuple(collectors))),
        removals=tuple(_removals(knobs)),
    )


def split_host(word: str) -> tuple[str, int | None]:
    """Return host and port of an element of HAD_LIST or COLLECTOR_HOST: `cm1:9618`, `<10.0.0.1:9618?sock=had>`."""
    bare = word.strip().strip("<>").partition("?")[0]
    found = re.fullmatch(r"\[(?P<six>[^\]]+)\](:(?P<port6>\d+))?|(?P<host>[^:]+)(:(?P<port>\d+))?", bare)
    if found is None:
        return bare, None
    port = found["port6"] or found["port"]
    return (found["six"] or found["host"]), int(port) if port else None


def _value(knobs: Mapping[str, Knob], name: str) -> str:
    knob = knobs.get(name)
    return knob.value if knob is not None else ""


def _number(knobs: Mapping[str, Knob], name: str, default: int) -> int:
    value = _value(knobs, name)
    return int(value) if value.isdecimal() else default


def _notes(knobs: Mapping[str, Knob], managers: Sequence[str], collectors: Sequence[str]) -> list[str]:
    notes = []
    if set(managers) != set(collectors):
        notes.append(
            f"HAD_LIST has {', '.join(managers)}, but COLLECTOR_HOST {', '.join(collectors) or 'nothing'}: HTCondor "
            "wants both alike; the managers of HAD_LIST were taken"
        )
    replicators = [split_host(word)[0] for word in words(_value(knobs, "REPLICATION_LIST"))]
    if replicators and replicators != list(managers):
        notes.append("REPLICATION_LIST is not HAD_LIST in the same order: HTCondor's replication does not work so")
    if _value(knobs, "MASTER_HA_LIST"):
        notes.append(
            f"MASTER_HA_LIST ({_value(knobs, 'MASTER_HA_LIST')}) is another mechanism, for schedds and the like: it "
            "is left as it is"
        )
    return notes


def _removals(knobs: Mapping[str, Knob]) -> list[str]:
    lines = [
        f"{name} = {knob.value}   ({knob.where})"
        for name, knob in sorted(knobs.items())
        if knob.where and _GONE.fullmatch(name)
    ]
    daemons = knobs.get("DAEMON_LIST")
    gone = (
        [word for word in words(daemons.value) if word.upper() in {"NEGOTIATOR", "HAD", "REPLICATION"}]
        if daemons
        else []
    )
    if daemons is not None and gone:
        lines.append(f"{', '.join(gone)} in DAEMON_LIST   ({daemons.where or 'HTCondor has it by default'})")
    for name in ("CONDOR_HOST", "COLLECTOR_HOST"):
        knob = knobs.get(name)
        if knob is not None and knob.where:
            lines.append(f"{name} = {knob.value}   ({knob.where})")
    return lines


# ---- the file


def peers_of(had: Had, wanted: Wanted, resolve: Callable[[str], str]) -> tuple[tuple[Host, ...], tuple[Host, ...]]:
    """Return managers and gateways with addresses; without gateways of their own the managers are gateways too.

    `resolve` returns the address of a name, or raises `NoHad`.
    """
    named = [_name_of(written, had.managers) for written in had.managers]
    managers = tuple(Host(name, resolve(written)) for name, written in zip(named, had.managers, strict=True))
    return managers, wanted.gateways or managers


def _name_of(written: str, all_written: Sequence[str]) -> str:
    """Return the name of a peer: the short host name where it tells managers apart; an address gets a number."""
    try:
        ipaddress.ip_address(written)
    except ValueError:
        short = written.partition(".")[0]
        shorts = [other.partition(".")[0] for other in all_written]
        return short if shorts.count(short) == 1 else written
    return f"cm{all_written.index(written) + 1}"


def policy_of(had: Had, wanted: Wanted, voters: int) -> OnPartition | None:
    """Return what the file must say of partitions; None: nothing, three or more voters hold by default."""
    if wanted.on_partition is not None:
        return wanted.on_partition
    return OnPartition.SERVE if voters == 2 else None


def render_file(had: Had, wanted: Wanted, managers: Sequence[Host], gateways: Sequence[Host]) -> str:
    """Return the configuration file that is HAD's equivalent."""
    apart = tuple(gateways) != tuple(managers)
    witness = [wanted.witness] if wanted.witness is not None else []
    voters = len(managers) + (len(gateways) if apart else 0) + len(witness)
    role = "manager" if apart else "gateway manager"
    peers = [f"    peer {host.name} {_endpoint(host.address, PEER_PORT)} gateway" for host in gateways if apart]
    peers += [f"    peer {host.name} {_endpoint(host.address, PEER_PORT)} {role}" for host in managers]
    peers += [f"    peer {host.name} {_endpoint(host.address, PEER_PORT)} witness" for host in witness]
    written = dict(zip((host.name for host in managers), had.managers, strict=True))
    servers = [f"    server {host.name} {_endpoint(host.address, had.ports[written[host.name]])}" for host in managers]
    return _TEXT.format(
        old=_comment(_old(had), ""),
        cluster=wanted.cluster or had.cluster,
        heartbeat=HEARTBEAT_MS,
        lease=LEASE_MS,
        partition=_partition(policy_of(had, wanted, voters), voters),
        roles=_comment(_roles(apart), "    "),
        peers="\n".join(peers),
        address=_with_prefix(wanted.address),
        device=wanted.device,
        holders=" ".join(host.name for host in gateways),
        ports="" if apart else _comment(_PORTS, "") + "\n",
        order=_comment(_order(had), "    "),
        servers="\n".join(servers),
        files=f"    replicate file {had.state_file}\n" if had.state_file else "",
    )


_TEXT = """\
{old}
global
    cluster {cluster}
    # Made once by 'condor-gateway keygen' and copied to every host; mode 0600.
    key-file /etc/condor-gateway/cluster.key
    # Terms, votes and replicas. Must survive a reboot: not on a tmpfs.
    state-dir /var/lib/condor-gateway

peers lan
    heartbeat {heartbeat}ms
    # What HAD_CONNECTION_TIMEOUT was for: a leader that is silent for so long is followed by another.
    lease {lease}ms
{partition}{roles}
{peers}

# Every submit and execute host has this address as its CONDOR_HOST, in place of the list of managers.
address pool-vip
    ip {address} dev {device}
    holder {holders}

{ports}frontend matchmaker
    bind pool-vip:9618 proto tcp,udp
    default_backend managers

backend managers
    balance elected
    forward proxy
    option condor-check
    timeout connect 2s
    default-server check inter 100ms fall 3 rise 2
{order}
{servers}
    # HAD_CONTROLLEE = NEGOTIATOR
    negotiator on-elected
    # In place of daemons that report to every manager.
    warm-standby on
    # HAD_USE_REPLICATION, as it is written instead of every REPLICATION_INTERVAL.
    replicate accounting
{files}"""


def _comment(text: str, indent: str) -> str:
    return "\n".join(f"{indent}# {line}" for line in textwrap.wrap(" ".join(text.split()), 116 - len(indent)))


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _with_prefix(address: str) -> str:
    if "/" in address:
        return address
    return f"{address}/{128 if ':' in address else 32}"


def _old(had: Had) -> str:
    return (
        f"What condor_had was told on {', '.join(had.managers)}, by 'condor-gateway import-had'. Look it over: "
        "'condor-gateway check', and 'condor-gateway doctor' on each host."
    )


def _partition(policy: OnPartition | None, voters: int) -> str:
    if policy is None:
        return ""
    if policy is OnPartition.SERVE and voters == 2:
        told = (
            "As HAD did: with two voters each side of a partition goes on alone, and both histories of the accounting "
            "are merged afterwards (HAD threw one away). A third voter ('peer NAME ADDRESS:PORT witness', any host) is "
            "better: then the side with a majority goes on, and there are never two leaders."
        )
    elif policy is OnPartition.SERVE:
        told = "As HAD did: each side of a partition elects a leader of its own, and the histories are merged."
    else:
        told = "HAD elected a leader on each side of a partition; here a side without a majority serves nobody."
    return f"{_comment(told, '    ')}\n    on-partition {policy}\n"


def _roles(apart: bool) -> str:
    if apart:
        return "Every peer votes; gateways hold the address, managers run HTCondor's collector and negotiator."
    return (
        "Every peer votes. The managers hold the address too: name hosts of their own with --gateways if you have them."
    )


_PORTS: Final = (
    "HTCondor keeps to the managers' own addresses, so that this port of the virtual one is free for us: "
    "'condor-gateway condor-config --role manager' prints BIND_ALL_INTERFACES = False."
)


def _order(had: Had) -> str:
    if had.primary:
        return (
            "In the order of HAD_LIST, most wanted first. HAD_USE_PRIMARY is not imitated: a manager that comes back "
            "does not take over from a healthy one, whose negotiator would have to be stopped for it."
        )
    return "In the order of HAD_LIST: the order of preference where all are equally fit. Who leads well goes on."

"""The status document, declared: what programs may rely on. `data/status.schema.json` is made from this.

Rule: within one `schema` number fields are only ever added, never removed, renamed or given another meaning. A field
that a node may leave out is UNSET here; one that it may not know is None.
"""

import json
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.core.changes import Change

Counts = dict[str, int]


class Fields(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts have in common."""


class Guard(Fields, frozen=True, kw_only=True):
    """The parent of the node's processes."""

    pid: int
    control_restarts_total: int
    control_killed_total: Counts  # by cause
    control_late_total: int
    letters_sent_total: int


class Reloads(Fields, frozen=True, kw_only=True):
    """Reloads that came to nothing."""

    failed_total: int
    failure: str


class Slowness(Fields, frozen=True, kw_only=True):
    """How late this host has been."""

    late_timers_total: int
    late_ms_max: int
    patience_ms: int
    suspensions_total: int


class Timing(Fields, frozen=True, kw_only=True):
    """The file's times."""

    heartbeat_ms: int
    lease_ms: int


class Standing(Fields, frozen=True, kw_only=True):
    """What a candidate says of itself."""

    fit: bool
    warm: bool
    term: int
    generation: int
    records: int
    instance: str
    heard_ms_ago: int
    reason: str | UnsetType | None = UNSET  # of this node alone: why it is not fit


class Promise(Fields, frozen=True, kw_only=True):
    """To whom this node has promised its vote, and for how long."""

    to: str | None
    term: int
    left_ms: int


class Lost(Fields, frozen=True, kw_only=True, rename={"from_": "from"}):
    """A leadership that has ended, and nobody has followed."""

    from_: str | None
    ms_ago: int
    cause: str
    detail: str


class Election(Fields, frozen=True, kw_only=True):
    """One election, as this node sees it."""

    kind: Literal["address", "matchmaker"]
    role: Literal["PRE", "PASSIVE", "ELECTION", "LEADER"]
    term: int
    leader: str | None
    leader_term: int | None
    lease_left_ms: int | None  # None: this node does not serve
    answered_ms_ago: Counts | None
    promise: Promise
    last_change: Change | None
    lost: Lost | None  # None: somebody leads
    candidates: dict[str, Standing | None]  # None: never heard


class Drain(Fields, frozen=True, kw_only=True):
    """One node that is told to serve nothing."""

    node: str
    by: str
    at: float


class Orders(Fields, frozen=True, kw_only=True):
    """What operators have ordered."""

    version: int
    paused: str | None
    drained: list[str]
    by: str
    at: float
    paused_by: str | None
    paused_at: float | None
    drains: list[Drain]
    confirmed: list[str]
    missing: list[str]
    held_up: list[str]


class PeerHeard(Fields, frozen=True, kw_only=True):
    """Another node."""

    heard_ms_ago: int | None


class Claim(Fields, frozen=True, kw_only=True):
    """Another host that claims an address."""

    for_ms: int


class AddressHeld(Fields, frozen=True, kw_only=True):
    """A virtual address that this node may hold."""

    held: bool
    held_since_ms: int | None
    fence: str
    announced_total: int
    unannounced_total: int
    conflicts_total: int
    defences_total: int
    claimed_by: dict[str, Claim]


class StandbyWarmth(Fields, frozen=True, kw_only=True):
    """A standby's collector, as the elected manager keeps it warm."""

    forwarding: bool
    primed: bool
    ads: Counts | UnsetType = UNSET  # by type
    missing: int | UnsetType = UNSET
    stale: int | UnsetType = UNSET
    extra: int | UnsetType = UNSET
    lacks: Counts | UnsetType = UNSET
    looked_ms_ago: int | UnsetType = UNSET


class StandbyReplica(Fields, frozen=True, kw_only=True):
    """A standby's copy of the accounting, as the elected manager ships it."""

    connected: bool
    term: int
    generation: int
    offset: int
    records: int
    lag_ms: int
    lag_records: int
    bytes_total: int
    snapshots_total: int


class Missing(Fields, frozen=True, kw_only=True):
    """What a manager had to lead without."""

    records_min: int
    held: str
    newest: str


class Unmerged(Fields, frozen=True, kw_only=True):
    """A history that could not be merged."""

    origin: str
    head: str
    reason: str
    archive: str


class LastMerge(Fields, frozen=True, kw_only=True):
    """The last merge."""

    archive: str
    origin: str
    head: str
    swapped: bool
    conflicts: int
    edits: int
    usage_added: float
    negotiator_gap_ms: int | None
    took_ms: int


class Accounting(Fields, frozen=True, kw_only=True):
    """The accounting of a manager that replicates it; nothing where none is replicated."""

    term: int | UnsetType = UNSET
    generation: int | UnsetType = UNSET
    records: int | UnsetType = UNSET
    standbys: dict[str, StandbyReplica] | UnsetType = UNSET
    pending: list[str] | UnsetType = UNSET
    refused_total: Counts | UnsetType = UNSET
    missing_at_takeover: Missing | UnsetType | None = UNSET
    merges_total: int | UnsetType = UNSET
    waiting: list[str] | UnsetType = UNSET
    unmerged_total: Counts | UnsetType = UNSET
    unmerged: list[Unmerged] | UnsetType = UNSET
    last_merge: LastMerge | UnsetType | None = UNSET


class Matchmaker(Fields, frozen=True, kw_only=True):
    """This manager's part of one backend."""

    negotiator_running: bool
    negotiator_pid: int | None
    negotiator_left_alone: bool
    negotiator_swaps_total: int
    collector: str
    collector_instance: str
    ads: Counts | UnsetType = UNSET
    looked_ms_ago: int | UnsetType = UNSET
    primes_total: int
    primes_complete_total: int
    refreshes_total: int
    ads_invalidated_total: int
    censuses_total: int
    censuses_failed_total: int
    standbys: dict[str, StandbyWarmth]
    accounting: Accounting
    ads_apart: int
    ads_apart_total: int


class Connections(Fields, frozen=True, kw_only=True):
    """Connections; None is what this way of forwarding can't know."""

    now: int | None
    total: int
    silent: int | UnsetType = UNSET
    held_now: int | UnsetType = UNSET
    draining: int | UnsetType | None = UNSET
    held: int | UnsetType = UNSET
    refused: int | UnsetType = UNSET
    reset: int | UnsetType | None = UNSET
    drained: int | UnsetType | None = UNSET
    replayed: int | UnsetType = UNSET


class Directions(Fields, frozen=True, kw_only=True):
    """What goes to servers and to clients."""

    to_server: int
    to_client: int | None


class Datagrams(Directions, frozen=True, kw_only=True):
    """Datagrams."""

    dropped: int | UnsetType = UNSET


class Flows(Fields, frozen=True, kw_only=True):
    """Flows of datagrams."""

    now: int | None
    total: int | None


class Figures(Fields, frozen=True, kw_only=True):
    """What was carried. `errors` by cause; rates per second."""

    connections: Connections
    bytes: Directions
    flows: Flows
    datagrams: Datagrams
    rates: dict[str, float | None]
    errors: Counts | UnsetType = UNSET


class FrontendFigures(Figures, frozen=True, kw_only=True):
    """A frontend."""

    backend: str
    way: str


class ServerFigures(Figures, frozen=True, kw_only=True):
    """A server."""

    elected: bool


class BackendFigures(Figures, frozen=True, kw_only=True):
    """A backend."""

    way: Literal["proxy", "nat", "direct"]
    transparent: bool
    server: str | None
    carrier: Literal["relay", "kernel"]
    state: str
    fault: str
    refused: str | None
    frontends: list[str]
    addresses: list[str]
    servers: dict[str, ServerFigures]
    relay: Figures
    kernel: Figures | None


class Descriptors(Fields, frozen=True, kw_only=True):
    """File descriptors."""

    used: int
    limit: int
    connections_max: int | UnsetType = UNSET


class Worker(Fields, frozen=True, kw_only=True):
    """One relay process."""

    pid: int | None
    listening: bool
    reason: str
    restarts_total: int
    cpu: float
    resident_kib: int
    log_dropped_total: int
    descriptors: Descriptors


class Relay(Fields, frozen=True, kw_only=True):
    """The relay processes together."""

    pid: int | None
    restarts_total: int
    listening: int
    degraded: bool
    workers: list[Worker]
    descriptors: Descriptors
    frontends: dict[str, Figures]
    backends: dict[str, Any]  # as above, without what the kernel carries
    listeners: dict[str, Counts]


class Diversion(Fields, frozen=True, kw_only=True):
    """What the kernel forwards."""

    way: str
    state: str
    fault: str
    server: str | None
    counters: Counts
    address: str | UnsetType = UNSET
    server_mac: str | UnsetType | None = UNSET
    refused: str | UnsetType | None = UNSET
    expelled_total: int | UnsetType = UNSET
    roused_total: int | UnsetType = UNSET
    conntrack_fill: float | UnsetType | None = UNSET
    warnings: list[str] | UnsetType = UNSET


class Receiving(Fields, frozen=True, kw_only=True):
    """What a manager takes from gateways."""

    addresses: dict[str, bool]
    destroyed_total: int
    undestroyed_total: int
    fault: str


class Return(Fields, frozen=True, kw_only=True):
    """The way back of answers under `transparent`."""

    state: str
    fault: str
    device: str | UnsetType = UNSET
    gateways: dict[str, str] | UnsetType = UNSET


class HistoryKept(Fields, frozen=True, kw_only=True):
    """The history of changes."""

    seq: int
    unwritten_total: int


class Child(Fields, frozen=True, kw_only=True):
    """A child process that may die without consequence."""

    pid: int | None
    starts_total: int
    failure: str


class Door(Fields, frozen=True, kw_only=True):
    """Connections to the node's own port."""

    connections: int
    accepted_total: int
    refused_total: Counts


class Questions(Fields, frozen=True, kw_only=True):
    """Questions of other nodes."""

    answered_total: int
    refused_total: Counts


class Heartbeats(Fields, frozen=True, kw_only=True):
    """Heartbeats."""

    lanes: int
    sent_total: int
    received_total: int
    unsent: Counts
    refused: Counts


class Log(Fields, frozen=True, kw_only=True):
    """Lines of the log that were lost or left out."""

    dropped_total: int
    suppressed_total: int


class Status(Fields, frozen=True, kw_only=True):
    """What one node knows."""

    schema: Literal[1]
    version: str
    uptime_ms: int
    cluster: str
    node: str
    roles: list[Literal["gateway", "manager", "witness"]]
    pid: int
    warnings: list[str]
    guard: Guard | None
    reloads: Reloads
    slowness: Slowness
    timer_late_ms_max: int
    timing: Timing
    on_partition: Literal["hold", "serve"]
    elections: dict[str, Election]
    orders: Orders
    peers: dict[str, PeerHeard]
    addresses: dict[str, AddressHeld]
    matchmakers: dict[str, Matchmaker]
    frontends: dict[str, FrontendFigures]
    backends: dict[str, BackendFigures]
    relay: Relay | None
    diversions: dict[str, Diversion]
    receiving: dict[str, Receiving]
    returns: dict[str, Return]
    history: HistoryKept
    children: dict[str, Child]
    door: Door
    cluster_link: Questions
    heartbeats: Heartbeats
    log: Log


TITLE: Final = "condor-gateway status --json, schema 1"


def schema_text() -> str:
    """Return the JSON Schema of the document, as the file of the package has it."""
    (reference,), parts = msgspec.json.schema_components([Status], ref_template="#/$defs/{name}")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": TITLE, **reference, "$defs": parts}
    return json.dumps(schema, indent=1) + "\n"

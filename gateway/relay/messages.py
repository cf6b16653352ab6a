"""Orders to the relay process and its reports: one msgpack value a datagram of a SOCK_SEQPACKET pair.

Control decides, the relay obeys: the relay never chooses a server by itself.
"""

import enum

import msgspec

MESSAGE_BYTES_MAX = 120_000  # one datagram; a report of 100 listeners is some 60 kB, 120 with every counter in use


class WhenDown(enum.StrEnum):
    """What a listener does with a new client while it has no server."""

    HOLD = "hold"  # accept, wait up to `hold_ms` for a server, then close: what the pool's clients meet
    REFUSE = "refuse"  # close the listener itself, so that a connect is refused at once: for a collector's view hosts


class Tcplog(msgspec.Struct, frozen=True, kw_only=True):
    """A line is written for each connection that has ended; see `ending`."""

    json: bool = False  # one JSON object a line, with the text in it
    node: str = ""
    frontend: str = ""
    servers: dict[str, str] = {}  # "host:port" -> what the file calls it


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """One listening port of the relay and its limits. TCP and UDP of one `route` always go to one server."""

    name: str
    route: str
    protocol: str  # "tcp" or "udp"
    host: str
    port: int
    freebind: bool = False  # listen on an address that this host does not hold yet (IP_FREEBIND)
    when_down: WhenDown = WhenDown.HOLD
    reuse_port: bool = False  # SO_REUSEPORT: several workers listen on it, the kernel deals the clients out
    transparent: bool = False  # come to the server from the client's own address (IP_TRANSPARENT)
    hold_ms: int = 5_000
    hello_ms: int = 10_000  # HOLD: a client that says nothing is closed after this; 0: do not wait for its first bytes
    client_ms: int = 3_600_000  # neither side moved a byte, or takes nothing: closed, up to a quarter late; 0: never
    connect_ms: int = 2_000
    user_timeout_ms: int = 0  # TCP_USER_TIMEOUT towards the server from the start; 0: `sockets.USER_TIMEOUT_MS`, later
    first_byte_ms: int = 0  # reset when the server has sent nothing this long after our first byte; 0: never
    flow_idle_ms: int = 900_000  # UDP: a client's flow is forgotten after this silence
    connections_max: int = 4_000  # that have spoken; two descriptors each
    silent_max: int = 2_000  # that have not: one descriptor each; beyond it the oldest is reset
    held_max: int = 4_000  # that wait for a server
    source_max: int = 0  # of one client address, silent ones too; 0: no limit but the others
    source_rate: int = 0  # new ones a second of one client address, see `sources`; 0: no limit
    flows_max: int = 4_000
    servers: tuple[tuple[str, str], ...] = ()  # "host:port" and what the file calls it
    tcplog: Tcplog | None = None


class Configure(msgspec.Struct, frozen=True, kw_only=True, tag="configure"):
    """The whole set of listeners; what is not named is closed."""

    listeners: tuple[Listener, ...]


class Route(msgspec.Struct, frozen=True, kw_only=True, tag="route"):
    """Send the clients of `route` to `server`; None: there is none now.

    A greater `epoch` is a switch: every connection and flow of an older epoch is closed at once (TCP by RST),
    even when the server stays the same. With an equal epoch existing connections go on. With server None and the
    same epoch, established connections are left alone and new ones are held (or refused): an election is under way.

    With `drain_ms` a switch lets TCP connections of older epochs go on for so long, and resets what is left of them
    then; new ones go to the new server from the start. A later switch without it ends them at once.
    """

    route: str
    server_host: str | None
    server_port: int
    epoch: int
    drain_ms: int = 0


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """Every listener of the last `Configure` is open (or closed on purpose)."""

    listeners: int


class ListenFailed(msgspec.Struct, frozen=True, kw_only=True, tag="listen-failed"):
    """A listener could not be opened; `reason` is the operating system's word for it."""

    listener: str
    host: str
    port: int
    errno: int
    reason: str


class Switched(msgspec.Struct, frozen=True, kw_only=True, tag="switched"):
    """A `Route` with a new epoch has been carried out."""

    route: str
    epoch: int
    connections_closed: int
    flows_closed: int
    took_us: int


class ListenerStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counters of one listener since the start of the relay; `now` figures are gauges. Zeros are not sent."""

    name: str
    connections_now: int = 0  # all: silent, held, connecting, open
    connections_total: int = 0
    silent_now: int = 0  # connected, and have said nothing yet
    held_now: int = 0  # have spoken and have no server yet
    draining_now: int = 0  # go on with the server before the last switch
    held_total: int = 0
    hold_expired_total: int = 0
    refused_total: int = 0  # every refusal at the door: the six below, and no server where nobody waits (REFUSE)
    maxconn_refused_total: int = 0  # above connections_max
    source_refused_total: int = 0  # above source_max
    source_rate_refused_total: int = 0  # above source_rate
    held_refused_total: int = 0  # above held_max
    transparent_refused_total: int = 0  # the client's address could not be used: no CAP_NET_ADMIN, other IP version
    transparent_busy_total: int = 0  # the client's address has no free port towards the server (EADDRINUSE)
    transparent_own_total: int = 0  # served from our address: the client's is that of the server's own host
    silent_evicted_total: int = 0  # said nothing, and made room for a younger one (silent_max)
    hello_expired_total: int = 0  # said nothing for hello_ms
    client_idle_total: int = 0  # no byte moved for client_ms
    accept_paused_total: int = 0  # no file descriptor was left: accept paused for 100 ms
    descriptors_missed_total: int = 0  # no file descriptor was left for the way to the server; tried again
    connect_failed_total: int = 0
    replayed_total: int = 0  # first bytes given to a server again: the one before had died without an answer
    reset_by_client_total: int = 0
    reset_by_server_total: int = 0
    reset_at_switch_total: int = 0
    drained_total: int = 0  # ended by themselves while draining
    first_byte_missed_total: int = 0
    bytes_to_server_total: int = 0
    bytes_to_client_total: int = 0
    spliced_bytes_total: int = 0  # of both: moved by the kernel through a pipe, not copied by us
    flows_now: int = 0
    flows_total: int = 0
    datagrams_to_server_total: int = 0
    datagrams_to_client_total: int = 0
    datagrams_dropped_total: int = 0
    datagrams_missed_total: int = 0  # the kernel had no room for them: they came faster than the relay reads
    unreachable_total: int = 0  # UDP: ICMP errors that came back from the server


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """What one relay process uses."""

    descriptors: int  # open now
    descriptors_max: int  # its limit (RLIMIT_NOFILE)
    cpu_ms: int  # used since its start
    resident_kib: int
    log_dropped_total: int = 0  # lines of `tcplog` that nobody took in time, or that were too many


class ListSessions(msgspec.Struct, frozen=True, kw_only=True, tag="list-sessions"):
    """Tell of the connections of the frontends, the oldest first; answered by `Sessions`, in several parts."""

    request: int
    sessions_max: int


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag="shutdown"):
    """Reset one connection; answered by `ShutDown`."""

    request: int
    session: str


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One connection as it stands."""

    id: str  # of this process
    listener: str
    client: str
    server: str = ""  # "host:port"; "" while it has none
    state: str  # "silent", "held", "connecting", "open", "draining"
    age_ms: int = 0
    idle_ms: int = 0  # since either side was last heard of, by the kernel's own clock
    bytes_to_server: int = 0
    bytes_to_client: int = 0
    waiting: int = 0  # bytes that one side has still to take


class Sessions(msgspec.Struct, frozen=True, kw_only=True, tag="sessions"):
    """A part of the answer to `ListSessions`."""

    request: int
    sessions: tuple[Session, ...]
    total: int  # connections that there are
    last: bool


class ShutDown(msgspec.Struct, frozen=True, kw_only=True, tag="shut-down"):
    """The answer to `Shutdown`: whether there was such a connection."""

    request: int
    found: bool


class Report(msgspec.Struct, frozen=True, kw_only=True, tag="report"):
    """All counters, once a second."""

    listeners: tuple[ListenerStats, ...]
    vitals: Vitals | None = None


Order = Configure | Route | ListSessions | Shutdown
Answer = Ready | ListenFailed | Switched | Report | Sessions | ShutDown

"""Settings: what the configuration file says, as values. Frozen; holds no rule and reads nothing.

Times are whole milliseconds and end in `_ms`. Names are those of the file, so that a message can quote them.
"""

import enum

import msgspec


class Role(enum.StrEnum):
    """What a peer does, as written at the end of its `peer` line. Every peer votes, whatever its roles."""

    GATEWAY = "gateway"
    MANAGER = "manager"
    WITNESS = "witness"


class OnPartition(enum.StrEnum):
    """What a side of a partition does that has no majority of the votes."""

    HOLD = "hold"  # it serves nobody: never two leaders
    SERVE = "serve"  # it elects a leader of its own: two of them until the network heals


class Protocol(enum.StrEnum):
    """Transport protocols that a frontend forwards."""

    TCP = "tcp"
    UDP = "udp"


class Forward(enum.StrEnum):
    """How a backend's traffic is carried while a server is elected; until then the relay holds it."""

    PROXY = "proxy"  # by the relay: two connections, bytes copied between them
    NAT = "nat"  # by the kernel: destination rewritten, replies come back through the gateway
    DIRECT = "direct"  # by the kernel: Ethernet address rewritten, replies go straight to the client


class LogFormat(enum.StrEnum):
    """How log events are written."""

    JSON = "json"
    CONSOLE = "console"
    SHORT = "short"


class Level(enum.StrEnum):
    """What a client of a stats socket may do; each may what the ones before it may."""

    USER = "user"  # look at what is no secret
    OPERATOR = "operator"  # look at everything
    ADMIN = "admin"  # change things


class Endpoint(msgspec.Struct, frozen=True):
    """An IP address literal and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the cluster."""

    name: str
    endpoint: Endpoint
    roles: frozenset[Role]


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual address: `ip` with prefix length, the interface that carries it, who may hold it."""

    name: str
    ip: str
    prefix_length: int
    device: str
    holders: tuple[str, ...]


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    """Where a frontend listens: a virtual address by name, and a port."""

    address: str
    port: int
    protocols: frozenset[Protocol]


class Frontend(msgspec.Struct, frozen=True, kw_only=True):
    """A service of the pool as its clients see it."""

    name: str
    description: str = ""
    binds: tuple[Bind, ...]
    backend: str
    client_ms: int = 3_600_000  # neither side moved a byte, or one takes nothing, for so long
    hello_ms: int = 10_000  # connected and said nothing for so long
    maxconn: int = 4_000  # connections of clients at a time
    maxconn_source: int = 1_000  # of one client address; 0: no limit but `maxconn`
    rate_source: int = 100  # new TCP connections a second of one client address; 0: no limit
    tcplog: bool = False  # a line of the log for each connection


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A central manager behind a backend. `name` is the name of its peer."""

    name: str
    endpoint: Endpoint
    backup: bool = False  # wanted after those that are none
    check: bool = False
    inter_ms: int = 2000
    fall: int = 3
    rise: int = 2


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """The central managers of one pool, and how the elected one is reached and run."""

    name: str
    description: str = ""
    servers: tuple[Server, ...]  # in the order of preference, backups last; without those that are disabled
    forward: Forward = Forward.PROXY
    transparent: bool = False  # managers see the client's address; False with `direct`, which can't do otherwise
    condor_check: bool = False
    connect_ms: int = 2000
    queue_ms: int = 5000  # how long a new connection is held while no server is elected
    drain_ms: int = 2_000  # how long old connections may go on at a planned switch
    negotiator_on_elected: bool = False
    warm_standby: bool = False
    replicate_accounting: bool = False
    replicate_files: tuple[str, ...] = ()  # absolute paths
    advertise: bool = False  # the gateways tell the elected collector of themselves, by an ad each


class StatsSocket(msgspec.Struct, frozen=True, kw_only=True):
    """A UNIX socket on which this node takes commands in HAProxy's manner. `user` and `group` "" are root's own."""

    path: str
    mode: int = 0o600
    user: str = ""
    group: str = ""
    level: Level = Level.OPERATOR


class Notify(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told of changes: commands (each a program and its first arguments), and a named pipe; "" where none is."""

    commands: tuple[tuple[str, ...], ...] = ()
    fifo: str = ""
    user: str = "nobody"  # whose rights the commands have
    timeout_ms: int = 10_000  # of one command

    def __bool__(self) -> bool:
        """Return whether anybody is told."""
        return bool(self.commands or self.fifo)


class Console(msgspec.Struct, frozen=True, kw_only=True):
    """The status page. `token_file` "" makes it read-only; `hosts` are further names that it may be asked for by."""

    bind: Endpoint = Endpoint("127.0.0.1", 9620)
    token_file: str = ""
    user: str = "nobody"
    hosts: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A whole, checked configuration. Lists keep the order of the file: it is the order of preference."""

    cluster: str
    description: str = ""
    key_file: str
    state_dir: str
    log_format: LogFormat
    relay_workers: int = 0  # processes of the relay; 0: one for each core, at most 8
    stats_sockets: tuple[StatsSocket, ...] = ()
    notify: Notify = Notify()
    console: Console | None = None
    peers_name: str
    heartbeat_ms: int
    lease_ms: int
    on_partition: OnPartition = OnPartition.HOLD
    guard_dead_ms: int = 30  # silence of the control process after which the guard declares it dead
    peers: tuple[Peer, ...]
    addresses: tuple[Address, ...]
    frontends: tuple[Frontend, ...]
    backends: tuple[Backend, ...]

    def peer(self, name: str) -> Peer:
        """Return the peer called `name`; raise `KeyError` where there is none."""
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise KeyError(name)

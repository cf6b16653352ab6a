"""The keyword table: every section and keyword of the language, as data. The parser and the help read it; no rule here.

A default is written as it would be in the file, and passes through the same parser.
"""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.config.foreign import BALANCES, FORWARDS, LOG_TARGETS
from gateway.config.schema import Argument, Keyword, Kind, Option, SectionKind
from gateway.config.settings import Forward, OnPartition, Role

PEERS_MAX = 9  # quorum arithmetic is tested exhaustively up to here
ADDRESSES_MAX = 16  # each has a fence and its own announcements; a pool needs one
FRONTENDS_MAX = 32  # a pool needs one or two
BACKENDS_MAX = PEERS_MAX  # each has managers of its own
BINDS_MAX = 16  # of one frontend
CONNECTIONS_MAX = 500_000  # of a frontend, in file descriptors: two each, and fs.nr_open allows a process 1,048,576
WORKERS_MAX = 64  # more than that cost more memory than a host with so many cores gains by them
REPLICATED_FILES_MAX = 16  # of one backend: each is watched, and copied in whole when it changes


def _table(*keywords: Keyword) -> Mapping[str, Keyword]:
    return MappingProxyType({keyword.name: keyword for keyword in keywords})


_CHECK_OPTIONS = (
    Option(word="check", help="ask this manager's collector whether it answers"),
    Option(word="no-check", help="do not, whatever default-server says"),
    Option(
        word="inter",
        help="time between two checks",
        argument=Argument(
            name="time",
            kind=Kind.DURATION,
            low=10,
            high=60_000,
            low_reason="each check costs the collector a query",
            high_reason="a dead manager would be found by its election first",
            default="2s",
        ),
    ),
    Option(
        word="fall",
        help="failed checks in a row that make a server down",
        argument=Argument(name="count", kind=Kind.COUNT, low=1, high=100, default="3"),
    ),
    Option(
        word="rise",
        help="passed checks in a row that make it up again",
        argument=Argument(name="count", kind=Kind.COUNT, low=1, high=100, default="2"),
    ),
)

_GLOBAL = _table(
    Keyword(
        name="cluster",
        help="name of the cluster: nodes of another name are not listened to, even with the same key",
        arguments=(Argument(name="name", kind=Kind.NAME),),
        required=True,
    ),
    Keyword(
        name="key-file",
        help="the cluster's keys, made by 'condor-gateway keygen' and the same on every node",
        arguments=(Argument(name="path", kind=Kind.PATH),),
        required=True,
    ),
    Keyword(
        name="state-dir",
        help="where terms, votes and replicas are kept; must survive a reboot",
        arguments=(Argument(name="path", kind=Kind.PATH, default="/var/lib/condor-gateway"),),
    ),
    Keyword(
        name="log",
        help="where log events go, and how they are written",
        arguments=(Argument(name="target", kind=Kind.CHOICE, choices=("stdout",), refused=LOG_TARGETS),),
        options=(
            Option(
                word="format",
                help="json for machines, console for people",
                argument=Argument(name="format", kind=Kind.CHOICE, choices=("json", "console"), default="json"),
            ),
        ),
    ),
    Keyword(
        name="relay-workers",
        help="processes that relay connections side by side; auto: one for each core, at most 8",
        arguments=(
            Argument(
                name="auto|count",
                kind=Kind.AUTO_COUNT,
                low=1,
                high=WORKERS_MAX,
                low_reason="the relay holds connections during an election whatever 'forward' says; or write 'auto'",
                high_reason="each has memory and file descriptors of its own, and more than the cores gain nothing",
                default="auto",
            ),
        ),
    ),
)

_PEERS = _table(
    Keyword(
        name="heartbeat",
        help="time between two heartbeats to every peer",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=10,
                high=10_000,
                low_reason="a process that sleeps is woken up to 14 ms late (measured)",
                high_reason="a dead leader is only missed after several of them",
                default="50ms",
            ),
        ),
    ),
    Keyword(
        name="lease",
        help="how long a leader may act after a majority last heard it: the length of a takeover",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=30,
                high=60_000,
                low_reason="a leader stops 10 ms before its end, and heartbeats are 10 ms apart at least",
                high_reason="for so long the pool of a dead leader has no matchmaker",
                default="300ms",
            ),
        ),
    ),
    Keyword(
        name="on-partition",
        help="what a side without a majority does; must be said where there are two peers",
        arguments=(
            Argument(
                name="policy",
                kind=Kind.CHOICE,
                choices=tuple(policy.value for policy in OnPartition),
                default=OnPartition.HOLD.value,
            ),
        ),
    ),
    Keyword(
        name="guard-dead-time",
        help="silence of the control process after which its guard looks whether it is frozen, and then resigns for it",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=10,
                high=5_000,
                low_reason="a busy host wakes a healthy process later than that",
                high_reason="by then the lease of a frozen process has ended by itself",
                default="30ms",
            ),
        ),
    ),
    Keyword(
        name="peer",
        help="a node: its name, where it hears heartbeats (UDP), what it does; every peer votes",
        arguments=(
            Argument(name="name", kind=Kind.NAME),
            Argument(name="address:port", kind=Kind.ENDPOINT),
            Argument(name="role", kind=Kind.CHOICE, choices=tuple(role.value for role in Role), many=True),
        ),
        once=False,
        required=True,
    ),
)

_ADDRESS = _table(
    Keyword(
        name="ip",
        help="the virtual address, and the interface of the gateways that carries it",
        arguments=(Argument(name="address/prefix", kind=Kind.PREFIX),),
        options=(
            Option(
                word="dev",
                help="the interface",
                argument=Argument(name="interface", kind=Kind.DEVICE),
                required=True,
            ),
        ),
        required=True,
    ),
    Keyword(
        name="holder",
        help="peers that may hold the address, most wanted first",
        arguments=(Argument(name="peer", kind=Kind.NAME, many=True),),
        required=True,
    ),
)

_FRONTEND = _table(
    Keyword(
        name="bind",
        help="where clients connect: an address section and a port",
        arguments=(Argument(name="address:port", kind=Kind.BIND),),
        options=(
            Option(
                word="proto",
                help="HTCondor's updates are UDP by default, its queries TCP",
                argument=Argument(name="protocols", kind=Kind.PROTOCOLS, default="tcp,udp"),
            ),
        ),
        once=False,
        required=True,
    ),
    Keyword(
        name="default_backend",
        help="the backend that serves these clients",
        arguments=(Argument(name="backend", kind=Kind.NAME),),
        required=True,
    ),
    Keyword(
        name="maxconn",
        help="connections that the relay has open for these clients at a time; one more is refused at once",
        arguments=(
            Argument(
                name="count",
                kind=Kind.COUNT,
                low=1,
                high=CONNECTIONS_MAX,
                low_reason="nobody would be served",
                high_reason="a connection takes two file descriptors, and a process has about a million at most",
                default="4000",
            ),
        ),
    ),
    Keyword(
        name="maxconn-per-source",
        help="of these, connections from one client address; 0: no limit but maxconn",
        arguments=(
            Argument(
                name="count",
                kind=Kind.COUNT,
                low=0,
                high=CONNECTIONS_MAX,
                high_reason="a connection takes two file descriptors, and a process has about a million at most",
                default="0",
            ),
        ),
    ),
    Keyword(
        name="timeout client",
        help="a connection is closed on which neither side moved a byte, or one takes nothing, for so long",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=1_000,
                high=86_400_000,
                low_reason="a busy collector is silent for a second in the middle of an answer",
                high_reason="the pool's daemons say something every few minutes, whoever is silent for a day is gone",
                default="1h",
            ),
        ),
    ),
    Keyword(
        name="timeout client-hello",
        help="a connection is closed whose client has said nothing for so long since it connected",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=1_000,
                high=300_000,
                low_reason="a first packet that is lost is sent again after a second",
                high_reason="HTCondor's clients speak first and at once, and floods of silent ones are to cost little",
                default="10s",
            ),
        ),
    ),
)

_BACKEND = _table(
    Keyword(
        name="balance",
        help="all traffic goes to the elected manager",
        arguments=(
            Argument(name="algorithm", kind=Kind.CHOICE, choices=("elected",), refused=BALANCES, default="elected"),
        ),
    ),
    Keyword(
        name="forward",
        help="how traffic is carried to the elected manager: by the relay, by address translation, by its MAC address",
        arguments=(
            Argument(
                name="way",
                kind=Kind.CHOICE,
                choices=tuple(way.value for way in Forward),
                refused=FORWARDS,
                default=Forward.PROXY.value,
            ),
        ),
        options=(Option(word="transparent", help="managers see the client's address (direct: always)"),),
    ),
    Keyword(name="option condor-check", help="check the collector by a query of HTCondor's own protocol"),
    Keyword(
        name="timeout connect",
        help="how long a connect to the elected manager may take",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=10,
                high=20_000,
                low_reason="a connect takes a round trip and may have to be sent again",
                high_reason="HTCondor's tools give up after 20 s",
                default="2s",
            ),
        ),
    ),
    Keyword(
        name="timeout queue",
        help="how long a new connection is held while no manager is elected",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=0,
                high=20_000,
                high_reason="HTCondor's tools give up after 20 s",
                default="5s",
            ),
        ),
    ),
    Keyword(
        name="timeout drain",
        help="how long connections to the old manager may go on at a planned switch; 0: they are closed at once",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=0,
                high=600_000,
                high_reason="daemons keep their connections, and a collector drops what it has not heard of for 15 min",
                # A query under way ends within it; an update that goes to the old manager meanwhile is not seen by the
                # new one until the daemon's next.
                default="2s",
            ),
        ),
    ),
    Keyword(name="default-server", help="options of the servers that follow it", options=_CHECK_OPTIONS, once=False),
    Keyword(
        name="server",
        help="a central manager: the name of its peer, and where its collector listens; most wanted first",
        arguments=(
            Argument(name="name", kind=Kind.NAME),
            Argument(name="address:port", kind=Kind.ENDPOINT),
        ),
        options=_CHECK_OPTIONS,
        once=False,
        required=True,
    ),
    Keyword(
        name="negotiator",
        help="run HTCondor's negotiator on the elected manager only",
        arguments=(Argument(name="where", kind=Kind.CHOICE, choices=("on-elected",)),),
    ),
    Keyword(
        name="warm-standby",
        help="keep the collectors of the other managers filled with the pool's ads",
        arguments=(Argument(name="switch", kind=Kind.CHOICE, choices=("on", "off")),),
    ),
    Keyword(
        name="replicate accounting",
        help="stream the accounting of users and groups to the other managers, as it is written",
    ),
    Keyword(
        name="replicate file",
        help="copy this file of the elected manager to the same place on the others, whenever it changes",
        arguments=(Argument(name="path", kind=Kind.PATH),),
        once=False,
    ),
)

SECTIONS: Mapping[str, SectionKind] = MappingProxyType(
    {
        section.word: section
        for section in (
            SectionKind(word="global", help="the node itself", named=False, single=True, count_max=1, keywords=_GLOBAL),
            SectionKind(
                word="peers", help="who belongs to it and votes", named=True, single=True, count_max=1, keywords=_PEERS
            ),
            SectionKind(
                word="address",
                help="a virtual address",
                named=True,
                single=False,
                count_max=ADDRESSES_MAX,
                keywords=_ADDRESS,
            ),
            SectionKind(
                word="frontend",
                help="what clients connect to",
                named=True,
                single=False,
                count_max=FRONTENDS_MAX,
                required=False,  # an address alone is of use: what answers on it may be another program's
                keywords=_FRONTEND,
            ),
            SectionKind(
                word="backend",
                help="the central managers",
                named=True,
                single=False,
                count_max=BACKENDS_MAX,
                required=False,
                keywords=_BACKEND,
            ),
        )
    }
)

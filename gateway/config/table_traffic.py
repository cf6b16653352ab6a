"""The keyword table of what carries traffic: `frontend`, `backend`, `listen` and their `defaults`. Data only.

A `listen` section is a frontend and its backend in one; `defaults` hold for the sections that follow them.
"""

import msgspec

from gateway.config.foreign_options import BALANCES, FORWARDS, LOG_TARGETS, MODES
from gateway.config.limits import CONNECTIONS_MAX, RATE_MAX, SOURCE_AUTO
from gateway.config.schema import Argument, Keyword, Kind, Option, table
from gateway.config.settings import Forward

_LOG_ELSEWHERE = {**LOG_TARGETS, "stdout": "stands in the global section, for all: write 'log global'"}

_SERVER_OPTIONS = (
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
    Option(word="backup", help="wanted after all the servers that are none"),
    Option(word="no-backup", help="none, whatever default-server says"),
    Option(word="disabled", help="left out of the election, as if the line did not stand"),
    Option(word="enabled", help="not left out, whatever default-server says"),
)

_DESCRIPTION = Keyword(
    name="description",
    help="what people should know of it",
    arguments=(Argument(name="text", kind=Kind.TEXT, many=True),),
)

_BOTH = (
    Keyword(
        name="mode",
        help="as in HAProxy; bytes are carried as they are",
        arguments=(Argument(name="mode", kind=Kind.CHOICE, choices=("tcp",), refused=MODES),),
    ),
    Keyword(
        name="log",
        help="as in HAProxy; what the global section says of the log holds everywhere",
        arguments=(Argument(name="target", kind=Kind.CHOICE, choices=("global",), refused=_LOG_ELSEWHERE),),
    ),
)

FRONTEND = table(
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
    Keyword(name="option tcplog", help="log a line for each connection, with the fields of HAProxy's"),
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
        help="of these, connections from one client address; auto: a quarter of maxconn, 0: no limit but maxconn",
        arguments=(
            Argument(
                name="auto|count",
                kind=Kind.AUTO_COUNT,
                low=0,
                high=CONNECTIONS_MAX,
                high_reason="a connection takes two file descriptors, and a process has about a million at most",
                # A host has a connection or two to its collector; a whole site behind one address (NAT) has hundreds.
                default="auto",
                auto=SOURCE_AUTO,
            ),
        ),
    ),
    Keyword(
        name="rate-per-source",
        help="new TCP connections a second from one client address, ten seconds' worth of them at once; 0: no limit",
        arguments=(
            Argument(
                name="count",
                kind=Kind.COUNT,
                low=0,
                high=RATE_MAX,
                high_reason="no host makes as many",
                # HTCondor keeps who says nothing for two minutes, and some 9,000 of those make it deaf (measured), so
                # that 5,000 a second do so at once. A site behind one address has hundreds of daemons that reconnect.
                default="100",
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
    _DESCRIPTION,
    *_BOTH,
)

BACKEND = table(
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
    Keyword(name="default-server", help="options of the servers that follow it", options=_SERVER_OPTIONS, once=False),
    Keyword(
        name="server",
        help="a central manager: the name of its peer, and where its collector listens; most wanted first",
        arguments=(
            Argument(name="name", kind=Kind.NAME),
            Argument(name="address:port", kind=Kind.ENDPOINT),
        ),
        options=_SERVER_OPTIONS,
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
        arguments=(Argument(name="switch", kind=Kind.CHOICE, choices=("on", "off"), default="off"),),
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
    Keyword(
        name="advertise",
        help="ads of the gateways in the pool, MyType \"MatchmakerGateway\"; on where 'option condor-check' stands",
        arguments=(Argument(name="switch", kind=Kind.CHOICE, choices=("on", "off")),),
    ),
    _DESCRIPTION,
    *_BOTH,
)

_ALL = {**FRONTEND, **BACKEND}.values()
_OF_ONE_SECTION = frozenset({"bind", "server", "replicate file", "description"})

LISTEN = table(*(keyword for keyword in _ALL if keyword.name != "default_backend"))
DEFAULTS = table(
    *(msgspec.structs.replace(keyword, required=False) for keyword in _ALL if keyword.name not in _OF_ONE_SECTION)
)

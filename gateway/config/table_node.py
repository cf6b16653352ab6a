"""The keyword table of `global` and `console`: the node itself, and what its operators reach. Data only."""

from gateway.config.foreign_options import LOG_FORMATS, LOG_TARGETS
from gateway.config.limits import WORKERS_MAX
from gateway.config.schema import Argument, Keyword, Kind, Option, table
from gateway.config.settings import Level, LogFormat

GLOBAL = table(
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
                help="json for machines, console for people, short for a journal that has time and host already",
                argument=Argument(
                    name="format",
                    kind=Kind.CHOICE,
                    choices=tuple(form.value for form in LogFormat),
                    refused=LOG_FORMATS,
                    default="json",
                ),
            ),
        ),
    ),
    Keyword(
        name="description",
        help="what people should know of the cluster",
        arguments=(Argument(name="text", kind=Kind.TEXT, many=True),),
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
    Keyword(
        name="stats socket",
        help="a UNIX socket that takes the commands of HAProxy's, and ours",
        arguments=(Argument(name="path", kind=Kind.PATH),),
        options=(
            Option(
                word="mode",
                help="who may connect, as in chmod",
                argument=Argument(name="octal", kind=Kind.MODE, default="600"),
            ),
            Option(word="user", help="its owner", argument=Argument(name="name", kind=Kind.ACCOUNT)),
            Option(word="group", help="its group", argument=Argument(name="name", kind=Kind.ACCOUNT)),
            Option(
                word="level",
                help="user looks, operator looks at everything, admin changes things",
                argument=Argument(
                    name="level",
                    kind=Kind.CHOICE,
                    choices=tuple(level.value for level in Level),
                    default=Level.OPERATOR.value,
                ),
            ),
        ),
        once=False,
    ),
    Keyword(
        name="notify command",
        help="run this program at every change; the change is in its environment, and as JSON on its standard input",
        arguments=(Argument(name="word", kind=Kind.TEXT, many=True),),
        once=False,
    ),
    Keyword(
        name="notify fifo",
        help="write every change into this named pipe, a line in keepalived's style each",
        arguments=(Argument(name="path", kind=Kind.PATH),),
    ),
    Keyword(
        name="notify user",
        help="the user whose rights the notify commands have, and to whom the named pipe belongs",
        arguments=(Argument(name="name", kind=Kind.ACCOUNT, default="nobody"),),
    ),
    Keyword(
        name="notify timeout",
        help="how long a notify command may take; it is killed then",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=100,
                high=300_000,
                low_reason="a busy host starts a program later than that",
                high_reason="the next change waits for it, because changes are told in their order",
                default="10s",
            ),
        ),
    ),
)

CONSOLE = table(
    Keyword(
        name="bind",
        help="where the status page listens (HTTP)",
        arguments=(Argument(name="address:port", kind=Kind.LISTEN, default="127.0.0.1:9620"),),
    ),
    Keyword(
        name="admin token-file",
        help="let the page change things, for whoever knows the token in this file; without it it is read-only",
        arguments=(Argument(name="path", kind=Kind.PATH),),
    ),
    Keyword(
        name="user",
        help="the user whose rights the console process has",
        arguments=(Argument(name="name", kind=Kind.ACCOUNT, default="nobody"),),
    ),
    Keyword(
        name="allow-host",
        help="further names by which browsers may ask for the page (the Host header)",
        arguments=(Argument(name="host", kind=Kind.HOST, many=True),),
        once=False,
    ),
)

"""HAProxy's commands that do not exist here, and why. Rule: each is refused by name, with what to use instead."""

from collections.abc import Sequence
from typing import Final

_ELECTED: Final = "the election chooses the server, and no weight does"
_FILE: Final = "change the file, and 'condor-gateway reload'"
_TLS: Final = "no TLS is ended here: bytes pass as they are"
_TABLES: Final = "there are no stick tables, maps or lists here"
_INSIDE: Final = "it looks into HAProxy's own process"

# first words -> why
COMMANDS: Final[dict[tuple[str, ...], str]] = {
    ("set", "weight"): _ELECTED,
    ("get", "weight"): _ELECTED,
    ("set", "maxconn"): _FILE,
    ("set", "rate-limit"): _FILE,
    ("set", "dynamic-cookie-key"): "there are no cookies in HTCondor's protocol",
    ("enable", "dynamic-cookie"): "there are no cookies in HTCondor's protocol",
    ("disable", "dynamic-cookie"): "there are no cookies in HTCondor's protocol",
    ("add", "server"): _FILE,
    ("del", "server"): _FILE,
    ("add", "backend"): _FILE,
    ("del", "backend"): _FILE,
    ("enable", "frontend"): "a gateway serves all of its address or nothing: 'set server' or 'condor-gateway drain'",
    ("disable", "frontend"): "a gateway serves all of its address or nothing: 'set server' or 'condor-gateway drain'",
    ("shutdown", "frontend"): "a gateway serves all of its address or nothing: 'condor-gateway drain'",
    ("shutdown", "sessions"): "'set server <backend>/<server> state drain' moves the server's work in good order",
    ("enable", "health"): "checks are what the election lives on: 'condor-gateway pause' keeps them from acting",
    ("disable", "health"): "checks are what the election lives on: 'condor-gateway pause' keeps them from acting",
    ("enable", "agent"): "the node on each manager is the agent; it is never off",
    ("disable", "agent"): "the node on each manager is the agent; it is never off",
    ("set", "ssl"): _TLS,
    ("show", "ssl"): _TLS,
    ("add", "ssl"): _TLS,
    ("del", "ssl"): _TLS,
    ("new", "ssl"): _TLS,
    ("commit", "ssl"): _TLS,
    ("abort", "ssl"): _TLS,
    ("show", "tls-keys"): _TLS,
    ("show", "quic"): _TLS,
    ("show", "table"): _TABLES,
    ("set", "table"): _TABLES,
    ("clear", "table"): _TABLES,
    ("show", "map"): _TABLES,
    ("set", "map"): _TABLES,
    ("add", "map"): _TABLES,
    ("del", "map"): _TABLES,
    ("get", "map"): _TABLES,
    ("clear", "map"): _TABLES,
    ("prepare", "map"): _TABLES,
    ("commit", "map"): _TABLES,
    ("show", "acl"): _TABLES,
    ("add", "acl"): _TABLES,
    ("del", "acl"): _TABLES,
    ("get", "acl"): _TABLES,
    ("clear", "acl"): _TABLES,
    ("prepare", "acl"): _TABLES,
    ("commit", "acl"): _TABLES,
    ("get", "var"): _INSIDE,
    ("set", "var"): _INSIDE,
    ("show", "cache"): "nothing is cached here",
    ("show", "resolvers"): "names are not resolved here: servers have addresses",
    ("show", "pools"): _INSIDE,
    ("show", "profiling"): _INSIDE,
    ("set", "profiling"): _INSIDE,
    ("show", "fd"): _INSIDE,
    ("show", "libs"): _INSIDE,
    ("show", "tasks"): _INSIDE,
    ("show", "threads"): _INSIDE,
    ("show", "trace"): _INSIDE,
    ("trace",): _INSIDE,
    ("show", "dev"): _INSIDE,
    ("show", "startup-logs"): "the log has them, from its beginning",
    ("show", "anon"): _INSIDE,
    ("set", "anon"): _INSIDE,
    ("set", "severity-output"): "answers have no severity here",
    ("reload",): "'condor-gateway reload' does that, as root",
}
# words after `set server B/S` -> why
SERVER_WORDS: Final[dict[str, str]] = {
    "addr": _FILE,
    "agent": "the node on each manager is the agent",
    "agent-addr": _FILE,
    "agent-port": _FILE,
    "agent-send": _FILE,
    "check-addr": _FILE,
    "check-port": _FILE,
    "fqdn": "names are not resolved here: servers have addresses",
    "health": "a manager's own node says whether it can serve: 'state drain' takes it out",
    "name": _FILE,
    "ssl": _TLS,
    "weight": _ELECTED,
}


def refusal(words: Sequence[str]) -> str | None:
    """Return why one of HAProxy's commands does not exist here; None where it is no command of HAProxy's."""
    for length in (2, 1):
        why = COMMANDS.get(tuple(words[:length]))
        if why is not None:
            return f"'{' '.join(words[:length])}' is known in HAProxy, not here: {why}"
    return None

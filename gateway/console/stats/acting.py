"""Commands that change something: servers drained, counters begun anew, connections ended.

HAProxy's `drain` and `maint` are one thing here: the node is no candidate any more, and hands over what it leads.
"""

from collections.abc import Sequence
from typing import Any, Final

from gateway.console.stats.counters import Counters
from gateway.console.stats.foreign import SERVER_WORDS
from gateway.console.stats.language import DENIED, Asker, Refusal, Session
from gateway.console.stats.rows import rows
from gateway.console.stats.servers import backends_of, drained, servers_of
from gateway.control.commands import Level

_STATES: Final = {"ready": False, "drain": True, "maint": True}
TIMEOUT_S_MAX: Final = 3_600  # a terminal that is left open


async def set_server(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`set server B/S state ready|drain|maint`."""
    server = await _server(node, words[2:3])
    match words[3:]:
        case ["state", state] if state in _STATES:
            return await _order(node, server, drain=_STATES[state])
        case ["state", *_]:
            raise Refusal("'set server <srv> state' expects 'ready', 'drain' and 'maint'.")
        case [word, *_] if word in SERVER_WORDS:
            raise Refusal(f"'set server {word}' is known in HAProxy, not here: {SERVER_WORDS[word]}")
    raise Refusal("usage: set server <backend>/<server> state ready | drain | maint")


async def disable_server(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`disable server B/S`."""
    return await _order(node, await _server(node, words[2:3]), drain=True)


async def enable_server(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`enable server B/S`."""
    return await _order(node, await _server(node, words[2:3]), drain=False)


async def _server(node: Asker, words: Sequence[str]) -> str:
    backend, slash, server = (words[0] if words else "").partition("/")
    if not slash or not backend or not server:
        raise Refusal("Require 'backend/server'.")
    document = await node.status()
    if backend not in backends_of(document):
        raise Refusal("No such backend.")
    if server not in servers_of(document, backend):
        raise Refusal("No such server.")
    return server


async def _order(node: Asker, server: str, *, drain: bool) -> str:
    if (server in drained(await node.status())) != drain:
        await node.request("drain" if drain else "undrain", node=server)
    return ""  # HAProxy says nothing when it has obeyed, and nothing when there was nothing to do


async def shutdown_session(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`shutdown session ID`."""
    if len(words) < 3:
        raise Refusal("Session pointer expected (use 'show sess').")
    await node.request("shutdown-session", session=words[2])
    return ""


def clear_counters(counters: Counters) -> Any:
    """Return the handler of `clear counters [all]`."""

    async def handle(node: Asker, session: Session, words: Sequence[str]) -> str:
        if list(words[2:]) == ["all"]:
            if session.level < Level.ADMIN:
                raise Refusal(DENIED)
            counters.clear_all(rows(await node.status()))
        elif words[2:]:
            raise Refusal("usage: clear counters [all]")
        else:
            counters.clear_maxima()
        return ""

    return handle


def set_timeout(node: Asker, session: Session, words: Sequence[str]) -> str:
    """`set timeout cli SECONDS`: how long this client may be silent."""
    if len(words) != 4 or words[2] != "cli":
        raise Refusal("usage: set timeout cli <seconds>")
    try:
        seconds = float(words[3].removesuffix("s"))
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= TIMEOUT_S_MAX:
        raise Refusal(f"Invalid timeout value: 1 to {TIMEOUT_S_MAX} seconds")
    session.idle_s = seconds
    return ""

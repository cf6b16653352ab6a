"""Servers as HAProxy speaks of them: UP, DOWN, DRAIN. Read from the status document; nothing is asked.

The elected server is the active one, all others are its backups. Rule: what this node does not know is None, never a
guess.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

HEARD_MS = 1_000  # a server's node that said nothing for so long is not heard

Document = Mapping[str, Any]


class ServerState(NamedTuple):
    """One server of a backend, as this node knows it."""

    status: str  # UP, DOWN or DRAIN
    check: str  # HAProxy's name for the result of the last check
    why: str
    elected: bool
    fit: bool | None
    warm: bool | None
    drained: bool
    heard_ms_ago: int | None


def backends_of(document: Document) -> list[str]:
    """Return the backends: those whose traffic this node carries, and those that it only votes on."""
    carried = list(document["backends"])
    return carried + [
        name for name, one in document["elections"].items() if one["kind"] == "matchmaker" and name not in carried
    ]


def servers_of(document: Document, backend: str) -> list[str]:
    """Return a backend's servers, in the order of the file."""
    carried = document["backends"].get(backend)
    if carried is not None:
        return list(carried["servers"])
    return list(document["elections"].get(backend, {}).get("candidates", {}))


def elected_of(document: Document, backend: str) -> str | None:
    """Return the elected server."""
    election = document["elections"].get(backend)
    if election is not None:
        return election["leader"]  # type: ignore[no-any-return]
    return document["backends"].get(backend, {}).get("server")  # type: ignore[no-any-return]


def drained(document: Document) -> frozenset[str]:
    """Return the nodes that are told to serve nothing."""
    return frozenset(document.get("orders", {}).get("drained") or ())


def state_of(document: Document, backend: str, server: str) -> ServerState:
    """Return what is known of one server of a backend."""
    candidates = document["elections"].get(backend, {}).get("candidates", {})
    standing = candidates.get(server)
    elected = elected_of(document, backend) == server
    is_drained = server in drained(document)
    ago_ms = None if standing is None else standing["heard_ms_ago"]
    heard = ago_ms is not None and ago_ms < HEARD_MS
    fit = standing["fit"] if standing is not None and heard else None
    warm = standing["warm"] if standing is not None and heard else None
    if elected and fit is None:
        # It leads by a majority's word, heard by this node or not: that is what clients are sent to.
        status, check, why = "UP", "UNK", "elected (its own word is not heard here)"
    elif fit is None:
        status, check, why = "DOWN", "L4TOUT", "its node is not heard"
    elif not fit:
        status, check, why = "DOWN", "L7STS", "its node says that it can not serve"
    else:
        status, check, why = "UP", "L7OK", "elected" if elected else "standby (warm)" if warm else "standby (cold)"
    if is_drained and (elected or heard):  # a drained node says itself that it is not fit
        status, check, why = "DRAIN", "L7OK", "drained (elected)" if elected else "drained"
    return ServerState(status, check, why, elected, fit, warm, is_drained, ago_ms)

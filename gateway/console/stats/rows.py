"""Rows of `show stat`: a frontend, backend or server of the status document in HAProxy's columns.

Rule: a figure that this node cannot know is absent, and an empty field in the output. Connections are HAProxy's
sessions; those that wait for an election are its queue.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from gateway.config.settings import Settings
from gateway.console.stats.servers import ServerState, backends_of, servers_of, state_of

Value = int | str
Document = Mapping[str, Any]

FIRST_IID: Final = 2  # HAProxy's own 1 is the stats socket itself
FRONTEND, BACKEND, SERVER = 0, 1, 2  # HAProxy's numbers of types
LETTERS: Final = {FRONTEND: "F", BACKEND: "B", SERVER: "S"}
NAMES: Final = {FRONTEND: "Frontend", BACKEND: "Backend", SERVER: "Server"}
_CHECKS: Final = {
    # Without a comma: there are tools that split lines at each, whatever quotes say.
    "L7OK": "the node can serve",
    "L7STS": "the node can not serve",
    "L4TOUT": "no heartbeat for a second",
    "UNK": "unknown",
}


class Row(NamedTuple):
    """One line of `show stat`: its values by column; absent columns are empty."""

    type: int
    iid: int
    sid: int
    values: dict[str, Value]

    @property
    def key(self) -> str:
        """Return what tells it apart from all others."""
        return f"{self.values['pxname']}/{self.values['svname']}"


def rows(document: Document, settings: Settings | None = None) -> list[Row]:
    """Return every row: frontends, then each backend's servers and the backend itself, as HAProxy orders them.

    Args:
        document: the status document.
        settings: of the node, for limits and addresses; without them those stay empty.
    """
    found = []
    for iid, name in enumerate(document["frontends"], FIRST_IID):
        found.append(Row(FRONTEND, iid, 0, _known(_frontend(document, settings, name), iid, 0, FRONTEND)))
    for iid, name in enumerate(backends_of(document), FIRST_IID + len(document["frontends"])):
        states = {server: state_of(document, name, server) for server in servers_of(document, name)}
        for sid, (server, state) in enumerate(states.items(), 1):
            values = _server(document, settings, name, server, state)
            found.append(Row(SERVER, iid, sid, _known(values, iid, sid, SERVER)))
        found.append(Row(BACKEND, iid, 0, _known(_backend(document, name, states), iid, 0, BACKEND)))
    return found


def _known(values: Mapping[str, Value | None], iid: int, sid: int, kind: int) -> dict[str, Value]:
    common: dict[str, Value | None] = {"pid": 1, "iid": iid, "sid": sid, "type": kind, "mode": "tcp"}
    return {name: value for name, value in {**values, **common}.items() if value is not None}


def _frontend(document: Document, settings: Settings | None, name: str) -> dict[str, Value | None]:
    figures = document["frontends"][name]
    limit = next((one.maxconn for one in settings.frontends if one.name == name), None) if settings else None
    now, errors = figures["connections"]["now"], figures["errors"]
    return {
        "pxname": name,
        "svname": "FRONTEND",
        **_carried(figures),
        "slim": limit,
        "status": "FULL" if limit and now is not None and now >= limit else "OPEN",
        "dreq": _sum(errors, ("maxconn", "too many held", "transparent: address not usable")),
        "dresp": 0,
        "ereq": _sum(errors, ("client-hello timeout", "too many silent", "client timeout")),
        "rate_lim": 0,
        "conn_rate": _whole(figures["rates"]["connections"]),
        "conn_tot": figures["connections"]["total"],
        "dcon": _sum(errors, ("maxconn-per-source", "source rate")),
        "dses": 0,
        "wrew": 0,
        "eint": _sum(errors, ("no descriptors for clients", "no descriptors for servers")),
        "way": figures["way"],
    }


def _backend(document: Document, name: str, states: Mapping[str, ServerState]) -> dict[str, Value | None]:
    figures = document["backends"].get(name)
    up = [state for state in states.values() if state.status == "UP"]
    election = document["elections"].get(name, {})
    values: dict[str, Value | None] = {
        "pxname": name,
        "svname": "BACKEND",
        "status": "UP" if any(state.elected for state in states.values()) else "DOWN",
        "weight": len([state for state in up if state.elected]),
        "uweight": len([state for state in up if state.elected]),
        "act": len([state for state in up if state.elected]),
        "bck": len([state for state in up if not state.elected]),
        "algo": "elected",
        "term": election.get("term"),
    }
    if figures is not None:
        errors = figures["errors"]
        values |= _carried(figures) | _backed(figures) | {"way": figures["way"], "carrier": figures["carrier"]}
        values |= {"dreq": 0, "econ": _sum(errors, ("connect failed", "no server in time", "server unreachable"))}
    return values


def _server(
    document: Document, settings: Settings | None, backend: str, server: str, state: ServerState
) -> dict[str, Value | None]:
    carried = document["backends"].get(backend)
    values: dict[str, Value | None] = {
        "pxname": backend,
        "svname": server,
        "status": state.status,
        "weight": 1,
        "uweight": 1,
        "act": int(state.elected),
        "bck": int(not state.elected),
        "check_status": state.check,
        "check_desc": _CHECKS[state.check],
        "last_chk": state.why,
        "elected": int(state.elected),
        "fit": None if state.fit is None else int(state.fit),
        "warm": None if state.warm is None else int(state.warm),
        "drained": int(state.drained),
        "heard_ms_ago": state.heard_ms_ago,
    }
    written = next((one for one in _servers(settings, backend) if one.name == server), None)
    if written is not None:
        values |= {"addr": str(written.endpoint), "check_rise": written.rise, "check_fall": written.fall}
    shipped = document["matchmakers"].get(backend, {}).get("accounting", {}).get("standbys", {}).get(server)
    if shipped is not None and shipped["connected"]:
        values |= {"replica_lag_ms": shipped["lag_ms"], "replica_lag_records": shipped["lag_records"]}
    if carried is not None:
        figures = carried["servers"][server]
        values |= _carried(figures) | _backed(figures) | {"way": carried["way"]}
        values |= {"econ": _sum(figures["errors"], ("connect failed", "server unreachable"))}
    return values


def _servers(settings: Settings | None, backend: str) -> Iterator[Any]:
    for one in settings.backends if settings is not None else ():
        if one.name == backend:
            yield from one.servers


def _carried(figures: Mapping[str, Any]) -> dict[str, Value | None]:
    """Return what frontends, backends and servers have in common."""
    connections, datagrams = figures["connections"], figures["datagrams"]
    return {
        "scur": connections["now"],
        "stot": connections["total"],
        "bin": figures["bytes"]["to_server"],
        "bout": figures["bytes"]["to_client"],
        "rate": _whole(figures["rates"]["connections"]),
        "held_total": connections.get("held"),
        "replayed_total": connections.get("replayed"),
        "reset_at_switch_total": connections.get("reset"),
        "drained_total": connections.get("drained"),
        "datagrams_in": datagrams["to_server"],
        "datagrams_out": datagrams["to_client"],
        "datagrams_dropped": datagrams.get("dropped"),
        "flows_cur": figures["flows"]["now"],
    }


def _backed(figures: Mapping[str, Any]) -> dict[str, Value | None]:
    """Return what backends and servers have, and frontends do not."""
    connections, errors = figures["connections"], figures["errors"]
    return {
        "qcur": connections.get("held_now"),
        "dresp": 0,
        "eresp": _sum(errors, ("reset by server", "server silent")),
        "wretr": _sum(errors, ("connect failed",)),
        "wredis": connections.get("replayed"),
        "lbtot": connections["total"],
        "cli_abrt": _sum(errors, ("reset by client",)),
        "srv_abrt": _sum(errors, ("reset by server",)),
        "connect": connections["total"],
        "reuse": 0,
        "wrew": 0,
        "eint": _sum(errors, ("no descriptors for servers",)),
    }


def _sum(errors: Mapping[str, int], causes: tuple[str, ...]) -> int:
    return sum(errors.get(cause, 0) for cause in causes)


def _whole(rate: float | None) -> int | None:
    return None if rate is None else round(rate)

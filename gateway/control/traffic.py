"""Traffic: the reports of all relay workers as one picture: by listener, frontend, backend and server, with rates.

Rule: totals never go back: what a dead worker had counted stays in them. Reads no clock and asks nobody.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.relay.messages import Listener, ListenerStats, Report, Vitals

_FIELDS = tuple(field for field in ListenerStats.__struct_fields__ if field != "name")
_TOTALS = tuple(field for field in _FIELDS if field.endswith("_total"))

# Whose they are when they are not the elected server's: ends of what a former one had; what goes on with the last one
# while nobody is elected.
_OF_FORMER = frozenset({"reset_at_switch_total", "drained_total"})
_OF_LAST = frozenset(
    {"bytes_to_server_total", "bytes_to_client_total", "datagrams_to_client_total", "reset_by_server_total"}
)

# field of ListenerStats -> its name as a cause of errors
_ERRORS = {
    "hold_expired_total": "no server in time",
    "maxconn_refused_total": "maxconn",
    "source_refused_total": "maxconn-per-source",
    "source_rate_refused_total": "source rate",
    "held_refused_total": "too many held",
    "silent_evicted_total": "too many silent",
    "hello_expired_total": "client-hello timeout",
    "client_idle_total": "client timeout",
    "transparent_refused_total": "transparent: address not usable",
    "transparent_busy_total": "transparent: no free port",
    "accept_paused_total": "no descriptors for clients",
    "descriptors_missed_total": "no descriptors for servers",
    "connect_failed_total": "connect failed",
    "first_byte_missed_total": "server silent",
    "reset_by_client_total": "reset by client",
    "reset_by_server_total": "reset by server",
    "datagrams_dropped_total": "datagrams dropped",
    "datagrams_missed_total": "datagrams faster than read",
    "unreachable_total": "server unreachable",
}
_RATES = {
    "connections": "connections_total",
    "refused": "refused_total",
    "bytes_to_server": "bytes_to_server_total",
    "bytes_to_client": "bytes_to_client_total",
    "datagrams_to_server": "datagrams_to_server_total",
    "datagrams_to_client": "datagrams_to_client_total",
    "datagrams_dropped": "datagrams_dropped_total",
}


class _Worker(msgspec.Struct):
    """What one worker has said last."""

    stats: dict[str, ListenerStats]
    at_s: float
    rates: dict[str, dict[str, float]]  # listener -> field -> per second, over the last interval
    vitals: Vitals | None = None
    cpu: float = 0.0  # share of one core, over the last interval


class Traffic:
    """All that the workers of a node have counted.

    Args:
        listeners: those of the frontends.
        frontends: listener -> its frontend.
    """

    def __init__(self, listeners: Iterable[Listener], frontends: Mapping[str, str]) -> None:
        self._routes = {listener.name: listener.route for listener in listeners}
        self._frontends = frontends
        self._workers: dict[int, _Worker] = {}
        self._buried: dict[str, Counter[str]] = {}  # listener -> what dead workers had counted
        self._servers: dict[str, dict[str, Counter[str]]] = {}  # backend -> server -> totals and gauges
        self._elected: dict[str, str | None] = {}  # backend -> server that its route leads to
        self._last: dict[str, str] = {}  # backend -> its last server, also while nobody is elected
        self._former: dict[str, str] = {}  # backend -> the one before

    def follow(self, backend: str, server: str | None) -> None:
        """Count what comes from now on as that of `server`."""
        self._elected[backend] = server
        last = self._last.get(backend)
        if server is not None and server != last:
            self._last[backend] = server
            if last is not None:
                self._former[backend] = last

    def take(self, worker: int, report: Report, now_s: float) -> None:
        """Take a report of one worker; a new process in its place has been `lost` before."""
        last = self._workers.get(worker)
        stats = {each.name: each for each in report.listeners}
        rates: dict[str, dict[str, float]] = {}
        for name, each in stats.items():
            before = last.stats.get(name) if last is not None else None
            grown = {field: getattr(each, field) - (getattr(before, field) if before else 0) for field in _TOTALS}
            if last is not None and now_s > last.at_s:
                rates[name] = {field: grown[field] / (now_s - last.at_s) for field in _RATES.values()}
            if last is not None:  # the first report of a process that we took over tells of other servers' times
                self._count_for_server(name, grown)
        cpu = 0.0
        if last is not None and last.vitals is not None and report.vitals is not None and now_s > last.at_s:
            cpu = (report.vitals.cpu_ms - last.vitals.cpu_ms) / 1000 / (now_s - last.at_s)
        self._workers[worker] = _Worker(stats, now_s, rates, report.vitals, cpu)

    def _count_for_server(self, listener: str, grown: Mapping[str, int]) -> None:
        backend = self._routes.get(listener, "")
        if listener not in self._frontends:
            return
        elected, last, former = (each.get(backend) for each in (self._elected, self._last, self._former))
        for field, number in grown.items():
            server = former if field in _OF_FORMER else last if field in _OF_LAST else elected
            if server is not None:
                self._servers.setdefault(backend, {}).setdefault(server, Counter())[field] += number

    def lost(self, worker: int) -> None:
        """Note that a worker has died: its clients are gone, what it has counted is not."""
        last = self._workers.pop(worker, None)
        for name, each in (last.stats if last is not None else {}).items():
            self._buried.setdefault(name, Counter()).update({field: getattr(each, field) for field in _TOTALS})

    # -- shown -----------------------------------------------------------------------------------------------------

    def vitals(self, worker: int) -> tuple[Vitals | None, float]:
        """Return what a worker uses, and its share of a core over the last second."""
        last = self._workers.get(worker)
        return (last.vitals, last.cpu) if last is not None else (None, 0.0)

    def listeners(self) -> dict[str, dict[str, int]]:
        """Return listener -> every counter, of all workers together."""
        return {name: {field: found[field] for field in _FIELDS} for name, found in self._listeners().items()}

    def frontends(self) -> dict[str, dict[str, Any]]:
        """Return frontend -> its figures; see `figures`."""
        return self._grouped(self._frontends)

    def backends(self) -> dict[str, dict[str, Any]]:
        """Return backend -> its figures, and under `servers` those of each that it had."""
        grouped = self._grouped({name: self._routes[name] for name in self._frontends})
        for backend, whole in grouped.items():
            whole["server"] = self._elected.get(backend)
            whole["servers"] = {
                server: self._server(backend, server, whole, counted)
                for server, counted in self._servers.get(backend, {}).items()
            }
        return grouped

    def _server(self, backend: str, server: str, whole: Mapping[str, Any], counted: Counter[str]) -> dict[str, Any]:
        """What was counted while it was elected, to the second, and how its connections ended.

        The bytes of connections that drain count for its successor.
        """
        now = whole["connections"]
        mine = figures(counted, Counter())
        if server == self._last.get(backend):
            mine["connections"]["now"] = now["now"] - now["silent"] - now["held_now"] - now["draining"]
            mine["rates"] = whole["rates"]
        elif server == self._former.get(backend):
            mine["connections"]["now"] = mine["connections"]["draining"] = now["draining"]
        return mine

    def _listeners(self) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {}
        for worker in self._workers.values():
            for name, each in worker.stats.items():
                found.setdefault(name, Counter()).update({field: getattr(each, field) for field in _FIELDS})
        for name, buried in self._buried.items():
            found.setdefault(name, Counter()).update(buried)
        return found

    def _grouped(self, groups: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        counted: dict[str, Counter[str]] = {group: Counter() for group in groups.values()}
        rates: dict[str, Counter[str]] = {group: Counter() for group in groups.values()}
        for name, found in self._listeners().items():
            if name in groups:
                counted[groups[name]].update(found)
        for worker in self._workers.values():
            for name, each in worker.rates.items():
                if name in groups:
                    rates[groups[name]].update(each)
        return {group: figures(counted[group], rates[group]) for group in counted}


def figures(counted: Counter[str], rates: Counter[str]) -> dict[str, Any]:
    """Return the figures that an operator asks for; `errors` names the causes that have occurred."""
    return {
        "connections": {
            "now": counted["connections_now"],
            "silent": counted["silent_now"],
            "held_now": counted["held_now"],
            "draining": counted["draining_now"],
            "total": counted["connections_total"],
            "held": counted["held_total"],
            "refused": counted["refused_total"],
            "reset": counted["reset_at_switch_total"],
            "drained": counted["drained_total"],
            "replayed": counted["replayed_total"],
        },
        "bytes": {"to_server": counted["bytes_to_server_total"], "to_client": counted["bytes_to_client_total"]},
        "flows": {"now": counted["flows_now"], "total": counted["flows_total"]},
        "datagrams": {
            "to_server": counted["datagrams_to_server_total"],
            "to_client": counted["datagrams_to_client_total"],
            "dropped": counted["datagrams_dropped_total"],
        },
        "rates": {name: round(rates[field], 1) for name, field in _RATES.items()},
        "errors": {cause: counted[field] for field, cause in _ERRORS.items() if counted[field]},
    }

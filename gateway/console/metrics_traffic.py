"""Metrics of traffic: frontends, backends, servers, the relay, and what the kernel forwards."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from gateway.console.metrics_reading import Facts, Metric, Sample, at, counter, gauge, per

Owned = Callable[[Facts], Iterable[tuple[tuple[str, ...], Mapping[str, Any]]]]


def _of(owned: Owned, group: str, name: str) -> Callable[[Facts], Iterable[Sample]]:
    return lambda facts: [(labels, figures[group].get(name)) for labels, figures in owned(facts)]


def _both(owned: Owned, group: str) -> Callable[[Facts], Iterable[Sample]]:
    """Return a reader of what goes in both directions."""

    def read(facts: Facts) -> Iterator[Sample]:
        for labels, figures in owned(facts):
            yield (*labels, "in"), figures[group]["to_server"]
            yield (*labels, "out"), figures[group]["to_client"]

    return read


def _errors(owned: Owned) -> Callable[[Facts], Iterable[Sample]]:
    return lambda facts: [
        ((*labels, cause), count) for labels, figures in owned(facts) for cause, count in figures["errors"].items()
    ]


def _traffic(scope: str, labels: tuple[str, ...], owned: Owned) -> tuple[Metric, ...]:
    """Return the metrics of a kind of thing that carries traffic."""
    return (
        gauge(f"{scope}_connections", "Connections now.", labels, _of(owned, "connections", "now")),
        gauge(f"{scope}_connections_held", "Connections that wait for a server now.", labels,
              _of(owned, "connections", "held_now")),
        gauge(f"{scope}_connections_draining", "Connections that go on with a former server now.", labels,
              _of(owned, "connections", "draining")),
        counter(f"{scope}_connections_total", "Connections taken.", labels, _of(owned, "connections", "total")),
        counter(f"{scope}_connections_held_total", "Connections that had to wait for a server.", labels,
                _of(owned, "connections", "held")),
        counter(f"{scope}_connections_refused_total", "Connections refused at the door.", labels,
                _of(owned, "connections", "refused")),
        counter(f"{scope}_connections_reset_total", "Connections closed because another server was elected.", labels,
                _of(owned, "connections", "reset")),
        counter(f"{scope}_connections_replayed_total", "Connections begun anew with another server, unseen by the "
                "client.", labels, _of(owned, "connections", "replayed")),
        counter(f"{scope}_bytes_total", "Bytes from clients (in) and to them (out).", (*labels, "direction"),
                _both(owned, "bytes")),
        gauge(f"{scope}_flows", "Flows of datagrams now.", labels, _of(owned, "flows", "now")),
        counter(f"{scope}_datagrams_total", "Datagrams from clients (in) and to them (out).", (*labels, "direction"),
                _both(owned, "datagrams")),
        counter(f"{scope}_datagrams_dropped_total", "Datagrams dropped.", labels, _of(owned, "datagrams", "dropped")),
        counter(f"{scope}_errors_total", "What went wrong, by cause.", (*labels, "cause"), _errors(owned)),
    )  # fmt: skip


def _frontends(facts: Facts) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    yield from (((name,), one) for name, one in facts.status["frontends"].items())


def _backends(facts: Facts) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    yield from (((name,), one) for name, one in facts.status["backends"].items())


def _servers(facts: Facts) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    for backend, whole in facts.status["backends"].items():
        yield from (((backend, name), one) for name, one in whole["servers"].items())


def _workers(value: Callable[[Any], float | None]) -> Callable[[Facts], Iterable[Sample]]:
    def read(facts: Facts) -> Iterator[Sample]:
        for number, worker in enumerate((facts.status["relay"] or {}).get("workers", ())):
            yield (str(number),), value(worker)

    return read


def _diversions(value: Callable[[Any], float | None]) -> Callable[[Facts], Iterable[Sample]]:
    return per("diversions", value)


def _diversion_counters(facts: Facts) -> Iterator[Sample]:
    for name, diversion in facts.status["diversions"].items():
        yield from (((name, counter), count) for counter, count in diversion["counters"].items())


METRICS: Final = (
    *_traffic("frontend", ("frontend",), _frontends),
    *_traffic("backend", ("backend",), _backends),
    *_traffic("server", ("backend", "server"), _servers),
    gauge("backend_by_kernel", "Whether the kernel carries what is new, and not the relay.", ("backend",),
          per("backends", lambda one: one["carrier"] == "kernel")),
    gauge("backend_faulty", "Whether the kernel refuses to carry what it is told to.", ("backend",),
          per("backends", lambda one: bool(one["fault"]))),
    gauge("relay_processes", "Relay processes that there should be.", (),
          lambda facts: [((), len(facts.status["relay"]["workers"]) if facts.status["relay"] else None)]),
    gauge("relay_processes_listening", "Relay processes that listen.", (), at("relay", "listening")),
    counter("relay_restarts_total", "Starts of a relay process after its death.", ("worker",),
            _workers(lambda one: one["restarts_total"])),
    gauge("relay_cpu_ratio", "Share of a core over the last second.", ("worker",), _workers(lambda one: one["cpu"])),
    gauge("relay_resident_bytes", "Memory.", ("worker",), _workers(lambda one: one["resident_kib"] * 1024)),
    gauge("relay_descriptors", "File descriptors in use.", ("worker",),
          _workers(lambda one: one["descriptors"]["used"])),
    gauge("relay_descriptors_limit", "File descriptors allowed.", ("worker",),
          _workers(lambda one: one["descriptors"]["limit"])),
    counter("relay_log_lines_dropped_total", "Lines of 'option tcplog' that were lost or too many.", ("worker",),
            _workers(lambda one: one["log_dropped_total"])),
    counter("diversion_counted_total", "What the rules in the kernel have counted; 'counter' is the name there.",
            ("diversion", "counter"), _diversion_counters),
    counter("diversion_expelled_total", "Flows of a former server that were ended.", ("diversion",),
            _diversions(lambda one: one.get("expelled_total"))),
    gauge("diversion_faulty", "Whether the kernel has refused the rules.", ("diversion",),
          _diversions(lambda one: bool(one["fault"]))),
    gauge("conntrack_fill_ratio", "How full the kernel's table of flows is.", ("diversion",),
          _diversions(lambda one: one.get("conntrack_fill"))),
    counter("receiving_closed_total", "Connections of clients closed on a manager that was elected no more.",
            ("backend",), per("receiving", lambda one: one["destroyed_total"])),
    counter("receiving_unclosed_total", "Those that could not be closed.", ("backend",),
            per("receiving", lambda one: one["undestroyed_total"])),
    gauge("receiving_faulty", "Whether this manager can not take what gateways send to it.", ("backend",),
          per("receiving", lambda one: bool(one["fault"]))),
    gauge("return_faulty", "Whether answers to clients do not find back.", ("device",),
          per("returns", lambda one: bool(one["fault"]))),
)  # fmt: skip

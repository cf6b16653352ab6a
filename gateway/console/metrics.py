"""Metrics for Prometheus, in its text format. They are declared in `gateway.console.metrics_table`, once.

Rule: a scrape reads two documents and asks nobody; it costs the control process nothing that it does not do anyway.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.console.metrics_table import METRICS, PREFIX, Facts, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CHANGES_MAX = 1_000  # election and cause: some dozens; a bound for what a broken history could make of it

Family = CounterMetricFamily | GaugeMetricFamily


class Metrics:
    """The metrics of one node. Counts changes of leader for as long as it lives, beyond what the history keeps."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str]] = Counter()
        self._last: dict[str, Mapping[str, Any]] = {}
        self._seq = 0

    def render(self, document: Mapping[str, Any], history: Mapping[str, Any] | None) -> str:
        """Return the text of a scrape.

        Args:
            document: the answer to `status`.
            history: the answer to `history`; None where there is none.
        """
        self._count((history or {}).get("changes", ()))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Once(Facts(document, self._counted, self._last)))
        return generate_latest(registry).decode()

    def _count(self, changes: Iterable[Mapping[str, Any]]) -> None:
        # What was before this process is zero: it may see less of it than the one before it did, and a counter that
        # falls is one that has counted everything anew.
        first = self._seq == 0
        for change in sorted(changes, key=lambda one: one["seq"]):
            last = self._last.get(change["election"])
            if last is not None and change["seq"] == last["seq"]:
                self._last[change["election"]] = change  # its gap and phases come to be known while it goes on
            if change["seq"] <= self._seq:
                continue
            self._seq = change["seq"]
            key = (str(change["election"]), str(change["cause"]))
            if key in self._counted or len(self._counted) < CHANGES_MAX:
                self._counted[key] += not first
                self._last[change["election"]] = change


def render(document: Mapping[str, Any], history: Mapping[str, Any] | None) -> str:
    """Return the text of one scrape, by itself; `Metrics` counts changes over several."""
    return Metrics().render(document, history)


class _Once(Collector):
    """Collects from one moment's documents."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Family]:
        for metric in METRICS:
            samples = [(labels, value) for labels, value in metric.read(self._facts) if value is not None]
            if samples:
                family = _family(metric)
                for labels, value in samples:
                    family.add_metric(labels, float(value))
                yield family


def _family(metric: Metric) -> Family:
    name = PREFIX + metric.name
    if metric.kind == "counter":
        return CounterMetricFamily(name.removesuffix("_total"), metric.help, labels=metric.labels)
    return GaugeMetricFamily(name, metric.help, labels=metric.labels)

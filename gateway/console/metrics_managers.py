"""Metrics of managers: collector, negotiator, warm standbys, accounting and its replicas."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from gateway.console.metrics_reading import Facts, Sample, counter, gauge, per


def _matchmakers(value: Callable[[Any], float | None]) -> Callable[[Facts], Iterable[Sample]]:
    return per("matchmakers", value)


def _ads(facts: Facts) -> Iterator[Sample]:
    for name, matchmaker in facts.status["matchmakers"].items():
        for kind, count in matchmaker.get("ads", {}).items():
            yield (name, facts.status["node"], kind), count
        for standby, warmth in matchmaker["standbys"].items():
            for kind, count in warmth.get("ads", {}).items():
                yield (name, standby, kind), count


def _standbys(value: Callable[[Any], float | None]) -> Callable[[Facts], Iterable[Sample]]:
    def read(facts: Facts) -> Iterator[Sample]:
        for name, matchmaker in facts.status["matchmakers"].items():
            for standby, warmth in matchmaker["standbys"].items():
                yield (name, standby), value(warmth)

    return read


def _accounting(value: Callable[[Any], float | None]) -> Callable[[Facts], Iterable[Sample]]:
    def read(facts: Facts) -> Iterator[Sample]:
        for name, matchmaker in facts.status["matchmakers"].items():
            if matchmaker.get("accounting"):
                yield (name,), value(matchmaker["accounting"])

    return read


def _by_reason(field: str) -> Callable[[Facts], Iterable[Sample]]:
    def read(facts: Facts) -> Iterator[Sample]:
        for name, matchmaker in facts.status["matchmakers"].items():
            for reason, count in matchmaker.get("accounting", {}).get(field, {}).items():
                yield (name, reason), count

    return read


def _shipped(field: str, per_unit: int = 1, *, only_connected: bool = False) -> Callable[[Facts], Iterable[Sample]]:
    def read(facts: Facts) -> Iterator[Sample]:
        for name, matchmaker in facts.status["matchmakers"].items():
            for standby, shipped in matchmaker.get("accounting", {}).get("standbys", {}).items():
                if shipped["connected"] or not only_connected:
                    yield (name, standby), shipped[field] / per_unit

    return read


_OF_STANDBY: Final = ("backend", "standby")
METRICS: Final = (
    gauge("negotiator_running", "Whether this manager's negotiator runs.", ("backend",),
          _matchmakers(lambda one: one["negotiator_running"])),
    counter("negotiator_swaps_total", "Short stops of the negotiator for a merged accounting file.", ("backend",),
            _matchmakers(lambda one: one["negotiator_swaps_total"])),
    gauge("collector_up", "Whether this manager's collector answers.", ("backend",),
          _matchmakers(lambda one: one["collector"] == "up")),
    gauge("ads", "Ads in a collector, as the elected manager has counted them.", ("backend", "manager", "type"), _ads),
    gauge("standby_forwarding", "Whether the elected collector's ads go to a standby.", _OF_STANDBY,
          _standbys(lambda one: one["forwarding"])),
    gauge("standby_primed", "Whether a standby was given all ads.", _OF_STANDBY, _standbys(lambda one: one["primed"])),
    gauge("standby_ads_missing", "Ads of the elected collector that a standby lacks.", _OF_STANDBY,
          _standbys(lambda one: one.get("missing"))),
    gauge("standby_ads_stale", "Ads that are older on a standby.", _OF_STANDBY,
          _standbys(lambda one: one.get("stale"))),
    gauge("standby_ads_extra", "Ads that only a standby has.", _OF_STANDBY, _standbys(lambda one: one.get("extra"))),
    counter("primes_total", "Times that standbys were given all ads.", ("backend",),
            _matchmakers(lambda one: one["primes_total"])),
    counter("primes_complete_total", "Those after which nothing was lacking.", ("backend",),
            _matchmakers(lambda one: one["primes_complete_total"])),
    counter("refreshes_total", "Times that the pool's daemons were asked for their ads.", ("backend",),
            _matchmakers(lambda one: one["refreshes_total"])),
    counter("ads_invalidated_total", "Ads removed from standbys because the elected collector has them no more.",
            ("backend",), _matchmakers(lambda one: one["ads_invalidated_total"])),
    counter("censuses_total", "Looks at the ads of collectors.", ("backend",),
            _matchmakers(lambda one: one["censuses_total"])),
    counter("censuses_failed_total", "Those that failed.", ("backend",),
            _matchmakers(lambda one: one["censuses_failed_total"])),
    gauge("ads_apart", "Ads of hosts that this side of a partition can't reach, withdrawn now.", ("backend",),
          _matchmakers(lambda one: one["ads_apart"])),
    counter("ads_apart_total", "Ads so withdrawn.", ("backend",), _matchmakers(lambda one: one["ads_apart_total"])),
    gauge("accounting_records", "Records of the present generation of the accounting.", ("backend",),
          _accounting(lambda one: one["records"])),
    gauge("replica_connected", "Whether a standby takes the accounting.", _OF_STANDBY, _shipped("connected")),
    gauge("replica_lag_seconds", "How far a standby's accounting is behind.", _OF_STANDBY,
          _shipped("lag_ms", 1000, only_connected=True)),
    gauge("replica_lag_records", "The same in records.", _OF_STANDBY, _shipped("lag_records", only_connected=True)),
    counter("replica_bytes_total", "Bytes of accounting sent.", _OF_STANDBY, _shipped("bytes_total")),
    counter("replica_snapshots_total", "Whole files sent, because a standby had nothing to go on from.", _OF_STANDBY,
            _shipped("snapshots_total")),
    counter("accounting_refused_total", "What this manager refused to keep.", ("backend", "reason"),
            _by_reason("refused_total")),
    gauge("accounting_pending", "Histories kept aside until they are merged.", ("backend",),
          _accounting(lambda one: len(one["pending"]))),
    gauge("accounting_waiting", "Histories that are being merged.", ("backend",),
          _accounting(lambda one: len(one["waiting"]))),
    counter("accounting_merges_total", "Histories merged.", ("backend",),
            _accounting(lambda one: one["merges_total"])),
    counter("accounting_unmerged_total", "Histories that could not be merged, and are in the archive.",
            ("backend", "reason"), _by_reason("unmerged_total")),
    gauge("accounting_missing_records", "Records that are known to be missing since this manager took over.",
          ("backend",), _accounting(lambda one: (one["missing_at_takeover"] or {"records_min": 0})["records_min"])),
)  # fmt: skip

"""Metrics of a node as such: its processes, elections, peers and addresses."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from gateway.console.metrics_reading import HEARD_MS, Facts, Sample, at, counter, each, gauge, per, seconds


def _info(facts: Facts) -> Iterator[Sample]:
    status = facts.status
    yield (status["cluster"], status["node"], "+".join(status["roles"]), str(status.get("version", "?"))), 1


_NODE: Final = (
    gauge("info", "Always 1; what this node is.", ("cluster", "node", "roles", "version"), _info),
    gauge("uptime_seconds", "Since this control process was started.", (), at("uptime_ms", per_unit=1000)),
    gauge("warnings", "Warnings that 'status' shows.", (), lambda facts: [((), len(facts.status["warnings"]))]),
    gauge("guarded", "Whether a guard stands behind this process.", (),
          lambda facts: [((), facts.status["guard"] is not None)]),
    counter("control_restarts_total", "Starts of the control process by its guard.", (),
            at("guard", "control_restarts_total")),
    counter("control_killed_total", "Kills of the control process by its guard.", ("cause",),
            each("guard", "control_killed_total")),
    counter("control_late_total", "Times that the guard found the control process late.", (),
            at("guard", "control_late_total")),
    counter("guard_letters_sent_total", "Letters that the guard sent for a dead or frozen process.", (),
            at("guard", "letters_sent_total")),
    counter("reloads_failed_total", "Reloads that changed nothing because they were refused or failed.", (),
            at("reloads", "failed_total")),
    counter("late_timers_total", "Timers that came so late that the node was more patient for a while.", (),
            at("slowness", "late_timers_total")),
    gauge("late_timer_seconds_max", "The latest of them.", (), at("slowness", "late_ms_max", per_unit=1000)),
    gauge("patience_seconds", "Added to the waits of elections now, because this host is slow.", (),
          at("slowness", "patience_ms", per_unit=1000)),
    counter("suspensions_total", "Times that this host slept.", (), at("slowness", "suspensions_total")),
    gauge("timer_late_seconds_max", "The latest timer of the event loop since its start.", (),
          at("timer_late_ms_max", per_unit=1000)),
    counter("log_lines_dropped_total", "Log lines that nobody took in time.", (), at("log", "dropped_total")),
    counter("log_lines_suppressed_total", "Log lines left out because of their number.", (),
            at("log", "suppressed_total")),
    gauge("paused", "Whether the cluster is told to leave everything as it is.", (),
          lambda facts: [((), bool((facts.status.get("orders") or {}).get("paused")))]),
    gauge("orders_unconfirmed", "Nodes that do not yet act by the last order.", (),
          lambda facts: [((), len((facts.status.get("orders") or {}).get("missing") or ()))]),
    gauge("child_running", "Whether the console or the herald runs.", ("child",),
          per("children", lambda one: one["pid"] is not None)),
    counter("child_starts_total", "Starts of the console and the herald.", ("child",),
            per("children", lambda one: one["starts_total"])),
    counter("history_unwritten_total", "Changes that could not be written to the history.", (),
            at("history", "unwritten_total")),
    gauge("drained", "Nodes that are told to serve nothing.", ("drained_node",),
          lambda facts: [((name,), 1) for name in (facts.status.get("orders") or {}).get("drained") or ()]),
)  # fmt: skip


# -- elections ---------------------------------------------------------------------------------------------------------


def _elections(value: Callable[[str, Any], float | None]) -> Callable[[Facts], Iterable[Sample]]:
    def read(facts: Facts) -> Iterator[Sample]:
        for name, election in facts.status["elections"].items():
            yield (name, election["kind"]), value(facts.status["node"], election)

    return read


def _leaders(facts: Facts) -> Iterator[Sample]:
    for name, election in facts.status["elections"].items():
        if election["leader"] is not None:
            yield (name, election["kind"], election["leader"]), 1


def _roles(facts: Facts) -> Iterator[Sample]:
    for name, election in facts.status["elections"].items():
        yield (name, election["kind"], election["role"].lower()), 1


def _candidates(field: str, per_unit: int = 1) -> Callable[[Facts], Iterable[Sample]]:
    def read(facts: Facts) -> Iterator[Sample]:
        for name, election in facts.status["elections"].items():
            for candidate, standing in election["candidates"].items():
                if standing is not None:
                    yield (name, candidate), standing[field] / per_unit

    return read


def _changes(facts: Facts) -> Iterator[Sample]:
    yield from ((key, count) for key, count in facts.changes.items())


def _last(value: Callable[[Mapping[str, Any]], float | None]) -> Callable[[Facts], Iterable[Sample]]:
    return lambda facts: [((name,), value(change)) for name, change in facts.last_changes.items()]


def _phases(facts: Facts) -> Iterator[Sample]:
    for name, change in facts.last_changes.items():
        for phase, ms in (change.get("phases") or {}).items():
            yield (name, phase.removesuffix("_ms")), seconds(ms)


def _answered(facts: Facts) -> Iterator[Sample]:
    for name, election in facts.status["elections"].items():
        for peer, ms in (election.get("answered_ms_ago") or {}).items():
            yield (name, peer), seconds(ms)


def _silent_peers(facts: Facts) -> Iterator[Sample]:
    for name, peer in facts.status["peers"].items():
        yield (name,), peer["heard_ms_ago"] is not None and peer["heard_ms_ago"] < HEARD_MS


_OF_ELECTION: Final = ("election", "kind")
_ELECTIONS: Final = (
    gauge("election_has_leader", "Whether this node knows a leader.", _OF_ELECTION,
          _elections(lambda me, one: one["leader"] is not None)),
    gauge("election_leaderless_seconds", "Since a leadership ended that nobody has followed; 0 where somebody leads.",
          _OF_ELECTION, _elections(lambda me, one: seconds((one.get("lost") or {"ms_ago": 0})["ms_ago"]))),
    gauge("election_leads", "Whether this node is the leader, and serves.", _OF_ELECTION,
          _elections(lambda me, one: one["lease_left_ms"] is not None)),
    gauge("election_leader", "Always 1; who leads as far as this node knows.", (*_OF_ELECTION, "leader"), _leaders),
    gauge("election_role", "Always 1; what this node is in the election.", (*_OF_ELECTION, "role"), _roles),
    gauge("election_term", "Grows with every change of leader.", _OF_ELECTION,
          _elections(lambda me, one: one["term"])),
    gauge("lease_left_seconds", "What is left of this node's own lease; only where it leads.", _OF_ELECTION,
          _elections(lambda me, one: seconds(one["lease_left_ms"]))),
    gauge("candidate_fit", "Whether a candidate says that it could serve.", ("election", "candidate"),
          _candidates("fit")),
    gauge("candidate_warm", "Whether a candidate's collector knows the pool.", ("election", "candidate"),
          _candidates("warm")),
    gauge("candidate_heard_age_seconds", "Since a candidate's last word about itself.", ("election", "candidate"),
          _candidates("heard_ms_ago", 1000)),
    counter("changes_total", "Changes of leader that this node has seen since its console was started, and those of "
            "its history.", ("election", "cause"), _changes),
    gauge("last_change_timestamp_seconds", "When the last change of leader was.", ("election",),
          _last(lambda change: change.get("at"))),
    gauge("last_change_gap_seconds", "How long nobody served at the last change of leader.", ("election",),
          _last(lambda change: seconds(change.get("gap_ms")))),
    gauge("last_change_phase_seconds", "When each phase of the last change came, from the last moment of service.",
          ("election", "phase"), _phases),
    gauge("peer_heard", "Whether a peer was heard within the last second.", ("peer",), _silent_peers),
    gauge("peer_heard_age_seconds", "Since the last heartbeat of a peer.", ("peer",),
          per("peers", lambda peer: seconds(peer["heard_ms_ago"]))),
    gauge("lease_answered_age_seconds", "Since a peer answered a heartbeat of this leader.", ("election", "peer"),
          _answered),
    counter("door_accepted_total", "Connections of other nodes taken.", (), at("door", "accepted_total")),
    counter("door_refused_total", "Connections to the peers' port that were not.", ("reason",),
            each("door", "refused_total")),
    counter("link_answered_total", "Questions of other nodes answered.", (), at("cluster_link", "answered_total")),
    counter("link_refused_total", "Questions of other nodes that were not believed.", ("reason",),
            each("cluster_link", "refused_total")),
    counter("heartbeats_sent_total", "Heartbeats sent.", (), at("heartbeats", "sent_total")),
    counter("heartbeats_received_total", "Heartbeats taken.", (), at("heartbeats", "received_total")),
    counter("heartbeats_unsent_total", "Heartbeats that the operating system refused to send.", ("error",),
            each("heartbeats", "unsent")),
    counter("packets_refused_total", "Packets on the heartbeats' port that were not taken.", ("reason",),
            each("heartbeats", "refused")),
)  # fmt: skip


# -- addresses ---------------------------------------------------------------------------------------------------------

_ADDRESSES: Final = (
    gauge("address_held", "Whether this node holds the address.", ("address",),
          per("addresses", lambda one: one["held"])),
    gauge("address_fenced", "Whether the kernel enforces the lease.", ("address",),
          per("addresses", lambda one: not one["fence"].startswith("none"))),
    counter("address_announcements_total", "Frames sent to announce the address.", ("address",),
            per("addresses", lambda one: one["announced_total"])),
    counter("address_announcements_failed_total", "Frames that could not be sent.", ("address",),
            per("addresses", lambda one: one["unannounced_total"])),
    counter("address_conflicts_total", "Claims of another host to the address while this node held it.", ("address",),
            per("addresses", lambda one: one["conflicts_total"])),
    counter("address_defences_total", "Announcements in answer to such claims.", ("address",),
            per("addresses", lambda one: one["defences_total"])),
    gauge("address_claimants", "Other hosts that claim the address now.", ("address",),
          per("addresses", lambda one: len(one["claimed_by"]))),
)  # fmt: skip

METRICS: Final = (*_NODE, *_ELECTIONS, *_ADDRESSES)

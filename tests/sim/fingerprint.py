"""Fingerprint: what decides about all that a node will ever do, and nothing else; and a copy of it, quickly made.

Times count from the present, and the past beyond memory is one. What is left out is named, so that a new field of the
core must be put into one list or the other.
"""

from __future__ import annotations

from typing import Any

from gateway.core.election import Election
from gateway.core.node import Node

MEMORY_MS = 60  # nothing that happened longer ago makes a difference to a node with a lease of 40 ms
# The same in all states of one exploration, counted for the operator, or without effect where a majority is of all.
LEFT_OUT: dict[str, frozenset[str]] = {
    "Node": frozenset({"_due_ms", "book", "elections", "primed", "primed_by", "reach", "slowness", "timing", "voters"}),
    # What a resignation says of its reason decides nothing in any election.
    "Election": frozenset(
        {
            "book",
            "candidates",
            "lease",
            "me",
            "name",
            "promise",
            "ranking",
            "reach",
            "resigned_why",
            "slowness",
            "timing",
            "unfit_why",
            "voters",
        }
    ),
    "OrderBook": frozenset({"_timing", "me", "digest", "paused", "drained", "drains_me"}),
    "Reach": frozenset(
        {
            "_apart_ms",
            "_excused_until_ms",
            "_index",
            "_silence_ms",
            "grace_ms",
            "heard_ms",
            "majority",
            "serve_apart",
            "voters",
        }
    ),
    "Slowness": frozenset({"_late_ms", "_timing", "late_ms_max", "late_total"}),
    "Lease": frozenset({"_acted_ms"}),
    "Promise": frozenset(),
    "Ranking": frozenset({"candidates", "memory_ms"}),
}
KEPT: dict[str, frozenset[str]] = {
    "Node": frozenset({"_along_ms", "_pulse_at_ms", "_pulsed_ms", "_running", "me", "started_ms"}),
    "Election": frozenset(
        {
            "answer_when_persisted",
            "courtesy_to",
            "courtesy_until_ms",
            "granted",
            "leader",
            "leader_term",
            "leader_until_ms",
            "named",
            "persisting",
            "phase",
            "quiet_until_ms",
            "resigned_term",
            "role",
            "round_sent_ms",
            "round_term",
            "round_until_ms",
            "serving_term",
            "stand_at_ms",
            "standing",
            "stop_forced",
            "term",
            "vote",
        }
    ),
    "OrderBook": frozenset({"orders", "shown", "told_ms", "writing"}),
    "Reach": frozenset(),
    "Slowness": frozenset({"_changed_ms", "score"}),
    "Lease": frozenset({"answers", "since_ms", "until_ms"}),
    "Promise": frozenset({"term", "to", "until_ms"}),
    "Ranking": frozenset({"heard"}),
}


def fingerprint(node: Node, now_ms: int) -> tuple[Any, ...]:
    """Return all that decides about what `node`, which has one election and a majority of all, does from now on."""
    one = election_of(node)
    past_ms = now_ms - MEMORY_MS

    def ago(at_ms: int) -> int:
        return max(at_ms, past_ms) - now_ms

    def left(until_ms: int) -> int:
        return max(until_ms - now_ms, 0)

    return (
        node.me,
        left(node._pulse_at_ms),
        ago(node._pulsed_ms),
        node._along_ms,
        node._running,
        ago(node.started_ms),
        one.role,
        one.term,
        one.vote,
        one.leader,
        one.leader_term,
        left(one.leader_until_ms),
        left(one.quiet_until_ms),
        one.promise.to,
        one.promise.term,
        left(one.promise.until_ms),
        one.resigned_term,
        one.courtesy_to if one.courtesy_until_ms > now_ms else None,
        left(one.courtesy_until_ms),
        one.persisting,
        one.answer_when_persisted,
        one.phase,
        frozenset(one.granted),
        one.round_term,
        ago(one.round_sent_ms),
        left(one.round_until_ms),
        left(one.stand_at_ms),
        one.standing.fit,
        one.serving_term,
        one.stop_forced,
        one.named,
        left(one.lease.until_ms),
        ago(one.lease.since_ms),
        tuple(sorted((name, ago(sent_ms)) for name, sent_ms in one.lease.answers.items())),
        tuple(sorted((name, heard[0].fit, ago(heard[1])) for name, heard in one.ranking.heard.items())),
        node.book.orders,
        node.book.writing,
        tuple(sorted(item for item in node.book.shown.items() if item[1])),
        tuple(sorted((name, ago(told_ms)) for name, told_ms in node.book.told_ms.items())),
        node.slowness.score,
        ago(node.slowness._changed_ms) if node.slowness.score else 0,
    )


def election_of(node: Node) -> Election:
    """Return the one election of a node."""
    (election,) = node.elections.values()
    return election


def clone(node: Node) -> Node:
    """Copy a node, several times faster than `deepcopy`."""
    twin = _shallow(node)
    twin.reach = _shallow(node.reach)
    twin.reach.heard_ms = dict(node.reach.heard_ms)
    twin.slowness = _shallow(node.slowness)
    election = _shallow(election_of(node))
    election.reach, election.slowness = twin.reach, twin.slowness
    twin.book = election.book = _shallow(node.book)
    twin.book.shown, twin.book.told_ms = dict(node.book.shown), dict(node.book.told_ms)
    election.ranking = _shallow(election.ranking)
    election.ranking.heard = dict(election.ranking.heard)
    election.promise = _shallow(election.promise)
    election.lease = _shallow(election.lease)
    election.lease.answers = dict(election.lease.answers)
    election.granted = set(election.granted)
    twin.elections = {election.name: election}
    return twin


def _shallow(thing: Any) -> Any:
    twin = object.__new__(type(thing))
    twin.__dict__.update(thing.__dict__)
    return twin

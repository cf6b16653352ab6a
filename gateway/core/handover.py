"""Handover: may a leader give its election to another on request, and for how long did nobody serve then? Pure.

Rule: what is refused has a name for programs and a sentence for people, which says what would help.

The gap is measured in two parts, each on one node's clock, joined where the one tells the other: the old leader knows
when it ceased to serve and when it said so (its `Resignation`), the new one when it heard that and what followed. What
the message took on its way is left out: less than a millisecond on a segment.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.core.changes import SERVED_AGAIN
from gateway.core.election import Election
from gateway.core.node import Node

HEARD: Final = "noticed_ms"  # when the new leader heard that the old one had given up
TOLD: Final = "resigned_ms"  # when the old one said so


class Objection(msgspec.Struct, frozen=True):
    """Why not. `reason` is a stable name."""

    reason: str
    sentence: str


def objection(node: Node, name: str, to: str | None, now_ms: int) -> Objection | None:
    """Say why the leader of election `name` can't be followed by `to` (None: by whoever is best); None: it can be."""
    election = node.elections[name]
    if election.leader is None:
        return Objection("no-leader", f"nobody leads '{name}': {candidates_text(node, election, now_ms)}")
    if node.book.paused:
        pause = node.book.orders.pause
        why = f" ({pause.reason})" if pause is not None and pause.reason else ""
        return Objection("paused", f"the cluster is paused{why}, so nobody would follow: 'resume' it first")
    if to is not None:
        return _objection_to(node, election, to, now_ms)
    if not best_other(node, election, now_ms):
        return Objection("nobody-fit", f"nobody could follow: {candidates_text(node, election, now_ms)}")
    return None


def best_other(node: Node, election: Election, now_ms: int) -> str:
    """Return the best candidate besides the leader; "" for none."""
    return election.ranking.best(now_ms, election.leader or "", node.book.drained)


def _objection_to(node: Node, election: Election, to: str, now_ms: int) -> Objection | None:
    name = election.name
    if to not in election.candidates:
        return Objection(
            "no-candidate", f"'{to}' is no candidate of '{name}': those are {', '.join(election.candidates)}"
        )
    if to == election.leader:
        return Objection("leads-already", f"'{to}' leads '{name}' already (term {election.leader_term})")
    if to in node.book.drained:
        return Objection("drained", f"'{to}' is drained: 'undrain {to}' makes it a candidate again")
    if not election.ranking.fit(now_ms, to):
        return Objection("unfit", f"'{to}' could not serve '{name}': {_state(node, election, to, now_ms)}")
    return None


def candidates_text(node: Node, election: Election, now_ms: int) -> str:
    """Return how all candidates but the leader stand, in one sentence."""
    states = [
        f"{name} {_state(node, election, name, now_ms)}" for name in election.candidates if name != election.leader
    ]
    return "; ".join(states) or "there is no other candidate"


def _state(node: Node, election: Election, name: str, now_ms: int) -> str:
    if name in node.book.drained:
        return "is drained"
    if name == node.me:
        return "is fit" if election.standing.fit else f"is not fit ({election.unfit_why or 'it has not said why'})"
    standing, heard_ms = election.ranking.heard.get(name, (None, 0))
    if standing is None:
        return "has not been heard"
    if now_ms - heard_ms >= election.ranking.memory_ms:
        return f"was last heard {(now_ms - heard_ms) / 1000:.1f} s ago"
    if not standing.fit:
        return "is not fit (its own log and status say why)"
    return "is fit" if standing.warm else "is fit, and cold (its collector has not the pool's ads yet)"


def joined(kind: str, own_ms: int, entry: Mapping[str, Any] | None) -> tuple[int | None, dict[str, int]]:
    """Join both sides' parts of a change on request.

    Args:
        kind: "address" or "matchmaker".
        own_ms: from the moment at which the old leader ceased to serve until it told the others.
        entry: the new leader's entry of its history of changes.

    Returns:
        The gap, None where the new leader does not know it; and the phases, counted from the end of the old service.
    """
    phases = {"lost_ms": 0, TOLD: own_ms}
    theirs: Mapping[str, int] = (entry or {}).get("phases") or {}
    heard_ms = theirs.get(HEARD, 0)
    for phase, at_ms in sorted(theirs.items(), key=lambda one: one[1]):
        if at_ms >= heard_ms and phase not in ("lost_ms", HEARD):
            phases[phase] = own_ms + at_ms - heard_ms
    return phases.get(SERVED_AGAIN[kind]), phases

"""Forecast: what would happen if one node died now, by what another one shows in its status document. Pure.

Rule: the ranking is the election's own; what can't be known from the document is not said.

A node can die in two ways. Its process alone: its guard resigns for it, and the others hear that at once. Its whole
host: the others wait until their promises to it have run out.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.core.ranking import Ranking, rank_key
from gateway.core.timing import Timing
from gateway.wire.messages import Standing

NOW_MS: Final = 1 << 40  # any moment: what counts is how long ago things were heard


class Succession(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one election.

    Attributes:
        election: its name.
        kind: "address" or "matchmaker".
        leader: who leads it now.
        leads: whether that is the node.
        order: who could follow, the best first; where the node does not lead, who would be left besides the leader.
        follower: who leads afterwards; None: nobody.
        why_nobody: a sentence, where `follower` is None.
        guard_ms: after about how long, where the node's guard outlives its process; None: nobody, or no change.
        host_ms: after how long at most, where the whole host dies.
        cold: whether the follower's collector lacks the pool's ads.
        records_missing: accounting records that the follower lacked when it was last heard; None: of an older file,
            nobody knows how many. 0 where the node does not lead a matchmaker.
    """

    election: str
    kind: str
    leader: str | None
    leads: bool
    order: tuple[str, ...]
    follower: str | None
    why_nobody: str = ""
    guard_ms: int | None = None
    host_ms: int | None = None
    cold: bool = False
    records_missing: int | None = 0


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen if `node` died now. Voters are counted with the node that was asked; `left` without `node`."""

    node: str
    heard: bool  # whether it is heard now; it may be dead already
    voters: int
    majority: int
    left: int
    more_may_fail: int  # until nobody leads any more; -1: there is no majority even so
    serve_apart: bool  # a minority serves as well
    paused: bool
    elections: tuple[Succession, ...]


def forecast(document: Mapping[str, Any], node: str) -> Forecast:
    """Return what would happen if `node` died now, from a status document of any node, this one too.

    Raises:
        KeyError: the cluster has no such node.
    """
    voters = (document["node"], *document["peers"])
    if node not in voters:
        raise KeyError(node)
    timing = Timing(**document["timing"])
    serve_apart = document["on_partition"] == "serve"
    heard = _heard(document, timing)
    left = len(heard - {node})
    majority = len(voters) // 2 + 1
    decides = serve_apart or left >= majority
    orders = document["orders"]
    elections = tuple(
        _succession(name, election, node, timing, orders, decides=decides)
        for name, election in document["elections"].items()
    )
    return Forecast(
        node=node,
        heard=node in heard,
        voters=len(voters),
        majority=majority,
        left=left,
        more_may_fail=max(left - (1 if serve_apart else majority), -1),
        serve_apart=serve_apart,
        paused=orders["paused"] is not None,
        elections=elections,
    )


def _heard(document: Mapping[str, Any], timing: Timing) -> frozenset[str]:
    """Return the nodes that live, as far as the one that was asked has heard."""
    ago = {name: peer["heard_ms_ago"] for name, peer in document["peers"].items()}
    alive = {name for name, ms in ago.items() if ms is not None and ms < timing.promise_ms}
    return frozenset(alive | {document["node"]})


def _succession(
    name: str,
    election: Mapping[str, Any],
    node: str,
    timing: Timing,
    orders: Mapping[str, Any],
    *,
    decides: bool,
) -> Succession:
    candidates, leader = tuple(election["candidates"]), election["leader"]
    ranking = Ranking(candidates, timing.lease_ms)
    for candidate, said in election["candidates"].items():
        if said is not None:
            ranking.hear(NOW_MS - said["heard_ms_ago"], candidate, _standing(name, said))
    drained = frozenset(orders["drained"])
    gone = drained | ({node} if leader is None else {node, leader})
    stays = decides and leader not in (None, node)
    follower = leader if stays else ranking.best(NOW_MS, node, gone)
    why = "" if stays else _why_nobody(follower, candidates, drained | {node}, orders, decides=decides)
    found = Succession(
        election=name,
        kind=election["kind"],
        leader=leader,
        leads=leader == node,
        order=_order(ranking, gone),
        follower=None if why else follower,
        why_nobody=why,
    )
    if why or leader != node:
        return found
    standing, said = ranking.heard[follower][0], election["candidates"].get(node)
    return msgspec.structs.replace(
        found,
        guard_ms=0,
        # The last heartbeat was heard a moment before the death; then the promises end, and two rounds of votes follow.
        host_ms=timing.promise_ms + timing.round_ms,
        cold=not standing.warm,
        records_missing=0 if said is None else _records_missing(_standing(name, said), standing),
    )


def _order(ranking: Ranking, gone: frozenset[str]) -> tuple[str, ...]:
    """Return who could follow, as the election ranks them."""
    names = [
        name
        for name, (standing, heard_ms) in ranking.heard.items()
        if name not in gone and standing.fit and NOW_MS - heard_ms < ranking.memory_ms
    ]
    return tuple(sorted(names, key=lambda name: rank_key(ranking.heard[name][0], ranking.candidates.index(name))))


def _why_nobody(
    follower: str, candidates: tuple[str, ...], gone: frozenset[str], orders: Mapping[str, Any], *, decides: bool
) -> str:
    if not decides:
        return "too few nodes are left for a majority"
    if orders["paused"] is not None:
        return "the cluster is paused, and nobody takes over until 'resume'"
    if follower:
        return ""
    if not gone.issuperset(candidates):
        return "no other candidate is heard to be fit"
    others = [name for name in candidates if name in orders["drained"]]
    return f"the others are drained ({', '.join(others)})" if others else "there is no other candidate"


def _records_missing(lost: Standing, follower: Standing) -> int | None:
    mine = (follower.term, follower.generation, follower.records)
    theirs = (lost.term, lost.generation, lost.records)
    if mine >= theirs:
        return 0
    return theirs[2] - mine[2] if mine[:2] == theirs[:2] else None


def _standing(election: str, said: Mapping[str, Any]) -> Standing:
    return Standing(
        election, said["fit"], said["warm"], said["term"], said["generation"], said["instance"], said["records"]
    )

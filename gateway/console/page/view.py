"""The view: what the page says, from the status documents of this node and its peers, in words and states.

Rule: pure, and every word is chosen here: the templates only place them. A document of another version may lack
anything, and is shown for what it has.

A *state* is one of `ok`, `warn`, `bad`, `idle`, `info`; each has a shape, a colour and always a word beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.console.page import words
from gateway.console.page.managers import SILENT_MS, ManagersView, managers_view
from gateway.console.page.timeline import Timeline, timeline
from gateway.console.page.traffic import TrafficView, traffic_view

Document = Mapping[str, Any]

ITEMS_MAX: Final = 8  # on the page; a broken site has more to say than anybody reads
KINDS: Final = {"address": "Address", "matchmaker": "Matchmaker"}
HELD: Final = {"address": "held", "matchmaker": "elected"}


class Item(NamedTuple):
    """Something that needs attention."""

    state: str
    text: str


class Verdict(NamedTuple):
    """The page in one sentence, and what spoils it."""

    state: str
    word: str
    headline: str
    sentence: str
    items: tuple[Item, ...]


class LeaseView(NamedTuple):
    """How much of the leader's lease is left, as this page has last seen it."""

    part: float  # 0 to 100
    text: str
    running: bool


class CandidateView(NamedTuple):
    """One candidate of an election."""

    name: str
    leads: bool
    state: str
    word: str


class ElectionView(NamedTuple):
    """One election: who won it, until when, by whose votes."""

    name: str
    kind: str
    kind_word: str
    state: str
    word: str
    leader: str | None
    term: int
    since: str
    since_machine: str
    lease: LeaseView
    votes: tuple[tuple[str, bool], ...]  # node, whether it follows this leader
    votes_text: str
    candidates: tuple[CandidateView, ...]


class NodeView(NamedTuple):
    """One node as this one hears it."""

    name: str
    here: bool
    roles: str
    state: str
    word: str
    heard: str
    leads: tuple[str, ...]
    drained: bool


class OrdersView(NamedTuple):
    """What operators have ordered; `paused` is the reason."""

    paused: str | None
    drained: tuple[str, ...]
    by: str


class View(NamedTuple):
    """The whole page."""

    cluster: str
    node: str
    at: str
    at_machine: str
    verdict: Verdict
    orders: OrdersView
    elections: tuple[ElectionView, ...]
    lease_hint: str
    nodes: tuple[NodeView, ...]
    managers: ManagersView
    traffic: TrafficView
    timeline: Timeline


def make_view(
    document: Document | None, changes: Sequence[Document], peers: Mapping[str, Document], *, now_s: float, failure: str
) -> View:
    """Return what the page says.

    Args:
        document: the status of this node; None while it does not answer.
        changes: the history, in any order.
        peers: node -> its own status, or {"error": sentence}; those that could not be asked may be missing.
        now_s: unix time.
        failure: why there is no document.
    """
    said: Document = document or {}
    known = {name: one for name, one in peers.items() if "elections" in one}
    if document is not None:
        known = {said["node"]: said, **known}
    orders = _orders(said)
    elections = tuple(_election(name, one, said, known, changes) for name, one in said.get("elections", {}).items())
    nodes = _nodes(said, known, elections, orders)
    managers = managers_view(said, known)
    traffic = traffic_view(said, known)
    items = _attention(said, elections, nodes)
    items += [Item(state, text) for state, text in (*managers.attention, *traffic.attention)]
    items += [Item("warn", str(warning)) for warning in said.get("warnings", ())]
    items.sort(key=lambda item: item.state != "bad")
    if len(items) > ITEMS_MAX:
        items[ITEMS_MAX - 1 :] = [Item("info", f"And {len(items) - ITEMS_MAX + 1} more: see 'condor-gateway status'.")]
    return View(
        cluster=said.get("cluster", ""),
        node=said.get("node", ""),
        at=words.moment(now_s),
        at_machine=words.machine_moment(now_s),
        verdict=_verdict(document, failure, elections, items, paused=orders.paused is not None),
        orders=orders,
        elections=elections,
        lease_hint=_lease_hint(said),
        nodes=nodes,
        managers=managers,
        traffic=traffic,
        timeline=timeline(changes, now_s),
    )


# -- the verdict -------------------------------------------------------------------------------------------------------


def _verdict(
    document: Document | None,
    failure: str,
    elections: Sequence[ElectionView],
    items: Sequence[Item],
    *,
    paused: bool,
) -> Verdict:
    if document is None:
        return Verdict("bad", "No answer", "This node does not answer", failure, ())
    without = [one.name for one in elections if one.leader is None]
    held = [f"{one.leader} {_leads_what(one)}" for one in elections if one.leader is not None]
    sentence = f"{words.listed(held)}." if held else ""
    if without:
        headline = f"Nobody leads {words.listed(without)}"
        return Verdict("bad", "Interrupted", headline, sentence, tuple(items))
    if any(item.state == "bad" for item in items):
        return Verdict("bad", "Fault", "The matchmaker is served, with a fault", sentence, tuple(items))
    count = words.many(len(items), "thing") + (" needs attention" if len(items) == 1 else " need attention")
    if paused:
        headline = "All is served; takeovers are paused" + (f", {count}" if items else "")
        return Verdict("warn", "Paused", headline, sentence, tuple(items))
    if any(item.state == "warn" for item in items):
        return Verdict("warn", "Attention", f"All is served; {count}", sentence, tuple(items))
    return Verdict("ok", "Healthy", "All is served", sentence, tuple(items))


def _leads_what(election: ElectionView) -> str:
    return f"holds {election.name}" if election.kind == "address" else f"is the matchmaker of {election.name}"


def _attention(said: Document, elections: Sequence[ElectionView], nodes: Sequence[NodeView]) -> list[Item]:
    items = []
    heard = sum(node.state != "bad" for node in nodes)
    if nodes and heard <= len(nodes) // 2:
        items.append(Item("bad", f"Only {heard} of {len(nodes)} nodes are heard: that is no majority."))
    items += [
        Item("warn", f"{node.name} is silent: {node.heard}.") for node in nodes if node.state == "bad" and not node.here
    ]
    for election in elections:
        items += [
            Item("warn", f"{candidate.name} could not take {election.name}: it is {candidate.word}.")
            for candidate in election.candidates
            if candidate.state == "warn" and not candidate.leads
        ]
    for name, address in said.get("addresses", {}).items():
        items += [Item("bad", f"{mac} claims {name} too: a duplicate address.") for mac in address["claimed_by"]]
    if said and said.get("guard") is None:
        items.append(Item("warn", "No guard: nobody speaks for this node when its control process dies."))
    failure = (said.get("reloads") or {}).get("failure")
    if failure:
        items.append(Item("warn", f"The last reload failed: {failure}"))
    return items


def _orders(said: Document) -> OrdersView:
    orders = said.get("orders") or {}
    return OrdersView(orders.get("paused"), tuple(orders.get("drained") or ()), str(orders.get("by") or ""))


# -- elections ---------------------------------------------------------------------------------------------------------


def _election(
    name: str, election: Document, said: Document, known: Mapping[str, Document], changes: Sequence[Document]
) -> ElectionView:
    leader = election["leader"]
    own = known.get(leader or "", {}).get("elections", {}).get(name, {})  # the leader's own view of its leadership
    state, word = ("ok", HELD.get(election["kind"], "led")) if leader else ("bad", "election under way")
    last = max(
        (one for one in changes if (one["election"], one["to"], one["term"]) == (name, leader, _leader_term(election))),
        key=lambda one: (one["at"], one["seq"]),
        default=None,
    )
    votes = _votes(name, leader, own, known, (said["node"], *said.get("peers", {})))
    follow = sum(follows for _, follows in votes)
    return ElectionView(
        name=name,
        kind=election["kind"],
        kind_word=KINDS.get(election["kind"], str(election["kind"])),
        state=state,
        word=word,
        leader=leader,
        term=_leader_term(election),
        since=words.moment(last["at"]) if last else "",
        since_machine=words.machine_moment(last["at"]) if last else "",
        lease=_lease(leader, own, said),
        votes=votes,
        votes_text=f"{follow} of {len(votes)} nodes follow" if leader else "no votes yet",
        candidates=tuple(_candidate(one, standing, election, said) for one, standing in election["candidates"].items()),
    )


def _leader_term(election: Document) -> int:
    """Return the term of the leader: a round that came to nothing raises the election's own."""
    found: int | None = election.get("leader_term")
    return election["term"] if found is None else found


def _lease(leader: str | None, own: Document, said: Document) -> LeaseView:
    lease_ms = (said.get("timing") or {}).get("lease_ms")
    if leader is None or not lease_ms:
        return LeaseView(0, "no lease", running=False)
    left_ms = own.get("lease_left_ms")
    if left_ms is not None:
        text = f"{words.duration(left_ms)} of {words.duration(lease_ms)} left"
        return LeaseView(_part(left_ms, lease_ms), text, running=True)
    heard_ms = (said.get("peers", {}).get(leader) or {}).get("heard_ms_ago")
    if heard_ms is None:
        return LeaseView(0, "not heard", running=False)
    return LeaseView(_part(lease_ms - heard_ms, lease_ms), f"heard {words.duration(heard_ms)} ago", running=True)


def _lease_hint(said: Document) -> str:
    timing = said.get("timing")
    if not timing:
        return ""
    return (
        f"A lease lasts {words.duration(timing['lease_ms'])} and is renewed every "
        f"{words.duration(timing['heartbeat_ms'])}. This page looks once a second; a bar runs down until it has "
        "looked again."
    )


def _part(part: float, whole: float) -> float:
    return round(min(max(100 * part / whole, 0), 100), 1)


def _votes(
    name: str, leader: str | None, own: Document, known: Mapping[str, Document], voters: Sequence[str]
) -> tuple[tuple[str, bool], ...]:
    """Return for each voter whether it follows the leader, by the leader's word or else by its own."""
    answered = own.get("answered_ms_ago") or {}
    found = []
    for voter in sorted(voters):
        promise = known.get(voter, {}).get("elections", {}).get(name, {}).get("promise") or {}
        follows = voter == leader or answered.get(voter, SILENT_MS) < SILENT_MS or promise.get("to") == leader
        found.append((voter, leader is not None and follows))
    return tuple(found)


def _candidate(name: str, standing: Document | None, election: Document, said: Document) -> CandidateView:
    leads = name == election["leader"]
    if name in ((said.get("orders") or {}).get("drained") or ()):
        return CandidateView(name, leads, "idle", "drained")
    if standing is None or standing["heard_ms_ago"] >= SILENT_MS:
        return CandidateView(name, leads, "bad", "not heard")
    if not standing["fit"]:
        reason = standing.get("reason")
        return CandidateView(name, leads, "warn", f"not fit: {reason}" if reason else "not fit")
    if leads:
        return CandidateView(name, leads, "ok", "leads")
    if election["kind"] == "matchmaker" and not standing["warm"]:
        return CandidateView(name, leads, "warn", "cold")
    return CandidateView(name, leads, "idle", "ready")


# -- nodes -------------------------------------------------------------------------------------------------------------


def _nodes(
    said: Document, known: Mapping[str, Document], elections: Sequence[ElectionView], orders: OrdersView
) -> tuple[NodeView, ...]:
    if not said:
        return ()
    heard = {said["node"]: 0, **{name: peer["heard_ms_ago"] for name, peer in said.get("peers", {}).items()}}
    return tuple(
        _node(name, heard[name], name == said["node"], _roles(name, known, elections), elections, orders)
        for name in sorted(heard)
    )


def _node(
    name: str, heard_ms: int | None, here: bool, roles: str, elections: Sequence[ElectionView], orders: OrdersView
) -> NodeView:
    silent = heard_ms is None or heard_ms >= SILENT_MS
    when = "never since this node has started" if heard_ms is None else f"heard {words.duration(heard_ms)} ago"
    return NodeView(
        name=name,
        here=here,
        roles=roles,
        state="bad" if silent else "ok",
        word="silent" if silent else "this node" if here else "heard",
        heard="this node" if here else when,
        leads=tuple(election.name for election in elections if election.leader == name),
        drained=name in orders.drained,
    )


def _roles(name: str, known: Mapping[str, Document], elections: Sequence[ElectionView]) -> str:
    if name in known:
        return ", ".join(known[name].get("roles", ()))
    stands = {one.kind for one in elections if any(candidate.name == name for candidate in one.candidates)}
    found = [role for kind, role in (("address", "gateway"), ("matchmaker", "manager")) if kind in stands]
    return ", ".join(found) or "witness"

"""Snapshots: the process that takes another's place is bound by all that its predecessor has promised."""

import msgspec
import pytest

from gateway.core.actions import ExtendServing, PersistVote, Send, StartServing, StopServing
from gateway.core.events import DeadlineReached, OrdersGiven, ResignationRequested
from gateway.core.node import ElectionPlan, Node
from gateway.core.orders import NO_ORDERS, drained, paused, resumed
from gateway.core.snapshot import FORMAT, NodeState, SnapshotRefused, capture, restore, unsettled
from gateway.core.voter import Role
from gateway.wire.messages import Pulse
from tests.core.playbook import TIMING, E, Script, only, sent


def successor_of(script: Script, *, voters: tuple[str, ...] = ("a", "b", "c"), me: str = "b") -> Script:
    """Let a new process take the place of the script's, through the bytes that travel between them."""
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(capture(script.node)), type=NodeState)
    fresh = Script(me, voters, at=script.now_ms)
    restore(fresh.node, state)
    return fresh


def leader() -> Script:
    script = Script().awake()
    script.lead()
    return script


def test_all_that_an_election_knows_is_handed_over() -> None:
    script = leader()
    script.pulse("a")
    script.ack("c", script.now_ms)
    before, after = script.election, successor_of(script).election
    known = {"reach", "slowness", "timing", "ranking", "promise", "lease", "book"}
    # Of a candidacy nothing is left to hand over: a candidate is not handed over.
    round_only = {"phase", "granted", "round_term", "round_sent_ms", "round_until_ms", "named"}
    fields = set(vars(before)) - known - round_only
    assert {name: getattr(after, name) for name in fields} == {name: getattr(before, name) for name in fields}
    for part in ("promise", "lease", "ranking"):
        mine, theirs = vars(getattr(after, part)), vars(getattr(before, part))
        assert {**mine, "timing": None} == {**theirs, "timing": None}


def test_all_orders_are_handed_over() -> None:
    script = leader()
    script.order(paused(NO_ORDERS, by="b", at_s=7, reason="maintenance"))
    script.order(drained(script.node.book.orders, "a", by="b", at_s=8))
    before, after = script.node.book, successor_of(script).node.book
    # What peers act by is heard again at their next heartbeats, and they are told again if need be.
    peers_only = {"shown", "told_ms", "_timing"}
    fields = set(vars(before)) - peers_only
    assert {name: getattr(after, name) for name in fields} == {name: getattr(before, name) for name in fields}


def test_a_node_is_not_handed_over_while_an_order_is_on_its_way_to_the_disk() -> None:
    script = leader()
    script.step(OrdersGiven(paused(NO_ORDERS, by="b", at_s=7, reason="")))
    with pytest.raises(SnapshotRefused, match="on its way to the disk"):
        capture(script.node)


def test_the_newer_orders_count_where_disk_and_predecessor_differ() -> None:
    script = leader()
    script.order(paused(NO_ORDERS, by="b", at_s=7, reason=""))
    state = capture(script.node)
    fresh = Script(at=script.now_ms, orders=resumed(script.node.book.orders, by="a", at_s=9))
    restore(fresh.node, state)
    assert fresh.node.book.orders.version == 2


def test_a_successor_goes_on_leading_in_the_same_lease() -> None:
    script = leader()
    until_ms = script.election.lease_until_ms
    after = successor_of(script)
    actions = after.later(20).step(DeadlineReached())
    assert sent(actions, Pulse)[0][1].leads == ((E, 1),)
    assert only(actions, StartServing) == [], "it serves already"
    assert only(after.ack("a", after.now_ms), ExtendServing)[0].until_ms > until_ms


def test_a_successor_that_comes_after_the_lease_stops() -> None:
    after = successor_of(leader()).later(TIMING.lease_ms)
    assert only(after.step(DeadlineReached()), StopServing) != []


def test_a_successor_keeps_the_promises_of_its_predecessor() -> None:
    script = Script().awake()
    script.pulse("a", leads=1)
    after = successor_of(script)
    assert after.election.bound(after.now_ms, "c") == TIMING.promise_ms
    assert only(after.ask("c", 2), PersistVote) == []


def test_a_successor_need_not_be_silent() -> None:
    script = Script().awake()
    script.step(DeadlineReached())
    assert only(successor_of(script).ask("c", 1), PersistVote) != []


@pytest.mark.parametrize("state", ["voting", "standing", "stopping"])
def test_a_node_in_the_middle_of_an_act_is_not_handed_over(state: str) -> None:
    script = Script().awake()
    if state == "voting":
        script.ask("a", 1)
    elif state == "standing":
        script.fit()
        script.pass_time(10)
        assert script.election.role is Role.ELECTION
    else:
        script.lead()
        script.step(ResignationRequested(E, "maintenance"))
    assert unsettled(script.node)
    with pytest.raises(SnapshotRefused):
        capture(script.node)


@pytest.mark.parametrize(("voters", "me"), [(("a", "b"), "b"), (("a", "b", "c"), "c")])
def test_another_cluster_or_node_is_refused(voters: tuple[str, ...], me: str) -> None:
    with pytest.raises(SnapshotRefused):
        successor_of(leader(), voters=voters, me=me)


def test_another_format_is_refused() -> None:
    state = msgspec.structs.replace(capture(leader().node), format=FORMAT + 1)
    with pytest.raises(SnapshotRefused, match="format"):
        restore(Script().node, state)


def test_what_is_served_and_no_longer_in_the_file_is_refused() -> None:
    script = leader()
    fresh = Node(
        me="b",
        voters=script.node.voters,
        plans=(ElectionPlan("another", ("a", "b")),),
        timing=TIMING,
        saved={},
        now_ms=script.now_ms,
    )
    with pytest.raises(SnapshotRefused, match="hand it over first"):
        restore(fresh, capture(script.node))


def test_after_the_hand_over_every_peer_is_heard_from_at_once() -> None:
    actions = successor_of(leader()).step(DeadlineReached())
    assert [one.to for one in only(actions, Send)] == ["a", "c"]

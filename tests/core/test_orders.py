"""Orders: pause and drain spread, are kept, and only ever take votes away."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.actions import Cause, FollowLeader, PersistOrders, PersistVote, Send, StartServing, StopServing
from gateway.core.events import OrdersGiven, OrdersPersisted, ResignationRequested, ServingStopped, StandingChanged
from gateway.core.orders import (
    NO_ORDERS,
    digest_of,
    drained,
    merge,
    paused,
    rank_of,
    resumed,
    undrained,
    version_of,
)
from gateway.core.voter import Role
from gateway.wire.messages import Ack, Drain, Orders, Pause, Pulse, Resignation, VoteReply, VoteRequest
from tests.core.playbook import TIMING, E, Script, only, sent, standing

names = st.sampled_from(("a", "b", "c"))
times = st.integers(0, 3)
drains = st.lists(st.builds(Drain, names, names, times), max_size=3, unique_by=lambda one: one.node).map(
    lambda found: tuple(sorted(found, key=lambda one: one.node))
)
some = st.one_of(
    st.just(NO_ORDERS),
    st.builds(
        Orders, st.integers(1, 3), names, st.none() | st.builds(Pause, st.sampled_from(("", "x")), names, times), drains
    ),
)


def pause(by: str = "b", before: Orders = NO_ORDERS) -> Orders:
    return paused(before, by=by, at_s=1, reason="maintenance")


def drain(node: str, by: str = "b", before: Orders = NO_ORDERS) -> Orders:
    return drained(before, node, by=by, at_s=1)


def leading(**what: int) -> Script:
    """Return a node that leads, and hears two fit candidates."""
    script = Script().awake()
    script.lead()
    for peer in ("a", "c"):
        script.pulse(peer, **what)
        script.ack(peer, script.now_ms)
    return script


# -- which counts ------------------------------------------------------------------------------------------------


@given(some, some, some)
def test_whatever_the_order_in_which_they_are_heard_the_same_orders_count(one: Orders, two: Orders, three: Orders):
    assert {merge(merge(*order[:2]), order[2]) for order in itertools.permutations((one, two, three))} == {
        merge(one, merge(two, three))
    }
    assert merge(one, one) == one
    assert merge(one, two) in (one, two)
    assert (rank_of(one) == rank_of(two)) == (one == two)


@given(some, some)
def test_the_digest_tells_versions_apart_and_no_orders_are_nothing(one: Orders, two: Orders) -> None:
    assert digest_of(NO_ORDERS) == 0
    assert version_of(digest_of(one)) == one.version
    assert (digest_of(one) == digest_of(two)) == (one == two)


def test_each_change_keeps_the_others_and_counts_more_than_what_it_changes() -> None:
    orders = [NO_ORDERS, pause()]
    orders.append(drain("c", before=orders[-1]))
    orders.append(drain("a", before=orders[-1]))
    orders.append(resumed(orders[-1], by="a", at_s=2))
    orders.append(undrained(orders[-1], "c", by="a", at_s=3))
    assert [one.paused for one in orders] == [None, "maintenance", "maintenance", "maintenance", None, None]
    assert [one.drained for one in orders] == [(), (), ("c",), ("a", "c"), ("a", "c"), ("a",)]
    assert orders == sorted(orders, key=rank_of)


# -- spreading ---------------------------------------------------------------------------------------------------


def test_orders_are_on_the_disk_before_anybody_acts_by_them_or_hears_of_them() -> None:
    script = Script().awake()
    actions = script.step(OrdersGiven(pause()))
    assert only(actions, PersistOrders) == [PersistOrders(pause())]
    assert not sent(actions, Orders)
    assert not script.node.book.paused
    assert all(pulse.orders == 0 for _, pulse in sent(script.pass_time(TIMING.lease_ms), Pulse))
    actions = script.step(OrdersPersisted(pause()))
    assert sent(actions, Orders) == [("a", pause()), ("c", pause())]
    assert script.node.book.paused
    shown = [pulse.orders for _, pulse in sent(actions + script.pass_time(TIMING.heartbeat_ms), Pulse)]
    assert shown == [digest_of(pause())] * 2, "and the peers see it at the next beat"


def test_orders_that_could_not_be_written_change_nothing_and_are_taken_when_they_come_again() -> None:
    script = Script().awake()
    script.step(OrdersGiven(pause()))
    assert script.step(OrdersPersisted(pause(), written=False)) == []
    assert not script.node.book.paused
    assert only(script.hear("a", pause()), PersistOrders) == [PersistOrders(pause())]


def test_a_peer_that_shows_older_orders_is_told_the_whole_but_not_at_each_of_its_beats() -> None:
    script = Script(orders=pause()).awake()
    assert sent(script.pulse("a"), Orders) == [("a", pause())]
    script.later(TIMING.heartbeat_ms)
    assert sent(script.pulse("a"), Orders) == []
    assert sent(script.pulse("c"), Orders) == [("c", pause())], "each peer has its own turn"
    script.later(TIMING.idle_ms)
    assert sent(script.pulse("a"), Orders) == [("a", pause())]


def test_a_peer_that_shows_the_same_or_newer_orders_is_told_nothing() -> None:
    script = Script(orders=pause()).awake()
    assert sent(script.pulse("a", orders=digest_of(pause())), Orders) == []
    assert script.node.book.confirmed("a")
    assert sent(script.pulse("a", orders=digest_of(drain("c", before=pause()))), Orders) == []
    assert not script.node.book.confirmed("a")


def test_two_orders_of_one_version_meet_and_both_sides_tell_theirs() -> None:
    one, other = pause(by="b"), pause(by="a")
    script = Script(orders=other).awake()
    assert sent(script.pulse("a", orders=digest_of(one)), Orders) == [("a", other)]
    assert only(script.hear("a", one), PersistOrders) == [PersistOrders(one)], "the later in the alphabet counts"
    assert script.step(OrdersPersisted(one)) is not None
    assert only(script.hear("c", other), PersistOrders) == []


def test_where_nothing_was_ever_ordered_heartbeats_bear_one_byte_and_no_message_more() -> None:
    script = leading()
    beats = script.pass_time(TIMING.lease_ms // 2)
    assert {pulse.orders for _, pulse in sent(beats, Pulse)} == {0}
    assert sent(script.took, Orders) == []


def test_orders_of_a_stranger_are_not_taken() -> None:
    assert only(Script().awake().hear("stranger", pause()), PersistOrders) == []


# -- paused ------------------------------------------------------------------------------------------------------


def test_paused_nobody_stands_and_resumed_at_once() -> None:
    script = Script(orders=pause()).awake()
    script.fit()
    assert sent(script.pass_time(5 * TIMING.lease_ms), VoteRequest) == []
    script.order(resumed(pause(), by="b", at_s=2))
    assert sent(script.pass_time(TIMING.stagger_ms), VoteRequest) != []


def test_paused_nobody_votes_not_even_in_advance() -> None:
    script = Script(orders=pause()).awake()
    for pre in (True, False):
        (answer,) = sent(script.ask("a", 1, pre=pre), VoteReply)
        assert not answer[1].granted
    assert only(script.took, PersistVote) == []


def test_a_round_that_is_under_way_ends_with_the_pause() -> None:
    script = Script().awake()
    script.fit()
    script.pass_time(10)
    asked = sent(script.took, VoteRequest)[-1][1]
    script.grant("a", 1, pre=True, sent_ms=asked.sent_ms)
    asked = sent(script.persisted(1), VoteRequest)[-1][1]
    actions = script.order(pause())
    assert script.election.role is Role.PASSIVE
    assert sent(actions, Resignation) != [], "nobody stays bound by a vote for it"
    assert only(script.grant("a", 1, sent_ms=asked.sent_ms), StartServing) == []


def test_paused_a_leader_that_is_not_fit_goes_on_and_gives_up_when_resumed() -> None:
    script = leading()
    script.order(pause())
    assert only(script.step(StandingChanged(standing(fit=False), "deaf")), StopServing) == []
    (stop,) = only(script.order(resumed(pause(), by="b", at_s=2)), StopServing)
    assert (stop.cause, stop.detail) == (Cause.UNFIT, "deaf")


def test_paused_a_leader_that_became_well_again_goes_on() -> None:
    script = leading()
    script.order(pause())
    script.step(StandingChanged(standing(fit=False), "deaf"))
    script.step(StandingChanged(standing()))
    assert only(script.order(resumed(pause(), by="b", at_s=2)), StopServing) == []


def test_paused_a_lease_that_is_not_renewed_ends() -> None:
    script = leading()
    script.order(pause())
    (stop,) = only(script.pass_time(2 * TIMING.lease_ms), StopServing)
    assert stop.cause is Cause.LEASE_EXPIRED


def test_paused_a_leader_is_acknowledged_as_ever() -> None:
    script = Script(orders=pause()).awake()
    assert sent(script.pulse("a", leads=1), Ack) != []


def test_paused_whoever_is_named_as_the_successor_does_not_follow() -> None:
    script = Script(orders=pause()).awake()
    script.fit()
    script.pulse("a", leads=1)
    actions = script.hear("a", Resignation(E, 1, "on request: the node is stopping", "b"))
    assert only(actions, FollowLeader) == [FollowLeader(E, None, 1, planned=True)]
    assert sent(actions + script.pass_time(5 * TIMING.lease_ms), VoteRequest) == []


def test_paused_a_process_that_is_told_to_end_stops_serving() -> None:
    script = leading()
    script.order(pause())
    assert only(script.step(ResignationRequested(E, "the node is stopping")), StopServing) != []


def test_orders_outlive_a_restart() -> None:
    script = Script(orders=pause()).awake()
    script.fit()
    assert script.node.book.paused
    assert {pulse.orders for _, pulse in sent(script.pass_time(TIMING.lease_ms), Pulse)} == {digest_of(pause())}


# -- drained -----------------------------------------------------------------------------------------------------


def test_a_drained_node_does_not_stand_and_says_that_it_is_not_fit() -> None:
    script = Script(orders=drain("b")).awake()
    script.fit()
    actions = script.pass_time(5 * TIMING.lease_ms)
    assert sent(actions, VoteRequest) == []
    assert {one.fit for _, pulse in sent(actions, Pulse) for one in pulse.standings} == {False}
    actions = script.order(undrained(drain("b"), "b", by="b", at_s=2)) + script.pass_time(TIMING.stagger_ms)
    assert sent(actions, VoteRequest) != []
    assert {one.fit for _, pulse in sent(actions, Pulse) for one in pulse.standings} == {True}


def test_a_drained_node_votes_and_acknowledges_and_nobody_votes_for_it() -> None:
    script = Script(orders=drain("b")).awake()
    assert only(script.ask("a", 1), PersistVote) != []
    script = Script(orders=drain("a")).awake()
    assert only(script.ask("a", 1), PersistVote) == []
    assert only(script.ask("c", 1), PersistVote) != []
    assert sent(Script(orders=drain("b")).awake().pulse("a", leads=1), Ack) != []


def test_a_drained_leader_gives_up_in_good_order_for_the_best_of_the_others() -> None:
    script = leading()
    script.pulse("c", generation=3)
    actions = script.order(drain("b")) + script.pass_time(TIMING.heartbeat_ms)
    (stop,) = only(actions, StopServing)
    assert (stop.cause, stop.at_once) == (Cause.REQUESTED, False)
    told = sent(script.step(ServingStopped(E, 1)), Resignation)
    assert {one.successor for _, one in told} == {"c"}


def test_a_drained_leader_goes_on_until_another_is_fit() -> None:
    script = Script().awake()
    script.lead()
    script.pulse("a", fit=False)
    script.order(drain("b"))
    assert only(script.pass_time(TIMING.heartbeat_ms), StopServing) == []
    script.pulse("a")
    script.ack("a", script.now_ms)
    assert only(script.pass_time(TIMING.heartbeat_ms), StopServing) != []


def test_a_drained_leader_that_is_warm_waits_for_one_that_is_warm() -> None:
    script = leading(warm=False)
    script.order(drain("b"))
    assert only(script.pass_time(TIMING.heartbeat_ms), StopServing) == []
    script.pulse("c", warm=True)
    script.ack("c", script.now_ms)
    assert only(script.pass_time(TIMING.heartbeat_ms), StopServing) != []


def test_a_drained_leader_hands_nothing_to_another_that_is_drained() -> None:
    script = leading()
    script.order(drain("a", before=drain("b")))
    script.step(OrdersPersisted(drain("a", before=drain("b"))))
    script.pass_time(TIMING.heartbeat_ms)
    told = sent(script.step(ServingStopped(E, 1)), Resignation)
    assert {one.successor for _, one in told} == {"c"}


@pytest.mark.parametrize("first", ["pause", "drain"])
def test_a_drained_leader_stays_while_the_cluster_is_paused(first: str) -> None:
    script = leading()
    if first == "pause":
        script.order(pause())
        script.order(drain("b", before=pause()))
    else:
        script.order(pause(before=drain("a", before=drain("b"))))
    assert only(script.pass_time(TIMING.heartbeat_ms), StopServing) == []
    assert script.election.role is Role.LEADER


def test_the_orders_of_the_disk_are_told_to_a_peer_that_was_away() -> None:
    """A new leader's heartbeat is acknowledged, and corrected, in one go."""
    script = Script(orders=pause()).awake()
    actions = script.pulse("a", leads=1)
    assert [type(one.message) for one in only(actions, Send) if one.to == "a"][:2] == [Orders, Ack]

"""Partitions: what two voters do that lose each other, by the word of the configuration (rule 9)."""

import pytest

from gateway.core.actions import AnnounceAgain, Cause, ExtendServing, PersistVote, StopServing
from gateway.core.events import ServingStopped
from gateway.core.node import ElectionPlan, Node, SavedVote
from gateway.core.reach import Reach
from gateway.core.voter import Role
from gateway.wire.messages import Ack, Pulse
from tests.core.playbook import TIMING, E, Script, only


class Pair(Script):
    """One of two nodes, each of which serves when it is alone."""

    def __init__(self, me: str, *, serve_apart: bool = True) -> None:
        super().__init__(me, ("a", "b"))
        self.node = Node(
            me=me,
            voters=("a", "b"),
            plans=(ElectionPlan(E, ("a", "b")),),
            timing=TIMING,
            saved={E: SavedVote()},
            now_ms=self.now_ms,
            serve_apart=serve_apart,
        )


def alone(me: str) -> Pair:
    pair = Pair(me)
    pair.fit()
    for action in only(pair.pass_time(2 * TIMING.promise_ms), PersistVote):
        pair.persisted(action.term)
    assert pair.election.role is Role.LEADER
    return pair


def test_under_hold_a_node_of_two_never_leads_alone() -> None:
    pair = Pair("a", serve_apart=False)
    pair.fit()
    assert only(pair.pass_time(20 * TIMING.promise_ms), PersistVote) == []


def test_under_serve_a_node_that_hears_nobody_leads() -> None:
    assert alone("a").election.serving_term is not None


def test_under_serve_a_node_that_hears_the_other_needs_its_vote() -> None:
    pair = Pair("a")
    pair.fit()
    for _ in range(40):
        pair.pulse("b", fit=False)
        assert only(pair.pass_time(TIMING.heartbeat_ms), PersistVote) == []


def test_under_serve_a_leader_goes_on_without_a_break_when_the_other_is_lost() -> None:
    pair = alone("a")
    pair.pulse("b")
    assert only(pair.hear("b", Ack(pair.now_ms, ((E, pair.election.term),))), StopServing) == []
    actions = pair.pass_time(10 * TIMING.lease_ms)
    assert only(actions, StopServing) == []
    assert only(actions, ExtendServing) != []


def test_two_that_serve_apart_never_lead_the_same_term() -> None:
    assert alone("a").election.term != alone("b").election.term


@pytest.mark.parametrize("term", range(12))
def test_each_node_stands_in_terms_of_its_own(term: int) -> None:
    voters = ("a", "b", "c", "d", "e")
    after = {name: Reach(name, voters, TIMING, serve_apart=True).next_term(term) for name in voters}
    assert sorted(after.values()) == [term + 1, term + 2, term + 3, term + 4, term + 5]
    for name, following in after.items():
        assert following % len(voters) == voters.index(name)


def test_at_the_heal_the_lower_term_gives_way() -> None:
    low, high = sorted((alone("a"), alone("b")), key=lambda pair: pair.election.term)
    actions = low.pulse(high.node.me, leads=high.election.term)
    assert [stop.cause for stop in only(actions, StopServing)] == [Cause.SUPERSEDED]
    assert only(high.pulse(low.node.me, leads=low.election.term), StopServing) == []
    low.step(ServingStopped(E, low.election.serving_term or 0))
    low.pulse(high.node.me, leads=high.election.term)
    assert low.election.leader == high.node.me


def test_a_leader_announces_again_when_a_peer_is_back_from_silence() -> None:
    script = Script().awake()
    script.lead()
    script.ack("a", script.now_ms)
    for _ in range(10):
        script.later(TIMING.heartbeat_ms)
        assert only(script.ack("a", script.now_ms - 1), AnnounceAgain) == []
    assert only(script.ack("c", script.now_ms - 1), AnnounceAgain) == [AnnounceAgain(E, "c")]


def test_who_does_not_lead_announces_nothing() -> None:
    script = Script().awake()
    assert only(script.pulse("a", leads=1), AnnounceAgain) == []


def test_a_promise_lasts_as_long_as_the_lease_of_who_asked() -> None:
    script = Script().awake()
    script.fit()
    script.hear("a", Pulse(7, ((E, 1),), (), (), lease_ms=2_000))
    assert script.election.bound(script.now_ms + 2_000, "c") > 0
    assert script.election.bound(script.now_ms + 2_021, "c") == 0


def test_a_node_that_has_just_started_is_silent_for_as_long_as_a_leader_that_it_hears_may_need() -> None:
    script = Script()
    script.hear("a", Pulse(7, ((E, 1),), (), (), lease_ms=2_000))
    script.later(TIMING.promise_ms + 1)
    assert script.election.bound(script.now_ms, "c") > 1_000

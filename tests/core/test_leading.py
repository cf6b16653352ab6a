"""Leading: when a lease begins and ends, and how a leader stops (rules 3 and 8)."""

import pytest

from gateway.core.actions import Cause, ExtendServing, FollowLeader, PersistVote, StartServing, StopServing
from gateway.core.events import DeadlineReached, ResignationRequested, ServingStopped
from gateway.core.voter import Role
from gateway.wire.messages import ON_REQUEST, Ack, Pulse, Resignation, VoteReply, VoteRequest
from tests.core.playbook import TIMING, E, Script, only, sent

LEASE_MS = TIMING.lease_ms - TIMING.margin_ms


def leader() -> Script:
    script = Script().awake()
    script.lead()
    assert script.election.role is Role.LEADER
    return script


def test_a_lease_dates_from_the_requests_not_from_the_votes() -> None:
    script = Script().awake()
    script.fit()
    script.pass_time(200)
    script.grant("a", 1, pre=True, sent_ms=sent(script.took, VoteRequest)[-1][1].sent_ms)
    asked_ms = script.now_ms
    script.persisted(1)
    script.later(100)
    actions = script.grant("a", 1, sent_ms=asked_ms)
    assert only(actions, StartServing) == [StartServing(E, 1, asked_ms + LEASE_MS)]


def test_a_new_leader_is_heard_at_once() -> None:
    script = Script().awake()
    actions = script.lead()
    assert [(to, pulse.leads) for to, pulse in sent(actions, Pulse)] == [("a", ((E, 1),)), ("c", ((E, 1),))]


def test_an_acknowledgement_extends_the_lease_from_the_heartbeat_that_it_echoes() -> None:
    script = leader()
    sent_ms = script.now_ms
    script.later(80)
    assert only(script.ack("a", sent_ms + 20), ExtendServing) == [ExtendServing(E, 1, sent_ms + 20 + LEASE_MS)]


def test_an_older_acknowledgement_does_not_shorten_a_lease() -> None:
    script = leader()
    script.later(80)
    script.ack("a", script.now_ms - 10)
    until_ms = script.election.lease_until_ms
    assert only(script.ack("a", script.now_ms - 60), ExtendServing) == []
    assert script.election.lease_until_ms == until_ms


def test_the_lease_needs_a_majority_of_answers() -> None:
    script = Script(voters=("a", "b", "c", "d", "e")).awake()
    script.fit()
    script.pass_time(200)
    asked_ms = sent(script.took, VoteRequest)[-1][1].sent_ms
    script.grant("a", 1, pre=True, sent_ms=asked_ms)
    script.grant("c", 1, pre=True, sent_ms=asked_ms)
    asked_ms = sent(script.persisted(1), VoteRequest)[-1][1].sent_ms
    assert only(script.grant("a", 1, sent_ms=asked_ms), StartServing) == []
    assert only(script.grant("c", 1, sent_ms=asked_ms), StartServing) != []
    script.later(60)
    assert only(script.ack("a", script.now_ms - 5), ExtendServing) == []
    assert only(script.ack("d", script.now_ms - 9), ExtendServing) == [
        ExtendServing(E, 1, script.now_ms - 9 + LEASE_MS)
    ]


def test_an_acknowledgement_of_what_was_not_sent_yet_is_ignored() -> None:
    script = leader()
    assert only(script.ack("a", script.now_ms + 1), ExtendServing) == []


def test_a_leader_stops_by_itself_at_the_end_of_its_lease() -> None:
    script = leader()
    until_ms = script.election.lease_until_ms
    assert script.node.deadline_ms() <= until_ms
    assert only(script.pass_time(until_ms - 1 - script.now_ms), StopServing) == []
    stops = only(script.pass_time(1), StopServing)
    assert [(stop.cause, stop.at_once) for stop in stops] == [(Cause.LEASE_EXPIRED, True)]


def test_an_acknowledgement_after_the_end_of_the_lease_does_not_revive_it() -> None:
    script = leader()
    last_ms = script.election.lease_until_ms - 1
    script.now_ms = last_ms + 1  # frozen meanwhile: the timer and the answer are both late
    actions = script.ack("a", last_ms)
    assert [stop.cause for stop in only(actions, StopServing)] == [Cause.LEASE_EXPIRED]
    assert only(actions, ExtendServing) == []
    assert script.election.role is Role.PASSIVE


def test_a_frozen_leader_that_wakes_sends_no_heartbeat_of_its_old_term() -> None:
    script = leader()
    script.later(10 * TIMING.lease_ms)
    pulses = [pulse.leads for _, pulse in sent(script.step(DeadlineReached()), Pulse)]
    assert pulses == [(), ()]


def test_an_unfit_leader_stops_gracefully_and_resigns_only_when_the_stop_is_confirmed() -> None:
    script = leader()
    actions = script.fit(fit=False)
    assert [(stop.cause, stop.at_once) for stop in only(actions, StopServing)] == [(Cause.UNFIT, False)]
    assert sent(actions, Resignation) == []
    script.later(40)
    actions = script.step(ServingStopped(E, 1))
    assert [(to, one.term) for to, one in sent(actions, Resignation)] == [("a", 1), ("c", 1)]


def test_a_candidate_that_becomes_unfit_ends_its_candidacy_and_frees_its_voters() -> None:
    script = Script().awake()
    script.fit()
    script.pass_time(200)
    script.grant("a", 1, pre=True, sent_ms=sent(script.took, VoteRequest)[-1][1].sent_ms)
    asked_ms = script.now_ms
    script.persisted(1)
    actions = script.fit(fit=False)
    assert [(to, one.term) for to, one in sent(actions, Resignation)] == [("a", 1), ("c", 1)]
    assert script.grant("a", 1, sent_ms=asked_ms) == [], "a vote that comes too late elects nobody"
    assert script.election.role is Role.PASSIVE


def test_a_requested_resignation_says_so() -> None:
    script = leader()
    actions = script.step(ResignationRequested(E, "maintenance"))
    assert [(stop.cause, stop.detail) for stop in only(actions, StopServing)] == [(Cause.REQUESTED, "maintenance")]
    assert FollowLeader(E, None, 1, planned=True) in actions


def test_followers_are_told_whether_a_leader_has_given_up_on_request_or_in_trouble() -> None:
    for reason, planned in ((ON_REQUEST, True), ("stopped serving", False)):
        script = Script().awake()
        script.pulse("a", leads=1)
        assert FollowLeader(E, None, 1, planned=planned) in script.hear("a", Resignation(E, 1, reason))


def test_a_node_that_does_not_lead_has_nothing_to_resign() -> None:
    script = Script().awake()
    script.pulse("a", leads=1)
    assert script.step(ResignationRequested(E, "maintenance")) == []


def test_a_graceful_stop_becomes_a_forced_one_when_the_lease_ends() -> None:
    script = leader()
    script.step(ResignationRequested(E, "maintenance"))
    stops = only(script.pass_time(TIMING.lease_ms), StopServing)
    assert [stop.at_once for stop in stops] == [True]


def test_a_stopping_leader_takes_no_more_acknowledgements() -> None:
    script = leader()
    script.step(ResignationRequested(E, "maintenance"))
    until_ms = script.election.lease_until_ms
    script.later(5)
    script.ack("a", script.now_ms)
    assert script.election.lease_until_ms == until_ms


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_node_votes_for_nobody_until_its_own_stop_is_confirmed(confirmed: bool) -> None:
    script = leader()
    script.pass_time(2 * TIMING.lease_ms)
    if confirmed:
        script.step(ServingStopped(E, 1))
    assert bool(only(script.ask("a", 2), PersistVote)) is confirmed


def test_a_node_acknowledges_nobody_until_its_own_stop_is_confirmed() -> None:
    script = leader()
    script.pass_time(2 * TIMING.lease_ms)
    assert sent(script.pulse("a", leads=2), Ack) == []
    script.step(ServingStopped(E, 1))
    assert sent(script.pulse("a", leads=2), Ack) != []


def test_a_confirmed_stop_frees_the_old_leader_to_vote_at_once() -> None:
    script = leader()
    script.step(ResignationRequested(E, "maintenance"))
    script.step(ServingStopped(E, 1))
    assert only(script.ask("a", 2), PersistVote) == [PersistVote(E, 2, "a")]


def test_the_confirmation_of_another_term_confirms_nothing() -> None:
    script = leader()
    script.step(ResignationRequested(E, "maintenance"))
    assert sent(script.step(ServingStopped(E, 7)), Resignation) == []


def test_whoever_gave_up_lets_the_others_go_first() -> None:
    script = leader()
    script.step(ResignationRequested(E, "maintenance"))
    script.step(ServingStopped(E, 1))
    script.took.clear()
    script.pass_time(TIMING.lease_ms - 1)
    assert sent(script.took, VoteRequest) == []


def test_a_serving_leader_refuses_every_vote() -> None:
    script = leader()
    for pre in (True, False):
        assert [reply.granted for _, reply in sent(script.ask("a", 9, pre=pre), VoteReply)] == [False]
    assert script.election.term == 1


def test_alone_in_a_cluster_of_one_a_node_leads_and_extends_its_lease_itself() -> None:
    script = Script("b", ("b",))
    script.fit()
    script.pass_time(TIMING.promise_ms)
    assert only(script.took, PersistVote) == [PersistVote(E, 1, "b")]
    script.persisted(1)
    assert script.election.role is Role.LEADER
    done = script.pass_time(10 * TIMING.lease_ms)
    assert only(done, StopServing) == []
    assert script.election.lease_until_ms > script.now_ms


def test_of_two_nodes_neither_leads_alone() -> None:
    script = Script("b", ("a", "b"))
    script.fit()
    script.pass_time(20 * TIMING.lease_ms)
    assert only(script.took, PersistVote) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [(Role.LEADER, Role.ELECTION), (Role.PRE, Role.LEADER), (Role.PASSIVE, Role.LEADER), (Role.PASSIVE, Role.PRE)],
)
def test_a_forbidden_transition_is_refused_by_its_arrow(before: Role, after: Role) -> None:
    election = Script().election
    election.role = before
    with pytest.raises(AssertionError, match=f"{before.value} -> {after.value} is not a transition"):
        election.become(after)

"""Votes: the order of writing and sending, and whom a node votes for (rules 1, 5 and 6)."""

import pytest

from gateway.core.actions import PersistVote, StartServing
from gateway.core.events import DeadlineReached
from gateway.core.voter import Role
from gateway.wire.messages import Resignation, VoteReply, VoteRequest
from tests.core.playbook import TIMING, E, Script, only, sent


def test_a_granted_vote_is_written_before_it_is_sent() -> None:
    script = Script().awake()
    actions = script.ask("a", 1)
    assert only(actions, PersistVote) == [PersistVote(E, 1, "a")]
    assert sent(actions, VoteReply) == []
    assert sent(script.persisted(1), VoteReply) == [("a", VoteReply(E, 1, False, 7, True, 1, 0))]


def test_a_candidate_writes_its_own_vote_before_it_asks_for_others() -> None:
    script = Script().awake()
    script.fit()
    script.pass_time(200)
    asked = sent(script.took, VoteRequest)
    assert {request.pre for _, request in asked} == {True}
    actions = script.grant("a", 1, pre=True, sent_ms=asked[-1][1].sent_ms)
    assert only(actions, PersistVote) == [PersistVote(E, 1, "b")]
    assert sent(actions, VoteRequest) == []
    assert [request.pre for _, request in sent(script.persisted(1), VoteRequest)] == [False, False]


def test_nothing_is_written_for_a_pre_vote() -> None:
    script = Script().awake()
    actions = script.ask("a", 1, pre=True)
    assert only(actions, PersistVote) == []
    assert [reply.granted for _, reply in sent(actions, VoteReply)] == [True]
    assert script.election.term == 0


def test_a_node_votes_once_a_term() -> None:
    script = Script().awake()
    script.ask("a", 1)
    script.persisted(1)
    script.later(TIMING.promise_ms)
    assert only(script.ask("c", 1), PersistVote) == []
    assert only(script.ask("c", 2), PersistVote) == [PersistVote(E, 2, "c")]


def test_a_vote_of_an_old_term_is_refused_with_the_term_to_catch_up_with() -> None:
    script = Script().awake()
    script.pulse("a", leads=9)
    script.later(TIMING.promise_ms)
    assert [(r.granted, r.highest_term) for _, r in sent(script.ask("c", 3), VoteReply)] == [(False, 9)]


def test_a_candidate_with_an_old_term_catches_up_without_a_vote() -> None:
    script = Script().awake()
    script.fit()
    script.pass_time(200)
    asked_ms = sent(script.took, VoteRequest)[-1][1].sent_ms
    script.refuse("a", 1, pre=True, sent_ms=asked_ms, highest=9)
    script.pass_time(50)
    assert sent(script.took, VoteRequest)[-1][1].term == 10


def test_a_voter_takes_no_second_vote_while_it_writes_the_first() -> None:
    script = Script().awake()
    script.ask("a", 1)
    script.later(TIMING.promise_ms)  # a very slow disk
    assert only(script.ask("c", 2), PersistVote) == []


def test_a_candidate_whose_disk_was_slow_is_still_bound_to_itself_in_its_round() -> None:
    script = Script().awake()
    script.fit()
    script.pass_time(200)
    script.grant("a", 1, pre=True, sent_ms=sent(script.took, VoteRequest)[-1][1].sent_ms)
    script.later(TIMING.promise_ms + 1)
    script.persisted(1)
    assert only(script.ask("c", 2), PersistVote) == []
    assert script.election.role is Role.ELECTION


def test_a_node_that_hears_a_leader_refuses_pre_votes() -> None:
    script = Script().awake()
    script.pulse("a", leads=1)
    assert [reply.granted for _, reply in sent(script.ask("c", 2, pre=True), VoteReply)] == [False]


def test_a_candidate_counts_answers_of_its_present_round_only() -> None:
    script = Script().awake()
    script.fit()
    script.pass_time(200)
    asked_ms = sent(script.took, VoteRequest)[-1][1].sent_ms
    assert only(script.grant("a", 1, pre=True, sent_ms=asked_ms - 1), PersistVote) == []
    assert only(script.grant("a", 2, pre=True, sent_ms=asked_ms), PersistVote) == []
    assert only(script.grant("a", 1, sent_ms=asked_ms), PersistVote) == []
    assert only(script.grant("a", 1, pre=True, sent_ms=asked_ms), PersistVote) != []


def test_votes_that_come_after_the_round_elect_nobody() -> None:
    script = Script().awake()
    script.fit()
    script.pass_time(200)
    script.grant("a", 1, pre=True, sent_ms=sent(script.took, VoteRequest)[-1][1].sent_ms)
    asked_ms = sent(script.persisted(1), VoteRequest)[-1][1].sent_ms
    script.later(TIMING.round_ms)
    actions = script.grant("a", 1, sent_ms=asked_ms)
    assert only(actions, StartServing) == []
    assert [one.term for _, one in sent(actions, Resignation)] == [1, 1], "it gave the round up and frees its voters"


def test_a_candidate_that_hears_a_leader_gives_up_and_frees_its_voters() -> None:
    script = Script().awake()
    script.fit()
    script.pass_time(200)
    script.grant("a", 1, pre=True, sent_ms=sent(script.took, VoteRequest)[-1][1].sent_ms)
    script.persisted(1)
    actions = script.pulse("c", leads=1)
    assert [(to, one.term) for to, one in sent(actions, Resignation)] == [("a", 1), ("c", 1)]
    assert (script.election.role, script.election.leader) == (Role.PASSIVE, "c")


def test_a_vote_persisted_late_asks_nobody_once_a_leader_was_heard() -> None:
    script = Script().awake()
    script.fit()
    script.pass_time(200)
    script.grant("a", 1, pre=True, sent_ms=sent(script.took, VoteRequest)[-1][1].sent_ms)
    script.pulse("c", leads=1)
    assert sent(script.persisted(1), VoteRequest) == []


@pytest.mark.parametrize(
    ("mine", "theirs", "waits"),
    [
        ({}, {"fit": False}, 0),
        ({}, {}, 1),  # equal: the order of the file decides, and "a" stands before "b"
        ({"generation": 1}, {}, 0),
        ({"term": 1}, {"generation": 9}, 0),
        ({"generation": 2, "records": 1}, {"generation": 2}, 0),
        ({"generation": 2}, {"generation": 1, "records": 9}, 0),
        ({"warm": True, "term": 0}, {"warm": False, "term": 9}, 0),
        ({"warm": False, "term": 9}, {"warm": True}, 1),
    ],
    ids=["unfit", "preferred", "fresher", "newer-term", "more-records", "newer-file", "warm-before-fresh", "cold"],
)
def test_the_better_candidate_stands_first(mine: dict, theirs: dict, waits: int) -> None:
    script = Script()
    script.fit(**mine)
    script.later(TIMING.promise_ms - 1)
    script.pulse("a", **theirs)
    script.pass_time(1 + waits * TIMING.stagger_ms - 1 if waits else 1)
    assert (sent(script.took, VoteRequest) == []) is bool(waits)
    script.pass_time(1)
    assert sent(script.took, VoteRequest) != []


def test_a_candidate_that_is_not_heard_any_more_is_not_waited_for() -> None:
    script = Script()
    script.fit()
    script.pulse("a")
    script.pass_time(TIMING.promise_ms)
    assert sent(script.took, VoteRequest) != []


def test_an_unfit_node_never_stands() -> None:
    script = Script()
    script.fit(fit=False)
    script.pass_time(10 * TIMING.lease_ms)
    assert sent(script.took, VoteRequest) == []


def test_a_node_that_is_no_candidate_votes_and_never_stands() -> None:
    script = Script("c", candidates=("a", "b"))
    script.pass_time(10 * TIMING.lease_ms)
    assert sent(script.took, VoteRequest) == []
    assert only(script.ask("a", 1), PersistVote) == [PersistVote(E, 1, "a")]


def test_a_voter_that_promised_one_candidate_its_turn_does_not_promise_it_to_another() -> None:
    script = Script().awake()
    script.ask("a", 1, pre=True)
    refusal = sent(script.ask("c", 1, pre=True), VoteReply)[0][1]
    assert (refusal.granted, refusal.wait_ms) == (False, TIMING.stagger_ms)
    script.later(TIMING.stagger_ms)
    assert [reply.granted for _, reply in sent(script.ask("c", 1, pre=True), VoteReply)] == [True]


def test_strangers_and_unknown_elections_change_nothing() -> None:
    script = Script().awake()
    script.step(DeadlineReached())
    before = script.election.term
    assert script.ask("stranger", 5) == []
    script.hear("a", VoteRequest("other", 5, False, 7))
    script.hear("a", VoteReply("other", 5, False, 7, True, 5, 0))
    script.hear("a", Resignation("other", 5, ""))
    assert script.election.term == before
    assert only(script.took, PersistVote) == []

"""Promises: whom a node is bound to, and what frees it (rules 2, 4 and 8)."""

from gateway.core.actions import PersistVote
from gateway.core.node import SavedVote
from gateway.wire.messages import Ack, Resignation, VoteReply
from tests.core.playbook import TIMING, E, Script, only, sent


def refused(script: Script, candidate: str, term: int) -> bool:
    actions = script.ask(candidate, term)
    return not only(actions, PersistVote) and [reply.granted for _, reply in sent(actions, VoteReply)] == [False]


def test_a_started_node_neither_votes_nor_acknowledges_for_one_promise() -> None:
    script = Script()
    script.later(TIMING.promise_ms - 1)
    assert refused(script, "a", 1)
    assert sent(script.pulse("a", leads=1), Ack) == []
    script.later(1)
    assert sent(script.pulse("a", leads=1), Ack) == [("a", Ack(7, ((E, 1),)))]


def test_an_acknowledgement_binds_for_a_promise_and_no_longer() -> None:
    script = Script().awake()
    script.pulse("a", leads=1)
    script.later(TIMING.promise_ms - 1)
    assert refused(script, "c", 2)
    script.later(1)
    assert only(script.ask("c", 2), PersistVote) == [PersistVote(E, 2, "c")]


def test_a_vote_binds_against_the_heartbeat_of_another_leader() -> None:
    script = Script().awake()
    script.ask("c", 2)
    script.persisted(2)
    assert sent(script.pulse("a", leads=1), Ack) == []
    script.later(TIMING.promise_ms)
    assert sent(script.pulse("a", leads=1), Ack) == [("a", Ack(7, ((E, 1),)))]


def test_a_bound_node_follows_the_leader_that_it_may_not_acknowledge() -> None:
    script = Script().awake()
    script.ask("c", 2)
    script.persisted(2)
    script.pulse("a", leads=3)
    assert script.election.leader == "a"


def test_a_resignation_frees_the_voter_at_once() -> None:
    script = Script().awake()
    script.pulse("a", leads=1)
    assert refused(script, "c", 2)
    script.hear("a", Resignation(E, 1, "stopped serving"))
    assert only(script.ask("c", 2), PersistVote) == [PersistVote(E, 2, "c")]


def test_a_heartbeat_that_was_late_binds_nobody_to_a_leader_that_has_resigned() -> None:
    script = Script().awake()
    script.pulse("a", leads=1)
    script.hear("a", Resignation(E, 1, "stopped serving"))
    assert sent(script.pulse("a", leads=1), Ack) == []
    assert script.election.leader is None


def test_the_resignation_of_an_older_term_frees_nobody() -> None:
    script = Script().awake()
    script.pulse("a", leads=1)
    script.pulse("a", leads=2)
    script.hear("a", Resignation(E, 1, "stopped serving"))
    assert refused(script, "c", 3)


def test_another_nodes_resignation_frees_nobody() -> None:
    script = Script().awake()
    script.pulse("a", leads=1)
    script.hear("c", Resignation(E, 1, "no majority"))
    assert refused(script, "c", 2)


def test_a_late_heartbeat_and_a_late_resignation_of_an_older_term_do_not_undo_a_vote() -> None:
    script = Script().awake()
    script.pulse("a", leads=1)
    script.later(TIMING.promise_ms)
    assert only(script.ask("a", 2), PersistVote)  # its leader of term 1 stands again
    script.persisted(2)
    script.pulse("a", leads=1)  # sent before it lost term 1
    script.hear("a", Resignation(E, 1, "stopped serving"))  # so was this
    assert refused(script, "c", 3), "the vote of term 2 may be serving by now"


def test_a_defeated_candidate_frees_its_voters() -> None:
    script = Script().awake()
    script.ask("c", 2)
    script.persisted(2)
    script.hear("c", Resignation(E, 2, "no majority"))
    assert only(script.ask("a", 3), PersistVote) == [PersistVote(E, 3, "a")]


def test_a_restarted_node_keeps_to_the_vote_on_its_disk() -> None:
    script = Script(saved=SavedVote(5, "a")).awake()
    assert refused(script, "c", 5)
    assert only(script.ask("a", 5), PersistVote) == [PersistVote(E, 5, "a")]


def test_a_vote_for_the_same_candidate_may_be_repeated() -> None:
    script = Script().awake()
    script.ask("a", 1)
    first = sent(script.persisted(1), VoteReply)
    script.ask("a", 1)
    assert sent(script.persisted(1), VoteReply) == first

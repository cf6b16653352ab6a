"""Handover: a leader that gives up names who follows, and that one need not wait (rule 7)."""

from gateway.core.actions import Cause, PersistVote, Send, StopServing
from gateway.core.events import ResignationRequested, ServingStopped, SuspensionNoticed
from gateway.core.voter import Role
from gateway.wire.messages import Resignation, VoteRequest
from tests.core.playbook import TIMING, E, Script, only, sent


def leader(**others: dict[str, bool]) -> Script:
    script = Script().awake()
    script.lead()
    for name, what in others.items():
        script.pulse(name, **what)
    return script


def follower(me: str = "b", of: str = "a") -> Script:
    script = Script(me).awake()
    script.pulse(of, leads=1)
    script.fit()
    script.pulse(of, leads=1)
    return script


def test_a_leader_names_whom_it_was_told_to() -> None:
    script = leader(a={}, c={})
    script.step(ResignationRequested(E, "maintenance", "c"))
    actions = script.step(ServingStopped(E, 1))
    assert [(to, one.successor) for to, one in sent(actions, Resignation)] == [("a", "c"), ("c", "c")]


def test_a_leader_names_the_best_it_has_heard_where_it_was_told_nobody() -> None:
    script = leader(a={"warm": False}, c={})
    script.step(ResignationRequested(E, "maintenance"))
    assert {one.successor for _, one in sent(script.step(ServingStopped(E, 1)), Resignation)} == {"c"}


def test_a_leader_does_not_name_a_node_that_could_not_serve() -> None:
    script = leader(a={}, c={"fit": False})
    script.step(ResignationRequested(E, "maintenance", "c"))
    assert {one.successor for _, one in sent(script.step(ServingStopped(E, 1)), Resignation)} == {"a"}


def test_a_leader_does_not_name_a_node_that_has_been_silent() -> None:
    script = leader(a={})
    for _ in range(10):
        script.later(TIMING.heartbeat_ms)
        script.ack("c", script.now_ms - 5)
    script.step(ResignationRequested(E, "maintenance", "a"))
    assert {one.successor for _, one in sent(script.step(ServingStopped(E, 1)), Resignation)} == {""}


def test_a_leader_names_nobody_before_it_has_stopped() -> None:
    script = leader(a={}, c={})
    actions = script.step(ResignationRequested(E, "maintenance", "c"))
    assert only(actions, StopServing) == [StopServing(E, 1, Cause.REQUESTED, "maintenance", False)]
    assert only(actions, Send) == []


def test_the_successor_is_told_last_so_that_the_others_are_free_when_it_asks() -> None:
    script = leader(a={}, c={})
    script.step(ResignationRequested(E, "maintenance", "a"))
    assert [to for to, _ in sent(script.step(ServingStopped(E, 1)), Resignation)] == ["c", "a"]


def test_the_successor_writes_its_vote_at_once_without_pre_votes() -> None:
    script = follower()
    actions = script.hear("a", Resignation(E, 1, "maintenance", "b"))
    assert only(actions, PersistVote) == [PersistVote(E, 2, "b")]
    assert sent(actions, VoteRequest) == [], "not before the vote is on the disk"
    assert [request.pre for _, request in sent(script.persisted(2), VoteRequest)] == [False, False]


def test_a_candidate_that_was_not_named_gives_the_successor_a_turn() -> None:
    script = follower()
    script.hear("a", Resignation(E, 1, "maintenance", "c"))
    assert script.election.stand_at_ms >= script.now_ms + TIMING.stagger_ms


def test_a_successor_that_is_unfit_does_not_stand() -> None:
    script = Script().awake()
    script.pulse("a", leads=1)
    assert only(script.hear("a", Resignation(E, 1, "maintenance", "b")), PersistVote) == []


def test_who_does_not_lead_can_name_nobody() -> None:
    script = follower()
    assert only(script.hear("c", Resignation(E, 1, "maintenance", "b")), PersistVote) == []
    assert script.election.leader == "a"


def test_a_successor_that_is_bound_to_another_does_not_stand() -> None:
    script = Script("b", ("a", "b", "c")).awake()
    script.fit()
    script.ask("c", 2)
    script.persisted(2)
    script.pulse("a", leads=1)  # followed, and not promised anything
    assert only(script.hear("a", Resignation(E, 1, "maintenance", "b")), PersistVote) == []
    assert script.election.role is Role.PASSIVE


def test_a_machine_that_slept_stops_at_once_though_its_lease_lives() -> None:
    script = leader()
    script.later(5)
    stops = only(script.step(SuspensionNoticed(4)), StopServing)
    assert [(stop.cause, stop.at_once) for stop in stops] == [(Cause.SUSPENDED, True)]

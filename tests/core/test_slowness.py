"""Own slowness: a node that was late doubts itself first, and others later (rule 11)."""

from gateway.core.actions import Cause, FollowLeader, StopServing
from gateway.core.events import DeadlineReached
from gateway.core.slowness import SCORE_MAX, Slowness
from gateway.core.voter import Role
from gateway.wire.messages import Ack, VoteRequest
from tests.core.playbook import TIMING, E, Script, only, sent


def follower() -> Script:
    script = Script().awake()
    script.fit()
    script.pulse("a", leads=1)
    return script


def test_a_follower_that_was_frozen_hears_what_is_in_its_socket_before_it_suspects_its_leader() -> None:
    script = follower().later(5_000)
    assert only(script.step(DeadlineReached()), FollowLeader) == []
    script.pulse("a", leads=1)
    assert script.election.leader == "a"
    assert sent(script.pass_time(TIMING.heartbeat_ms), VoteRequest) == []


def test_a_follower_that_was_frozen_suspects_a_silent_leader_after_all() -> None:
    script = follower().later(5_000)
    script.step(DeadlineReached())
    assert FollowLeader(E, None, 1) in script.pass_time(3 * TIMING.heartbeat_ms)


def test_a_candidate_that_was_frozen_does_not_stand_at_once() -> None:
    script = Script().awake()
    script.step(DeadlineReached())
    script.fit(generation=1)
    script.pulse("a", generation=2)
    script.later(5_000)
    assert script.step(DeadlineReached()) != []
    assert script.election.role is Role.PASSIVE


def test_a_leader_that_was_frozen_counts_its_lease_as_spent_before_it_hears_anything() -> None:
    script = Script().awake()
    script.lead()
    sent_ms = script.now_ms
    script.later(TIMING.lease_ms)
    actions = script.hear("a", Ack(sent_ms, ((E, 1),)))
    assert [stop.cause for stop in only(actions, StopServing)] == [Cause.LEASE_EXPIRED]


def test_a_late_node_still_answers_by_its_promises_alone() -> None:
    script = follower().later(5_000)
    script.step(DeadlineReached())
    assert script.election.leader == "a"
    assert script.election.bound(script.now_ms, "c") == 0


def test_each_late_timer_adds_patience_up_to_a_limit() -> None:
    slowness = Slowness(TIMING, 0)
    for turn in range(2 * SCORE_MAX):
        assert slowness.woke(turn * 100 + 99, turn * 100)
    assert slowness.patience_ms == SCORE_MAX * TIMING.heartbeat_ms
    assert slowness.late_ms_max == 99


def test_patience_ends_with_time() -> None:
    slowness = Slowness(TIMING, 0)
    slowness.woke(100, 0)
    assert not slowness.woke(100 + TIMING.lease_ms - 1, 100 + TIMING.lease_ms - 1)
    assert slowness.score == 1
    slowness.woke(100 + TIMING.lease_ms, 100 + TIMING.lease_ms)
    assert slowness.score == 0


def test_a_timer_that_is_a_little_late_is_nobodys_fault() -> None:
    slowness = Slowness(TIMING, 0)
    assert not slowness.woke(TIMING.late_ms - 1, 0)
    assert slowness.score == 0


def test_the_start_of_a_process_is_nobodys_lateness() -> None:
    script = Script().later(5_000)
    script.step(DeadlineReached())
    assert script.node.slowness.score == 0

"""Periods that change under way, and wakings: three stories that the simulator found, one node each."""

from gateway.core.actions import ExtendServing
from gateway.core.events import DeadlineReached
from gateway.core.node import ElectionPlan, Node
from gateway.core.snapshot import capture, restore
from gateway.core.timing import Timing, promise_ms_for
from gateway.wire.messages import Ack, Pulse
from tests.core.playbook import TIMING, E, Script, only, standing
from tests.core.test_partitions import alone

LONG = Timing(heartbeat_ms=200, lease_ms=2000)


def heartbeat(script: Script, sender: str, lease_ms: int) -> None:
    script.hear(sender, Pulse(script.now_ms, ((E, 1),), (standing(),), (), lease_ms))


def test_a_promise_for_a_long_lease_is_not_cut_short_by_one_for_a_shorter() -> None:
    """The leader's periods were shortened, and it died: its long lease was still running."""
    script = Script().awake()
    heartbeat(script, "a", LONG.lease_ms)
    heartbeat(script.later(100), "a", TIMING.lease_ms)
    assert script.election.bound(script.now_ms, "c") == promise_ms_for(LONG.lease_ms) - 100


def test_answers_to_a_shorter_lease_do_not_extend_a_longer() -> None:
    """Whoever has answered before is bound for the shorter one only."""
    script = Script().awake()
    script.lead()
    sent_ms = script.now_ms
    script.ack("a", sent_ms)
    until_ms = script.election.lease_until_ms
    fresh = Script(at=script.now_ms)
    fresh.node = Node(
        me="b",
        voters=("a", "b", "c"),
        plans=(ElectionPlan(E, ("a", "b", "c")),),
        timing=LONG,
        saved={},
        now_ms=script.now_ms,
    )
    restore(fresh.node, capture(script.node))
    fresh.later(50)
    assert only(fresh.step(DeadlineReached()), ExtendServing) == []
    assert only(fresh.ack("c", sent_ms), ExtendServing) == [], "an answer that was on its way"
    assert fresh.election.lease_until_ms == until_ms
    assert only(fresh.ack("c", fresh.now_ms), ExtendServing), "an answer to the new process"


def test_under_serve_who_wakes_reads_its_socket_before_it_thinks_itself_alone() -> None:
    """Frozen for most of a lease; the other's answers lie in the socket, and it may be about to lead."""
    pair = alone("a")
    pair.pulse("b")
    pair.hear("b", Ack(pair.now_ms, ((E, pair.election.term),)))
    pair.later(TIMING.apart_ms + 10)
    assert only(pair.step(DeadlineReached()), ExtendServing) == []
    assert only(pair.pass_time(TIMING.heartbeat_ms), ExtendServing), "and then it goes on alone"

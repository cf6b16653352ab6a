"""Node: several elections in one, and the timer that drives them."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.actions import Send, StartServing
from gateway.core.events import DeadlineReached, MessageReceived, PrimedChanged, StandingChanged, VotePersisted
from gateway.core.node import ElectionPlan, Node
from gateway.core.timing import Timing
from gateway.core.voter import Role
from gateway.wire.messages import Ack, Pulse, Standing, VoteReply, VoteRequest
from tests.core.playbook import TIMING, E, Script, only, sent, standing

VOTERS = ("gw1", "cm1", "cm2")
PLANS = (ElectionPlan("address", ("gw1",)), ElectionPlan("matchmaker", ("cm1", "cm2")))


def node(me: str) -> Node:
    return Node(me=me, voters=VOTERS, plans=PLANS, timing=TIMING, saved={}, now_ms=0)


def test_a_leader_sends_every_peer_a_heartbeat_each_beat_and_none_between() -> None:
    script = Script().awake()
    script.lead()
    first_ms = script.now_ms
    beats = sent(script.pass_time(TIMING.heartbeat_ms * 3), Pulse)
    assert [(to, pulse.sent_ms) for to, pulse in beats] == [
        (peer, first_ms + beat * TIMING.heartbeat_ms) for beat in range(1, 4) for peer in ("a", "c")
    ]


def test_a_node_that_leads_nothing_is_heard_three_times_within_a_lease() -> None:
    script = Script()
    beats = sent(script.pass_time(TIMING.lease_ms - 1), Pulse)
    assert [pulse.sent_ms for to, pulse in beats if to == "a"] == [1_000, 1_100, 1_200]


def test_what_changes_in_a_follower_is_told_at_its_next_beat() -> None:
    script = Script()
    script.step(DeadlineReached())
    script.later(10)
    script.fit()
    assert script.node.deadline_ms() == 1_000 + TIMING.heartbeat_ms


def test_a_late_timer_sends_one_heartbeat_not_those_it_missed() -> None:
    script = Script().later(10 * TIMING.heartbeat_ms)
    assert len(sent(script.step(DeadlineReached()), Pulse)) == 2


def test_one_answer_acknowledges_all_that_its_sender_leads() -> None:
    one = node("cm2")
    pulse = Pulse(5, (("address", 1), ("matchmaker", 2)), (), ())
    one.step(DeadlineReached(), TIMING.promise_ms)
    # A gateway leads the address; as a matchmaker it is no candidate, and what it claims is not acknowledged.
    assert sent(one.step(MessageReceived("gw1", pulse), TIMING.promise_ms), Ack) == [("gw1", Ack(5, (("address", 1),)))]


def test_a_pulse_carries_what_the_node_is_a_candidate_for_and_nothing_else() -> None:
    one = node("cm1")
    mine = Standing("matchmaker", True, True, 3, 9, "c0ffee")
    one.step(StandingChanged(mine, ""), 1)
    one.step(PrimedChanged(("c0ffee",)), 1)
    pulse = sent(one.step(DeadlineReached(), 1 + TIMING.heartbeat_ms), Pulse)[0][1]
    assert (pulse.standings, pulse.primed) == ((mine,), ("c0ffee",))


def test_what_a_leader_says_of_warm_collectors_is_remembered_by_sender() -> None:
    one = node("cm1")
    one.step(MessageReceived("cm2", Pulse(5, (), (), ("c0ffee",))), 1)
    assert one.primed_by == {"cm2": ("c0ffee",)}


def test_the_elections_of_a_node_are_independent() -> None:
    one = node("cm1")
    one.step(DeadlineReached(), TIMING.promise_ms)
    one.step(MessageReceived("gw1", Pulse(5, (("address", 1),), (), ())), TIMING.promise_ms)
    actions = one.step(MessageReceived("cm2", VoteRequest("matchmaker", 1, False, 5)), TIMING.promise_ms)
    assert one.elections["address"].leader == "gw1"
    assert one.elections["matchmaker"].vote == "cm2"
    assert sent(actions, VoteReply) == []


def test_alone_a_node_announces_its_lead_in_the_step_that_wins_it() -> None:
    script = Script("a", ("a",))
    script.fit()
    script.pass_time(TIMING.promise_ms)
    assert only(script.persisted(1), StartServing) != []
    assert only(script.took, Send) == [], "there is nobody to tell"


PEERS = st.sampled_from(("a", "c"))
TERMS = st.integers(0, 4)
SENT = st.integers(0, 3_000)
MESSAGES = st.one_of(
    st.builds(
        Pulse,
        SENT,
        st.lists(st.tuples(st.just(E), st.integers(1, 4)), max_size=1).map(tuple),
        st.builds(standing, fit=st.booleans(), warm=st.booleans()).map(lambda one: (one,)),
        st.just(()),
    ),
    st.builds(VoteRequest, st.just(E), TERMS, st.booleans(), SENT),
    st.builds(VoteReply, st.just(E), TERMS, st.booleans(), SENT, st.booleans(), TERMS, st.integers(0, 400)),
)
EVENTS = st.one_of(
    st.builds(MessageReceived, PEERS, MESSAGES),
    st.builds(StandingChanged, st.builds(standing, fit=st.booleans(), warm=st.booleans()), st.just("")),
    st.builds(VotePersisted, st.just(E), TERMS),
    st.just(DeadlineReached()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.integers(0, 200)), max_size=40))
def test_a_timer_that_fires_when_it_is_due_is_never_due_again_at_once(history: list) -> None:
    script = Script()
    for event, pause_ms in history:
        script.later(pause_ms)
        script.step(event)
    for _ in range(50):
        due_ms = script.node.deadline_ms()
        script.now_ms = max(script.now_ms, due_ms)
        actions = script.step(DeadlineReached())
        assert script.node.deadline_ms() > due_ms or actions, "a busy loop"
        assert script.node.deadline_ms() <= script.now_ms + TIMING.idle_ms, "a beat is always due"


def test_a_follower_whose_beat_is_due_before_long_beats_with_its_leader() -> None:
    script = Script().awake()
    script.step(DeadlineReached())
    script.later(TIMING.idle_ms - TIMING.heartbeat_ms // 2)
    assert len(sent(script.pulse("a", leads=1), Pulse)) == 2


def test_a_follower_that_has_beaten_lately_only_answers_its_leader() -> None:
    script = Script().awake()
    script.step(DeadlineReached())
    script.later(TIMING.idle_ms - TIMING.heartbeat_ms // 2 - 1)
    assert sent(script.pulse("a", leads=1), Pulse) == []


def leader_beside(me: str, other: str, timing: Timing = TIMING) -> Node:
    """Return a node that leads one election, where `other` leads another."""
    node = Node(
        me=me,
        voters=(me, other, "z"),
        plans=(ElectionPlan("address", (me,)), ElectionPlan("matchmaker", (other,))),
        timing=timing,
        saved={},
        now_ms=0,
    )
    address = node.elections["address"]
    address.role, address.leader, address.serving_term = Role.LEADER, me, 1
    address.lease.until_ms = 100_000
    node.step(DeadlineReached(), timing.promise_ms)
    return node


def beat_of(other: str, at_ms: int) -> MessageReceived:
    return MessageReceived(other, Pulse(at_ms, (("matchmaker", 1),), (), ()))


def test_of_two_leaders_the_later_in_the_alphabet_beats_with_the_other() -> None:
    for me, other, along in (("gw2", "cm1", True), ("gw2", "w1", False)):
        node = leader_beside(me, other)
        actions = node.step(beat_of(other, 5), TIMING.promise_ms + TIMING.heartbeat_ms // 2)
        assert bool(sent(actions, Pulse)) is along


def test_leaders_with_long_leases_fall_into_step_from_any_distance() -> None:
    timing = Timing(heartbeat_ms=20, lease_ms=300)
    for distance_ms in range(20):
        node = leader_beside("gw2", "cm1", timing)
        beats = [timing.promise_ms]
        other_ms = timing.promise_ms + distance_ms
        while other_ms < timing.promise_ms + 200:
            while node.deadline_ms() < other_ms:
                beats.append(node.deadline_ms())
                assert sent(node.step(DeadlineReached(), node.deadline_ms()), Pulse)
            if sent(node.step(beat_of("cm1", other_ms), other_ms), Pulse):
                beats.append(other_ms)
            other_ms += 20
        assert [(beat - distance_ms - timing.promise_ms) % 20 for beat in beats[-5:]] == [0] * 5
        gaps = [later - earlier for earlier, later in itertools.pairwise(beats)]
        assert max(gaps) <= 20 * 3 // 2, "a lease of many heartbeats does not feel half of one, once"


def test_a_leader_beats_on_beside_one_that_beats_faster() -> None:
    """While periods are being changed, node by node."""
    for theirs_ms in range(5, 100):
        timing = Timing(heartbeat_ms=50, lease_ms=400)
        node = leader_beside("gw2", "cm1", timing)
        now_ms, last_ms, longest_ms = timing.promise_ms, timing.promise_ms, 0
        their_next_ms = now_ms + theirs_ms
        while now_ms < timing.promise_ms + 2_000:
            now_ms = min(node.deadline_ms(), their_next_ms)
            theirs = now_ms == their_next_ms
            their_next_ms += theirs_ms if theirs else 0
            if sent(node.step(beat_of("cm1", now_ms) if theirs else DeadlineReached(), now_ms), Pulse):
                last_ms = now_ms
            longest_ms = max(longest_ms, now_ms - last_ms)
        assert longest_ms <= timing.heartbeat_ms * 3 // 2, f"beside a heartbeat of {theirs_ms} ms"

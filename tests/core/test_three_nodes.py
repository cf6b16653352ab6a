"""Three nodes, any order of anything: Hypothesis looks for the shortest story in which two serve at once.

The simulator draws likely stories and long ones; this machine draws unlikely ones, and shrinks what it finds.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.actions import Action, ExtendServing, PersistVote, Send, StartServing, StopServing
from gateway.core.events import (
    DeadlineReached,
    Event,
    MessageReceived,
    ResignationRequested,
    ServingStopped,
    StandingChanged,
    VotePersisted,
)
from gateway.core.node import ElectionPlan, Node, SavedVote
from gateway.wire.messages import Message
from tests.core.playbook import TIMING, E, standing

NAMES = ("a", "b", "c")
# Parts per thousand by which each clock is off: as far apart as the promise allows.
RATES = {"a": -10, "b": 10, "c": 0}
NODE = st.sampled_from(NAMES)
IN_FLIGHT_MAX = 60


class ThreeNodes(RuleBasedStateMachine):
    """A cluster whose network, disks and timers are in Hypothesis's hands."""

    @initialize()
    def begin(self) -> None:
        self.true_ms = 0
        self.nodes: dict[str, Node | None] = {}
        self.disk: dict[str, SavedVote] = dict.fromkeys(NAMES, SavedVote())
        self.writing: dict[str, list[PersistVote]] = {name: [] for name in NAMES}
        self.stopping: dict[str, list[StopServing]] = {name: [] for name in NAMES}
        self.flying: list[tuple[str, str, Message]] = []
        self.lease: dict[str, tuple[int, int]] = {}  # node -> (term, end on its own clock)
        self.led: dict[int, str] = {}
        self.votes: dict[tuple[str, int], str] = {}
        for name in NAMES:
            self.start(name)
        # Nothing happens in the first silence, but that they hear of each other; then the first of them leads.
        self.true_ms += TIMING.promise_ms - 20
        self.some_work_and_hear_each_other(set(NAMES), 12, 5)
        assert self.led, "the story begins with a leader"

    def clock(self, name: str) -> int:
        return 10_000 + self.true_ms * (1_000 + RATES[name]) // 1_000

    def start(self, name: str) -> None:
        self.nodes[name] = Node(
            me=name,
            voters=NAMES,
            plans=(ElectionPlan(E, NAMES),),
            timing=TIMING,
            saved={E: self.disk[name]},
            now_ms=self.clock(name),
        )
        self.step(name, StandingChanged(standing(), ""))

    def step(self, name: str, event: Event) -> None:
        node = self.nodes[name]
        if node is None:
            return
        for action in node.step(event, self.clock(name)):
            self.perform(name, action)

    def perform(self, name: str, action: Action) -> None:
        match action:
            case Send(to, message):
                self.flying.append((name, to, message))
                del self.flying[:-IN_FLIGHT_MAX]
            case PersistVote():
                self.writing[name].append(action)
            case StartServing(_, term, until_ms):
                assert self.led.setdefault(term, name) == name, f"two leaders in term {term}"
                self.lease[name] = (term, until_ms)
            case ExtendServing(_, term, until_ms):
                assert self.lease[name][0] == term
                assert self.lease[name][1] > self.clock(name), "an expired lease was revived"
                self.lease[name] = (term, until_ms)
            case StopServing():
                self.stopping[name].append(action)

    # -- what may happen -----------------------------------------------------------------------------------------

    @rule(by_ms=st.sampled_from((1, 5, 20, 50, 100, 250, 310)))
    def time_passes(self, by_ms: int) -> None:
        self.true_ms += by_ms

    @rule()
    def all_timers_fire(self) -> None:
        for name in NAMES:
            self.timer_fires(name)

    @rule(name=NODE)
    def timer_fires(self, name: str) -> None:
        node = self.nodes[name]
        if node is not None and node.deadline_ms() <= self.clock(name):
            self.step(name, DeadlineReached())

    @rule()
    def everything_arrives(self) -> None:
        """A good network and good disks, for one round: without it no leader is ever made by chance."""
        for name in NAMES:
            self.vote_is_written(name)
        flying, self.flying = self.flying, []
        for sender, to, message in flying:
            self.step(to, MessageReceived(sender, message))

    @rule(working=st.sets(NODE, min_size=1), rounds=st.sampled_from((1, 3, 10)), round_ms=st.sampled_from((5, 35)))
    def some_work_and_hear_each_other(self, working: set[str], rounds: int, round_ms: int) -> None:
        """A partition, or none: the others neither hear, nor are heard, nor act."""
        for _ in range(rounds):
            self.true_ms += round_ms
            for name in sorted(working):
                self.timer_fires(name)
                self.vote_is_written(name)
            flying = [one for one in self.flying if {one[0], one[1]} <= working]
            self.flying = [one for one in self.flying if one not in flying]
            for sender, to, message in flying:
                self.step(to, MessageReceived(sender, message))

    @rule(one=NODE, round_ms=st.integers(20, 35))
    def one_is_cut_off_for_about_a_lease(self, one: str, round_ms: int) -> None:
        self.some_work_and_hear_each_other(set(NAMES) - {one}, 12, round_ms)

    @rule(one=NODE)
    def one_blinks(self, one: str) -> None:
        """It dies and is back at once: what it had promised is forgotten, not over."""
        self.node_crashes(one)
        self.node_restarts(one)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), again=st.booleans())
    def one_message_arrives(self, data: st.DataObject, again: bool) -> None:
        which = data.draw(st.integers(0, len(self.flying) - 1))
        sender, to, message = self.flying[which]
        if not again:
            del self.flying[which]
        self.step(to, MessageReceived(sender, message))

    @rule(name=NODE)
    def messages_to_one_are_lost(self, name: str) -> None:
        self.flying = [one for one in self.flying if one[1] != name]

    @rule(name=NODE)
    def messages_of_one_are_lost(self, name: str) -> None:
        self.flying = [one for one in self.flying if one[0] != name]

    @rule(name=NODE)
    def vote_is_written(self, name: str) -> None:
        if self.writing[name]:
            done = self.writing[name].pop(0)
            self.disk[name] = SavedVote(done.term, done.vote)
            before = self.votes.setdefault((name, done.term), done.vote)
            assert before == done.vote, f"{name} voted for {before} and {done.vote} in term {done.term}"
            self.step(name, VotePersisted(E, done.term))

    @rule(name=NODE)
    def stop_is_done(self, name: str) -> None:
        if self.stopping[name]:
            done = self.stopping[name].pop(0)
            if self.lease.get(name, (None, 0))[0] == done.term:
                del self.lease[name]
            self.step(name, ServingStopped(E, done.term))

    @rule(name=NODE)
    def node_crashes(self, name: str) -> None:
        """Its lease stays until its end: whatever it served may still run."""
        self.nodes[name] = None
        self.writing[name].clear()
        self.stopping[name].clear()

    @rule(name=NODE)
    def node_restarts(self, name: str) -> None:
        if self.nodes[name] is None:
            self.start(name)

    @rule(name=NODE)
    def leader_is_asked_to_resign(self, name: str) -> None:
        self.step(name, ResignationRequested(E, "told to"))

    @rule(name=NODE, fit=st.booleans())
    def fitness_changes(self, name: str, fit: bool) -> None:
        self.step(name, StandingChanged(standing(fit=fit), "told to be"))

    @invariant()
    def nobody_serves_beside_another(self) -> None:
        if not hasattr(self, "lease"):
            return
        serving = [name for name, (_, until_ms) in self.lease.items() if self.clock(name) < until_ms]
        assert len(serving) <= 1, f"{serving} serve at once"


ThreeNodes.TestCase.settings = settings(max_examples=150, stateful_step_count=80, deadline=None)
TestThreeNodes = ThreeNodes.TestCase

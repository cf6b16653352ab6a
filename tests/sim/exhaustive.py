"""Exhaustive: every interleaving of small stories: three nodes, up to six messages in flight, one crash.

Chance finds what is likely; this finds what is possible, within its scope. All clocks agree and show multiples of a
tick, and timers fire within one; everything else is free: any message in flight may be next, or stay; a vote may reach
the disk at any moment, also right before a crash; a stop may be confirmed at any moment. States that differ in nothing
that matters (`fingerprint`) are visited once.

Pre-votes are granted for the asking: they spare a cluster useless terms, and no promise rests on them. Left out are
messages that decide nothing: heartbeats of those who lead nothing, and refusals.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from gateway.core.actions import Action, ExtendServing, PersistOrders, PersistVote, Send, StartServing, StopServing
from gateway.core.events import (
    DeadlineReached,
    Event,
    MessageReceived,
    OrdersGiven,
    OrdersPersisted,
    ResignationRequested,
    ServingStopped,
    StandingChanged,
    VotePersisted,
)
from gateway.core.node import ElectionPlan, Node, SavedVote
from gateway.core.orders import NO_ORDERS, paused
from gateway.core.timing import Timing
from gateway.wire.messages import Message, Orders, Pulse, Resignation, Standing, VoteReply, VoteRequest

from .audit import Violation
from .fingerprint import MEMORY_MS, clone, fingerprint

NAMES = ("a", "b", "c")
E = "address"
TIMING = Timing(heartbeat_ms=20, lease_ms=40)  # promise 42, margin 10, stagger 10, round 20
TICK_MS = 21  # half a promise
START_MS = 1_000
STANDING = Standing(E, True, True, 0, 0, "")

Flight = tuple[int, int, int, Message]  # sent (ms), from, to, message
Key = tuple[Any, ...]
Decision = tuple[Node, int, list[Action]]
NUMBERS: dict[Any, int] = {}  # flights and fingerprints by number: each is hashed once, not in every state


def number_of(thing: Any) -> int:
    return NUMBERS.setdefault(thing, len(NUMBERS))


def print_of(node: Node, now_ms: int) -> int:
    return number_of(fingerprint(node, now_ms))


class State(msgspec.Struct):
    """The cluster at one moment. Never changed once it is made; nodes are shared between states."""

    now_ms: int
    nodes: tuple[Node | None, ...]
    prints: tuple[int, ...]  # numbers of their fingerprints; -1: it does not run
    flying: tuple[tuple[int, Flight], ...]  # with its number
    disk: tuple[SavedVote, ...]
    writing: tuple[PersistVote | None, ...]
    stopping: tuple[int | None, ...]  # term whose stop is not confirmed yet
    leases: tuple[int, ...]  # until when each node serves, its kernel sees to it
    led: tuple[tuple[int, int], ...]  # (term, node)
    ballots: tuple[tuple[int, int, str], ...]  # (term, voter, candidate)
    crashes: int  # that may still happen
    handovers: int
    pauses: int
    orders: tuple[Orders, ...]  # on the disks


class Scope(msgspec.Struct, frozen=True):
    """How much is explored."""

    candidates: tuple[str, ...] = ("a", "b")
    ticks: int = 0
    crashes: int = 1
    handovers: int = 0  # a leader may be asked for so many
    pauses: int = 0  # that may be ordered, at any node; its disk has them at once
    messages_max: int = 6  # in flight: another is lost
    term_max: int = 3


class Explored(msgspec.Struct):
    """What came of it; `story` is empty where no promise was broken."""

    states: int = 0
    transitions: int = 0
    violation: str = ""
    story: list[str] = msgspec.field(default_factory=list)


def key_of(state: State) -> Key:
    """Return what makes `state` another one than those seen."""
    now_ms = state.now_ms
    return (
        state.prints,
        frozenset([number for number, _ in state.flying]),
        number_of(
            (
                (state.disk, state.writing, state.stopping, state.led, state.ballots, state.crashes, state.handovers),
                (state.pauses, state.orders),
            )
        ),
        tuple([until_ms if until_ms > now_ms else 0 for until_ms in state.leases]),
        now_ms,  # the horizon is a time
    )


# -- what may happen -----------------------------------------------------------------------------------------------


class Explorer:
    """Visits every state that can follow from `begin`.

    Args:
        begin: the first state.
        scope: how far.
    """

    def __init__(self, begin: State, scope: Scope) -> None:
        self.begin = begin
        self.scope = scope
        self.end_ms = begin.now_ms + scope.ticks * TICK_MS
        self.decisions: dict[tuple[int, int, Event], Decision] = {}

    def explore(self, states_max: int = 10_000_000) -> Explored:
        """Go breadth first, so that a broken promise is shown by one of the shortest stories."""
        seen: set[int] = {hash(key_of(self.begin))}
        parents: list[tuple[int, str]] = [(-1, "begin")]
        queue: deque[tuple[int, State]] = deque([(0, self.begin)])
        done = Explored(states=1)
        while queue and done.states < states_max:
            number, state = queue.popleft()
            for label, change in self.moves(state):
                done.transitions += 1
                try:
                    after = change()
                except AssertionError as failure:
                    done.violation = str(failure)
                    done.story = [*_story(parents, number), label]
                    return done
                mark = hash(key_of(after))
                if mark not in seen:
                    seen.add(mark)
                    parents.append((number, label))
                    queue.append((done.states, after))
                    done.states += 1
        return done

    def moves(self, state: State) -> Iterator[tuple[str, Any]]:
        """Yield what may happen next, each with a function that lets it happen."""
        for place, (_, (_, source, to, message)) in enumerate(state.flying):
            if state.nodes[to] is not None:
                event = MessageReceived(NAMES[source], message)
                rest = state.flying[:place] + state.flying[place + 1 :]
                yield (
                    f"{NAMES[to]} hears {NAMES[source]}: {message}",
                    lambda to=to, event=event, rest=rest: self.step(state, to, event, flying=rest),
                )
        punctual = True
        for who, node in enumerate(state.nodes):
            if node is None:
                yield f"{NAMES[who]} starts again", lambda who=who: self.restart(state, who)
                continue
            if node.deadline_ms() <= state.now_ms:
                punctual = False
                yield f"{NAMES[who]}'s timer", lambda who=who: self.step(state, who, DeadlineReached())
            writing = state.writing[who]
            if writing is not None:
                yield f"{NAMES[who]} has written", lambda who=who, writing=writing: self.written(state, who, writing)
            term = state.stopping[who]
            if term is not None:
                yield f"{NAMES[who]} has stopped", lambda who=who, term=term: self.stopped(state, who, term)
            if state.handovers:
                for heir in ("", *self.scope.candidates):
                    yield (
                        f"{NAMES[who]} is asked to make way for {heir}",
                        lambda who=who, heir=heir: self.hand_over(state, who, heir),
                    )
            if state.pauses:
                yield f"the cluster is paused at {NAMES[who]}", lambda who=who: self.pause(state, who)
            if state.crashes:
                yield f"{NAMES[who]} crashes", lambda who=who: self.crash(state, who, written=False)
                if writing is not None:
                    yield f"{NAMES[who]} writes, crashes", lambda who=who: self.crash(state, who, written=True)
        if punctual and state.now_ms + TICK_MS <= self.end_ms:
            yield "time passes", lambda: self.tick(state)

    def tick(self, state: State) -> State:
        now_ms = state.now_ms + TICK_MS
        # What is older than a promise comes too late for anybody.
        flying = tuple(one for one in state.flying if now_ms - one[1][0] <= MEMORY_MS)
        prints = tuple(-1 if node is None else print_of(node, now_ms) for node in state.nodes)
        return msgspec.structs.replace(state, now_ms=now_ms, flying=flying, prints=prints)

    def written(self, state: State, who: int, vote: PersistVote) -> State:
        disk = _put(state.disk, who, SavedVote(vote.term, vote.vote))
        after = msgspec.structs.replace(state, disk=disk, writing=_put(state.writing, who, None))
        return self.step(after, who, VotePersisted(E, vote.term))

    def stopped(self, state: State, who: int, term: int) -> State:
        after = msgspec.structs.replace(
            state, stopping=_put(state.stopping, who, None), leases=_put(state.leases, who, 0)
        )
        return self.step(after, who, ServingStopped(E, term))

    def hand_over(self, state: State, who: int, heir: str) -> State:
        after = msgspec.structs.replace(state, handovers=state.handovers - 1)
        return self.step(after, who, ResignationRequested(E, "asked", heir))

    def pause(self, state: State, who: int) -> State:
        after = msgspec.structs.replace(state, pauses=state.pauses - 1)
        return self.step(after, who, OrdersGiven(paused(NO_ORDERS, by=NAMES[who], at_s=0, reason="")))

    def crash(self, state: State, who: int, *, written: bool) -> State:
        vote, disk = state.writing[who], state.disk
        if written and vote is not None:
            disk = _put(disk, who, SavedVote(vote.term, vote.vote))
        return msgspec.structs.replace(
            state,
            nodes=_put(state.nodes, who, None),
            prints=_put(state.prints, who, -1),
            disk=disk,
            writing=_put(state.writing, who, None),
            stopping=_put(state.stopping, who, None),
            crashes=state.crashes - 1,
        )

    def restart(self, state: State, who: int) -> State:
        node = new_node(who, self.scope.candidates, state.disk[who], state.now_ms, state.orders[who])
        prints = _put(state.prints, who, print_of(node, state.now_ms))
        return msgspec.structs.replace(state, nodes=_put(state.nodes, who, node), prints=prints)

    def step(
        self, state: State, who: int, event: Event, *, flying: tuple[tuple[int, Flight], ...] | None = None
    ) -> State:
        """Let a node take an event, and carry out its actions in order."""
        node, number, actions = self.decide(state, who, event)
        after = State(
            state.now_ms,
            _put(state.nodes, who, node),
            _put(state.prints, who, number),
            state.flying if flying is None else flying,
            state.disk,
            state.writing,
            state.stopping,
            state.leases,
            state.led,
            state.ballots,
            state.crashes,
            state.handovers,
            state.pauses,
            state.orders,
        )
        for action in actions:
            self.perform(after, who, action)
        for action in actions:
            if type(action) is PersistOrders:
                after.orders = _put(after.orders, who, action.orders)
                after = self.step(after, who, OrdersPersisted(action.orders))
        return after

    def decide(self, state: State, who: int, event: Event) -> Decision:
        """Return what a node becomes and does; nodes in one state decide alike, so each is asked once."""
        question = (state.prints[who], state.now_ms, event)
        known = self.decisions.get(question)
        if known is not None:
            return known
        before = state.nodes[who]
        assert before is not None, "only who runs takes steps"
        node = clone(before)
        actions = node.step(event, state.now_ms)
        asked = next((one.message for one in actions if type(one) is Send and _is_pre_vote(one.message)), None)
        if asked is not None:
            yes = VoteReply(E, asked.term, True, asked.sent_ms, True, asked.term - 1, 0)
            peer = NAMES[(who + 1) % len(NAMES)]
            actions = [
                *(one for one in actions if type(one) is not Send or not _is_pre_vote(one.message)),
                *node.step(MessageReceived(peer, yes), state.now_ms),
            ]
        decision = (node, print_of(node, state.now_ms), actions)
        self.decisions[question] = decision
        return decision

    def perform(self, state: State, who: int, action: Action) -> None:
        """Carry out one action in a state that nobody else has seen yet."""
        match action:
            case Send(to, message):
                self.send(state, who, NAMES.index(to), message)
            case PersistVote(_, term, vote):
                saved = state.disk[who]
                if term < saved.term or (term == saved.term and vote != saved.vote):
                    raise Violation(f"S5: {NAMES[who]} writes {action} over {saved}")
                self.require_not_paused(state, who, action)
                state.writing = _put(state.writing, who, action)
            case StartServing(_, term, until_ms):
                self.require_not_paused(state, who, action)
                if any(led == term and other != who for led, other in state.led):
                    raise Violation(f"S1: {NAMES[who]} is the second to lead term {term}")
                state.led = tuple(sorted({*state.led, (term, who)}))
                self.grant(state, who, until_ms)
            case ExtendServing(_, _, until_ms):
                self.grant(state, who, until_ms)
            case StopServing(_, term):
                state.stopping = _put(state.stopping, who, term)

    def require_not_paused(self, state: State, who: int, action: Action) -> None:
        node = state.nodes[who]
        if node is not None and node.book.paused:
            raise Violation(f"O1: {NAMES[who]} acts by a pause, and: {action}")

    def grant(self, state: State, who: int, until_ms: int) -> None:
        for other, other_until_ms in enumerate(state.leases):
            if other != who and min(until_ms, other_until_ms) > state.now_ms:
                raise Violation(f"S2: {NAMES[who]} and {NAMES[other]} both serve at {state.now_ms}")
        state.leases = _put(state.leases, who, until_ms)

    def send(self, state: State, who: int, to: int, message: Message) -> None:
        """Put a message into the network; where it is full, the message is lost."""
        match message:
            case VoteRequest(_, term, pre=False):
                self.vote(state, who, term, NAMES[who])
            case VoteReply(_, term, pre=False, granted=True):
                self.vote(state, who, term, NAMES[to])
            case Resignation() if state.leases[who] > state.now_ms:
                raise Violation(f"rule 8: {NAMES[who]} resigns and still serves")
            case Pulse(leads=()) | VoteReply(granted=False):
                return  # the one is for the ranking, the other makes a candidate patient: they decide nothing
        if len(state.flying) < self.scope.messages_max and term_of(message) <= self.scope.term_max:
            flight = (state.now_ms, who, to, message)
            number = number_of(flight)
            if all(number != other for other, _ in state.flying):
                state.flying = (*state.flying, (number, flight))

    def vote(self, state: State, who: int, term: int, candidate: str) -> None:
        if state.disk[who] != SavedVote(term, candidate):
            raise Violation(f"S5: {NAMES[who]} votes for {candidate} in {term}; its disk has {state.disk[who]}")
        for voted, voter, before in state.ballots:
            if voted == term and voter == who and before != candidate:
                raise Violation(f"S5: {NAMES[who]} votes for {before} and {candidate} in {term}")
        state.ballots = tuple(sorted({*state.ballots, (term, who, candidate)}))


def _is_pre_vote(message: Message) -> bool:
    return isinstance(message, VoteRequest) and message.pre


def term_of(message: Message) -> int:
    """Return the highest term that a message speaks of."""
    if isinstance(message, Orders):
        return 0
    return message.leads[0][1] if not isinstance(message, VoteRequest | VoteReply | Resignation) else message.term


def _put(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _story(parents: list[tuple[int, str]], number: int) -> list[str]:
    labels: list[str] = []
    while number >= 0:
        number, label = parents[number]
        labels.append(label)
    return labels[::-1]


# -- beginnings ----------------------------------------------------------------------------------------------------


def new_node(who: int, candidates: tuple[str, ...], saved: SavedVote, now_ms: int, orders: Orders = NO_ORDERS) -> Node:
    node = Node(
        me=NAMES[who],
        voters=NAMES,
        plans=(ElectionPlan(E, candidates),),
        timing=TIMING,
        saved={E: saved},
        now_ms=now_ms,
        orders=orders,
    )
    node.step(StandingChanged(STANDING), now_ms)
    return node


def all_free(scope: Scope) -> State:
    """Three nodes at the end of the silence after their start: nobody leads, every candidate may stand."""
    nobody = SavedVote()
    now_ms = START_MS + TIMING.promise_ms + TIMING.stagger_ms * (len(scope.candidates) - 1)
    nodes = tuple(new_node(who, scope.candidates, nobody, START_MS) for who in range(len(NAMES)))
    return State(
        now_ms=now_ms,
        nodes=nodes,
        prints=tuple(print_of(node, now_ms) for node in nodes),
        flying=(),
        disk=(nobody,) * 3,
        writing=(None,) * 3,
        stopping=(None,) * 3,
        leases=(0,) * 3,
        led=(),
        ballots=(),
        crashes=scope.crashes,
        handovers=scope.handovers,
        pauses=scope.pauses,
        orders=(NO_ORDERS,) * 3,
    )


def one_leads(scope: Scope) -> State:
    """The same, after `a` has been elected by both, both have answered its first heartbeat, and all have heard all."""
    explorer = Explorer(all_free(scope), scope)
    state = explorer.step(explorer.begin, 0, DeadlineReached())
    while any(state.writing) or state.flying:
        calm = [move for label, move in explorer.moves(state) if " hears " in label or label.endswith("has written")]
        state = calm[0]()
    for who in range(len(NAMES)):
        for peer in scope.candidates:  # a leader can name only whom it has heard
            state = explorer.step(state, who, MessageReceived(peer, Pulse(state.now_ms, (), (STANDING,), ())))
    assert state.led == ((1, 0),), "a leads the first term"
    return state


# What is explored in every run of the tests; and what takes minutes, by hand.
STORIES: dict[str, tuple[Callable[[Scope], State], Scope]] = {
    "three candidates, one crash": (all_free, Scope(candidates=NAMES)),
    "two candidates, half a promise": (all_free, Scope(ticks=1, crashes=0)),
    "a leader, one crash, a promise": (one_leads, Scope(ticks=2)),
    "a leader hands over": (one_leads, Scope(candidates=NAMES, crashes=0, handovers=1)),
    "a leader hands over, half a promise": (one_leads, Scope(ticks=1, crashes=0, handovers=1)),
    "a leader hands over, one crash": (one_leads, Scope(ticks=0, crashes=1, handovers=1)),
    "two candidates, a pause": (all_free, Scope(crashes=0, pauses=1, messages_max=4)),
    "a leader hands over, a pause": (one_leads, Scope(crashes=0, handovers=1, pauses=1)),
}
LONG_STORIES: dict[str, tuple[Callable[[Scope], State], Scope]] = {
    "two candidates, one crash, half a promise": (all_free, Scope(ticks=1)),
    "a leader, three candidates, one crash, a promise": (one_leads, Scope(candidates=NAMES, ticks=2)),
    "two candidates, a pause, one crash": (all_free, Scope(pauses=1)),
    "a leader, eight messages, one crash, a promise": (one_leads, Scope(ticks=2, messages_max=8)),
}


def explore(name: str) -> Explored:
    """Explore the story `name`."""
    begin, scope = (STORIES | LONG_STORIES)[name]
    NUMBERS.clear()
    return Explorer(begin(scope), scope).explore()


def main() -> int:
    """Explore what takes minutes: `python -m tests.sim.exhaustive`."""
    for name in STORIES | LONG_STORIES:
        done = explore(name)
        print(f"{name:<50} {done.states:>9} states {done.transitions:>9} steps  {done.violation or 'no violation'}")
        for line in done.story:
            print(f"    {line}")
        if done.violation:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Playbook: one node and a script of what happens to it; the tests of single rules are written with it."""

from __future__ import annotations

from typing import TypeVar

from gateway.core.actions import Action, PersistVote, Send
from gateway.core.election import Election
from gateway.core.events import (
    DeadlineReached,
    Event,
    MessageReceived,
    OrdersGiven,
    OrdersPersisted,
    StandingChanged,
    VotePersisted,
)
from gateway.core.node import ElectionPlan, Node, SavedVote
from gateway.core.orders import NO_ORDERS
from gateway.core.timing import Timing
from gateway.wire.messages import Ack, Message, Orders, Pulse, Standing, VoteReply, VoteRequest

TIMING = Timing(heartbeat_ms=50, lease_ms=300)
E = "address"
Kind = TypeVar("Kind")


def standing(*, fit: bool = True, warm: bool = True, term: int = 0, generation: int = 0, records: int = 0) -> Standing:
    return Standing(E, fit, warm, term, generation, "", records)


def only(actions: list[Action], kind: type[Kind]) -> list[Kind]:
    """Return the actions of one kind, in their order."""
    return [action for action in actions if isinstance(action, kind)]


def sent(actions: list[Action], kind: type[Kind]) -> list[tuple[str, Kind]]:
    """Return the messages of one kind that are sent, each with its receiver, in their order."""
    return [(one.to, one.message) for one in only(actions, Send) if isinstance(one.message, kind)]


class Script:
    """A node of a cluster of three, and a clock that only the script moves.

    Args:
        me: its name.
        voters: the cluster; all are candidates, in this order of preference.
        saved: what its disk holds.
        at: what its clock shows when it starts.
    """

    def __init__(
        self,
        me: str = "b",
        voters: tuple[str, ...] = ("a", "b", "c"),
        *,
        saved: SavedVote | None = None,
        at: int = 1_000,
        candidates: tuple[str, ...] | None = None,
        orders: Orders = NO_ORDERS,
    ) -> None:
        self.now_ms = at
        self.node = Node(
            me=me,
            voters=voters,
            plans=(ElectionPlan(E, voters if candidates is None else candidates),),
            timing=TIMING,
            saved={} if saved is None else {E: saved},
            now_ms=at,
            orders=orders,
        )
        self.took: list[Action] = []  # all actions so far

    @property
    def election(self) -> Election:
        return self.node.elections[E]

    def step(self, event: Event) -> list[Action]:
        actions = self.node.step(event, self.now_ms)
        self.took += actions
        return actions

    def later(self, by_ms: int) -> Script:
        self.now_ms += by_ms
        return self

    def hear(self, sender: str, message: Message) -> list[Action]:
        return self.step(MessageReceived(sender, message))

    def fit(self, **what: int) -> list[Action]:
        return self.step(StandingChanged(standing(**what), ""))

    def pulse(
        self, sender: str, *, leads: int | None = None, sent_ms: int = 7, orders: int = 0, **what: int
    ) -> list[Action]:
        """Hear a peer's pulse; with `leads` it leads that term, with `orders` it shows that digest."""
        led = () if leads is None else ((E, leads),)
        return self.hear(sender, Pulse(sent_ms, led, (standing(**what),), (), 0, orders))

    def ask(self, sender: str, term: int, *, pre: bool = False, sent_ms: int = 7) -> list[Action]:
        return self.hear(sender, VoteRequest(E, term, pre, sent_ms))

    def grant(self, sender: str, term: int, *, pre: bool = False, sent_ms: int) -> list[Action]:
        return self.hear(sender, VoteReply(E, term, pre, sent_ms, True, term, 0))

    def refuse(
        self, sender: str, term: int, *, pre: bool = False, sent_ms: int, highest: int, wait_ms: int = 0
    ) -> list[Action]:
        return self.hear(sender, VoteReply(E, term, pre, sent_ms, False, highest, wait_ms))

    def ack(self, sender: str, sent_ms: int) -> list[Action]:
        return self.hear(sender, Ack(sent_ms, ((E, self.election.term),)))

    def persisted(self, term: int) -> list[Action]:
        return self.step(VotePersisted(E, term))

    def order(self, orders: Orders) -> list[Action]:
        """Be given orders by an operator, and have them on the disk."""
        return self.step(OrdersGiven(orders)) + self.step(OrdersPersisted(orders))

    # -- longer stretches ----------------------------------------------------------------------------------------

    def awake(self) -> Script:
        """Wait out the silence after the start."""
        self.later(TIMING.promise_ms)
        return self

    def pass_time(self, by_ms: int) -> list[Action]:
        """Let time pass with punctual timers; return what the node did of itself."""
        end_ms, done = self.now_ms + by_ms, []
        while self.node.deadline_ms() <= end_ms:
            self.now_ms = max(self.now_ms, self.node.deadline_ms())
            done += self.step(DeadlineReached())
        self.now_ms = end_ms
        return done

    def lead(self) -> list[Action]:
        """Win an election with the votes of one peer; return the actions of the winning step."""
        self.fit()
        while not sent(self.took, VoteRequest):
            self.pass_time(10)
        term = self.election.term + 1
        other = self.node.voters[0] if self.node.voters[0] != self.node.me else self.node.voters[1]
        asked_ms = sent(self.took, VoteRequest)[-1][1].sent_ms
        actions = self.grant(other, term, pre=True, sent_ms=asked_ms)
        assert only(actions, PersistVote), "a pre-vote won is a vote to write"
        actions = self.persisted(term)
        asked_ms = sent(actions, VoteRequest)[-1][1].sent_ms
        return self.grant(other, term, sent_ms=asked_ms)

"""Mutants: the core with one rule broken, each as one small patch. The simulator is only worth what it catches of them.

A mutant changes classes of `gateway.core` for the length of a `with`. Names are promises turned round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from gateway.core.actions import Action, StopServing
from gateway.core.election import Election
from gateway.core.events import DeadlineReached
from gateway.core.lease import Lease
from gateway.core.node import Node
from gateway.core.promise import Promise
from gateway.core.timing import Timing
from gateway.wire.messages import VoteReply

Patched = tuple[type, str, Any]
MUTANTS: dict[str, Callable[[], list[Patched]]] = {}


def mutant(function: Callable[[], list[Patched]]) -> Callable[[], list[Patched]]:
    MUTANTS[function.__name__] = function
    return function


def applied(name: str | None) -> AbstractContextManager[None]:
    """Break the rule `name` inside the `with`; None breaks nothing."""
    return nullcontext() if name is None else _apply(MUTANTS[name]())


@contextmanager
def _apply(patches: list[Patched]) -> Iterator[None]:
    if not patches:
        yield
        return
    (owner, attribute, broken), *rest = patches
    with patch.object(owner, attribute, broken), _apply(rest):  # an attribute that is gone raises here
        yield


# -- votes (rule 1) ----------------------------------------------------------------------------------------------


@mutant
def restart_forgets_votes() -> list[Patched]:
    born = Node.__init__

    def init(self: Node, **arguments: Any) -> None:
        born(self, **{**arguments, "saved": {}})

    return [(Node, "__init__", init)]


@mutant
def vote_sent_before_it_is_written() -> list[Patched]:
    hear = Election.hear_vote_request

    def hear_vote_request(self: Election, *arguments: Any) -> list[Action]:
        actions = hear(self, *arguments)
        if self.answer_when_persisted is not None:
            actions.append(self.answer_when_persisted)
            self.answer_when_persisted = None
        return actions

    return [(Election, "hear_vote_request", hear_vote_request)]


@mutant
def votes_twice_in_a_term() -> list[Patched]:
    hear = Election.hear_vote_request

    def hear_vote_request(self: Election, now_ms: int, sender: str, request: Any) -> list[Action]:
        if request.term == self.term and not request.pre and self.serving_term is None:
            self.vote = sender
        return hear(self, now_ms, sender, request)

    return [(Election, "hear_vote_request", hear_vote_request)]


@mutant
def half_is_a_majority() -> list[Patched]:
    born = Election.__init__

    def init(self: Election, **arguments: Any) -> None:
        born(self, **arguments)
        self.lease.majority = max(len(self.voters) // 2, 1)

    return [
        (Election, "majority", property(lambda self: max(len(self.voters) // 2, 1))),
        (Election, "__init__", init),
    ]


# -- promises (rules 2 and 4) ------------------------------------------------------------------------------------


@mutant
def promise_shorter_than_the_lease() -> list[Patched]:
    return [(Timing, "promise_ms", property(lambda self: self.lease_ms * 3 // 4))]


@mutant
def acknowledges_while_bound_to_another() -> list[Patched]:
    hear = Election.hear_leader

    def hear_leader(self: Election, now_ms: int, sender: str, term: int) -> tuple[bool, list[Action]]:
        accepted, actions = hear(self, now_ms, sender, term)
        if not accepted and self.leader == sender and self.serving_term is None and now_ms >= self.quiet_until_ms:
            self.promise.to, self.promise.term = sender, term
            self.promise.until_ms = now_ms + self.timing.promise_ms
            accepted = True
        return accepted, actions

    return [(Election, "hear_leader", hear_leader)]


@mutant
def acknowledges_without_a_promise() -> list[Patched]:
    hear = Election.hear_leader

    def hear_leader(self: Election, now_ms: int, sender: str, term: int) -> tuple[bool, list[Action]]:
        before = (self.promise.to, self.promise.term, self.promise.until_ms)
        accepted, actions = hear(self, now_ms, sender, term)
        self.promise.to, self.promise.term, self.promise.until_ms = before
        return accepted, actions

    return [(Election, "hear_leader", hear_leader)]


@mutant
def no_silence_after_start() -> list[Patched]:
    born = Election.__init__

    def init(self: Election, **arguments: Any) -> None:
        born(self, **arguments)
        self.quiet_until_ms = self.stand_at_ms = arguments["now_ms"]

    return [(Election, "__init__", init)]


@mutant
def votes_while_serving() -> list[Patched]:
    def bound(self: Election, now_ms: int, candidate: str) -> int:
        return max(self.quiet_until_ms - now_ms, self.promise.left_ms(now_ms, candidate), 0)

    return [(Election, "bound", bound)]


# -- leases (rule 3) ---------------------------------------------------------------------------------------------


@mutant
def margin_is_negative() -> list[Patched]:
    return [(Timing, "margin_ms", property(lambda self: -max(10, self.lease_ms // 20)))]


@mutant
def lease_from_the_receipt() -> list[Patched]:
    hear = Election.hear_ack

    def hear_ack(self: Election, now_ms: int, sender: str, term: int, sent_ms: int) -> list[Action]:
        return hear(self, now_ms, sender, term, now_ms)

    return [(Election, "hear_ack", hear_ack)]


@mutant
def late_acknowledgement_revives_a_lease() -> list[Patched]:
    step = Node.step

    def late_step(self: Node, event: Any, now_ms: int) -> list[Action]:
        first = self._take(event, now_ms)
        return first + step(self, DeadlineReached(), now_ms)

    def extend(self: Lease, now_ms: int) -> bool:
        sent = sorted((*self.answers.values(), now_ms), reverse=True)
        if len(sent) < self.majority:
            return False
        before_ms, self.until_ms = self.until_ms, max(self.until_ms, self._until_ms(sent[self.majority - 1]))
        return self.until_ms > before_ms

    return [(Node, "step", late_step), (Lease, "extend", extend)]


@mutant
def lease_never_ends_by_itself() -> list[Patched]:
    expire = Election.expire

    def patched(self: Election, now_ms: int) -> list[Action]:
        serving, self.serving_term = self.serving_term, None
        actions = expire(self, now_ms)
        self.serving_term = serving
        return actions

    return [(Election, "expire", patched)]


# -- candidates and resignation (rules 5 and 8) ------------------------------------------------------------------


@mutant
def no_pre_vote() -> list[Patched]:
    ask = Election.ask_pre_votes

    def ask_pre_votes(self: Election, now_ms: int) -> list[Action]:
        actions = ask(self, now_ms)
        if actions:
            self.granted = set(self.voters)
            return self.count(now_ms)
        return actions

    return [(Election, "ask_pre_votes", ask_pre_votes)]


@mutant
def resigns_before_the_stop_is_confirmed() -> list[Patched]:
    lose = Election.lose

    def early(self: Election, *arguments: Any, **options: Any) -> list[Action]:
        actions = lose(self, *arguments, **options)
        stops = [action for action in actions if isinstance(action, StopServing)]
        return actions + [send for stop in stops for send in self.tell_resigned(stop.term, "soon")]

    return [(Election, "lose", early)]


@mutant
def any_resignation_frees() -> list[Patched]:
    hear = Election.hear_resignation

    def hear_resignation(self: Election, now_ms: int, sender: str, resignation: Any) -> list[Action]:
        self.promise.release(now_ms)
        return hear(self, now_ms, sender, resignation)

    return [(Election, "hear_resignation", hear_resignation)]


@mutant
def forgets_that_its_stop_is_not_confirmed() -> list[Patched]:
    lose = Election.lose

    def patched(self: Election, *arguments: Any, **options: Any) -> list[Action]:
        actions = lose(self, *arguments, **options)
        self.serving_term = None
        return actions

    return [(Election, "lose", patched)]


@mutant
def forgets_whom_it_promised() -> list[Patched]:
    return [(Promise, "left_ms", lambda self, now_ms, candidate: 0)]


@mutant
def refused_vote_counts() -> list[Patched]:
    hear = Election.hear_vote_reply

    def hear_vote_reply(self: Election, now_ms: int, sender: str, reply: VoteReply) -> list[Action]:
        granted = VoteReply(
            reply.election, reply.term, reply.pre, reply.sent_ms, True, reply.highest_term, reply.wait_ms
        )
        return hear(self, now_ms, sender, granted)

    return [(Election, "hear_vote_reply", hear_vote_reply)]

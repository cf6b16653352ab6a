"""Mutants: the core with one rule broken, each as one small patch. The simulator is only worth what it catches of them.

A mutant changes classes of `gateway.core` for the length of a `with`. Names are promises turned round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import msgspec

from gateway.core import voter
from gateway.core.actions import Action, StopServing
from gateway.core.election import Election, Phase
from gateway.core.events import DeadlineReached
from gateway.core.lease import Lease
from gateway.core.node import Node
from gateway.core.promise import Promise
from gateway.core.reach import Reach
from gateway.core.snapshot import NodeState
from gateway.core.timing import Timing
from gateway.core.voter import Role, Voter
from gateway.wire.messages import VoteReply

from . import host

Patched = tuple[Any, str, Any]
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
    return [(Reach, "quorum", lambda self, now_ms: max(len(self.voters) // 2, 1))]


# -- promises (rules 2 and 4) ------------------------------------------------------------------------------------


@mutant
def promise_shorter_than_the_lease() -> list[Patched]:
    return [
        (voter, "promise_ms_for", lambda lease_ms: lease_ms * 3 // 4),
        (Timing, "promise_ms", property(lambda self: self.lease_ms * 3 // 4)),
    ]


@mutant
def acknowledges_while_bound_to_another() -> list[Patched]:
    hear = Election.hear_leader

    def hear_leader(self: Election, now_ms: int, sender: str, *what: int) -> tuple[bool, list[Action]]:
        accepted, actions = hear(self, now_ms, sender, *what)
        if not accepted and self.leader == sender and self.serving_term is None and now_ms >= self.quiet_until_ms:
            self.promise.to, self.promise.term = sender, what[0]
            self.promise.until_ms = now_ms + self.timing.promise_ms
            accepted = True
        return accepted, actions

    return [(Election, "hear_leader", hear_leader)]


@mutant
def acknowledges_without_a_promise() -> list[Patched]:
    hear = Election.hear_leader

    def hear_leader(self: Election, *what: Any) -> tuple[bool, list[Action]]:
        before = (self.promise.to, self.promise.term, self.promise.until_ms)
        accepted, actions = hear(self, *what)
        self.promise.to, self.promise.term, self.promise.until_ms = before
        return accepted, actions

    return [(Election, "hear_leader", hear_leader)]


@mutant
def no_silence_after_start() -> list[Patched]:
    born = Election.__init__

    def init(self: Election, *seat: Any, **arguments: Any) -> None:
        born(self, *seat, **arguments)
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

    def extend(self: Lease, now_ms: int, quorum: int) -> bool:
        sent = sorted((*self.answers.values(), now_ms), reverse=True)
        if len(sent) < quorum:
            return False
        before_ms, self.until_ms = self.until_ms, max(self.until_ms, self._until_ms(sent[quorum - 1]))
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


# -- handover (rule 7) -------------------------------------------------------------------------------------------


@mutant
def names_its_successor_before_it_has_stopped() -> list[Patched]:
    resign = Election.resign

    def early(self: Election, now_ms: int, *what: str) -> list[Action]:
        term = self.serving_term
        actions = resign(self, now_ms, *what)
        return actions + (self.tell_resigned(term, "soon", self.successor(now_ms)) if actions and term else [])

    return [(Election, "resign", early)]


@mutant
def successor_asks_before_it_has_written() -> list[Patched]:
    def succeed(self: Election, now_ms: int) -> list[Action]:
        if self.role is not Role.PASSIVE or not self.may_stand() or self.bound(now_ms, self.me):
            return []
        self.become(Role.ELECTION)
        self.term, self.vote = self.reach.next_term(self.term), self.me
        return self.ask_votes(now_ms)

    return [(Election, "succeed", succeed)]


@mutant
def successor_needs_no_votes() -> list[Patched]:
    persisted = Election.vote_persisted

    def vote_persisted(self: Election, now_ms: int, term: int) -> list[Action]:
        named = self.phase is Phase.PERSIST and self.round_term != term  # no pre-votes were asked for this term
        actions = persisted(self, now_ms, term)
        if named and self.role is Role.ELECTION and self.phase is Phase.VOTE:
            self.granted = set(self.voters)
            actions += self.count(now_ms)
        return actions

    return [(Election, "vote_persisted", vote_persisted)]


# -- both sides of a partition (rule 9) --------------------------------------------------------------------------


@mutant
def serves_alone_whoever_is_heard() -> list[Patched]:
    return [(Reach, "quorum", lambda self, now_ms: 1 if self.serve_apart else self.majority)]


@mutant
def serves_alone_in_anybodys_term() -> list[Patched]:
    return [(Reach, "next_term", lambda self, term: term + 1)]


@mutant
def wakes_up_and_thinks_itself_alone() -> list[Patched]:
    return [(Reach, "excuse", lambda self, now_ms: None)]


# -- periods that change, processes that are replaced (rule 12) --------------------------------------------------


@mutant
def promises_for_its_own_lease() -> list[Patched]:
    return [(Voter, "promise_ms", lambda self, lease_ms: self.timing.promise_ms)]


@mutant
def shorter_promise_replaces_a_longer() -> list[Patched]:
    def make(self: Promise, to: str, term: int, until_ms: int) -> None:
        self.to, self.term, self.until_ms = to, term, until_ms

    return [(Promise, "make", make)]


@mutant
def old_answers_count_for_a_longer_lease() -> list[Patched]:
    capture = host.capture

    def forgetful(node: Node) -> NodeState:
        return msgspec.structs.replace(capture(node), lease_ms=1 << 40)

    return [(host, "capture", forgetful)]


@mutant
def next_process_forgets_its_promises() -> list[Patched]:
    capture = host.capture

    def forgetful(node: Node) -> NodeState:
        state = capture(node)
        free = {
            name: msgspec.structs.replace(one, promise_to=None, promise_until_ms=0, quiet_until_ms=0)
            for name, one in state.elections.items()
        }
        return msgspec.structs.replace(state, elections=free)

    return [(host, "capture", forgetful)]


@mutant
def lease_ends_a_tick_late() -> list[Patched]:
    expire = Election.expire
    return [(Election, "expire", lambda self, now_ms: expire(self, now_ms - 1))]

"""Node: all elections of one node behind one call, `step(event, now_ms) -> actions`. Pure, like everything in core.

The same object runs in production, in the simulator and in the tests.
"""

import msgspec

from gateway.core.actions import Action, AnnounceAgain, Send, StartServing
from gateway.core.election import Election
from gateway.core.events import (
    DeadlineReached,
    Event,
    MessageReceived,
    OrdersGiven,
    OrdersPersisted,
    PrimedChanged,
    ResignationRequested,
    ServingStopped,
    StandingChanged,
    SuspensionNoticed,
    VotePersisted,
)
from gateway.core.orders import NO_ORDERS, OrderBook
from gateway.core.reach import Reach
from gateway.core.slowness import Slowness
from gateway.core.timing import Timing
from gateway.core.voter import Role, Seat
from gateway.wire.messages import Ack, Message, Orders, Pulse, Resignation, VoteReply, VoteRequest


class ElectionPlan(msgspec.Struct, frozen=True):
    """An election of the configuration: its name and who may lead, best first."""

    name: str
    candidates: tuple[str, ...]


class SavedVote(msgspec.Struct, frozen=True):
    """What stable storage holds of one election."""

    term: int = 0
    vote: str | None = None


class Node:
    """One node of the cluster.

    Args:
        me: this node's name.
        voters: every node of the cluster.
        plans: the cluster's elections.
        timing: the cluster's periods.
        saved: what stable storage holds, by election; absent means never voted.
        now_ms: the present, on this node's CLOCK_BOOTTIME.
        serve_apart: whether each side of a partition serves (rule 9); else a minority serves nobody.
        orders: what stable storage holds of the operators' orders.
    """

    def __init__(
        self,
        *,
        me: str,
        voters: tuple[str, ...],
        plans: tuple[ElectionPlan, ...],
        timing: Timing,
        saved: dict[str, SavedVote],
        now_ms: int,
        serve_apart: bool = False,
        orders: Orders = NO_ORDERS,
    ) -> None:
        self.me = me
        self.voters = voters
        self.timing = timing
        self.reach = Reach(me, voters, timing, serve_apart=serve_apart)
        self.slowness = Slowness(timing, now_ms)
        self.book = OrderBook(me, timing, orders)
        self.elections: dict[str, Election] = {}
        for plan in plans:
            vote = saved.get(plan.name, SavedVote())
            seat = Seat(
                name=plan.name,
                me=me,
                voters=voters,
                candidates=plan.candidates,
                timing=timing,
                reach=self.reach,
                slowness=self.slowness,
                book=self.book,
            )
            self.elections[plan.name] = Election(seat, term=vote.term, vote=vote.vote, now_ms=now_ms)
        self.primed: tuple[str, ...] = ()
        self.primed_by: dict[str, tuple[str, ...]] = {}  # leader -> collectors that it knows to be warm
        self.started_ms = now_ms
        self._pulsed_ms = now_ms - timing.heartbeat_ms
        self._pulse_at_ms = now_ms
        self._along_ms = 0  # added to the next period by a beat that was another's
        self._due_ms = self._deadline_ms()
        self._running = False

    @property
    def heard_ms(self) -> dict[str, int]:
        """When each peer was last heard."""
        return self.reach.heard_ms

    def step_soon(self) -> None:
        """Make the next beat due at once: the state has been replaced (`gateway.core.snapshot`)."""
        self._due_ms = self._pulse_at_ms

    def deadline_ms(self) -> int:
        """Return when `DeadlineReached` is due."""
        return self._due_ms

    def _deadline_ms(self) -> int:
        due_ms = self._pulse_at_ms
        for election in self.elections.values():
            deadline_ms = election.deadline_ms()
            if deadline_ms is not None and deadline_ms < due_ms:
                due_ms = deadline_ms
        return due_ms

    def step(self, event: Event, now_ms: int) -> list[Action]:
        """Take one event; return what to do, in order.

        What time alone asks for is done first: a message that arrives together with the end of a lease finds the lease
        ended.
        """
        actions: list[Action] = []
        late = self._running and self.slowness.woke(now_ms, self._due_ms)
        self._running = True  # what comes before the first step is the process' start, and nobody's lateness
        if late:
            self.reach.excuse(now_ms)
            for election in self.elections.values():
                election.doubt(now_ms)
        if now_ms >= self._due_ms:
            for election in self.elections.values():
                actions += election.expire(now_ms)
        actions += self._take(event, now_ms)
        if now_ms >= self._pulse_at_ms or StartServing in map(type, actions):
            actions += self._pulse(now_ms)  # a new leader is heard at once, not at the next beat
            if late and self.reach.serve_apart:
                self._pulse_at_ms = now_ms + self.reach.grace_ms  # who leads alone extends its lease then
        self._due_ms = self._deadline_ms()
        return actions

    def _take(self, event: Event, now_ms: int) -> list[Action]:
        match event:
            case MessageReceived(sender, message):
                return self._hear(sender, message, now_ms)
            case DeadlineReached():
                return []
            case VotePersisted(name, term):
                return self.elections[name].vote_persisted(now_ms, term)
            case StandingChanged(standing, reason):
                self._pulse_soon(now_ms)
                return self.elections[standing.election].standing_changed(now_ms, standing, reason)
            case PrimedChanged(instances):
                self.primed = instances
                self._pulse_soon(now_ms)
                return []
            case ServingStopped(name, term):
                return self.elections[name].serving_stopped(now_ms, term)
            case ResignationRequested(name, reason, successor):
                return self.elections[name].resign(now_ms, reason, successor)
            case OrdersGiven(orders):
                return self.book.take(orders)
            case OrdersPersisted(orders, written):
                return self._orders_persisted(orders, now_ms, written=written)
            case SuspensionNoticed(asleep_ms):
                actions: list[Action] = []
                for election in self.elections.values():
                    actions += election.suspended(now_ms, asleep_ms)
                return actions

    def _orders_persisted(self, orders: Orders, now_ms: int, *, written: bool) -> list[Action]:
        """Act by orders that are on the disk now, show them, and tell them where they were given here."""
        if not self.book.persisted(orders, written=written):
            return []
        self._pulse_soon(now_ms)
        actions: list[Action] = []
        if orders.origin == self.me:
            self.book.told_ms = dict.fromkeys((voter for voter in self.voters if voter != self.me), now_ms)
            actions += [Send(voter, orders) for voter in self.voters if voter != self.me]
        for election in self.elections.values():
            actions += election.orders_changed(now_ms)
        return actions

    def _hear(self, sender: str, message: Message, now_ms: int) -> list[Action]:
        if sender not in self.voters or sender == self.me:
            return []
        actions: list[Action] = []
        if self.reach.heard(now_ms, sender):
            # Whatever it or others may have told the segment meanwhile: the last word is the leader's.
            actions += [
                AnnounceAgain(name, sender)
                for name, election in self.elections.items()
                if election.role is Role.LEADER and election.serving_term is not None
            ]
        return actions + self._take_message(sender, message, now_ms)

    def _take_message(self, sender: str, message: Message, now_ms: int) -> list[Action]:
        match message:
            case Pulse():
                return self._hear_pulse(sender, message, now_ms)
            case Ack(sent_ms, leads):
                actions: list[Action] = []
                for name, term in leads:
                    if name in self.elections:
                        actions += self.elections[name].hear_ack(now_ms, sender, term, sent_ms)
                return actions
            case VoteRequest():
                if message.election not in self.elections:
                    return []
                self.elections[message.election].note_lease(self.started_ms, message.lease_ms)
                return self.elections[message.election].hear_vote_request(now_ms, sender, message)
            case VoteReply():
                if message.election not in self.elections:
                    return []
                return self.elections[message.election].hear_vote_reply(now_ms, sender, message)
            case Resignation():
                if message.election not in self.elections:
                    return []
                return self.elections[message.election].hear_resignation(now_ms, sender, message)
            case Orders():
                return self.book.take(message)

    def _hear_pulse(self, sender: str, pulse: Pulse, now_ms: int) -> list[Action]:
        for standing in pulse.standings:
            if standing.election in self.elections:
                self.elections[standing.election].ranking.hear(now_ms, sender, standing)
        self.primed_by[sender] = pulse.primed
        self.book.shown[sender] = pulse.orders
        actions: list[Action] = self.book.tell(now_ms, sender) if pulse.orders != self.book.digest else []
        acknowledged = []
        for name, term in pulse.leads:
            if name not in self.elections:
                continue
            self.elections[name].note_lease(self.started_ms, pulse.lease_ms)
            accepted, more = self.elections[name].hear_leader(now_ms, sender, term, pulse.lease_ms)
            actions += more
            if accepted:
                acknowledged.append((name, term))
        if acknowledged:
            actions.append(Send(sender, Ack(pulse.sent_ms, tuple(acknowledged))))
            self._beat_along(now_ms, sender)
        return actions

    def _leads(self) -> tuple[tuple[str, int], ...]:
        elections = self.elections.values()
        return tuple([(election.name, election.term) for election in elections if election.role is Role.LEADER])

    def _pulse_soon(self, now_ms: int) -> None:
        """What peers should know has changed: tell them, no more often than at each beat."""
        self._pulse_at_ms = max(min(self._pulse_at_ms, self._pulsed_ms + self.timing.heartbeat_ms), now_ms)

    def _beat_along(self, now_ms: int, leader: str) -> None:
        """Beat now, with a leader, where this node's own beat is due before long.

        To wake up costs ten times what a heartbeat costs: nodes that beat together wake each other up once. Of two
        leaders the later in the alphabet beats along, or each would follow the other.
        """
        heartbeat_ms = self.timing.heartbeat_ms
        if now_ms < self._pulse_at_ms - heartbeat_ms:
            return  # not due before long, whatever this node is
        leads = bool(self._leads())
        if leads and leader > self.me:
            return
        if now_ms >= self._pulse_at_ms - (heartbeat_ms * 3 // 4 if leads else heartbeat_ms // 2):
            self._pulse_at_ms = now_ms
            self._along_ms = heartbeat_ms // 4  # the next beat waits so much longer for the leader's
        elif leads and self.timing.patient:
            # Beaten a moment before the other, and so for ever: once, let the other be first.
            latest_ms = self._pulsed_ms + heartbeat_ms * 3 // 2  # it may beat faster than this node, and never let it
            self._pulse_at_ms = min(now_ms + heartbeat_ms + heartbeat_ms // 4, latest_ms)

    def _pulse(self, now_ms: int) -> list[Action]:
        """Send the heartbeat to every peer, and acknowledge it to oneself: alone in the cluster, that is a majority.

        A node that leads nothing answers the leaders' heartbeats anyway; its own are for the candidates' ranking, and
        are rarer.
        """
        actions: list[Action] = []
        if self.book.drains_me:
            for election in self.elections.values():
                actions += election.give_way(now_ms)
        leads = self._leads()
        self._pulsed_ms = now_ms
        self._pulse_at_ms = now_ms + (self.timing.heartbeat_ms if leads else self.timing.idle_ms) + self._along_ms
        self._along_ms = 0
        standings = tuple(election.standing for election in self.elections.values() if self.me in election.candidates)
        if self.book.drains_me:
            standings = tuple(msgspec.structs.replace(standing, fit=False) for standing in standings)
        pulse = Pulse(now_ms, leads, standings, self.primed, self.timing.lease_ms, self.book.digest)
        actions += [Send(voter, pulse) for voter in self.voters if voter != self.me]
        for election in self.elections.values():
            if election.role is Role.LEADER:
                actions += election.extend(now_ms)
        return actions

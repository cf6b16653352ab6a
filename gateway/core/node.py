"""Node: all elections of one node behind one call, `step(event, now_ms) -> actions`. Pure, like everything in core.

The same object runs in production, in the simulator and in the tests.
"""

import msgspec

from gateway.core.actions import Action, Send, StartServing
from gateway.core.election import Election
from gateway.core.events import (
    DeadlineReached,
    Event,
    MessageReceived,
    PrimedChanged,
    ResignationRequested,
    ServingStopped,
    StandingChanged,
    VotePersisted,
)
from gateway.core.timing import Timing
from gateway.core.voter import Role
from gateway.wire.messages import Ack, Message, Pulse, Resignation, VoteReply, VoteRequest


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
    ) -> None:
        self.me = me
        self.voters = voters
        self.timing = timing
        self.elections: dict[str, Election] = {}
        for plan in plans:
            vote = saved.get(plan.name, SavedVote())
            self.elections[plan.name] = Election(
                name=plan.name,
                me=me,
                voters=voters,
                candidates=plan.candidates,
                timing=timing,
                term=vote.term,
                vote=vote.vote,
                now_ms=now_ms,
            )
        self.primed: tuple[str, ...] = ()
        self.heard_ms: dict[str, int] = {}  # peer -> when it was last heard
        self.primed_by: dict[str, tuple[str, ...]] = {}  # leader -> collectors that it knows to be warm
        self._pulse_at_ms = now_ms

    def deadline_ms(self) -> int:
        """Return when `DeadlineReached` is due."""
        moments = [self._pulse_at_ms]
        for election in self.elections.values():
            deadline_ms = election.deadline_ms()
            if deadline_ms is not None:
                moments.append(deadline_ms)
        return min(moments)

    def step(self, event: Event, now_ms: int) -> list[Action]:
        """Take one event; return what to do, in order.

        What time alone asks for is done first: a message that arrives together with the end of a lease finds the lease
        ended.
        """
        actions: list[Action] = []
        for election in self.elections.values():
            actions += election.expire(now_ms)
        actions += self._take(event, now_ms)
        if now_ms >= self._pulse_at_ms or any(type(action) is StartServing for action in actions):
            actions += self._pulse(now_ms)  # a new leader is heard at once, not at the next beat
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
                return self.elections[standing.election].standing_changed(now_ms, standing, reason)
            case PrimedChanged(instances):
                self.primed = instances
                return []
            case ServingStopped(name, term):
                return self.elections[name].serving_stopped(now_ms, term)
            case ResignationRequested(name, reason):
                return self.elections[name].resign(now_ms, reason)

    def _hear(self, sender: str, message: Message, now_ms: int) -> list[Action]:
        if sender not in self.voters or sender == self.me:
            return []
        self.heard_ms[sender] = now_ms
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
                return self.elections[message.election].hear_vote_request(now_ms, sender, message)
            case VoteReply():
                if message.election not in self.elections:
                    return []
                return self.elections[message.election].hear_vote_reply(now_ms, sender, message)
            case Resignation():
                if message.election not in self.elections:
                    return []
                return self.elections[message.election].hear_resignation(now_ms, sender, message)

    def _hear_pulse(self, sender: str, pulse: Pulse, now_ms: int) -> list[Action]:
        for standing in pulse.standings:
            if standing.election in self.elections:
                self.elections[standing.election].ranking.hear(now_ms, sender, standing)
        self.primed_by[sender] = pulse.primed
        actions: list[Action] = []
        acknowledged = []
        for name, term in pulse.leads:
            if name not in self.elections:
                continue
            accepted, more = self.elections[name].hear_leader(now_ms, sender, term)
            actions += more
            if accepted:
                acknowledged.append((name, term))
        if acknowledged:
            actions.append(Send(sender, Ack(pulse.sent_ms, tuple(acknowledged))))
        return actions

    def _leads(self) -> tuple[tuple[str, int], ...]:
        return tuple(
            (election.name, election.term) for election in self.elections.values() if election.role is Role.LEADER
        )

    def _pulse(self, now_ms: int) -> list[Action]:
        """Send the heartbeat to every peer, and acknowledge it to oneself: alone in the cluster, that is a majority."""
        self._pulse_at_ms = now_ms + self.timing.heartbeat_ms
        standings = tuple(election.standing for election in self.elections.values() if self.me in election.candidates)
        pulse = Pulse(now_ms, self._leads(), standings, self.primed)
        actions: list[Action] = [Send(voter, pulse) for voter in self.voters if voter != self.me]
        for election in self.elections.values():
            if election.role is Role.LEADER:
                actions += election.extend(now_ms)
        return actions

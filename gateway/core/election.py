"""Election: one exclusive service, its term, its leader and the leader's lease. Pure: no clock, no I/O, no chance.

The rules, and why at most one node serves at a time
----------------------------------------------------
1. A *term* only grows. A vote is on stable storage (`PersistVote`, answered by `VotePersisted`) before the message that
   depends on it leaves; so a node votes once a term, also across crashes, and two majorities share a voter: at most one
   leader a term. Acknowledging a leader needs no write: the majority that made it leader has written already.
2. A vote, and an acknowledgement of a leader's heartbeat, is a *promise*: no vote for and no acknowledgement of another
   node until `lease x (1 + drift)` later on the voter's clock. A node has one promise at a time; its term never falls
   while it is bound to the same node, for a resignation ends the promises of its own term alone.
3. A leader's lease runs from the moment it *sent* the request or heartbeat that a majority then answered, for
   `lease - margin`; at its end it stops by itself. A voter's promise begins when it answers, which is later than the
   sending, and lasts longer than the lease on any clock within the drift. The majority of the next leader shares a
   voter with the majority that renewed the lease last; that voter's promise had run out; so the lease had too.
4. A node that has just started has forgotten its promise: it neither votes nor acknowledges for one promise period.
5. Pre-vote: a candidate first asks whether it would get the votes. Nobody raises a term while a majority still hears a
   leader, so a returning node disturbs nobody.
6. Candidates do not race: each waits its rank x a fraction of the lease. Rank is fitness, warmth, freshness, then the
   order of the configuration. A voter that has granted a pre-vote grants no other for the same fraction.
7. A leader that gives up names its successor, which may ask for votes at once, without pre-votes, for the voters are
   free; the others give it a turn. It stops first and names it after: nothing of the above is bent.
8. A leader that can't serve stops, and only when that is confirmed (`ServingStopped`) it tells the others, who are
   then free of their promises. A candidate that gives a round up does the same, for it will never serve in that term.
   A node that has not confirmed its own stop votes for nobody.
9. What a majority is of, the configuration says (`gateway.core.reach`): of all voters (`hold`), or of those that are
   heard (`serve`): then each side of a partition has a leader, in terms that no other node may stand in, and at the
   heal the one with the higher term goes on. Between two voters there is no third way.
10. What is said here arrives sealed, once, from who it says (`gateway.wire.seal`).
11. A node whose timers were late doubts itself first: its lease and promises are judged by the clock before anything
   else, and its suspicion of others is put off (`gateway.core.slowness`).
12. Leases travel with what is asked for them: a promise binds for the lease of the node that asked, so that the
   periods may differ between nodes while they are being changed.
13. Operators' orders (`gateway.core.orders`) only forbid: while the cluster is paused nobody stands, votes for others,
   or gives up for its health; a drained node does not stand, and gives up once another can follow.

The names of the roles are those of the high availability daemon (src/condor_had/StateMachine.h); terms, votes and
pre-votes are Raft's (Ongaro, "Consensus: Bridging Theory and Practice", sections 3.4, 6.4.1, 9.6).
"""

import enum

from gateway.core.actions import (
    Action,
    Cause,
    ExtendServing,
    FollowLeader,
    PersistVote,
    Send,
    StartServing,
    StopServing,
)
from gateway.core.lease import Lease
from gateway.core.voter import Role, Seat, Voter
from gateway.wire.heartbeat import REASON_CHARACTERS_MAX
from gateway.wire.messages import ON_REQUEST, Resignation, Standing, VoteReply, VoteRequest

RETRY_MS_MIN = 5  # between two pre-votes of one candidate: bounds what a losing candidate sends


class Phase(enum.Enum):
    """How far a candidate has come in its round."""

    PRE_VOTE = "pre-vote"
    PERSIST = "persist"
    VOTE = "vote"


class Election(Voter):
    """One election as one node sees it, a candidate perhaps. Arguments are those of `Voter`."""

    def __init__(self, seat: Seat, *, term: int, vote: str | None, now_ms: int) -> None:
        super().__init__(seat, term=term, vote=vote, now_ms=now_ms)
        self.standing = Standing(seat.name, False, False, 0, 0, "")
        self.unfit_why = ""
        # candidacy
        self.phase = Phase.PRE_VOTE
        self.granted: set[str] = set()
        self.round_term = 0  # that is asked for
        self.round_sent_ms = 0
        self.round_until_ms = 0
        self.stand_at_ms = self.quiet_until_ms
        # leadership
        self.lease = Lease(seat.timing)
        self.serving_term: int | None = None  # set by StartServing, cleared by ServingStopped
        self.stop_forced = False
        self.named = ""  # successor wished for, while a graceful stop is under way
        self.resigned_why = ""

    # -- views ---------------------------------------------------------------------------------------------------

    @property
    def lease_until_ms(self) -> int:
        """When this node's lease ends, or ended."""
        return self.lease.until_ms

    def bound(self, now_ms: int, candidate: str) -> int:
        """Return for how many ms more this node may not vote for `candidate`; 0: it may."""
        if self.serving_term is not None:
            return max(self.lease.until_ms - now_ms, RETRY_MS_MIN)
        return super().bound(now_ms, candidate)

    def deadline_ms(self) -> int | None:
        """Return when this election next needs a call of `expire`, or None."""
        # As in `expire`. Asked after every message: in the calm, the common case, there is one moment at most.
        leads = self.serving_term is not None and not self.stop_forced
        follows = self.leader is not None and self.leader != self.me
        if self.role is Role.LEADER and leads and not follows:
            return self.lease.until_ms
        if self.role is Role.PASSIVE and follows and not leads:
            return self.leader_until_ms
        moments = []
        if leads:
            moments.append(self.lease.until_ms)
        if follows:
            moments.append(self.leader_until_ms)
        if self.role is Role.PASSIVE:
            if self.leader is None and self.may_stand():
                moments.append(max(self.stand_at_ms, self.quiet_until_ms))
        elif self.role is Role.PRE:
            moments.append(self.quiet_until_ms)
        elif self.role is Role.ELECTION and self.phase is not Phase.PERSIST:
            moments.append(self.round_until_ms)
        return min(moments) if moments else None

    def may_stand(self) -> bool:
        """Tell whether this node would be a candidate now: fit, no leader known, nothing of an old term left."""
        return (
            self.me in self.candidates
            and self.standing.fit
            and not self.book.forbids(self.me)
            and self.leader is None
            and self.serving_term is None
            and self.persisting is None
        )

    # -- time ----------------------------------------------------------------------------------------------------

    def expire(self, now_ms: int) -> list[Action]:
        """Do what the passing of time asks for. Called before every event, so that a late timer changes nothing."""
        actions: list[Action] = []
        if self.role is Role.PRE and now_ms >= self.quiet_until_ms:
            self.become(Role.PASSIVE)
            self.stand_after(now_ms, 0)
        if self.serving_term is not None and now_ms >= self.lease.until_ms:
            actions += self.lose(now_ms, Cause.LEASE_EXPIRED, "no majority answered in time", at_once=True)
        if self.leader not in (None, self.me) and now_ms >= self.leader_until_ms:
            actions += self.forget_leader(now_ms)
        if self.role is Role.ELECTION and now_ms >= self.round_until_ms and self.phase is not Phase.PERSIST:
            actions += self.give_up_round(now_ms)
        if self.role is Role.PASSIVE and self.may_stand() and now_ms >= max(self.stand_at_ms, self.quiet_until_ms):
            actions += self.ask_pre_votes(now_ms)
        return actions

    def stand_after(self, now_ms: int, extra_ms: int) -> None:
        """Plan the next candidacy: `extra_ms` from now and this node's rank x the stagger (rule 6)."""
        rank = self.ranking.rank(now_ms, self.me, self.standing) if self.me in self.candidates else 0
        self.stand_at_ms = now_ms + extra_ms + rank * self.timing.stagger_ms

    def make_way(self, now_ms: int, sender: str, term: int) -> tuple[bool, list[Action]]:
        """Stop serving, or end a candidacy, for the sake of a leader that was heard."""
        if self.serving_term is not None:
            if term <= self.serving_term:
                return False, []
            return False, self.lose(now_ms, Cause.SUPERSEDED, f"{sender} leads term {term}", at_once=True)
        if self.role is Role.ELECTION:
            return True, self.abandon(now_ms, "a leader was heard")
        return True, []

    # -- standing ------------------------------------------------------------------------------------------------

    def vote_persisted(self, now_ms: int, term: int) -> list[Action]:
        """Go on where `PersistVote` was waited for: send the vote, or ask for votes."""
        if self.persisting is None or self.persisting.term != term:
            return []
        answer, self.persisting, self.answer_when_persisted = self.answer_when_persisted, None, None
        if answer is not None:
            return [answer]
        if self.role is not Role.ELECTION or self.term != term:
            return []  # a leader was heard meanwhile
        return self.ask_votes(now_ms)

    def ask_pre_votes(self, now_ms: int) -> list[Action]:
        """Begin a round: would a majority vote for this node (rule 5)?"""
        if self.bound(now_ms, self.me):
            self.stand_at_ms = now_ms + max(self.bound(now_ms, self.me), RETRY_MS_MIN)
            return []
        if self.courtesy_to not in (None, self.me) and now_ms < self.courtesy_until_ms:
            self.stand_at_ms = self.courtesy_until_ms
            return []
        self.courtesy_to, self.courtesy_until_ms = self.me, now_ms + self.timing.stagger_ms
        self.become(Role.ELECTION)
        return self.begin(now_ms, Phase.PRE_VOTE, self.reach.next_term(self.term), pre=True)

    def ask_votes(self, now_ms: int) -> list[Action]:
        """Ask for votes in the term that this node has just written down for itself."""
        # The write may have taken longer than the promise: what stands for votes is bound to itself.
        self.promise.make(self.me, self.term, now_ms + self.timing.promise_ms)
        return self.begin(now_ms, Phase.VOTE, self.term, pre=False)

    def begin(self, now_ms: int, phase: Phase, term: int, *, pre: bool) -> list[Action]:
        """Send one round of requests and count this node's own answer."""
        self.phase = phase
        self.round_term = term
        self.granted = {self.me}
        self.round_sent_ms = now_ms
        self.round_until_ms = now_ms + self.timing.round_ms
        request = VoteRequest(self.name, term, pre, now_ms, self.timing.lease_ms)
        actions: list[Action] = [Send(peer, request) for peer in self.peers()]
        return actions + self.count(now_ms)

    def hear_vote_reply(self, now_ms: int, sender: str, reply: VoteReply) -> list[Action]:
        """Count an answer of the present round; learn of higher terms from any."""
        asked = (self.phase is Phase.PRE_VOTE, self.round_term, self.round_sent_ms)
        if self.role is not Role.ELECTION or self.phase is Phase.PERSIST:
            return []
        if (reply.pre, reply.term, reply.sent_ms) != asked:
            return []
        if reply.granted:
            self.granted.add(sender)
            return self.count(now_ms)
        if not reply.pre:
            return []
        if reply.highest_term > self.term:
            self.term, self.vote = reply.highest_term, None
            actions = self.abandon(now_ms, "an older term")
            self.stand_at_ms = now_ms + RETRY_MS_MIN
            return actions
        if reply.wait_ms > 0:
            # Ask again as soon as this voter may answer otherwise, instead of waiting for the end of the round.
            self.round_until_ms = min(self.round_until_ms, now_ms + max(reply.wait_ms, RETRY_MS_MIN))
        return []

    def count(self, now_ms: int) -> list[Action]:
        """See whether the round is won."""
        if len(self.granted) < self.reach.quorum(now_ms):
            return []
        if self.phase is Phase.PRE_VOTE:
            return self.vote_for_myself(now_ms)
        assert self.phase is Phase.VOTE, "a round is won by pre-votes or by votes"
        return self.lead(now_ms)

    def vote_for_myself(self, now_ms: int) -> list[Action]:
        """Write down this node's own vote; the others are asked once it is on stable storage (rule 1)."""
        self.phase = Phase.PERSIST
        self.term, self.vote = self.reach.next_term(self.term), self.me
        self.promise.make(self.me, self.term, now_ms + self.timing.promise_ms)
        self.persisting = PersistVote(self.name, self.term, self.me)
        self.answer_when_persisted = None
        return [self.persisting]

    def succeed(self, now_ms: int) -> list[Action]:
        """Ask for votes at once: the leader has stopped, freed its voters, and named this node (rule 7)."""
        if self.role is not Role.PASSIVE or not self.may_stand() or self.bound(now_ms, self.me):
            return []
        self.become(Role.ELECTION)
        return self.vote_for_myself(now_ms)

    def doubt(self, now_ms: int) -> None:
        """Put off suspicion and candidacy: this node was late (rule 11)."""
        super().doubt(now_ms)
        self.stand_at_ms = max(self.stand_at_ms, now_ms + self.timing.heartbeat_ms + self.slowness.patience_ms)

    def give_up_round(self, now_ms: int) -> list[Action]:
        """The round found no majority: try again later."""
        had_asked_votes = self.phase is Phase.VOTE
        actions = self.abandon(now_ms, "no majority")
        # Candidates that split the votes come back at different times, or they would split them for ever.
        extra_ms = self.timing.stagger_ms * self.candidates.index(self.me) if had_asked_votes else 0
        self.stand_after(now_ms, RETRY_MS_MIN + extra_ms)
        return actions

    def abandon(self, now_ms: int, reason: str) -> list[Action]:
        """End a candidacy. This node will never serve in that term, so nobody stays bound by a vote for it (rule 8)."""
        asked_votes = self.phase is Phase.VOTE
        self.become(Role.PASSIVE)
        if self.promise.to == self.me:
            self.promise.release(now_ms)
        return self.tell_resigned(self.term, reason) if asked_votes else []

    def tell_resigned(self, term: int, reason: str, successor: str = "") -> list[Action]:
        """Tell every peer that this node will not act in `term` (any more).

        The successor is told last: when it asks the others for their votes, they are free to give them.
        """
        resignation = Resignation(self.name, term, reason, successor)
        return [Send(peer, resignation) for peer in sorted(self.peers(), key=lambda peer: peer == successor)]

    # -- leading -------------------------------------------------------------------------------------------------

    def lead(self, now_ms: int) -> list[Action]:
        """Take the lead of the term just won; the lease dates from the requests that were granted (rule 3)."""
        self.lease.begin(self.granted - {self.me}, self.round_sent_ms)
        if now_ms >= self.lease.until_ms:
            return self.give_up_round(now_ms)  # the answers were so slow that the lease is over already
        self.become(Role.LEADER)
        self.leader = self.me
        self.leader_term = self.term
        self.serving_term = self.term
        self.stop_forced = False
        return [
            FollowLeader(self.name, self.me, self.term),
            StartServing(self.name, self.term, self.lease.until_ms),
        ]

    def hear_ack(self, now_ms: int, sender: str, term: int, sent_ms: int) -> list[Action]:
        """Count a follower's answer to a heartbeat and extend the lease where a majority has answered."""
        if self.role is not Role.LEADER or term != self.term or sent_ms > now_ms:
            return []
        self.lease.answer(sender, sent_ms)
        return self.extend(now_ms)

    def extend(self, now_ms: int) -> list[Action]:
        """Move the lease on as far as the answers allow."""
        if not self.lease.extend(now_ms, self.reach.quorum(now_ms)):
            return []
        return [ExtendServing(self.name, self.term, self.lease.until_ms)]

    def lose(self, now_ms: int, cause: Cause, detail: str, *, at_once: bool) -> list[Action]:
        """Stop serving. Called again when the lease ends while a graceful stop is still under way."""
        assert self.serving_term is not None, "only who serves can stop serving"
        if self.stop_forced:
            return []
        self.stop_forced = at_once
        planned = cause is Cause.REQUESTED
        if self.role is Role.LEADER:
            self.named = ""  # a stop on request sets it after this
            self.resigned_why = f"{ON_REQUEST if planned else cause}: {detail}"[:REASON_CHARACTERS_MAX]
        actions: list[Action] = [StopServing(self.name, self.serving_term, cause, detail, at_once)]
        if self.role is Role.LEADER:
            self.become(Role.PASSIVE)
            self.leader = None
            # Whoever gave up lets the others go first.
            self.stand_after(now_ms, self.timing.lease_ms)
            actions.append(FollowLeader(self.name, None, self.term, planned))
        return actions

    def serving_stopped(self, now_ms: int, term: int) -> list[Action]:
        """The stop is confirmed: this node's promise to itself is over, and so are the others' (rule 8)."""
        if self.serving_term != term:
            return []
        assert self.role is not Role.LEADER, "a leader that serves does not confirm a stop"
        self.serving_term = None
        if self.promise.to == self.me and self.promise.term == term:
            self.promise.release(now_ms)
        return self.tell_resigned(term, self.resigned_why, self.successor(now_ms))

    def successor(self, now_ms: int) -> str:
        """Return who should follow this leader: whom it was told to name, else the best it has heard, else ""."""
        drained = self.book.drained
        if self.named and self.named not in drained and self.ranking.fit(now_ms, self.named):
            return self.named
        return self.ranking.best(now_ms, self.me, drained)

    def standing_changed(self, now_ms: int, standing: Standing, reason: str) -> list[Action]:
        """Take this node's own new standing; a leader, or a candidate, that is unfit gives up (rule 8)."""
        was_fit, self.standing = self.standing.fit, standing
        self.unfit_why = "" if standing.fit else reason
        if self.role is Role.LEADER and not standing.fit:
            return self.give_up_unfit(now_ms)
        if self.role is Role.ELECTION and not standing.fit:
            return self.abandon(now_ms, reason)
        if standing.fit and not was_fit and self.role is Role.PASSIVE:
            self.stand_after(now_ms, 0)
        return []

    def give_up_unfit(self, now_ms: int) -> list[Action]:
        """Stop leading for this node's health (rule 8), but not while nobody could follow (rule 13)."""
        return [] if self.book.paused else self.lose(now_ms, Cause.UNFIT, self.unfit_why, at_once=False)

    def orders_changed(self, now_ms: int) -> list[Action]:
        """Do what other orders than before ask for (rule 13)."""
        if self.role is Role.LEADER and not self.standing.fit:
            return self.give_up_unfit(now_ms)
        if self.role is Role.ELECTION and self.book.forbids(self.me):
            return self.abandon(now_ms, "the operators' orders")
        if self.role is Role.PASSIVE and self.may_stand():
            self.stand_after(now_ms, 0)
        return []

    def heir(self, now_ms: int) -> str:
        """Return who could follow this leader, which is drained, so that nothing is missed; "": nobody yet.

        A standby whose collector is empty would be a bad exchange: it is primed within seconds, and waited for.
        """
        best = self.ranking.best(now_ms, self.me, self.book.drained)
        return best if best and (self.ranking.heard[best][0].warm or not self.standing.warm) else ""

    def give_way(self, now_ms: int) -> list[Action]:
        """Give up, drained, as soon as another can follow (rule 13)."""
        if self.role is not Role.LEADER or self.book.paused:
            return []
        heir = self.heir(now_ms)
        return self.resign(now_ms, f"{self.me} is drained", heir) if heir else []

    def resign(self, now_ms: int, reason: str, successor: str = "") -> list[Action]:
        """Give up on request, for `successor` if that one is able to follow (rule 7)."""
        if self.role is not Role.LEADER:
            return []
        actions = self.lose(now_ms, Cause.REQUESTED, reason, at_once=False)
        self.named = successor
        return actions

    def suspended(self, now_ms: int, asleep_ms: int) -> list[Action]:
        """Stop at once: the kernel's own lease stood still meanwhile and would outlive this node's (rule 11)."""
        if self.serving_term is None:
            return []
        return self.lose(now_ms, Cause.SUSPENDED, f"the machine slept for {asleep_ms} ms", at_once=True)

"""Voter: what every node does in an election: it follows a leader, votes, and keeps its promises.

The rules are numbered as in `gateway.core.election`, which adds standing and leading. Pure, as all of core.
"""

import enum

import msgspec

from gateway.core.actions import Action, FollowLeader, PersistVote, Send
from gateway.core.orders import OrderBook
from gateway.core.promise import Promise
from gateway.core.ranking import Ranking
from gateway.core.reach import Reach
from gateway.core.slowness import Slowness
from gateway.core.timing import Timing, promise_ms_for
from gateway.wire.messages import ON_REQUEST, Resignation, VoteReply, VoteRequest


class Role(enum.Enum):
    """What a node is in one election."""

    PRE = "PRE"  # just started: bound by promises that it has forgotten
    PASSIVE = "PASSIVE"
    ELECTION = "ELECTION"  # asking for pre-votes or votes
    LEADER = "LEADER"


# Every other arrow is a bug.
TRANSITIONS: frozenset[tuple[Role, Role]] = frozenset(
    {
        (Role.PRE, Role.PASSIVE),
        (Role.PASSIVE, Role.ELECTION),
        (Role.ELECTION, Role.PASSIVE),
        (Role.ELECTION, Role.LEADER),
        (Role.LEADER, Role.PASSIVE),
    }
)


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A node's place in one election.

    Attributes:
        name: the election's name, shared by all nodes.
        me: this node's name.
        voters: every node of the cluster, this one included.
        candidates: who may lead, best first.
        timing: the cluster's periods.
        reach: whom this node hears, shared by its elections.
        slowness: its doubts about itself, shared as well.
        book: the operators' orders, shared as well.
    """

    name: str
    me: str
    voters: tuple[str, ...]
    candidates: tuple[str, ...]
    timing: Timing
    reach: Reach
    slowness: Slowness
    book: OrderBook


class Voter:
    """One election as a node sees it that is no candidate. Methods return actions; the caller gives the time.

    Args:
        seat: its place in the election.
        term: highest term found on stable storage, 0 at first.
        vote: whom this node voted for in that term.
        now_ms: the present, on this node's CLOCK_BOOTTIME.
    """

    def __init__(self, seat: Seat, *, term: int, vote: str | None, now_ms: int) -> None:
        assert seat.me in seat.voters, "a node votes in every election of its cluster"
        assert set(seat.candidates) <= set(seat.voters), "candidates are voters"
        self.name = seat.name
        self.me = seat.me
        self.voters = seat.voters
        self.candidates = seat.candidates
        self.timing = seat.timing
        self.reach = seat.reach
        self.slowness = seat.slowness
        self.book = seat.book
        self.role = Role.PRE
        self.term = term
        self.vote = vote
        self.leader: str | None = None
        self.leader_term = 0  # highest term of a leader heard: an older one is over, whatever arrives late
        self.leader_until_ms = now_ms  # without a heartbeat the leader is forgotten then
        self.quiet_until_ms = now_ms + seat.timing.promise_ms  # rule 4
        self.ranking = Ranking(seat.candidates, seat.timing.lease_ms)
        self.promise = Promise(now_ms)  # rule 2
        self.resigned_term = 0  # leaders of terms up to this have resigned: late heartbeats of theirs bind nobody
        self.courtesy_to: str | None = None  # last granted pre-vote (rule 6)
        self.courtesy_until_ms = now_ms
        # a vote on its way to the disk
        self.persisting: PersistVote | None = None
        self.answer_when_persisted: Send | None = None

    def peers(self) -> tuple[str, ...]:
        """Return every voter but this node."""
        return tuple(voter for voter in self.voters if voter != self.me)

    def bound(self, now_ms: int, candidate: str) -> int:
        """Return for how many ms more this node may not vote for `candidate`; 0: it may."""
        return max(self.quiet_until_ms - now_ms, self.promise.left_ms(now_ms, candidate), 0)

    def become(self, role: Role) -> None:
        """Change the role; an arrow that is not in `TRANSITIONS` is a bug of ours."""
        if role is self.role:
            return
        assert (self.role, role) in TRANSITIONS, f"{self.role.value} -> {role.value} is not a transition"
        self.role = role

    # -- what a candidate does besides ---------------------------------------------------------------------------

    def make_way(self, now_ms: int, sender: str, term: int) -> tuple[bool, list[Action]]:
        """Give up what this node does itself; return whether it is free to follow `sender` now, and actions."""
        return True, []

    def stand_after(self, now_ms: int, extra_ms: int) -> None:
        """Plan the next candidacy of this node: a mere voter has none."""

    def succeed(self, now_ms: int) -> list[Action]:
        """Follow a leader that has named this node: a mere voter can't."""
        return []

    # -- following -----------------------------------------------------------------------------------------------

    def hear_leader(self, now_ms: int, sender: str, term: int, lease_ms: int = 0) -> tuple[bool, list[Action]]:
        """Take a leader's heartbeat; return whether to acknowledge it, and actions.

        `lease_ms` is the leader's own, for it is its lease that the promise must outlive; 0: the same as this node's.
        `self.term` may be above `term`: a candidacy of this node, or of one that it voted for, has failed meanwhile.
        What decides is whether this node is bound to another (rule 2), not the number.
        """
        if term < self.leader_term or term <= self.resigned_term or sender not in self.candidates:
            return False, []
        if self.promise.to == sender and term < self.promise.term:
            # It has asked for a vote of a later term since: this heartbeat is late. Taking it would turn the promise
            # into one of the older term, which a late resignation of that term would end while the later one serves.
            return False, []
        assert not (self.role is Role.LEADER and term == self.term), f"two leaders in term {term} of {self.name}"
        free, actions = self.make_way(now_ms, sender, term)
        if not free:
            return False, actions
        if term > self.term:
            self.term, self.vote = term, None
        changed = self.leader != sender or self.leader_term != term
        self.leader, self.leader_term = sender, term
        promise_ms = self.promise_ms(lease_ms)
        self.leader_until_ms = now_ms + promise_ms + self.slowness.patience_ms
        if changed:
            actions.append(FollowLeader(self.name, sender, term))
        if self.bound(now_ms, sender):
            return False, actions
        self.promise.make(sender, term, now_ms + promise_ms)
        return True, actions

    def promise_ms(self, lease_ms: int) -> int:
        """Return how long a promise to a node with this lease binds (rule 2)."""
        return promise_ms_for(lease_ms) if lease_ms else self.timing.promise_ms

    def note_lease(self, started_ms: int, lease_ms: int) -> None:
        """Take notice of another's lease: promises that this node has forgotten may be as long as that (rule 4)."""
        if lease_ms > self.timing.lease_ms and self.role is Role.PRE:
            self.quiet_until_ms = max(self.quiet_until_ms, started_ms + promise_ms_for(lease_ms))

    def doubt(self, now_ms: int) -> None:
        """This node was late: what speaks against others waits for what may still lie in its socket (rule 11)."""
        patient_until_ms = now_ms + self.timing.heartbeat_ms + self.slowness.patience_ms
        self.leader_until_ms = max(self.leader_until_ms, patient_until_ms)

    def forget_leader(self, now_ms: int, *, planned: bool = False) -> list[Action]:
        """Nobody leads any more, as far as this node knows."""
        self.leader = None
        self.stand_after(now_ms, 0)
        return [FollowLeader(self.name, None, self.term, planned)]

    def hear_resignation(self, now_ms: int, sender: str, resignation: Resignation) -> list[Action]:
        """Release the promise made to a leader (or candidate) that will not act in its term any more (rule 8)."""
        if self.promise.to == sender and self.promise.term == resignation.term:
            self.promise.release(now_ms)
        if self.leader != sender or self.leader_term != resignation.term:
            return []
        self.resigned_term = max(self.resigned_term, resignation.term)
        self.ranking.forget(sender)  # what it said of itself before it gave up makes nobody wait (rule 6)
        actions = self.forget_leader(now_ms, planned=resignation.reason.startswith(ON_REQUEST))
        if resignation.successor == self.me:
            return actions + self.succeed(now_ms)
        if resignation.successor in self.candidates:
            self.stand_after(now_ms, self.timing.stagger_ms)  # rule 7: it has the first turn
        return actions

    # -- voting --------------------------------------------------------------------------------------------------

    def hear_vote_request(self, now_ms: int, sender: str, request: VoteRequest) -> list[Action]:
        """Answer a candidate; a granted vote is answered only once it is on stable storage (rule 1)."""
        wait_ms = self.bound(now_ms, sender)
        granted = wait_ms == 0 and sender in self.candidates and self.persisting is None
        granted = granted and not self.book.forbids(sender)  # rule 13
        if request.pre:
            if granted and self.courtesy_to not in (None, sender) and now_ms < self.courtesy_until_ms:
                granted, wait_ms = False, self.courtesy_until_ms - now_ms
            granted = granted and request.term > self.term
            if granted:  # rule 6
                self.courtesy_to = sender
                self.courtesy_until_ms = now_ms + self.timing.stagger_ms
            return [self.reply(sender, request, granted=granted, wait_ms=wait_ms)]
        granted = granted and (request.term > self.term or (request.term == self.term and self.vote in (None, sender)))
        if not granted:
            return [self.reply(sender, request, granted=False, wait_ms=wait_ms)]
        actions: list[Action] = []
        if self.role is Role.ELECTION:
            self.become(Role.PASSIVE)  # a candidate that is free to vote has only asked for pre-votes
        self.term, self.vote = request.term, sender
        self.promise.make(sender, request.term, now_ms + self.promise_ms(request.lease_ms))
        if self.leader is not None:
            actions += self.forget_leader(now_ms)
        self.stand_after(now_ms, self.timing.promise_ms)
        self.persisting = PersistVote(self.name, request.term, sender)
        self.answer_when_persisted = self.reply(sender, request, granted=True, wait_ms=0)
        return [*actions, self.persisting]

    def reply(self, to: str, request: VoteRequest, *, granted: bool, wait_ms: int) -> Send:
        """Build the answer to a vote request."""
        return Send(
            to,
            VoteReply(self.name, request.term, request.pre, request.sent_ms, granted, self.term, wait_ms),
        )

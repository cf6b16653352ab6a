"""Changes: who led what, until when and why, and how long nobody served, as one node saw it. Pure.

Rule: it only watches. Moments are this node's CLOCK_BOOTTIME; what a node can't know is absent, never guessed.

A change's phases count from the last moment at which the old leader is known to have served (`lost_ms`, 0): its own
word where it gave up, the last that was heard of it where it fell silent.
"""

from typing import Any, Final

import msgspec

from gateway.core.actions import Cause
from gateway.wire.messages import ON_REQUEST

Fact = dict[str, Any]  # an event for people and programs: `event` is its name, the rest depends on that

ADDRESS: Final = "address"
MATCHMAKER: Final = "matchmaker"
GUARD_SAYS: Final = "the guard says: "  # begins the reason of a resignation by the guard of a process that has died
LINK_SAYS: Final = "link "  # begins the reason of an address' unfitness for its device
# Causes besides those of `Cause`: why a leader is one no more, as seen from elsewhere.
DIED: Final = "died"  # its control process has ended; its guard said so
LINK_DOWN: Final = "link-down"
FIRST: Final = "first"  # nobody led before, as far as this node has ever known
UNSEEN: Final = "unseen"  # it happened while this node did not run, or heard nobody
GRACEFUL: Final = frozenset({Cause.REQUESTED, Cause.UNFIT, LINK_DOWN})  # served until the stop was confirmed
# The phase with which the service is back, by the kind of the election.
SERVED_AGAIN: Final = {ADDRESS: "announced_ms", MATCHMAKER: "first_cycle_ms"}


class Change(msgspec.Struct, kw_only=True, rename={"from_": "from"}, omit_defaults=False):
    """An election got another leader. `phases` are whole ms since the old one served last; `gap_ms` None: not known."""

    seq: int = 0
    at: float = 0.0  # unix time, for people
    election: str
    kind: str
    term: int
    from_: str | None
    to: str
    cause: str
    detail: str
    gap_ms: int | None = None
    phases: dict[str, int] = {}

    def fields(self) -> Fact:
        """Return what an event tells of it: everything but its number and time, which are the event's own."""
        fields: Fact = msgspec.to_builtins(self)
        del fields["seq"], fields["at"]
        return fields


class End(msgspec.Struct, frozen=True):
    """How a leader's time ended: the last moment at which it served, and why it does no more."""

    at_ms: int
    cause: str
    detail: str


class Course:
    """The leaders of one election, one after the other. Facts are returned in their order.

    Args:
        election: its name.
        kind: ADDRESS or MATCHMAKER.
        me: this node's name.
        leader: the last one that an earlier life of this node knew of; None: there never was any.
        term: in which that one led.
    """

    def __init__(self, election: str, kind: str, me: str, leader: str | None = None, term: int = 0) -> None:
        self.election = election
        self.kind = kind
        self.leader = leader  # the last that is known, whether or not it leads still
        self.term = term
        self.present: str | None = None  # who leads now
        self._me = me
        self._seen = False  # this process has seen somebody lead
        self._end: End | None = None  # said by whoever led, or by this node itself
        self._lost: End | None = None  # as far as is known now
        self._noticed_ms = 0
        self.change: Change | None = None  # the last one, where its phases may still be added to
        self._zero_ms = 0  # from which its phases count
        self._zero_known = False

    # -- what was said of the leader's end, before it is seen ----------------------------------------------------

    def resigned(self, now_ms: int, sender: str, term: int, reason: str) -> None:
        """`sender` has said that it serves no more."""
        if sender != self.present or term != self.term:
            return  # a candidate gave its round up
        self._end = End(now_ms, *_cause_of(reason))

    def stopping(self, now_ms: int, term: int, cause: str, detail: str) -> None:
        """This node is told to serve no more."""
        if self.present == self._me and term == self.term:
            self._end = End(now_ms, _finer(cause, detail), detail)

    def stopped(self, now_ms: int, term: int) -> None:
        """This node serves no more, in good order: it did until now."""
        if self._lost is not None and term == self.term and self._lost.cause in GRACEFUL:
            self._lost = msgspec.structs.replace(self._lost, at_ms=now_ms)

    # -- what is seen --------------------------------------------------------------------------------------------

    def followed(self, now_ms: int, leader: str | None, term: int, heard_ms: int | None) -> list[Fact]:
        """`leader` leads now; None: nobody.

        `heard_ms`: when the leader before it was last heard; None: never, or it is this node.
        """
        if leader is None:
            return self._leader_lost(now_ms, heard_ms) if self.present is not None else []
        if (leader, term) == (self.leader, self.term):
            return self._returned(leader)
        return self._changed(now_ms, leader, term, heard_ms)

    def _leader_lost(self, now_ms: int, heard_ms: int | None) -> list[Fact]:
        self._lost, self._end = self._end or self._silence(now_ms, heard_ms), None
        self._noticed_ms = now_ms
        lost, self.present = self.present, None
        return [
            {
                "event": "leader-lost",
                "election": self.election,
                "kind": self.kind,
                "term": self.term,
                "from": lost,
                "cause": self._lost.cause,
                "detail": self._lost.detail,
            }
        ]

    @property
    def lost(self) -> End | None:
        """How the last leader's time ended, as long as nobody leads; None: somebody does, or nobody was seen to."""
        return self._lost if self.present is None else None

    def _silence(self, now_ms: int, heard_ms: int | None) -> End:
        at_ms = now_ms if heard_ms is None else heard_ms
        return End(at_ms, Cause.LEASE_EXPIRED, f"nothing was heard of {self.present} for {now_ms - at_ms} ms")

    def _returned(self, leader: str) -> list[Fact]:
        """The last leader leads still: it was only not heard, by this node or by its earlier life."""
        was_lost, self.present = self._seen and self.present is None, leader
        self._seen = True
        self._lost = self._end = None
        if not was_lost:
            return []
        return [
            {
                "event": "leader-returned",
                "election": self.election,
                "kind": self.kind,
                "term": self.term,
                "to": leader,
            }
        ]

    def _changed(self, now_ms: int, leader: str, term: int, heard_ms: int | None) -> list[Fact]:
        former, end = self.leader, self._how_it_ended(now_ms, leader, term, heard_ms)
        noticed_ms = now_ms if self.present is not None else self._noticed_ms
        self.present = self.leader = leader
        self.term = term
        self._lost = self._end = None
        self._zero_known = self._seen and former is not None
        self._zero_ms = end.at_ms if self._zero_known else now_ms
        self._seen = True
        phases = {"elected_ms": now_ms - self._zero_ms}
        if self._zero_known:
            phases = {"lost_ms": 0, "noticed_ms": max(noticed_ms - self._zero_ms, 0)} | phases
        self.change = Change(
            election=self.election,
            kind=self.kind,
            term=term,
            from_=former,
            to=leader,
            cause=end.cause,
            detail=end.detail,
            phases=phases,
        )
        return [{"event": "leader-changed", **self.change.fields()}]

    def _how_it_ended(self, now_ms: int, leader: str, term: int, heard_ms: int | None) -> End:
        if self.leader is None:
            return End(now_ms, FIRST, "")
        if not self._seen:
            return End(now_ms, UNSEEN, "it happened while this node did not run")
        if self.present is None:
            assert self._lost is not None, "a leader that was seen is lost before nobody leads"
            return self._lost
        if self._end is not None:
            return self._end
        at_ms = now_ms if heard_ms is None else heard_ms
        return End(at_ms, Cause.SUPERSEDED, f"{leader} leads term {term}; {self.present} has not said why it ended")

    def phase(self, now_ms: int, term: int, name: str) -> list[Fact]:
        """The new leader, this node, has come so far (`name` ends in `_ms`). Only the first time in a term counts."""
        change = self.change
        if change is None or change.term != term or change.to != self._me or name in change.phases:
            return []
        since_ms = now_ms - self._zero_ms
        change.phases = {**change.phases, name: since_ms}
        again = self._zero_known and name == SERVED_AGAIN[self.kind]
        if again:
            change.gap_ms = since_ms
        about = {"election": self.election, "kind": self.kind, "term": term}
        facts: list[Fact] = [{"event": "phase", **about, "phase": name, "ms": since_ms}]
        if again:
            parties = {"from": change.from_, "to": change.to, "cause": change.cause}
            facts.append({"event": "served-again", **about, **parties, "gap_ms": since_ms})
        return facts


def _cause_of(reason: str) -> tuple[str, str]:
    """Return the cause and the detail of a resignation's reason."""
    if reason.startswith(GUARD_SAYS):
        return DIED, "its control process has ended, as its guard says"
    word, colon, detail = reason.partition(": ")
    if word.startswith(ON_REQUEST):
        return Cause.REQUESTED, detail
    if colon and word in list(Cause):
        return _finer(word, detail), detail
    return "resigned", reason


def _finer(cause: str, detail: str) -> str:
    """Return the cause, with a name of its own where an unfit gateway's device is the reason."""
    return LINK_DOWN if cause == Cause.UNFIT and detail.startswith(LINK_SAYS) else str(cause)

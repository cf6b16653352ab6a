"""Timelines: which history an accounting state is, and where two of them went apart. Values only; nothing here reads.

Rule: what a timeline says it holds, it holds whole. As PostgreSQL's timelines, with merges.

A leader writes positions of its own term alone: (term, generation, offset), the bytes of one file after another. Who
takes over forks off at the position that it had received, and writes in its own term from there. So a history is a
chain of terms, each left at some position; merging adds what other chains held. For every term there is one longest
piece, and a state holds a prefix of it: `Timeline.reach`. Two states relate as these prefixes do.
"""

import enum

import msgspec

FORKS_MAX = 64  # failovers in a row while a manager is away; the oldest is forgotten then, and merging needs a person
INCLUDED_MAX = 256


class Position(msgspec.Struct, frozen=True, order=True, array_like=True, forbid_unknown_fields=True):
    """How far a leader had written. Greater is later; positions of one term are of one writer, and comparable."""

    term: int  # of the leader that wrote it; 0: nothing was ever written
    generation: int  # of its file: from 1, one more with each compaction or replacement
    offset: int  # bytes of that file, whole transactions only

    def __str__(self) -> str:
        return f"{self.term}.{self.generation}.{self.offset}"


NOWHERE = Position(0, 0, 0)


def same_file(one: Position, other: Position) -> bool:
    """Tell whether two positions are of one file, so that one of them is a part of the other."""
    return (one.term, one.generation) == (other.term, other.generation)


class Fork(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a term was left by who went on in the next one."""

    position: Position
    taken_s: int  # when the next leader's negotiator was started on it, in seconds since 1970


class Timeline(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The history of one accounting state.

    Attributes:
        head: where it is.
        forks: its own chain before the head's term, oldest first.
        included: of other terms, how far they were merged into it; one position a term, in order.
    """

    head: Position = NOWHERE
    forks: tuple[Fork, ...] = ()
    included: tuple[Position, ...] = ()

    @property
    def reach(self) -> dict[int, Position]:
        """Return how far this history holds each term that it holds any of."""
        found: dict[int, Position] = {}
        for position in (*self.included, *(fork.position for fork in self.forks), self.head):
            if position.term and found.get(position.term, NOWHERE) < position:
                found[position.term] = position
        return found

    def holds(self, position: Position) -> bool:
        """Tell whether everything up to `position` is in this history."""
        return position.term == 0 or self.reach.get(position.term, NOWHERE) >= position

    def at(self, head: Position) -> "Timeline":
        """Return this history, gone on to `head` in the same term."""
        assert head.term == self.head.term, f"{self.head} -> {head} is not the same term"
        return msgspec.structs.replace(self, head=head)

    def taken_over(self, term: int, now_s: int) -> "Timeline":
        """Return the history of who takes over here in `term`, which has written nothing yet."""
        assert term > self.head.term, f"{self.head} -> term {term} goes back"
        forks = self.forks if self.head.term == 0 else (*self.forks, Fork(self.head, now_s))
        return Timeline(Position(term, 0, 0), forks[-FORKS_MAX:], self.included)

    def merged_with(self, other: "Timeline") -> "Timeline":
        """Return this history once `other` has been merged into it."""
        own = {fork.position.term for fork in self.forks} | {self.head.term}
        reach = self.reach
        for term, position in other.reach.items():
            if reach.get(term, NOWHERE) < position:
                reach[term] = position
        chain = {position.term: position for position in (*(fork.position for fork in self.forks), self.head)}
        included = sorted(
            position for term, position in reach.items() if term not in own or position > chain.get(term, NOWHERE)
        )
        return msgspec.structs.replace(self, included=tuple(included[-INCLUDED_MAX:]))

    def forgotten(self, position: Position) -> "Timeline":
        """Return this history without what came before `position`, a fork or the head that everybody holds."""
        forks = tuple(fork for fork in self.forks if fork.position >= position)
        included = tuple(one for one in self.included if one.term > position.term)
        return msgspec.structs.replace(self, forks=forks, included=included)


class Relation(enum.StrEnum):
    """How another history relates to ours."""

    BEHIND = "behind"  # all of it is in ours
    AHEAD = "ahead"  # all of ours is in it, and it has more
    DIVERGED = "diverged"  # each has what the other has not; they have a common base
    UNRELATED = "unrelated"  # each has what the other has not; nothing that they share is known


class Meeting(msgspec.Struct, frozen=True):
    """What became of comparing two histories. `base` is the last position that both hold, where they diverged."""

    relation: Relation
    base: Position = NOWHERE


def meet(ours: Timeline, theirs: Timeline) -> Meeting:
    """Compare two histories.

    A head says all: a position is of one writer, who knew what his file held, and what came before may have been
    forgotten meanwhile by one of the two.

    The base is the newest link of either chain of which the other history holds a piece: no later than what either
    holds. It is where somebody took over, so that somebody has kept the file as it was there. Of histories that were
    merged crosswise it may hold less than both do: see `is_base_of`.
    """
    if ours.holds(theirs.head):
        return Meeting(Relation.BEHIND)
    if theirs.holds(ours.head):
        return Meeting(Relation.AHEAD)
    reach, their_reach = ours.reach, theirs.reach
    base = max(_last_link(theirs, reach), _last_link(ours, their_reach))
    return Meeting(Relation.DIVERGED, base) if base != NOWHERE else Meeting(Relation.UNRELATED)


def is_base_of(base: Timeline, ours: Timeline, theirs: Timeline) -> bool:
    """Tell whether `base` holds all that both hold: what is merged from there is counted once.

    Terms that one of them has forgotten, as everybody held them, do not count.
    """
    reach, their_reach, held = ours.reach, theirs.reach, base.reach
    common = reach.keys() & their_reach.keys()
    return all(held.get(term) == min(reach[term], their_reach[term]) for term in common)


def taken_over_s(timeline: Timeline, base: Position) -> int | None:
    """Return when a negotiator was started on a copy of `base`; None where its own writer went on from there."""
    return next((fork.taken_s for fork in timeline.forks if fork.position == base), None)


def _last_link(chain: Timeline, reach: dict[int, Position]) -> Position:
    """Return how far the newest link of `chain` that `reach` has a piece of is held by both."""
    for link in (chain.head, *(fork.position for fork in reversed(chain.forks))):
        if (held := reach.get(link.term)) is not None:
            return min(held, link)
    return NOWHERE

"""Timelines against a model: a history is the set of bytes that it holds, and everything else follows from that."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.timeline import NOWHERE, Fork, Meeting, Position, Relation, Timeline, is_base_of, meet

AT_FIVE = Timeline(Position(5, 1, 0))


class Manager(msgspec.Struct):
    """One manager of the model: what it says, and what it truly holds."""

    timeline: Timeline
    bytes: frozenset[tuple[int, int]]  # (term, how many-th byte of the term)
    kept: dict[Position, tuple[Timeline, frozenset[tuple[int, int]]]]  # where it took over, and what it held there


class World:
    """Managers that lead, follow, take over apart from each other, and merge."""

    def __init__(self, managers: int) -> None:
        self.managers = [Manager(Timeline(), frozenset(), {}) for _ in range(managers)]
        self.term = 0

    def take_over(self, one: int) -> None:
        self.term += 1
        manager = self.managers[one]
        manager.kept[manager.timeline.head] = (manager.timeline, manager.bytes)
        manager.timeline = manager.timeline.taken_over(self.term, now_s=self.term)

    def write(self, one: int, compacts: bool) -> None:
        manager = self.managers[one]
        head = manager.timeline.head
        written = sum(1 for term, _ in manager.bytes if term == head.term)
        manager.bytes |= {(head.term, written)}
        generation = head.generation + (1 if compacts or head.generation == 0 else 0)
        manager.timeline = manager.timeline.at(Position(head.term, generation, written + 1))

    def follow(self, one: int, leader: int) -> None:
        """Receive all that the leader has, as a standby does whose own history is in it."""
        source, target = self.managers[leader], self.managers[one]
        if meet(source.timeline, target.timeline).relation is Relation.BEHIND:
            target.timeline, target.bytes = source.timeline, source.bytes
            target.kept |= source.kept

    def merge(self, one: int, other: int) -> None:
        ours, theirs = self.managers[one], self.managers[other]
        if ours.timeline.head.term == 0:
            return
        met = meet(ours.timeline, theirs.timeline)
        if met.relation is not Relation.DIVERGED or ours.timeline.head.term < theirs.timeline.head.term:
            return
        ours.bytes |= theirs.bytes
        head = ours.timeline.head
        merged = ours.timeline.merged_with(theirs.timeline)
        ours.timeline = merged.at(Position(head.term, head.generation + 1, head.offset))  # another file
        ours.kept |= theirs.kept


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take over", "write", "compact", "follow", "merge"]), st.integers(0, 3), st.integers(0, 3)
    ),
    max_size=40,
)


def played(steps: list[tuple[str, int, int]]) -> World:
    world = World(4)
    leaders: dict[int, int] = {}  # manager -> the term that it writes in
    for name, one, other in steps:
        if name == "take over":
            world.take_over(one)
            leaders[one] = world.term
        elif name in ("write", "compact") and leaders.get(one) == world.managers[one].timeline.head.term:
            world.write(one, compacts=name == "compact")
        elif name == "follow" and one != other:
            leaders.pop(one, None)
            world.follow(one, other)
        elif name == "merge" and one != other and one in leaders:
            leaders.pop(other, None)
            world.merge(one, other)
    return world


@settings(max_examples=600, deadline=None)
@given(STEPS)
def test_a_history_is_behind_another_exactly_when_all_its_bytes_are_in_it(steps: list[tuple[str, int, int]]) -> None:
    world = played(steps)
    for ours in world.managers:
        for theirs in world.managers:
            behind = meet(ours.timeline, theirs.timeline).relation is Relation.BEHIND
            if behind:
                assert theirs.bytes <= ours.bytes
            # A term that nothing was written in is known to its own writer only.
            elif theirs.timeline.head.offset:
                assert not theirs.bytes <= ours.bytes


@settings(max_examples=600, deadline=None)
@given(STEPS)
def test_the_base_of_two_histories_holds_what_both_hold_and_is_kept_by_one(steps: list[tuple[str, int, int]]) -> None:
    world = played(steps)
    for ours in world.managers:
        for theirs in world.managers:
            met = meet(ours.timeline, theirs.timeline)
            if met.relation is not Relation.DIVERGED:
                continue
            timeline, held = (ours.kept | theirs.kept)[met.base]
            assert held <= ours.bytes & theirs.bytes
            if is_base_of(timeline, ours.timeline, theirs.timeline):
                assert held == ours.bytes & theirs.bytes
            else:
                assert ours.timeline.included or theirs.timeline.included, "only merging makes a base inexact"


def test_who_took_over_and_the_old_leader_meet_where_the_new_one_forked() -> None:
    old = AT_FIVE.at(Position(5, 2, 900))
    new = AT_FIVE.at(Position(5, 2, 500)).taken_over(6, now_s=1).at(Position(6, 1, 700))
    assert meet(new, old) == Meeting(Relation.DIVERGED, Position(5, 2, 500))
    assert meet(old, new) == Meeting(Relation.DIVERGED, Position(5, 2, 500))


def test_an_old_leader_whose_every_byte_was_received_is_behind() -> None:
    old = AT_FIVE.at(Position(5, 2, 500))
    new = old.taken_over(6, now_s=1).at(Position(6, 1, 700))
    assert meet(new, old).relation is Relation.BEHIND


def test_a_merged_history_is_never_merged_again() -> None:
    old = AT_FIVE.at(Position(5, 2, 900))
    new = AT_FIVE.at(Position(5, 2, 500)).taken_over(6, now_s=1).at(Position(6, 1, 700))
    assert meet(new.merged_with(old), old).relation is Relation.BEHIND
    assert not new.holds(old.head)


def test_histories_that_share_nothing_are_unrelated() -> None:
    assert meet(Timeline(Position(9, 1, 10)), AT_FIVE.at(Position(5, 1, 10))).relation is Relation.UNRELATED


def test_a_manager_that_holds_nothing_is_behind_everybody() -> None:
    assert meet(AT_FIVE, Timeline()).relation is Relation.BEHIND
    assert AT_FIVE.holds(NOWHERE)


def test_a_takeover_goes_on_in_a_later_term_only() -> None:
    with pytest.raises(AssertionError, match="goes back"):
        AT_FIVE.taken_over(5, now_s=1)


def test_what_everybody_holds_is_forgotten_and_what_came_later_is_not() -> None:
    timeline = Timeline(
        Position(8, 1, 10), (Fork(Position(5, 1, 3), 1), Fork(Position(6, 1, 4), 2)), (Position(7, 1, 9),)
    )
    assert timeline.forgotten(Position(6, 1, 4)) == Timeline(
        Position(8, 1, 10), (Fork(Position(6, 1, 4), 2),), (Position(7, 1, 9),)
    )
    assert timeline.forgotten(timeline.head) == Timeline(Position(8, 1, 10))

"""Histories that were shortened: what everybody held is not told any more, and is held nevertheless."""

from gateway.core.timeline import Fork, Position, Relation, Timeline, is_base_of, meet

LONG = Timeline(Position(2, 1, 100), (Fork(Position(1, 1, 50), 7),))
SHORT = LONG.forgotten(Position(2, 1, 0))


def test_a_shortened_history_that_went_on_holds_what_it_was() -> None:
    assert meet(SHORT.at(Position(2, 2, 10)), LONG).relation is Relation.BEHIND


def test_a_shortened_history_that_went_on_is_ahead_of_what_it_was() -> None:
    assert meet(LONG, SHORT.at(Position(2, 2, 10))).relation is Relation.AHEAD


def test_who_took_over_from_a_shortened_history_holds_the_long_one() -> None:
    assert meet(SHORT.taken_over(3, now_s=8).at(Position(3, 1, 5)), LONG).relation is Relation.BEHIND


def test_what_was_forgotten_on_one_side_does_not_spoil_the_base() -> None:
    ours = SHORT.taken_over(3, now_s=8).at(Position(3, 1, 5))
    theirs = LONG.at(Position(2, 1, 120))
    met = meet(ours, theirs)
    assert (met.relation, met.base) == (Relation.DIVERGED, Position(2, 1, 100))
    assert is_base_of(SHORT, ours, theirs)
    assert is_base_of(LONG, ours, theirs)

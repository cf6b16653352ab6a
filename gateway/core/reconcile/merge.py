"""Merge: the whole of a reconciliation, and how it goes on. The rules stand in `gateway.core.reconcile`."""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.reconcile.course import Changes, Course, changed
from gateway.core.reconcile.report import Report, SideReport, Tally
from gateway.core.reconcile.settle import History, history
from gateway.core.reconcile.sides import Pool, Side, check, ranked, respelled, spelled_alike
from gateway.wire.accountant import State

SIDES_MAX: Final = 16  # managers of a pool; the views of all pairs are looked at
HTCONDOR: Final = Pool()


class Merged(msgspec.Struct, frozen=True):
    """The one history. `sequence` and `birthdate_s` belong into its 107 record."""

    state: State
    sequence: int
    birthdate_s: int
    report: Report


def reconcile(base: Side, sides: Sequence[Side], pool: Pool = HTCONDOR) -> Merged:
    """Merge histories that went on from `base`; the rules are at the top of the package.

    The states that are given are not changed; the result may share records with them.

    Raises:
        NotContinued: a side is no continuation of the base.
        ValueError: no side, too many, or two of one name.
    """
    return Reconciliation(base, sides, pool).merged


class Reconciliation:
    """A merge that has been made, and may be made again after one side has gone on.

    Attributes:
        merged: the result; its state is not to be kept over a call of `follow`, which changes it.
    """

    def __init__(self, base: Side, sides: Sequence[Side], pool: Pool = HTCONDOR) -> None:
        """Merge. Arguments and errors as of `reconcile`."""
        names = [base.name, *(side.name for side in sides)]
        if not 1 <= len(sides) <= SIDES_MAX or len(set(names)) < len(names):
            raise ValueError(
                f"a merge is of one base and 1 to {SIDES_MAX} sides, all of different names, not of {names}"
            )
        check(base, sides, pool)
        self._pool = pool
        self._spelled, (base, *sides) = spelled_alike([base, *sides])
        self._base = base
        self._ordered = ranked(sides)
        self._same_as = _equals(base, self._ordered)
        moved = [side for side in self._ordered if side.name not in self._same_as]
        sequence = max(base.sequence, *(side.sequence for side in sides)) + 1
        self._course: Course | None = None
        if len(moved) < 2:
            only = moved[0] if moved else base
            report = _fast_forward(base, only, self._ordered, self._same_as, pool)
            self.merged = Merged(only.state, sequence, base.birthdate_s or only.birthdate_s, report)
            return
        birthdate_s = base.birthdate_s or min(side.birthdate_s for side in moved)
        self._course = Course(base, moved, pool)
        self.merged = Merged(self._course.state, sequence, birthdate_s, self._report(self._course))

    def follow(self, name: str, changes: Changes) -> set[str] | None:
        """Merge again what follows from a side's having gone on: the result is that of a merge made anew.

        Args:
            name: the side.
            changes: its records that are not as they were: as they are now, None where they are deleted.

        Returns:
            The keys whose merged record may be another one now; None where the merge must be made anew: the sides are
            in another order, or one equals another or the base, or did.

        Raises:
            NotContinued: the side is no continuation of the base any more.
        """
        course = self._course
        before = next(side for side in self._ordered if side.name == name)
        changes = {key: None if ad is None else respelled({key: ad}, self._spelled)[key] for key, ad in changes.items()}
        side = changed(before, changes)
        check(self._base, [side], self._pool)
        ordered = ranked([side if other is before else other for other in self._ordered])
        if (
            course is None
            or name in self._same_as
            or [other.name for other in ordered] != [other.name for other in self._ordered]
        ):
            return None
        if _equals(self._base, ordered) != self._same_as:
            return None
        self._ordered = ordered
        fresh = course.follow(side, changes)
        self.merged = msgspec.structs.replace(self.merged, report=self._report(course))
        return fresh

    def side(self, name: str) -> Side:
        """Return a side as it was merged."""
        return next(side for side in self._ordered if side.name == name)

    def history(self, name: str) -> History:
        """Return a side, settled as it was merged."""
        known = self._course.histories.get(name) if self._course is not None else None
        return known or history(self.side(name), self._pool)

    def _report(self, course: Course) -> Report:
        edits = [edit for customer in sorted(course.edits) for edit in course.edits[customer]]
        return Report(
            survivor=course.sides[0].name,
            base_s=course.base_s,
            merged_s=course.merged_s,
            fast_forward=False,
            sides=_side_reports(self._ordered, self._same_as, course.histories, self._pool),
            views=course.views,
            customers=[course.lines[customer] for customer in sorted(course.lines)],
            edits=sorted([*edits, *course.other_edits], key=lambda edit: (edit.key, edit.attribute)),
            usage=course.usage,
            weighted=course.weighted,
            notes=course.notes,
        )


def _equals(base: Side, ordered: Sequence[Side]) -> dict[str, str]:
    """Return the sides that add nothing, with the name of the one that they equal (rule 2)."""
    found: dict[str, str] = {}
    for number, side in enumerate(ordered):
        for other in (base, *ordered[:number]):
            if other.name not in found and other.state == side.state:
                found[side.name] = other.name
                break
    return found


def _fast_forward(base: Side, only: Side, ordered: Sequence[Side], same_as: dict[str, str], pool: Pool) -> Report:
    return Report(
        survivor=only.name,
        base_s=base.updated_s,
        merged_s=only.updated_s,
        fast_forward=True,
        sides=_side_reports(ordered, same_as, {}, pool),
        views=[],
        customers=[],
        edits=[],
        usage=Tally(charged={}),
        weighted=Tally(charged={}),
        notes=[f"only {only.name} went on from the base: it is taken as it is"]
        if only.name != base.name
        else ["nobody went on from the base: it is taken as it is"],
    )


def _side_reports(
    ordered: Sequence[Side], same_as: dict[str, str], settled: dict[str, History], pool: Pool
) -> list[SideReport]:
    found = []
    for side in ordered:
        one = settled.get(side.name) or history(side, pool)
        found.append(
            SideReport(side.name, side.term, side.updated_s, one.settled_s, len(one.claims), same_as.get(side.name, ""))
        )
    return found

"""Merge: the whole of a reconciliation, table by table. The rules stand in `gateway.core.reconcile`."""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.reconcile.claims import Groups, customers_of
from gateway.core.reconcile.customers import Context, merge_customer
from gateway.core.reconcile.edits import edit_of, who_changed
from gateway.core.reconcile.overlap import find_overlap
from gateway.core.reconcile.report import CustomerReport, Edit, Report, SideReport, Tally
from gateway.core.reconcile.settle import History, extended, history
from gateway.core.reconcile.sides import (
    ACCOUNTANT,
    CUSTOMER,
    LAST_UPDATE,
    RESOURCE,
    Pool,
    Side,
    check,
    ranked,
    with_common_names,
)
from gateway.core.reconcile.usage import Moments
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
    names = [base.name, *(side.name for side in sides)]
    if not 1 <= len(sides) <= SIDES_MAX or len(set(names)) < len(names):
        raise ValueError(f"a merge is of one base and 1 to {SIDES_MAX} sides, all of different names, not of {names}")
    check(base, sides, pool)
    states = with_common_names([base.state, *(side.state for side in sides)])
    base = msgspec.structs.replace(base, state=states[0])
    ordered = ranked(
        [msgspec.structs.replace(side, state=state) for side, state in zip(sides, states[1:], strict=True)]
    )
    same_as = _equals(base, ordered)
    moved = [side for side in ordered if side.name not in same_as]
    sequence = max(base.sequence, *(side.sequence for side in sides)) + 1
    if len(moved) < 2:
        only = moved[0] if moved else base
        report = _fast_forward(base, only, ordered, same_as, pool)
        return Merged(only.state, sequence, base.birthdate_s or only.birthdate_s, report)
    birthdate_s = base.birthdate_s or min(side.birthdate_s for side in moved)
    state, report = _merge(base, moved, ordered, same_as, pool)
    return Merged(state, sequence, birthdate_s, report)


def _equals(base: Side, ordered: Sequence[Side]) -> dict[str, str]:
    """Return the sides that add nothing, with the name of the one that they equal (rule 2)."""
    found: dict[str, str] = {}
    for number, side in enumerate(ordered):
        for other in (base, *ordered[:number]):
            if other.name not in found and other.state == side.state:
                found[side.name] = other.name
                break
    return found


def _merge(
    base: Side, moved: Sequence[Side], ordered: Sequence[Side], same_as: dict[str, str], pool: Pool
) -> tuple[State, Report]:
    before, sides = history(base, pool), [history(side, pool) for side in moved]
    merged_s = max(before.settled_s, *(side.settled_s for side in sides))
    notes = []
    if (gap_s := merged_s - sides[0].settled_s) > pool.extend_s_max:
        notes.append(
            f"{moved[0].name} survives, but last charged {gap_s} s before the merge: "
            "that is too long ago to charge its matches until then"
        )
    sides[0] = extended(sides[0], merged_s, pool)
    customers = sorted(set[str]().union(*(customers_of(side.state) for side in (base, *moved))))
    overlap = find_overlap(before, sides, Groups(customers), merged_s, pool)
    names = [side.name for side in moved]
    moments = Moments(before.settled_s, [side.settled_s for side in sides], merged_s, pool.half_life_s)
    busy = set[str]().union(before.uses, *(side.uses for side in sides), overlap.shared.of)
    busy.update(*(ledger.of for ledger in (*overlap.phantom, *overlap.stale)))
    context = Context(before, sides, names, moments, overlap, pool, busy)
    state: State = {key: ad for key, ad in moved[0].state.items() if key.startswith(RESOURCE)}
    lines: list[CustomerReport] = []
    edits: list[Edit] = []
    usage, weighted = (Tally(charged=dict.fromkeys(names, 0)) for _ in range(2))
    for customer in customers:
        outcome = merge_customer(customer, context)
        if outcome.ad is not None:
            state[CUSTOMER + customer] = outcome.ad
        if outcome.report is not None:
            lines.append(outcome.report)
        edits += outcome.edits
        if "@" in customer:  # a group's record counts its users' usage again
            usage.add(outcome.usage)
            weighted.add(outcome.weighted)
    others, other_edits = _merge_others(base, moved)
    state |= others
    state[ACCOUNTANT] = {**others.get(ACCOUNTANT, {}), LAST_UPDATE: str(merged_s)}
    report = Report(
        survivor=names[0],
        base_s=before.settled_s,
        merged_s=merged_s,
        fast_forward=False,
        sides=_side_reports(ordered, same_as, {side.side.name: side for side in sides}, pool),
        views=overlap.views,
        customers=lines,
        edits=sorted([*edits, *other_edits], key=lambda edit: (edit.key, edit.attribute)),
        usage=usage,
        weighted=weighted,
        notes=notes,
    )
    return {key: state[key] for key in sorted(state)}, report


def _merge_others(base: Side, moved: Sequence[Side]) -> tuple[State, list[Edit]]:
    """Merge the records of tables that are not known here, and what the Accountant says of itself, by who changed."""
    states = [side.state for side in moved]
    names = [side.name for side in moved]
    everyone = range(len(moved))
    keys = {key for state in (base.state, *states) for key in state if not key.startswith((CUSTOMER, RESOURCE))}
    merged: State = {}
    edits = []
    for key in sorted(keys):
        before, ads = base.state.get(key), [state.get(key) for state in states]
        there = who_changed(before is not None, [ad is not None for ad in ads], everyone)
        if before is not None and there.winner is not None and all(ad in (None, before) for ad in ads):
            texts = [None if ad is None else "present" for ad in ads]
            edits.append(edit_of(key, "", "present", texts, there, names))
            continue  # deleted, and changed by nobody else
        merged[key] = {}
        present = [number for number in everyone if ads[number] is not None]
        for name in sorted(set[str]().union(before or {}, *(ad or {} for ad in ads))):
            if (key, name) == (ACCOUNTANT, LAST_UPDATE):
                continue
            old, values = (before or {}).get(name), [(ad or {}).get(name) for ad in ads]
            choice = who_changed(old, values, present)
            kept = old if choice.winner is None else values[choice.winner]
            if kept is not None:
                merged[key][name] = kept
            if choice.winner is not None and (choice.conflict or before is not None) and name != "MyType":
                edits.append(edit_of(key, name, old, values, choice, names))
    return merged, edits


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

"""Customers: one record of all sides into one, attribute by attribute, and whether it is to be there at all.

Rules 4 to 6 and 12 of `gateway.core.reconcile`.
"""

import functools
from collections.abc import Callable, Sequence, Set
from typing import Final

import msgspec

from gateway.core.reconcile.amounts import MICRO, as_float, to_micro
from gateway.core.reconcile.claims import NO_USE, Use
from gateway.core.reconcile.edits import UNCHANGED, Ad, Choice, edit_of, merge_settings
from gateway.core.reconcile.overlap import NO_EXCESS, Overlap
from gateway.core.reconcile.report import CustomerReport, Edit, Fate, Tally
from gateway.core.reconcile.settle import EMPTY, PRIORITY_MAX, PRIORITY_MIN, Account, History, amounts_of, next_priority
from gateway.core.reconcile.sides import CUSTOMER, Pool
from gateway.core.reconcile.usage import (
    Entry,
    Moments,
    counters_of,
    merge_begin,
    merge_counter,
    merge_last,
    merge_priority,
    resets_of,
)
from gateway.wire.accountant import State

_CORRECTIONS: Final = (
    "ResourcesUsed",
    "WeightedResourcesUsed",
    "HierWeightedResourcesUsed",
    "UnchargedTime",
    "WeightedUnchargedTime",
)
_LOWEST: Final = f"{PRIORITY_MIN:f}"
_ZEROS: Final = frozenset({None, "0", "0.0", "0.000000"})
# What a record at rest has: nothing that runs out, and nothing that is left out.
_AT_REST: Final = frozenset(
    {
        *_CORRECTIONS,
        "MyType",
        "Priority",
        "PriorityFactor",
        "Ceiling",
        "Floor",
        "AccumulatedUsage",
        "WeightedAccumulatedUsage",
        "BeginUsageTime",
        "LastUsageTime",
    }
)


class Context(msgspec.Struct, frozen=True):
    """What is the same for all customers of a merge. `sides`: best first; the first is the survivor."""

    base: History
    sides: list[History]
    states: list[State]  # theirs
    names: list[str]
    moments: Moments
    overlap: Overlap
    pool: Pool
    busy: Set[str]  # customers with matches on any side, or with something to be taken off


class Outcome(msgspec.Struct, frozen=True):
    """One customer, merged. `ad` is None where it is to be no more; `report` where nothing happened to it.

    `at_rest`: whatever the times of the merge are, and whoever has matches, its own records being these it is this.
    """

    ad: dict[str, str] | None
    usage: Tally
    weighted: Tally
    report: CustomerReport | None
    edits: list[Edit]
    at_rest: bool = False


def merge_customer(key: str, context: Context) -> Outcome:
    """Merge one customer's records: those of a key."""
    customer = key[len(CUSTOMER) :]
    base_ad = context.base.side.state.get(key)
    ads = [state.get(key) for state in context.states]
    if base_ad is not None and customer not in context.busy:
        idle = _merge_idle(customer, base_ad, ads, context)
        if idle is not None:
            return idle
    entry = _entry(customer, base_ad, ads, context)
    moments, pool_of, names = context.moments, context.overlap.pool_of, context.names
    settings = merge_settings(customer, base_ad, ads, entry.present, names, moments.merged_s, context.pool)
    forget = bool(entry.deleted_by)
    if forget:  # the best of those that edited may overrule it
        editor = min((names.index(side) for edit in settings.edits for side in edit.values), default=len(names))
        forget = entry.deleted_by[0] < editor
    resets = resets_of(entry, moments.base_s)
    (usage, set_usage), (weighted, set_weighted) = (
        merge_counter(one, resets, pool_of, forget, names) for one in counters_of(entry)
    )
    if forget and usage.merged <= 0 and weighted.merged <= 0:
        return _delete(customer, entry, settings.edits, context)
    priority, set_priority = merge_priority(entry, weighted, resets, pool_of, forget, moments)
    begin_s, set_begin = merge_begin(entry, resets, forget, moments.base_s)
    last_s = merge_last(entry)
    edits = settings.edits + _edits_of_counts(
        key, entry, names, set_usage, set_weighted, set_priority, set_begin, resets
    )
    if entry.deleted_by:
        kept = f"kept: {'used' if forget else 'edited'} elsewhere"
        edits.append(_deletion(key, entry, kept, names, conflict=True))
    held = set[str]().union(*(ad for ad in (base_ad, *ads) if ad is not None))
    ad = dict(settings.edited if forget else settings.all)
    ad["Priority"] = f"{priority:f}"
    if usage.merged or "AccumulatedUsage" in held:
        ad["AccumulatedUsage"] = as_float(usage.merged)
    if weighted.merged or "WeightedAccumulatedUsage" in held:
        ad["WeightedAccumulatedUsage"] = as_float(weighted.merged)
    if begin_s or "BeginUsageTime" in held:
        ad["BeginUsageTime"] = str(begin_s)
    if last_s or "LastUsageTime" in held:
        ad["LastUsageTime"] = str(last_s)
    _add_counters(ad, context.sides[0].uses.get(customer, NO_USE), held)
    fate = Fate.ADDED if entry.base is None else Fate.RECREATED if forget else Fate.KEPT
    report = _report(customer, fate, entry, usage, weighted, priority, edits, names)
    return Outcome(ad, usage, weighted, report, edits)


def _merge_idle(customer: str, base_ad: dict[str, str], ads: Sequence[Ad | None], context: Context) -> Outcome | None:
    """Let a record age to which nothing else happened on any side: nearly all records of a large pool.

    A short cut: where it can be taken, the long way leads to the same. None where it can't.
    """
    before = base_ad.get("Priority", "")
    others = [ad for ad in ads if ad is not base_ad]  # few: what several files write alike, they share
    for ad in others:
        if ad is None or (ad != base_ad and {**ad, "Priority": before} != base_ad):
            return None
    if not _can_rest(tuple(base_ad)) or not _ZEROS.issuperset(map(base_ad.get, _CORRECTIONS)):
        return None
    amount, weighted_amount = amounts_of(base_ad)
    usage = Tally(base=amount, merged=amount)
    weighted = Tally(base=weighted_amount, merged=weighted_amount)
    if before == _LOWEST and not others:
        return Outcome(base_ad, usage, weighted, None, [], at_rest=True)
    priorities = [max((to_micro(ad and ad.get("Priority")) or 0) / MICRO, PRIORITY_MIN) for ad in (base_ad, *ads)]
    priorities[0] = min(priorities[0], PRIORITY_MAX)  # as `settle`
    base_aged, *aged = [
        next_priority(priority, NO_USE, 0, side.settled_s - side.updated_s, context.pool.half_life_s)
        for priority, side in zip(priorities, (context.base, *context.sides), strict=True)
    ]
    if base_aged == PRIORITY_MIN == max(aged):
        at_rest = max(priorities[1:]) == PRIORITY_MIN
        return Outcome({**base_ad, "Priority": _LOWEST}, usage, weighted, None, [], at_rest)
    base, *accounts = [Account(amount, weighted_amount, priority, 0, 0) for priority in (base_aged, *aged)]
    nothing = [NO_EXCESS] * len(ads)
    everyone = list(range(len(ads)))
    entry = Entry(base, [*accounts], everyone, [], nothing, nothing, NO_EXCESS, "@" not in customer, True)
    priority, set_priority = merge_priority(entry, weighted, (), context.overlap.pool_of, False, context.moments)
    if set_priority.winner is not None:
        return None
    return Outcome({**base_ad, "Priority": f"{priority:f}"}, usage, weighted, None, [])


@functools.lru_cache(maxsize=256)  # the records of a file have few sets of names
def _can_rest(names: tuple[str, ...]) -> bool:
    return _AT_REST.issuperset(names)


def _add_counters(ad: dict[str, str], use: Use, held: Set[str]) -> None:
    """Add the counters that follow from the survivor's matches; those that nobody has and nobody needs stay out."""
    if use.slots or "ResourcesUsed" in held:
        ad["ResourcesUsed"] = str(use.slots)
    if use.weight or "WeightedResourcesUsed" in held:
        ad["WeightedResourcesUsed"] = as_float(use.weight)
    if use.hier or "HierWeightedResourcesUsed" in held:
        ad["HierWeightedResourcesUsed"] = as_float(use.hier)
    if "UnchargedTime" in held:
        ad["UnchargedTime"] = "0"
    if "WeightedUnchargedTime" in held:
        ad["WeightedUnchargedTime"] = "0.000000"


def _entry(customer: str, base_ad: Ad | None, ads: Sequence[Ad | None], context: Context) -> Entry:
    half_life_s = context.pool.half_life_s
    overlap = context.overlap
    is_clear = customer not in context.busy
    nothing = [NO_EXCESS] * len(ads)
    return Entry(
        context.base.account(customer, base_ad, half_life_s),
        [side.account(customer, ad, half_life_s) for side, ad in zip(context.sides, ads, strict=True)],
        [number for number, ad in enumerate(ads) if ad is not None],
        [number for number, ad in enumerate(ads) if ad is None] if base_ad is not None else [],
        nothing if is_clear else [ledger.of.get(customer, NO_EXCESS) for ledger in overlap.phantom],
        nothing if is_clear else [ledger.of.get(customer, NO_EXCESS) for ledger in overlap.stale],
        overlap.shared.of.get(customer, NO_EXCESS),
        "@" not in customer,
        is_clear,
    )


def _edits_of_counts(
    key: str,
    entry: Entry,
    names: Sequence[str],
    set_usage: Choice,
    set_weighted: Choice,
    set_priority: Choice,
    set_begin: Choice,
    resets: Sequence[int],
) -> list[Edit]:
    """Return what was set of that which is otherwise counted."""
    if not resets and set_usage is set_weighted is set_priority is set_begin is UNCHANGED:
        return []  # the common case
    reset = Choice(resets[0], tuple(resets)) if resets else UNCHANGED
    text_of: tuple[tuple[str, Choice, Callable[[Account], str]], ...] = (
        ("AccumulatedUsage", set_usage, lambda account: as_float(account.usage)),
        ("WeightedAccumulatedUsage", set_weighted, lambda account: as_float(account.weighted)),
        ("Priority", set_priority, lambda account: f"{account.priority:f}"),
        ("BeginUsageTime", set_begin, lambda account: str(account.begin_s)),
        ("AccumulatedUsage", reset, lambda account: f"counted anew since {account.begin_s}"),
    )
    edits = []
    for attribute, choice, say in text_of:
        if choice.winner is not None:
            base = None if entry.base is None else say(entry.base)
            texts = [None if account is None else say(account) for account in entry.accounts]
            edits.append(edit_of(key, attribute, base, texts, choice, names))
    return edits


def _deletion(key: str, entry: Entry, kept: str | None, names: Sequence[str], *, conflict: bool) -> Edit:
    deleted_by = entry.deleted_by
    return Edit(
        key=key,
        attribute="",
        base="present",
        values={names[number]: None for number in deleted_by},
        kept=kept,
        kept_from=names[entry.present[0] if kept else deleted_by[0]],
        conflict=conflict,
    )


def _delete(customer: str, entry: Entry, lost: Sequence[Edit], context: Context) -> Outcome:
    """Leave a record out. Edits that others made of it lose, and are told as conflicts."""
    before = entry.base or EMPTY
    names = context.names
    usage = Tally(base=before.usage, charged={}, forgotten=before.usage)
    weighted = Tally(base=before.weighted, charged={}, forgotten=before.weighted)
    winner = names[entry.deleted_by[0]]
    edits = [msgspec.structs.replace(edit, kept=None, kept_from=winner, conflict=True) for edit in lost]
    edits.append(_deletion(CUSTOMER + customer, entry, None, names, conflict=bool(lost)))
    report = _report(customer, Fate.DELETED, entry, usage, weighted, 0.0, edits, names)
    return Outcome(None, usage, weighted, report, edits)


def _report(
    customer: str,
    fate: Fate,
    entry: Entry,
    usage: Tally,
    weighted: Tally,
    priority: float,
    edits: Sequence[Edit],
    names: Sequence[str],
) -> CustomerReport | None:
    """Return the report's line; None for a customer to whom nothing happened but the passing of time."""
    if fate is Fate.KEPT and not edits and not any(usage.charged.values()) and not any(weighted.charged.values()):
        return None
    priorities = {
        names[number]: account.priority for number, account in enumerate(entry.accounts) if account is not None
    }
    return CustomerReport(
        customer=customer,
        fate=fate,
        usage=usage,
        weighted=weighted,
        priority_base=(entry.base or EMPTY).priority,
        priority=priorities,
        priority_merged=priority,
    )

"""Customers: one record of all sides into one, attribute by attribute, and whether it is to be there at all.

Rules 4 to 6 and 12 of `gateway.core.reconcile`.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.core.reconcile.amounts import as_float
from gateway.core.reconcile.claims import NO_USE, Use
from gateway.core.reconcile.edits import (
    Ad,
    Choice,
    default_of,
    describe,
    edit_of,
    lease_of,
    lease_texts,
    names_of,
    who_changed,
)
from gateway.core.reconcile.overlap import NO_EXCESS, Overlap
from gateway.core.reconcile.report import CustomerReport, Edit, Fate, Tally
from gateway.core.reconcile.settle import EMPTY, Account, History
from gateway.core.reconcile.sides import CUSTOMER, LEASED, Pool
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

# Recomputed, or only of use to the negotiator that wrote them.
DERIVED: Final = frozenset(
    {
        "ResourcesUsed",
        "WeightedResourcesUsed",
        "HierWeightedResourcesUsed",
        "UnchargedTime",
        "WeightedUnchargedTime",
        "SubmitterLimit",
        "SubmitterShare",
    }
)
COUNTED: Final = frozenset(
    {"Priority", "AccumulatedUsage", "WeightedAccumulatedUsage", "BeginUsageTime", "LastUsageTime"}
)
_SETTINGS: Final = frozenset(name for setting in LEASED for name in names_of(setting))
_HANDLED: Final = DERIVED | COUNTED | _SETTINGS
_SILENT: Final = frozenset({"MyType", "TargetType"})  # a compaction writes them: nobody's change


class Context(msgspec.Struct, frozen=True):
    """What is the same for all customers of a merge. `sides`: best first; the first is the survivor."""

    base: History
    sides: list[History]
    names: list[str]
    moments: Moments
    overlap: Overlap
    pool: Pool


class Outcome(msgspec.Struct, frozen=True):
    """One customer, merged. `ad` is None where it is to be no more; `report` where nothing happened to it."""

    ad: dict[str, str] | None
    usage: Tally
    weighted: Tally
    report: CustomerReport | None
    edits: list[Edit]


def merge_customer(customer: str, context: Context) -> Outcome:
    """Merge one customer's records."""
    key = CUSTOMER + customer
    base_ad = context.base.side.state.get(key)
    ads = [side.side.state.get(key) for side in context.sides]
    entry = _entry(customer, base_ad, ads, context)
    moments, pool_of, names = context.moments, context.overlap.pool_of, context.names
    resets = resets_of(entry, moments.base_s)
    settings = _merge_settings(customer, base_ad, ads, entry.present, context)
    edits = settings.edits
    deleted_by = entry.deleted_by
    editor = min((names.index(side) for edit in edits for side in edit.values), default=len(names))
    forget = bool(deleted_by) and deleted_by[0] < editor  # the best of those that edited may overrule a deletion
    plain, weighted = (merge_counter(one, resets, pool_of, forget, names) for one in counters_of(entry))
    if forget and plain[0].merged <= 0 and weighted[0].merged <= 0:
        return _delete(customer, entry, edits, context)
    priority, set_priority = merge_priority(entry, weighted[0], resets, pool_of, forget, moments)
    begin_s, set_begin = merge_begin(entry, resets, forget, moments.base_s)
    merged_begin_s, merged_last_s = str(begin_s), str(merge_last(entry))

    def changed(attribute: str, choice: Choice, text_of: Callable[[Account], str]) -> None:
        if choice.winner is not None:
            base = None if entry.base is None else text_of(entry.base)
            texts = [None if account is None else text_of(account) for account in entry.accounts]
            edits.append(edit_of(key, attribute, base, texts, choice, names))

    changed("AccumulatedUsage", plain[1], lambda account: as_float(account.usage))
    changed("WeightedAccumulatedUsage", weighted[1], lambda account: as_float(account.weighted))
    changed("Priority", set_priority, lambda account: f"{account.priority:f}")
    changed("BeginUsageTime", set_begin, lambda account: str(account.begin_s))
    reset = Choice(resets[0], tuple(resets)) if resets else Choice(None)
    changed("AccumulatedUsage", reset, lambda account: f"counted anew since {account.begin_s}")
    if deleted_by:
        edits.append(_deletion(key, entry, f"kept: {'used' if forget else 'edited'} elsewhere", names, conflict=True))

    holders = [one for one in (base_ad, *ads) if one is not None]
    ad = dict(settings.edited if forget else settings.all)
    ad["Priority"] = f"{priority:f}"
    for name, value, text in (
        ("AccumulatedUsage", plain[0].merged, as_float(plain[0].merged)),
        ("WeightedAccumulatedUsage", weighted[0].merged, as_float(weighted[0].merged)),
        ("BeginUsageTime", begin_s, merged_begin_s),
        ("LastUsageTime", merged_last_s != "0", merged_last_s),
    ):
        if value or any(name in one for one in holders):
            ad[name] = text
    ad |= counters(context.sides[0].uses.get(customer, NO_USE), holders)
    fate = Fate.ADDED if entry.base is None else Fate.RECREATED if forget else Fate.KEPT
    report = _report(customer, fate, entry, plain[0], weighted[0], priority, edits, names)
    return Outcome(ad, plain[0], weighted[0], report, edits)


def counters(use: Use, holders: Sequence[Ad]) -> dict[str, str]:
    """Return the counters that follow from the survivor's matches; those that nobody has and nobody needs stay out."""
    found = (
        ("ResourcesUsed", use.slots, str(use.slots)),
        ("WeightedResourcesUsed", use.weight, as_float(use.weight)),
        ("HierWeightedResourcesUsed", use.hier, as_float(use.hier)),
        ("UnchargedTime", 0, "0"),
        ("WeightedUnchargedTime", 0, "0.000000"),
    )
    return {name: text for name, value, text in found if value or any(name in one for one in holders)}


def _entry(customer: str, base_ad: Ad | None, ads: Sequence[Ad | None], context: Context) -> Entry:
    half_life_s = context.pool.half_life_s
    overlap = context.overlap
    return Entry(
        context.base.account(customer, base_ad, half_life_s),
        [side.account(customer, ad, half_life_s) for side, ad in zip(context.sides, ads, strict=True)],
        [ledger.of.get(customer, NO_EXCESS) for ledger in overlap.phantom],
        [ledger.of.get(customer, NO_EXCESS) for ledger in overlap.stale],
        overlap.shared.of.get(customer, NO_EXCESS),
        "@" not in customer,
    )


class _Settings(msgspec.Struct):
    """What is set, not counted, of one record; `edited` is the part that was changed since the base."""

    all: dict[str, str]
    edited: dict[str, str]
    edits: list[Edit]


def _merge_settings(
    customer: str, base_ad: Ad | None, ads: Sequence[Ad | None], present: Sequence[int], context: Context
) -> _Settings:
    merged = _Settings({}, {}, [])
    present_ads = [ad for number in present if (ad := ads[number]) is not None]
    holders = present_ads if base_ad is None else [base_ad, *present_ads]
    for setting in LEASED:
        if any(name in ad for ad in holders for name in names_of(setting)):
            texts, edit = _merge_lease(customer, setting, base_ad, ads, present, context)
            merged.all |= texts
            if edit is not None:
                merged.edited |= texts
                merged.edits.append(edit)
    for name in sorted(set[str]().union(*holders) - _HANDLED):
        base = None if base_ad is None else base_ad.get(name)
        values = [None if ad is None else ad.get(name) for ad in ads]
        choice = who_changed(base, values, present)
        kept = base if choice.winner is None else values[choice.winner]
        if kept is not None:
            merged.all[name] = kept
        if choice.winner is None or name in _SILENT:
            continue
        if kept is not None:
            merged.edited[name] = kept
        if base_ad is not None or choice.conflict:  # what a new record came with is not an edit of it
            merged.edits.append(edit_of(CUSTOMER + customer, name, base, values, choice, context.names))
    return merged


def _merge_lease(
    customer: str, setting: str, base_ad: Ad | None, ads: Sequence[Ad | None], present: Sequence[int], context: Context
) -> tuple[dict[str, str], Edit | None]:
    merged_s = context.moments.merged_s
    default = default_of(setting, customer, context.pool)
    base = lease_of(setting, base_ad, default, merged_s)
    values = [lease_of(setting, ad, default, merged_s) for ad in ads]
    choice = who_changed(base, values, present)
    kept = base if choice.winner is None else values[choice.winner]
    # Of equal settings, however they are written, the best side's text; the base's where no side has one.
    agreeing = [ads[number] for number in present if values[number] == kept]
    texts = next(filter(None, (lease_texts(setting, ad, merged_s) for ad in agreeing)), {})
    if not texts and choice.winner is None:
        texts = lease_texts(setting, base_ad, merged_s)
    if choice.winner is None:
        return texts, None
    written = [describe(lease_texts(setting, ad, merged_s), setting) for ad in ads]
    before = describe(lease_texts(setting, base_ad, merged_s), setting)
    return texts, edit_of(CUSTOMER + customer, setting, before, written, choice, context.names)


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
    if fate is Fate.KEPT and not edits and not any((*usage.charged.values(), *weighted.charged.values())):
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

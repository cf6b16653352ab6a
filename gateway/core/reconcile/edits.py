"""Edits: who changed what an administrator sets. A change on one side is kept, two different ones are reported.

Rules 4 to 6 of `gateway.core.reconcile`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from gateway.core.reconcile.amounts import MICRO, to_int, to_micro
from gateway.core.reconcile.claims import ROOT_GROUP
from gateway.core.reconcile.report import Edit
from gateway.core.reconcile.sides import CUSTOMER, LEASED, Pool

Ad = Mapping[str, str]
Value = TypeVar("Value")
FACTOR_MIN: Final = MICRO  # Accountant.cpp, MIN_PRIORITY_FACTOR: less counts as not set

# Merged elsewhere (usage.py), recomputed, or of use only to the negotiator that wrote them.
_COUNTED: Final = frozenset(
    {
        "Priority",
        "AccumulatedUsage",
        "WeightedAccumulatedUsage",
        "BeginUsageTime",
        "LastUsageTime",
        "ResourcesUsed",
        "WeightedResourcesUsed",
        "HierWeightedResourcesUsed",
        "UnchargedTime",
        "WeightedUnchargedTime",
        "SubmitterLimit",
        "SubmitterShare",
    }
)
_SILENT: Final = frozenset({"MyType", "TargetType"})  # a compaction writes them: nobody's change


class Choice(msgspec.Struct, frozen=True):
    """What was decided between several values. Numbers are places in the list of sides, which is best first."""

    winner: int | None  # None: nobody changed it, the base's value stands
    changed: tuple[int, ...] = ()
    conflict: bool = False


UNCHANGED: Final = Choice(None)


def who_changed(base: Value, values: Sequence[Value], of: Sequence[int]) -> Choice:
    """Decide by who changed: the best of those that did. `of`: the numbers of the sides that have a say."""
    changed = tuple(number for number in of if values[number] != base)
    if not changed:
        return UNCHANGED
    winner = changed[0]
    return Choice(winner, changed, any(values[number] != values[winner] for number in changed))


class Lease(msgspec.Struct, frozen=True):
    """A setting that may be leased, as it is effective at the merge."""

    value: int
    until_s: int = 0  # 0: for good
    then: int = 0  # what the lease's end brings back; 0 without a lease


def names_of(setting: str) -> tuple[str, str, str]:
    """Return the three attributes of a setting that may be leased: they only make sense together."""
    return setting, f"{setting}LeaseExpiration", f"{setting}PreLeaseValue"


def default_of(setting: str, customer: str, pool: Pool) -> int:
    """Return in millionths what HTCondor takes where nothing is set, and writes (Accountant::GetPriorityFactor)."""
    if setting == "Ceiling":
        return -MICRO
    if setting == "Floor":
        return 0
    user, at, domain = customer.rpartition("@")
    if customer.startswith("nice-user"):
        return round(pool.factor_nice * MICRO)
    group = user.rpartition(".")[0] if at else customer
    for depth in range(group.count(".") + 1):
        factor = pool.factor_groups.get(group.rsplit(".", depth)[0] if depth else group)
        if factor:
            return round(factor * MICRO)
    if not group and (factor := pool.factor_groups.get(ROOT_GROUP)):
        return round(factor * MICRO)
    if pool.local_domain and domain != pool.local_domain:
        return round(pool.factor_remote * MICRO)
    return round(pool.factor_default * MICRO)


def lease_of(setting: str, ad: Ad | None, default: int, merged_s: int) -> Lease:
    """Return a setting as it is at `merged_s`: a lease that has run out by then gives way to what was before it."""
    if ad is None:
        return Lease(default)
    value_name, until_name, then_name = names_of(setting)
    until_s = max(to_int(ad.get(until_name)), 0)
    then = _effective(setting, to_micro(ad.get(then_name)), default)
    if 0 < until_s <= merged_s:
        return Lease(then)
    value = _effective(setting, to_micro(ad.get(value_name)), default)
    return Lease(value, until_s, then) if until_s else Lease(value)


def _effective(setting: str, value: int | None, default: int) -> int:
    """A value absent, or outside what it may be, is read as the default: writing that default is no edit."""
    if value is None or (value < FACTOR_MIN if setting == "PriorityFactor" else value < 0):
        return default
    return value


def lease_texts(setting: str, ad: Ad | None, merged_s: int) -> dict[str, str]:
    """Return the attributes of a setting as they are to be written: as `ad` has them, a lapsed lease undone."""
    if ad is None:
        return {}
    value_name, until_name, then_name = names_of(setting)
    texts = {name: ad[name] for name in (value_name, until_name, then_name) if name in ad}
    if 0 < to_int(ad.get(until_name)) <= merged_s:
        texts[until_name] = "0"
        if then_name in texts:
            texts[value_name] = texts[then_name]
        else:
            texts.pop(value_name, None)  # read as the default
    return texts


def describe(texts: Mapping[str, str], setting: str) -> str | None:
    """Return a setting in words for the report; None where it is not set."""
    value_name, until_name, then_name = names_of(setting)
    value = texts.get(value_name)
    if value is None or to_int(texts.get(until_name)) <= 0:
        return value
    return f"{value} until {texts[until_name]}, then {texts.get(then_name, 'the default')}"


def edit_of(
    key: str, attribute: str, base: str | None, texts: Sequence[str | None], choice: Choice, names: Sequence[str]
) -> Edit:
    """Return the report's line for a choice in which somebody changed something."""
    assert choice.winner is not None, "an edit that nobody made"
    return Edit(
        key=key,
        attribute=attribute,
        base=base,
        values={names[number]: texts[number] for number in choice.changed},
        kept=texts[choice.winner],
        kept_from=names[choice.winner],
        conflict=choice.conflict,
    )


class Settings(msgspec.Struct):
    """What is set, not counted, of one record; `edited` is the part that was changed since the base."""

    all: dict[str, str]
    edited: dict[str, str]
    edits: list[Edit]


_SETTING_OF: Final = {name: setting for setting in LEASED for name in names_of(setting)}


def merge_settings(
    customer: str,
    base_ad: Ad | None,
    ads: Sequence[Ad | None],
    present: Sequence[int],
    names: Sequence[str],
    merged_s: int,
    pool: Pool,
) -> Settings:
    """Merge all that is not counted of one customer. `present`: the numbers of the sides that have the record."""
    alike = None if base_ad is None else _alike(base_ad, ads)
    if alike is not None:
        return Settings(alike, {}, [])  # the common case
    merged = Settings({}, {}, [])
    holders = [ad for ad in (base_ad, *ads) if ad is not None]
    settings = set()
    for name in sorted(set[str]().union(*holders) - _COUNTED):
        setting = _SETTING_OF.get(name)
        if setting is not None:
            settings.add(setting)
            continue
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
            merged.edits.append(edit_of(CUSTOMER + customer, name, base, values, choice, names))
    for setting in sorted(settings):
        attributes = names_of(setting)
        if base_ad is not None and attributes[1] not in base_ad and _all_say(base_ad, ads, present, attributes):
            merged.all |= {name: base_ad[name] for name in attributes if name in base_ad}
            continue  # nothing to decide, and no lease to run out: the common case
        texts, edit = _merge_lease(customer, setting, base_ad, ads, present, names, merged_s, pool)
        merged.all |= texts
        if edit is not None:
            merged.edited |= texts
            merged.edits.append(edit)
    return merged


def _alike(base_ad: Ad, ads: Sequence[Ad | None]) -> dict[str, str] | None:
    """Return what is set where all that have the record say the same, and no lease can run out; else None."""
    names = _set_for_good(tuple(base_ad))
    if names is None:
        return None
    for ad in ads:
        if ad is not None and ad is not base_ad:
            if _set_for_good(tuple(ad)) != names:
                return None
            for name in names:
                if ad[name] != base_ad[name]:
                    return None
    return {name: base_ad[name] for name in names}


@functools.lru_cache(maxsize=256)  # the records of a file have few sets of names
def _set_for_good(names: tuple[str, ...]) -> list[str] | None:
    """Return those of a record's attributes that are set, not counted, in the order of `merge_settings`.

    None where one of them is a lease.
    """
    names_set = sorted(set(names) - _COUNTED)
    found = [name for name in names_set if name not in _SETTING_OF]
    for setting in sorted({_SETTING_OF[name] for name in names_set if name in _SETTING_OF}):
        attributes = names_of(setting)
        if attributes[1] in names:
            return None
        found += [name for name in attributes if name in names]
    return found


def same_settings(customer: str, one: Ad, other: Ad, merged_s: int, pool: Pool) -> bool:
    """Whether two records say the same of all that is set, not counted, at `merged_s`; see `Lease`."""
    for name in (one.keys() | other.keys()) - _COUNTED - _SILENT:
        if one.get(name) == other.get(name):
            continue
        setting = _SETTING_OF.get(name)
        if setting is None:
            return False
        default = default_of(setting, customer, pool)
        if lease_of(setting, one, default, merged_s) != lease_of(setting, other, default, merged_s):
            return False
    return True


def _all_say(base_ad: Ad, ads: Sequence[Ad | None], present: Sequence[int], attributes: Sequence[str]) -> bool:
    for number in present:
        ad = ads[number]
        if ad is None or any(ad.get(name) != base_ad.get(name) for name in attributes):
            return False
    return True


def _merge_lease(
    customer: str,
    setting: str,
    base_ad: Ad | None,
    ads: Sequence[Ad | None],
    present: Sequence[int],
    names: Sequence[str],
    merged_s: int,
    pool: Pool,
) -> tuple[dict[str, str], Edit | None]:
    default = default_of(setting, customer, pool)
    base = lease_of(setting, base_ad, default, merged_s)
    values = [lease_of(setting, ad, default, merged_s) for ad in ads]
    choice = who_changed(base, values, present)
    kept = base if choice.winner is None else values[choice.winner]
    # Of equal settings, however they are written, the best side's text.
    agreeing = [ads[number] for number in present if values[number] == kept]
    texts = next(filter(None, (lease_texts(setting, ad, merged_s) for ad in agreeing)), {})
    if choice.winner is None:
        return texts, None
    written = [describe(lease_texts(setting, ad, merged_s), setting) for ad in ads]
    before = describe(lease_texts(setting, base_ad, merged_s), setting)
    return texts, edit_of(CUSTOMER + customer, setting, before, written, choice, names)

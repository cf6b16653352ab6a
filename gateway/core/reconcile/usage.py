"""Usage: one customer's accumulators, times of use and priority, composed of what each side added to the base.

Rules 4, 5 and 7 to 11 of `gateway.core.reconcile`. Accumulators are exact; priorities are floats, summed in the order
of the sides, which is the same whoever calls.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.reconcile.amounts import MICRO
from gateway.core.reconcile.edits import UNCHANGED, Choice, who_changed
from gateway.core.reconcile.overlap import Excess
from gateway.core.reconcile.report import Tally
from gateway.core.reconcile.settle import EMPTY, PRIORITY_MIN, Account, decay

# A match that begins and ends between two updates is charged negatively by HTCondor (AddMatch, RemoveMatch): a
# smaller drop than a slot-hour is no sign of an administrator.
SET_MIN: Final = 3_600 * MICRO
PRIORITY_SET_MIN: Final = 0.01  # what thousands of roundings to six places may come to
EXPLAINED_MIN: Final = PRIORITY_MIN + PRIORITY_SET_MIN  # so much can come of nothing; see `_is_explained`


class Entry(msgspec.Struct, frozen=True):
    """One customer on all sides. Lists are by side, best first; an account is None where the record is absent.

    `base` is None where the base had no record. `present` are the numbers of the sides that have it, `deleted_by` of
    those that do not though the base had. `phantom`, `stale` and `shared` are what is to be taken off.
    """

    base: Account | None
    accounts: list[Account | None]
    present: list[int]
    deleted_by: list[int]
    phantom: list[Excess]
    stale: list[Excess]
    shared: Excess
    is_group: bool
    is_clear: bool  # nothing is to be taken off


class Moments(msgspec.Struct, frozen=True):
    """The times of a merge, in seconds since 1970."""

    base_s: int
    sides_s: list[int]
    merged_s: int
    half_life_s: float


def resets_of(entry: Entry, base_s: int) -> list[int]:
    """Return the sides on which an administrator has zeroed the accumulators (-resetusage): rule 4."""
    before = entry.base or EMPTY
    found = []
    for number in entry.present:
        now = entry.accounts[number]
        assert now is not None, "present lists only sides with an account"
        if before.begin_s and now.begin_s != before.begin_s:
            fell = now.usage < before.usage or now.weighted < before.weighted
            if fell or now.begin_s > base_s:
                found.append(number)
    return found


class Counter(msgspec.Struct, frozen=True):
    """One accumulator of a customer: its values, and what is to be taken off them. By side."""

    base: int
    values: list[int | None]
    phantom: list[int]
    stale: list[int]
    shared: int
    is_clear: bool


def counters_of(entry: Entry) -> tuple[Counter, Counter]:
    """Return the plain and the weighted accumulator of an entry."""
    base, accounts = entry.base or EMPTY, entry.accounts
    usages = [None if account is None else account.usage for account in accounts]
    weights = [None if account is None else account.weighted for account in accounts]
    if entry.is_clear:
        nothing = [0] * len(accounts)
        return Counter(base.usage, usages, nothing, nothing, 0, True), Counter(
            base.weighted, weights, nothing, nothing, 0, True
        )
    return (
        Counter(
            base.usage,
            usages,
            [excess.usage for excess in entry.phantom],
            [excess.usage for excess in entry.stale],
            entry.shared.usage,
            False,
        ),
        Counter(
            base.weighted,
            weights,
            [excess.weighted for excess in entry.phantom],
            [excess.weighted for excess in entry.stale],
            entry.shared.weighted,
            False,
        ),
    )


def merge_counter(
    counter: Counter, resets: Sequence[int], pool_of: Sequence[int], forget_base: bool, names: Sequence[str]
) -> tuple[Tally, Choice]:
    """Compose one accumulator; also return the choice between settings (-setaccum), if there was more than one."""
    if counter.is_clear and not resets and not forget_base and len(set(pool_of)) == len(pool_of):
        tally = _added_up(counter, names)
        if tally is not None:
            return tally, UNCHANGED
    tally = Tally(base=counter.base, charged={})
    present = [number for number, value in enumerate(counter.values) if value is not None]
    if not resets and not forget_base and all(counter.values[number] == counter.base for number in present):
        tally.charged = dict.fromkeys((names[number] for number in present), 0)
        tally.merged = counter.base
        return tally, UNCHANGED
    sets = [
        number for number in present if number not in resets and (counter.values[number] or 0) < counter.base - SET_MIN
    ]
    # One side's setting is its own sum: base + (set value + later - base). Two settings are a conflict.
    choice = who_changed(counter.base, counter.values, sets) if len(sets) > 1 else UNCHANGED
    if resets or forget_base:
        tally.forgotten = counter.base
    net: dict[int, int] = {}  # pool -> what is left of the greatest charge of its sides
    gross = charged_in_all = 0
    for number in present:
        value = counter.values[number] or 0
        if number in sets and number != sets[0]:
            continue
        started_anew = number in resets or (number in sets and tally.forgotten != 0)
        charged = value - (0 if started_anew else counter.base)
        tally.charged[names[number]] = charged
        left = charged
        if not started_anew and number not in sets:
            phantom = min(counter.phantom[number], max(left, 0))
            stale = min(counter.stale[number], max(left - phantom, 0))
            tally.phantom += phantom
            tally.stale += stale
            left -= phantom + stale
        gross += left
        if left > 0:  # less than nothing is an administrator's word, which no other charge outweighs
            net[pool_of[number]] = max(net.get(pool_of[number], 0), left)
            charged_in_all += left
    once = sum(net.values())
    seen_twice = charged_in_all - once
    # What several charged at once is never more than all but the greatest of them.
    tally.shared = seen_twice + min(counter.shared, once - max(net.values(), default=0))
    tally.merged = tally.base - tally.forgotten + gross - tally.shared
    if tally.merged < 0:  # set to nothing on one side, and charged negatively on another
        tally.forgotten += tally.merged
        tally.merged = 0
    return tally, choice


def _added_up(counter: Counter, names: Sequence[str]) -> Tally | None:
    """Return the sum where each side has charged for itself, or not at all: the common case. Else None."""
    base = counter.base
    charged = {name: value - base for name, value in zip(names, counter.values, strict=True) if value is not None}
    merged = base + sum(charged.values())
    if merged < 0 or min(charged.values(), default=0) < 0:
        return None  # somebody has set it
    return Tally(base=base, charged=charged, merged=merged)


def merge_priority(
    entry: Entry, weighted: Tally, resets: Sequence[int], pool_of: Sequence[int], forget_base: bool, moments: Moments
) -> tuple[float, Choice]:
    """Compose the real priority at the merge; also return who set it (-setprio)."""
    before = entry.base.priority if entry.base is not None else PRIORITY_MIN
    half_life_s, merged_s = moments.half_life_s, moments.merged_s
    added: dict[int, float] = {}
    edited = []
    for number in entry.present:
        account = entry.accounts[number]
        assert account is not None, "present lists only sides with an account"
        left = decay(merged_s - moments.sides_s[number], half_life_s)
        idle = max(PRIORITY_MIN, before * decay(moments.sides_s[number] - moments.base_s, half_life_s))
        gained = account.priority - idle
        if gained < -PRIORITY_SET_MIN or (
            gained > EXPLAINED_MIN and not _is_explained(gained, entry, number, resets, half_life_s)
        ):
            edited.append(number)
        else:
            cut = entry.phantom[number].priority + entry.stale[number].priority
            added[number] = max(0.0, gained * left - cut)
    if edited:
        at_merge = [_aged(entry.accounts[number], merged_s - moments.sides_s[number], half_life_s) for number in edited]
        start = max(PRIORITY_MIN, at_merge[0])
        apart = any(abs(priority - at_merge[0]) > PRIORITY_SET_MIN for priority in at_merge)
        choice = Choice(edited[0], tuple(edited), apart)
    else:
        start = PRIORITY_MIN if forget_base else before * decay(merged_s - moments.base_s, half_life_s)
        start, choice = max(PRIORITY_MIN, start), UNCHANGED
    of_pool: dict[int, float] = {}
    for number, gain in added.items():
        of_pool[pool_of[number]] = max(of_pool.get(pool_of[number], 0.0), gain)
    gains = list(of_pool.values())
    most_shared = sum(gains) - max(gains, default=0.0)
    return max(PRIORITY_MIN, start + sum(gains) - min(entry.shared.priority, most_shared)), choice


def _aged(account: Account | None, age_s: int, half_life_s: float) -> float:
    assert account is not None, "present lists only sides with an account"
    return account.priority * decay(age_s, half_life_s)


def _is_explained(gained: float, entry: Entry, number: int, resets: Sequence[int], half_life_s: float) -> bool:
    """Whether a side's usage can have added so much to a priority (rule 11), or that is not known.

    A rate r charged for dt adds r(1 - 2^(-dt/H)) <= r dt ln2/H, and the floor holds up at most itself. A group's
    priority follows the usage of all below it, which its own accumulator does not count.
    """
    if entry.is_group or number in resets:
        return True
    before, now = entry.base or EMPTY, entry.accounts[number]
    assert now is not None, "asked for a side without an account"
    used = (now.weighted - before.weighted) / MICRO
    return used < 0 or gained <= used * math.log(2) / half_life_s + PRIORITY_MIN + PRIORITY_SET_MIN


def merge_begin(entry: Entry, resets: Sequence[int], deleted: bool, base_s: int) -> tuple[int, Choice]:
    """Compose BeginUsageTime: since when what the accumulators hold was used."""
    values = [0 if account is None else account.begin_s for account in entry.accounts]
    before = 0 if entry.base is None else entry.base.begin_s
    if not resets and not deleted and values.count(before) == len(values):
        return before, UNCHANGED  # the common case
    if resets:
        return min(values[number] for number in resets), UNCHANGED
    if deleted:
        return base_s, UNCHANGED
    begun = [values[number] for number in entry.present if values[number]]
    if before == 0:
        return min(begun, default=0), UNCHANGED
    choice = who_changed(before, values, entry.present)
    return (before if choice.winner is None else values[choice.winner]), choice


def merge_last(entry: Entry) -> int:
    """Compose LastUsageTime: the latest; one that was set back (-setlast) stays so where nobody has used anything."""
    before = 0 if entry.base is None else entry.base.last_s
    changed = [account.last_s for account in entry.accounts if account is not None and account.last_s != before]
    return max(changed, default=before)

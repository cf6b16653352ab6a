"""Settle: what a history charges up to the moment at which it ends, as its negotiator would have done next.

Rule 3 of `gateway.core.reconcile`; the dynamics are those of Accountant::UpdateOnePriority.
"""

import functools
import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from gateway.core.reconcile.amounts import MICRO, to_int, to_micro
from gateway.core.reconcile.claims import NO_USE, Claim, Groups, Use, claims_of, groups_of, uses_of
from gateway.core.reconcile.sides import Pool, Side, seconds

PRIORITY_MIN: Final = 0.5  # Accountant.cpp, MinPriority
PRIORITY_MAX: Final = 1e15  # more slots than there are; keeps hostile numbers finite


class Account(NamedTuple):
    """A customer's numbers at a settled time. Amounts in millionths of a slot-second."""

    usage: int
    weighted: int
    priority: float
    begin_s: int
    last_s: int


EMPTY: Final = Account(0, 0, PRIORITY_MIN, 0, 0)


class History(msgspec.Struct, frozen=True):
    """A side, ready to be merged."""

    side: Side
    claims: dict[str, Claim]
    uses: dict[str, Use]
    updated_s: int
    settled_s: int

    def account(self, customer: str, ad: Mapping[str, str] | None, half_life_s: float) -> Account | None:
        """Return a customer's settled numbers; None where it has no record."""
        if ad is None:
            return None
        gap_s = self.settled_s - self.updated_s
        return settle(ad, self.uses.get(customer, NO_USE), gap_s, self.settled_s, half_life_s)


def history(side: Side, pool: Pool) -> History:
    """Read a side and find until when it is known to have gone on."""
    claims = claims_of(side.state)
    groups = Groups(groups_of(side.state))
    return History(side, claims, uses_of(claims, groups), side.updated_s, _last_sign_s(side, claims, pool))


def _last_sign_s(side: Side, claims: Mapping[str, Claim], pool: Pool) -> int:
    """Return the last moment that the file, or who watched its negotiator, knows of.

    A match that began since the last update is in the counters already, with its time before that taken off
    (UnchargedTime): it adds up only when it is charged to a moment after its beginning.
    """
    updated_s = side.updated_s
    latest_s = updated_s + pool.extend_s_max
    starts = (claim.start_s for claim in claims.values() if claim.start_s <= latest_s)
    return max(updated_s, side.ended_s or 0, *starts, 0)


def extended(one: History, until_s: int, pool: Pool) -> History:
    """Let the matches of `one` go on `until_s`, unless that is too far to be believed."""
    if not 0 < until_s - one.settled_s <= pool.extend_s_max:
        return one
    return msgspec.structs.replace(one, settled_s=until_s)


def settle(ad: Mapping[str, str], use: Use, gap_s: int, now_s: int, half_life_s: float) -> Account:
    """Charge `use` for `gap_s` seconds until `now_s`, and what was put aside as uncharged."""
    get = ad.get
    usage, weighted = amounts_of(ad)
    priority = (to_micro(get("Priority")) or 0) / MICRO
    priority = min(max(priority, PRIORITY_MIN), PRIORITY_MAX)
    begin_s, last_s = seconds(get("BeginUsageTime")), seconds(get("LastUsageTime"))
    aside = to_int(get("UnchargedTime")) * MICRO
    weighted_aside = to_micro(get("WeightedUnchargedTime")) or 0
    if gap_s > 0 or aside or weighted_aside:
        added = use.slots * gap_s * MICRO + aside
        usage += added
        weighted += use.weight * gap_s + weighted_aside
        priority = next_priority(priority, use, weighted_aside, gap_s, half_life_s)
        if usage > 0 and begin_s == 0:
            begin_s = now_s
        if added > 0:
            last_s = now_s
    return Account(usage, weighted, priority, begin_s, last_s)


def amounts_of(ad: Mapping[str, str]) -> tuple[int, int]:
    """Return both accumulators of a customer's record, in millionths of a slot-second, as they are written."""
    usage = to_micro(ad.get("AccumulatedUsage")) or 0
    weighted = to_micro(ad.get("WeightedAccumulatedUsage"))
    return usage, usage if weighted is None else weighted  # as UpdateOnePriority


def next_priority(priority: float, use: Use, weighted_aside: int, gap_s: int, half_life_s: float) -> float:
    """Return what a priority is after `gap_s` seconds of a use, and of what was put aside."""
    if gap_s > 0:
        kept = decay(gap_s, half_life_s)
        rate = use.hier if use.hier > 0 else use.weight + weighted_aside / gap_s
        priority = priority * kept + rate / MICRO * (1 - kept)
    elif use.hier <= 0:
        priority += weighted_aside / MICRO * math.log(2) / half_life_s  # the same, for a gap of nothing
    return min(max(priority, PRIORITY_MIN), PRIORITY_MAX)


@functools.lru_cache(maxsize=512)  # the times of a merge are few
def decay(age_s: int, half_life_s: float) -> float:
    """Return what is left of a priority after `age_s` seconds."""
    return 1.0 if age_s <= 0 else math.pow(0.5, age_s / half_life_s)

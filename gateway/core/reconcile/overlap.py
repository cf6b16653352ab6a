"""Overlap: what several histories charged for the same seconds of the same slots. Only what is proven is taken off.

Rules 7 to 10 of `gateway.core.reconcile`: the traps (a), (b) and (c), each by intervals of single claims.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gateway.core.reconcile.amounts import MICRO
from gateway.core.reconcile.claims import Claim, Groups, startd_of
from gateway.core.reconcile.report import View
from gateway.core.reconcile.settle import History, decay
from gateway.core.reconcile.sides import Pool

SAME_POOL_PERCENT: Final = 90  # of all claims common to two sides: their collectors heard the same startds
Interval = tuple[int, int]


class Excess(msgspec.Struct):
    """What a customer was charged too much: millionths of a slot-second, and the priority it made at the merge."""

    usage: int = 0
    weighted: int = 0
    priority: float = 0.0


NO_EXCESS: Final = Excess()


class Ledger:
    """Excesses by customer: a user's slots are charged to the user, its group, and the groups above."""

    def __init__(self, groups: Groups, merged_s: int, half_life_s: float) -> None:
        self.of: dict[str, Excess] = {}
        self._groups = groups
        self._merged_s = merged_s
        self._half_life_s = half_life_s

    def book(self, claim: Claim, begin_s: int, end_s: int, times: int = 1) -> None:
        """Note that `claim` was charged `times` too often in that interval."""
        length_s = (end_s - begin_s) * times
        if length_s <= 0:
            return
        left = decay(self._merged_s - end_s, self._half_life_s) - decay(self._merged_s - begin_s, self._half_life_s)
        group, above = self._groups.charged_for(claim.user)
        for customer in {claim.user, group}:
            excess = self.of.setdefault(customer, Excess())
            excess.usage += length_s * MICRO
            excess.weighted += length_s * claim.weight
        for customer in {claim.user, *above}:
            self.of.setdefault(customer, Excess()).priority += claim.weight / MICRO * left * times


class Overlap(msgspec.Struct, frozen=True):
    """What is to be taken off: by side and customer for the traps (a) and (b), by customer for (c)."""

    phantom: list[Ledger]
    stale: list[Ledger]
    shared: Ledger
    pool_of: list[int]  # side -> the least side whose collector heard the same startds; itself mostly
    views: list[View]


def find_overlap(base: History, sides: Sequence[History], groups: Groups, merged_s: int, pool: Pool) -> Overlap:
    """Compare the claims of all sides. `sides`: best first."""

    def ledger() -> Ledger:
        return Ledger(groups, merged_s, pool.half_life_s)

    views, pool_of = _views(base, sides, pool)
    covered = _phantom_ends(base, sides)
    seen = [{startd_of(key) for key in side.claims} for side in sides]
    found = Overlap([ledger() for _ in sides], [ledger() for _ in sides], ledger(), pool_of, views)
    for key in sorted(base.claims):
        claim = base.claims[key]
        startd = startd_of(key)
        seen_by_any = any(startd in startds for startds in seen)
        for number, side in enumerate(sides):
            found.phantom[number].book(claim, base.settled_s, covered[number])
            if seen_by_any and startd not in seen[number]:
                end_s = _stale_end_s(key, base, side, pool)
                found.stale[number].book(claim, max(base.settled_s, covered[number]), end_s)
    held = _held(base, sides, covered, seen, pool_of)
    for (key, user), intervals in sorted(held.items()):
        claim = next(side.claims[key] for side in (*sides, base) if _holds(side, key, user))
        for begin_s, end_s, times in _excess(intervals):
            found.shared.book(claim, begin_s, end_s, times)
    return found


def _holds(side: History, key: str, user: str) -> bool:
    return key in side.claims and side.claims[key].user == user


def _views(base: History, sides: Sequence[History], pool: Pool) -> tuple[list[View], list[int]]:
    """Find the sides that heard the same startds all the time (rule 10)."""
    at_base = {(key, claim.user) for key, claim in base.claims.items()}
    at_end = [{(key, claim.user) for key, claim in side.claims.items()} for side in sides]
    views, pool_of = [], list(range(len(sides)))
    for second, theirs in enumerate(sides):
        for first, ours in enumerate(sides[:second]):
            common, everything = at_end[first] & at_end[second], at_end[first] | at_end[second]
            if min(ours.settled_s, theirs.settled_s) - base.settled_s <= pool.lifetime_s:
                # Claims of the base may stand in both for no other reason than that nobody has aged them out yet.
                common, everything = common - at_base, everything - at_base
            same = bool(everything) and len(common) * 100 >= len(everything) * SAME_POOL_PERCENT
            views.append(View((ours.side.name, theirs.side.name), len(common), len(everything), same))
            if same:
                least, other = sorted((pool_of[first], pool_of[second]))
                pool_of = [least if number == other else number for number in pool_of]
    return views, pool_of


def _phantom_ends(base: History, sides: Sequence[History]) -> list[int]:
    """Return until when each side's first charge, of the base's matches since the base, is not its own (rule 7)."""
    ran_on = [side.settled_s for side in sides if side.side.took_over_s is None]
    took_over = [
        (min(side.side.took_over_s, side.settled_s), -number)
        for number, side in enumerate(sides)
        if side.side.took_over_s is not None
    ]
    ends = [base.settled_s] * len(sides)
    for moment_s, negative in took_over:
        if (moment_s, negative) == max(took_over):  # the longest one counts where nobody else was there to charge
            moment_s = min(moment_s, max(ran_on, default=base.settled_s))
        ends[-negative] = max(moment_s, base.settled_s)
    return ends


def _stale_end_s(key: str, base: History, side: History, pool: Pool) -> int:
    """Return until when `side` is proven to have charged a claim that it could not see (rule 8)."""
    dropped_s = side.side.dropped_s.get(key)
    if dropped_s is not None:
        return min(dropped_s, side.settled_s)
    if side.settled_s - base.settled_s < pool.stale_s:
        return base.settled_s  # it went too early to have been aged out: the side saw it end
    return base.settled_s + pool.stale_s


def _held(
    base: History, sides: Sequence[History], covered: Sequence[int], seen: Sequence[set[str]], pool_of: Sequence[int]
) -> dict[tuple[str, str], list[list[Interval]]]:
    """Return when each claim was charged, for claims that more than one side charged; one list a pool (rule 9)."""
    found: dict[tuple[str, str], dict[int, list[Interval]]] = {}
    restamped = all(map(_stamps_anew, (base, *sides)))
    for number, side in enumerate(sides):
        for key, claim in side.claims.items():
            before = base.claims.get(key)
            begin_s = max(claim.start_s, base.settled_s)
            if before and before.user == claim.user and (restamped or before.start_s == claim.start_s):
                begin_s = max(base.settled_s, covered[number])
            _note(found, key, claim.user, pool_of[number], (begin_s, side.settled_s))
        for key, dropped_s in side.side.dropped_s.items():
            before = base.claims.get(key)
            if before and startd_of(key) in seen[number]:
                begin_s = max(base.settled_s, covered[number])
                _note(found, key, before.user, pool_of[number], (begin_s, min(dropped_s, side.settled_s)))
    return {name: list(pools.values()) for name, pools in found.items() if len(pools) > 1}


def _stamps_anew(history: History) -> bool:
    """Tell whether a negotiator gave each claim a new StartTime in its last cycle, as HTCondor >= 25.11 does in each.

    The few claims of one side may all have begun since its last update; the base's and every side's hardly.
    """
    return all(claim.start_s >= history.side.updated_s for claim in history.claims.values())


def _note(
    found: dict[tuple[str, str], dict[int, list[Interval]]], key: str, user: str, pool: int, interval: Interval
) -> None:
    found.setdefault((key, user), {}).setdefault(pool, []).append(interval)


def _excess(pools: Iterable[Sequence[Interval]]) -> list[tuple[int, int, int]]:
    """Return where more than one pool's intervals cover the same time: begin, end, how many too many."""
    steps: dict[int, int] = {}
    for intervals in pools:
        for begin_s, end_s in _union(intervals):
            steps[begin_s] = steps.get(begin_s, 0) + 1
            steps[end_s] = steps.get(end_s, 0) - 1
    found = []
    depth, since_s = 0, 0
    for moment_s in sorted(steps):
        if depth > 1:
            found.append((since_s, moment_s, depth - 1))
        depth, since_s = depth + steps[moment_s], moment_s
    return found


def _union(intervals: Sequence[Interval]) -> list[Interval]:
    joined: list[Interval] = []
    for begin_s, end_s in sorted(intervals):
        if begin_s >= end_s:
            continue
        if joined and begin_s <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end_s, joined[-1][1]))
        else:
            joined.append((begin_s, end_s))
    return joined

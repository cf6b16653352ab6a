"""Gains: what a merge changes for one of its sides. The passing of time alone is no change.

Rule: what that side's negotiator would come to by itself is not counted: decayed priorities, the last update, matches
and the counters that follow from them, leases that have run out, defaults that it writes when it reads them.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from gateway.core.reconcile.amounts import MICRO
from gateway.core.reconcile.edits import same_settings
from gateway.core.reconcile.merge import Reconciliation
from gateway.core.reconcile.others import others_of
from gateway.core.reconcile.settle import PRIORITY_MIN, Account, History, decay, history
from gateway.core.reconcile.sides import ACCOUNTANT, CUSTOMER, LAST_UPDATE, Pool
from gateway.wire.accountant import State

USAGE_MIN: Final = MICRO  # less than a slot-second is rounding, and the negotiator's own grain
PRIORITY_MIN_CHANGE: Final = 0.01  # as above: six places, thousands of times


class Gain(NamedTuple):
    """What one record gains. `usage`: weighted, in millionths of a slot-second."""

    usage: int
    changed: bool


class Gains:
    """The gains of side `name` by a merge, to be counted again for the records that a merge gave anew."""

    def __init__(self, merge: Reconciliation, name: str, pool: Pool) -> None:
        self._merge, self._name, self._pool = merge, name, pool
        self._of: dict[str, Gain] = {}  # by key, where there is a difference
        state = merge.side(name).state
        self.again(key for key in state.keys() | merge.merged.state.keys() if key.startswith(CUSTOMER))

    def again(self, keys: Iterable[str]) -> None:
        """Count the gains of these records again."""
        side, merged = self._merge.side(self._name), self._merge.merged
        report = merged.report
        mine = self._merge.history(self._name)
        if report.fast_forward:
            now = history(msgspec.structs.replace(side, state=merged.state, ended_s=None), self._pool)
        else:
            now = History(side, {}, {}, report.merged_s, report.merged_s)
        for key in keys:
            if not key.startswith(CUSTOMER):
                continue
            gain = self._gain(key, mine, now, merged.state)
            if gain is None:
                self._of.pop(key, None)
            else:
                self._of[key] = gain

    @property
    def usage(self) -> int:
        """What the side's users gain; groups count it again."""
        return sum(gain.usage for key, gain in self._of.items() if "@" in key)

    @property
    def is_change(self) -> bool:
        """Whether the merged state is worth exchanging the side's own for."""
        if any(gain.changed for gain in self._of.values()) or abs(self.usage) >= USAGE_MIN:
            return True
        ours, theirs = (_plain(others_of(state)) for state in (self._merge.side(self._name).state, self._state))
        return ours != theirs

    @property
    def _state(self) -> State:
        return self._merge.merged.state

    def _gain(self, key: str, mine: History, now: History, merged: State) -> Gain | None:
        ad, merged_ad = mine.side.state.get(key), merged.get(key)
        if ad == merged_ad:
            return None
        customer, half_life_s = key[len(CUSTOMER) :], self._pool.half_life_s
        account = mine.account(customer, ad, half_life_s)
        after = now.account(customer, merged_ad, half_life_s)
        if account is None or after is None or ad is None or merged_ad is None:
            return Gain((after.weighted if after else 0) - (account.weighted if account else 0), True)
        usage = after.weighted - account.weighted
        changed = (
            abs(usage) >= USAGE_MIN
            or abs(after.usage - account.usage) >= USAGE_MIN
            or (account.begin_s != 0 and account.begin_s != after.begin_s)
            or self._is_set(account, after, now.settled_s - mine.settled_s)
            or not same_settings(customer, ad, merged_ad, now.settled_s, self._pool)
        )
        return Gain(usage, changed) if changed or usage else None

    def _is_set(self, account: Account, after: Account, gap_s: int) -> bool:
        """Whether the priority is another one than time has made of it."""
        aged = max(PRIORITY_MIN, account.priority * decay(gap_s, self._pool.half_life_s))
        return abs(after.priority - aged) > max(PRIORITY_MIN_CHANGE, aged * 1e-6)


def _plain(others: State) -> State:
    return {
        key: {name: text for name, text in ad.items() if name != "MyType" and (key, name) != (ACCOUNTANT, LAST_UPDATE)}
        for key, ad in others.items()
    }

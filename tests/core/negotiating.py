"""A negotiator's accounting, simulated: what it charges, cycle by cycle, written down as its file has it.

After Accountant.cpp: UpdatePriorities, then CheckMatches; AddMatch and RemoveMatch between two cycles. Weights are in
millionths, as everything in the file is.
"""

import copy
import decimal
import math

from gateway.wire.accountant import State

MICRO = 1_000_000
HALF_LIFE_S = 86_400
START_S = 1_800_000_000


def text(amount: int) -> str:
    sign, rest = ("-", -amount) if amount < 0 else ("", amount)
    return f"{sign}{rest // MICRO}.{rest % MICRO:06d}"


def micro(value: str | None) -> int:
    """What a text writes, in millionths; 0 where it writes no number, as HTCondor reads it."""
    try:
        number = decimal.Decimal(value or "0")
    except decimal.InvalidOperation:
        return 0
    return round(number * MICRO) if number.is_finite() else 0


def slot_key(number: int, host: str = "exec1") -> str:
    return f"Resource.slot{number}@{host}.lab@<10.77.0.31:9618?addrs=10.77.0.31-9618&alias={host}.lab&sock=startd>"


def new_state(now_s: int = START_S) -> State:
    return {"Accountant.": {"LastUpdateTime": str(now_s)}}


class Negotiator:
    """Continues `state`, of which it takes a copy. `groups`: the configured accounting groups."""

    def __init__(self, state: State, groups: tuple[str, ...] = ()) -> None:
        self.state = copy.deepcopy(state)
        self.groups = ("<none>", *groups)

    @property
    def last_s(self) -> int:
        return int(self.state["Accountant."]["LastUpdateTime"])

    def customer(self, name: str) -> dict[str, str]:
        return self.state.setdefault(f"Customer.{name}", {})

    def group_of(self, user: str) -> str:
        name = user.rpartition("@")[0]
        return max((group for group in self.groups if name.startswith(f"{group}.")), key=len, default="<none>")

    def count(self, now_s: int, user: str, weight: int, sign: int, time_s: int) -> None:
        group = self.group_of(user)
        for name in (user, group):
            ad = self.customer(name)
            ad["ResourcesUsed"] = str(int(ad.get("ResourcesUsed", "0")) + sign)
            ad["WeightedResourcesUsed"] = text(micro(ad.get("WeightedResourcesUsed")) + sign * weight)
            ad["UnchargedTime"] = str(int(ad.get("UnchargedTime", "0")) + time_s)
            ad["WeightedUnchargedTime"] = text(micro(ad.get("WeightedUnchargedTime")) + time_s * weight)
        parts = group.split(".")
        for depth in range(1, len(parts) + 1):
            ad = self.customer(".".join(parts[:depth]))
            ad["HierWeightedResourcesUsed"] = text(micro(ad.get("HierWeightedResourcesUsed")) + sign * weight)

    def add_match(self, now_s: int, key: str, user: str, weight: int = MICRO) -> None:
        self.count(now_s, user, weight, 1, -(now_s - self.last_s))
        self.state[key] = {"RemoteUser": f'"{user}"', "SlotWeight": text(weight), "StartTime": str(now_s)}

    def remove_match(self, now_s: int, key: str) -> None:
        ad = self.state.pop(key)
        since_s = max(int(ad["StartTime"]), self.last_s)
        self.count(now_s, ad["RemoteUser"].strip('"'), micro(ad["SlotWeight"]), -1, now_s - since_s)

    def update(self, now_s: int) -> None:
        gap_s = now_s - self.last_s
        if gap_s <= 0:
            return
        kept = math.pow(0.5, gap_s / HALF_LIFE_S)
        self.state["Accountant."]["LastUpdateTime"] = str(now_s)
        for key, ad in self.state.items():
            if key.startswith("Customer."):
                self._update_one(ad, now_s, gap_s, kept)

    def _update_one(self, ad: dict[str, str], now_s: int, gap_s: int, kept: float) -> None:
        slots, aside = int(ad.get("ResourcesUsed", "0")), int(ad.get("UnchargedTime", "0"))
        weight, weighted_aside = micro(ad.get("WeightedResourcesUsed")), micro(ad.get("WeightedUnchargedTime"))
        rate = (weight + weighted_aside / gap_s) / MICRO
        if hier := micro(ad.get("HierWeightedResourcesUsed")):
            rate = hier / MICRO
        priority = max(0.5, micro(ad.get("Priority")) / MICRO)
        ad["Priority"] = f"{max(0.5, priority * kept + rate * (1 - kept)):f}"
        ad["AccumulatedUsage"] = text(micro(ad.get("AccumulatedUsage")) + (slots * gap_s + aside) * MICRO)
        used = micro(ad.get("WeightedAccumulatedUsage")) + weight * gap_s + weighted_aside
        ad["WeightedAccumulatedUsage"] = text(used)
        if micro(ad["AccumulatedUsage"]) > 0 and not int(ad.get("BeginUsageTime", "0")):
            ad["BeginUsageTime"] = str(now_s)
        if slots * gap_s + aside > 0:
            ad["LastUsageTime"] = str(now_s)
        ad["UnchargedTime"], ad["WeightedUnchargedTime"] = "0", "0.000000"

    def cycle(self, now_s: int, claimed: dict[str, tuple[str, int]]) -> None:
        """One cycle at which its collector shows `claimed`: Resource key -> user, weight."""
        self.update(now_s)
        for key in [key for key in self.state if key.startswith("Resource.")]:
            if key not in claimed or self.state[key]["RemoteUser"] != f'"{claimed[key][0]}"':
                self.remove_match(now_s, key)
        for key, (user, weight) in claimed.items():
            if key not in self.state:
                self.add_match(now_s, key, user, weight)

    def start(self, now_s: int) -> None:
        """As at a negotiator's start on a copy: the whole gap is charged at once."""
        self.update(now_s)

    def reset(self, user: str, now_s: int) -> None:
        self.customer(user).update(
            AccumulatedUsage="0.000000", WeightedAccumulatedUsage="0.000000", BeginUsageTime=str(now_s)
        )


def used(state: State, user: str) -> int:
    """A customer's weighted usage in whole slot-seconds."""
    return micro(state.get(f"Customer.{user}", {}).get("WeightedAccumulatedUsage")) // MICRO


def plain_used(state: State, user: str) -> int:
    return micro(state.get(f"Customer.{user}", {}).get("AccumulatedUsage")) // MICRO


def priority(state: State, user: str) -> float:
    return float(state[f"Customer.{user}"]["Priority"])

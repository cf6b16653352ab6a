"""Claims: the Resource records of a history: who holds which slot, and what that charges to whom per second.

Counters are recomputed from these records, by the rule of the negotiator's own check at its start (Accountant.cpp,
Initialize and CheckResources): a counter can be wrong, a record is a slot.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from gateway.core.reconcile.amounts import MICRO, to_micro
from gateway.core.reconcile.sides import CUSTOMER, RESOURCE, seconds
from gateway.wire.accountant import State

ROOT_GROUP: Final = "<none>"


class Claim(NamedTuple):
    """One slot in use."""

    user: str
    weight: int  # millionths
    start_s: int


class Use(NamedTuple):
    """What a customer is charged for each second."""

    slots: int = 0
    weight: int = 0  # millionths; of its own matches
    hier: int = 0  # millionths; of a group with all below it, 0 of a user


NO_USE: Final = Use()


def claims_of(state: State) -> dict[str, Claim]:
    """Return the claims by Resource key. A record without a user is a partitionable slot's placeholder."""
    found = {}
    for key, ad in state.items():
        if not key.startswith(RESOURCE):
            continue
        user = ad.get("RemoteUser", "")
        if len(user) > 2 and user[0] == user[-1] == '"':
            weight = to_micro(ad.get("SlotWeight"))
            found[key] = Claim(user[1:-1], MICRO if weight is None else max(weight, 0), seconds(ad.get("StartTime")))
    return found


def startd_of(key: str) -> str:
    """Return the address in a Resource key, slot1@host@<address>: what is seen or not seen as one."""
    return key[key.rfind("@<") + 1 :]


class Groups:
    """Which accounting groups there are, and who is charged for a user's slots.

    A negotiator makes a record for each configured group at its start; a customer without "@" is one.
    """

    def __init__(self, customers: Iterable[str]) -> None:
        names = sorted(name for name in customers if "@" not in name)
        self._names = {name.lower(): name for name in names}  # GroupEntry::ci_less
        self._charged: dict[str, tuple[str, tuple[str, ...]]] = {}

    def charged_for(self, user: str) -> tuple[str, tuple[str, ...]]:
        """Return the group that is charged beside `user`, and all groups whose subtree holds that one, itself too."""
        known = self._charged.get(user)
        if known is None:
            group = self._group_of(user)
            dots = [place for place, letter in enumerate(group) if letter == "."]
            known = self._charged[user] = (group, (*(group[:dot] for dot in dots), group))
        return known

    def _group_of(self, user: str) -> str:
        """As GroupEntry::GetAssignedGroup: the deepest group that exists on the path before the user's own name."""
        name, at, _ = user.rpartition("@")
        path, dot, _ = name.rpartition(".")
        found = ROOT_GROUP
        if at and dot:
            parts = path.split(".")
            for depth in range(1, len(parts) + 1):
                group = self._names.get(".".join(parts[:depth]).lower())
                if group is None:
                    break
                found = group
        return found


def uses_of(claims: dict[str, Claim], groups: Groups) -> dict[str, Use]:
    """Return what each customer is charged for: users, their groups, and for priorities the groups above."""
    slots: dict[str, int] = {}
    weights: dict[str, int] = {}
    hiers: dict[str, int] = {}
    for claim in claims.values():
        group, above = groups.charged_for(claim.user)
        for customer in {claim.user, group}:
            slots[customer] = slots.get(customer, 0) + 1
            weights[customer] = weights.get(customer, 0) + claim.weight
        for customer in above:
            hiers[customer] = hiers.get(customer, 0) + claim.weight
    names = slots.keys() | hiers.keys()
    return {name: Use(slots.get(name, 0), weights.get(name, 0), hiers.get(name, 0)) for name in names}


def customers_of(keys: Iterable[str]) -> set[str]:
    """Return the customers' names among the keys of a state, or of several."""
    return {key[len(CUSTOMER) :] for key in keys if key.startswith(CUSTOMER)}


def groups_of(keys: Iterable[str]) -> set[str]:
    """Return the groups' names among the keys of a state, or of several: of the customers without "@"."""
    return {key[len(CUSTOMER) :] for key in keys if "@" not in key and key.startswith(CUSTOMER)}

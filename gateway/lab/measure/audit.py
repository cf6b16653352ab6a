"""Charges held against claims: two readings of the accounting, and the daemons' logs between them. Pure.

The startds' word is the truth; what a negotiator charges beyond it, with no failure at all, is replayed (`usage`).
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway.lab.measure import usage
from gateway.lab.measure.usage import Charge, Cycle, Slot, UserMatch
from gateway.lab.measure.userprio import Prio


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """One user between two readings, in slot-seconds.

    `charged_s` by the Accountant; `seen_s`: what it should have charged (`usage`); `claimed_s`: what startds gave.
    """

    charged_s: float
    seen_s: float
    claimed_s: float

    @property
    def error_s(self) -> float:
        """Charged too much (or, below nothing, too little)."""
        return self.charged_s - self.seen_s


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Every user's usage between two readings; `bound_s` is one negotiation cycle's charge of every slot."""

    since: int
    until: int
    bound_s: float
    users: dict[str, Used]

    @property
    def error_s(self) -> float:
        """The error of the user for whom it is greatest, with its sign."""
        return max((used.error_s for used in self.users.values()), key=abs, default=0.0)


class Cut(msgspec.Struct, frozen=True):
    """A partition: from when to when, and the names of the hosts on each side."""

    since: float
    until: float
    sides: tuple[frozenset[str], ...]


class Witnesses(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemons' own logs say: slots by execute host; matches and cycles by manager.

    `ended`: until when the word of a manager counts, for those that were killed or cut off.
    """

    slots: Mapping[str, Mapping[str, Slot]]
    matches: Mapping[str, Sequence[UserMatch]]
    cycles: Mapping[str, Sequence[Cycle]]
    ended: Mapping[str, float] = {}
    cut: Cut | None = None

    def cycles_seeing(self, host: str) -> list[Cycle]:
        """Return the cycles that could see the slots of `host`, in order."""
        found = [
            cycle for manager, own in self.cycles.items() for cycle in own if self._counts(manager, cycle.counted, host)
        ]
        return sorted(found, key=lambda cycle: cycle.counted)

    def all_cycles(self) -> list[float]:
        """Return the starts of every manager's cycles, in order."""
        return sorted(cycle.began for own in self.cycles.values() for cycle in own)

    def _counts(self, manager: str, at: float, host: str) -> bool:
        if manager in self.ended and at >= self.ended[manager]:
            return False
        # While the pool is cut, only the negotiator on the slot's own side learns of the slot.
        cut = self.cut
        apart = cut is not None and cut.since <= at < cut.until
        return not apart or cut is None or any(manager in side and host in side for side in cut.sides)

    def compare(self, before: Prio, after: Prio) -> Usage:
        """Return every user's charge between two readings beside what it should be."""
        span = (float(before.at), float(after.at))
        every_slot = [slot for found in self.slots.values() for slot in found.values()]
        seen = usage.charged_s(self._charges(span[1]), *span)
        claimed = usage.claimed_s([claim for slot in every_slot for claim in slot.claims], *span)
        users = {
            user: Used(
                charged_s=_usage(after, user) - _usage(before, user),
                seen_s=seen.get(user, 0.0),
                claimed_s=claimed.get(user, 0.0),
            )
            for user in sorted({*seen, *claimed, *before.customers, *after.customers})
            if user in seen or user in claimed or _usage(after, user) or _usage(before, user)
        }
        # The usual cycle, not the longest: how long any of them really took is in the replay.
        starts = ([cycle.began for cycle in self.cycles_seeing(host)] for host in self.slots)
        cycle_s = max((usage.median_cycle_s(one, *span) for one in starts), default=0.0)
        return Usage(since=before.at, until=after.at, bound_s=len(every_slot) * cycle_s, users=users)

    def _charges(self, now: float) -> Iterable[Charge]:
        for host, found in self.slots.items():
            cycles = self.cycles_seeing(host)
            given: dict[str, list[UserMatch]] = {}
            for manager, matches in self.matches.items():
                for match in matches:
                    if self._counts(manager, match.at, host):
                        given.setdefault(match.slot, []).append(match)
            for name, slot in found.items():
                yield from usage.charges(slot, given.get(name, ()), cycles, now + 1)


def _usage(prio: Prio, user: str) -> float:
    found = prio.customers.get(user)
    return found.usage_s if found else 0.0

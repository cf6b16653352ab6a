"""Charges held against claims: two readings of the accounting, and the daemons' logs between them. Pure.

The startds' word is the truth; what a negotiator may charge beyond it is said in `usage`.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway.lab.measure import usage
from gateway.lab.measure.logs import Match
from gateway.lab.measure.usage import Claim
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
    """What the daemons' own logs say: claims by execute host; matches and starts of cycles by manager.

    `ended`: until when the word of a manager counts, for those that were killed or cut off.
    """

    claims: Mapping[str, Sequence[Claim]]
    matches: Mapping[str, Sequence[Match]]
    cycles: Mapping[str, Sequence[float]]
    ended: Mapping[str, float] = {}
    cut: Cut | None = None

    def cycles_of(self, managers: Iterable[str]) -> list[float]:
        """Return the starts of all cycles of these managers, in order."""
        return sorted(
            at
            for name in managers
            for at in self.cycles.get(name, ())
            if name not in self.ended or at < self.ended[name]
        )

    def compare(self, before: Prio, after: Prio, slots: int) -> Usage:
        """Return every user's charge between two readings beside what it should be."""
        span = (float(before.at), float(after.at))
        seen = usage.charged_s(self._charges(span[1]), *span)
        claimed = usage.claimed_s([one for found in self.claims.values() for one in found], *span)
        users = {
            user: Used(
                charged_s=_usage(after, user) - _usage(before, user),
                seen_s=seen.get(user, 0.0),
                claimed_s=claimed.get(user, 0.0),
            )
            for user in sorted({*claimed, *before.customers, *after.customers})
            if user in claimed or _usage(after, user) or _usage(before, user)
        }
        cycle_s = usage.longest_cycle_s(self.cycles_of(self.cycles), *span)
        return Usage(since=before.at, until=after.at, bound_s=slots * cycle_s, users=users)

    def _charges(self, now: float) -> list[usage.Charge]:
        everywhere = self.cycles_of(self.cycles)
        matches = [match for found in self.matches.values() for match in found]
        charges: list[usage.Charge] = []
        for host, claims in self.claims.items():
            sides = self.cut.sides if self.cut else ()
            side = next((self.cycles_of(one & self.cycles.keys()) for one in sides if host in one), everywhere)

            # While the pool is cut, only the negotiator on the slot's own side learns that it was released.
            def seeing(claim: Claim, side: Sequence[float] = side) -> Sequence[float]:
                cut, end = self.cut, claim.until
                return side if cut and end is not None and cut.since <= end < cut.until else everywhere

            charges += usage.charges(claims, matches, seeing, now + 1)
        return charges


def _usage(prio: Prio, user: str) -> float:
    found = prio.customers.get(user)
    return found.usage_s if found else 0.0

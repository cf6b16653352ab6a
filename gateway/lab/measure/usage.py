"""What users should be charged, from the logs of startds and negotiators. Pure functions of text and times.

The definition: a slot is charged to the user whose match the negotiator made or last saw, in whole seconds.

HTCondor's Accountant counts matches, not claims (src/condor_negotiator.V6/Accountant.cpp): a record for each slot that
begins with the negotiator's match (AddMatch) and is put right at each cycle (CheckMatches) by what the collector shows
of the slot then: claimed by another, or by nobody. And the collector is a second behind: a startd saves its updates up
for that long. So the slot of a job of five seconds is charged six or seven, and now and then a second to a user who was
given a slot that was claimed already. With cycles a second apart a third of all charges is of this kind, whoever the
matchmaker is. It is replayed here, so that what a failure adds or takes can be told from what HTCondor always does.
"""

import bisect
import itertools
import math
import re
from collections.abc import Iterable, Sequence

import msgspec

from gateway.lab.measure.logs import stamp

_OWNER = re.compile(r"\b(slot[\d_]+)(?:@\S+?)?(?:\[\d+\])?: Remote owner is (\S+)")
_CHANGE = re.compile(r"\b(slot[\d_]+)(?:@\S+?)?(?:\[\d+\])?: Changing state(?: and activity)?: \w+(?:/\w+)? -> (\w+)")
_CYCLE = "Started Negotiation Cycle"
_MATCHED = re.compile(r"\bMatched \d+\.\d+ (\S+) ")
_HELD = frozenset({"Claimed", "Preempting"})  # a slot that vacates is its user's still (Accountant::IsClaimed)

# From a slot's change to the update that tells of it (seen: 1.01 to 1.03 s, now and then less). Replayed against the
# records of a negotiator (8 slots, 40 s, nothing broken): 309 slot-seconds of the 317 that it charged.
UPDATE_S = 1.02
FETCH_S = 0.01  # from the start of a cycle to the negotiator's fetching of the ads


class Claim(msgspec.Struct, frozen=True):
    """A slot ("slot1@host") was held for a user from `since` to `until` (None: it is still), as its startd says."""

    slot: str
    user: str
    since: float
    until: float | None


class Slot(msgspec.Struct, frozen=True):
    """One slot's claims in their order, and what the collector is told of it: from when on, held for whom."""

    claims: tuple[Claim, ...]
    shown: tuple[tuple[float, str | None], ...]


class Charge(msgspec.Struct, frozen=True):
    """A span of whole unix seconds that a user is charged for a slot."""

    user: str
    since: int
    until: int


class UserMatch(msgspec.Struct, frozen=True):
    """A negotiator gave a slot ("slot1@host") to a user."""

    at: float
    slot: str
    user: str


def slots(start_log: str, host: str) -> dict[str, Slot]:
    """Return the slots of a StartLog by full name; `host` is the full name of the startd's host."""
    held: dict[str, list[tuple[float, str | None]]] = {}  # slot -> changes of its holder
    owners: dict[str, str] = {}
    for line in start_log.splitlines():
        if "Remote owner is" in line and (owner := _OWNER.search(line)):
            owners[owner[1]] = owner[2]
        elif "Changing state" in line and (change := _CHANGE.search(line)) and (at := stamp(line)) is not None:
            user = owners.get(change[1]) if change[2] in _HELD else None
            row = held.setdefault(f"{change[1]}@{host}", [])
            if (row[-1][1] if row else None) != user:
                row.append((at, user))
    return {
        name: Slot(tuple(_claims(name, row)), tuple((at + UPDATE_S, user) for at, user in row))
        for name, row in held.items()
    }


def _claims(slot: str, row: Sequence[tuple[float, str | None]]) -> list[Claim]:
    ends: list[float | None] = [*(at for at, _ in row[1:]), None]
    return [Claim(slot, user, at, end) for (at, user), end in zip(row, ends, strict=True) if user is not None]


def cycle_starts(negotiator_log: str) -> list[float]:
    """Return when each negotiation cycle of a NegotiatorLog began."""
    times = (stamp(line) for line in negotiator_log.splitlines() if _CYCLE in line)
    return [at for at in times if at is not None]


def matches(negotiator_log: str) -> list[UserMatch]:
    """Return the matches of a NegotiatorLog with their users."""
    found = []
    for line in negotiator_log.splitlines():
        if "Matched " in line and (user := _MATCHED.search(line)) and (at := stamp(line)) is not None:
            found.append(UserMatch(at, line.removesuffix(" (offline)").rpartition("> ")[2].strip(), user[1]))
    return found


def charges(slot: Slot, given: Iterable[UserMatch], cycles: Sequence[float], now: float) -> list[Charge]:
    """Return what is charged for one slot up to `now`, by a negotiator that made these matches and these cycles."""
    events: list[tuple[float, str | None]] = [(match.at, match.user) for match in given]
    times = [at for at, _ in slot.shown]
    for cycle in cycles:
        place = bisect.bisect_right(times, cycle + FETCH_S)
        events.append((cycle + FETCH_S, slot.shown[place - 1][1] if place else None))
    found: list[Charge] = []
    user: str | None = None
    since = 0
    for at, holder in [*sorted(events, key=lambda event: event[0]), (now, None)]:
        if holder != user:
            if user is not None:
                found.append(Charge(user, since, math.floor(at)))
            user, since = holder, math.floor(at)
    return found


def charged_s(found: Iterable[Charge], since: float, until: float) -> dict[str, float]:
    """Return the seconds of each user's charges that lie in [since, until)."""
    return _within(((charge.user, charge.since, charge.until) for charge in found), since, until)


def claimed_s(found: Iterable[Claim], since: float, until: float) -> dict[str, float]:
    """Return the seconds for which slots were held for each user in [since, until), by the startds' own clocks."""
    return _within(((one.user, one.since, until if one.until is None else one.until) for one in found), since, until)


def _within(spans: Iterable[tuple[str, float, float]], since: float, until: float) -> dict[str, float]:
    total: dict[str, float] = {}
    for user, begin, end in spans:
        if (length := min(end, until) - max(begin, since)) > 0:
            total[user] = total.get(user, 0.0) + length
    return total


def longest_cycle_s(cycles: Sequence[float], since: float, until: float) -> float:
    """Return the longest time between two starts of cycles in [since, until), whoever made them; 0 without two."""
    return max(_cycles_s(cycles, since, until), default=0.0)


def median_cycle_s(cycles: Sequence[float], since: float, until: float) -> float:
    """Return the usual time between two starts of cycles in [since, until), whoever made them; 0 without two."""
    lengths = sorted(_cycles_s(cycles, since, until))
    return lengths[len(lengths) // 2] if lengths else 0.0


def _cycles_s(cycles: Sequence[float], since: float, until: float) -> list[float]:
    times = sorted(at for at in cycles if since <= at < until)
    return [later - earlier for earlier, later in itertools.pairwise(times)]

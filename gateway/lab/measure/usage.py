"""What users should be charged, from the logs of startds and negotiators. Pure functions of text and times.

The definition: a claim is charged from its match until the first negotiation cycle that finds the slot released.

HTCondor's Accountant counts matches (src/condor_negotiator.V6/Accountant.cpp). One begins when the negotiator makes
it, some hundredths of a second before the startd's own Claimed; it ends when a cycle sees that the collector no longer
shows the slot as claimed by that user (CheckMatches), up to a whole cycle after the startd has released it. Both are
taken in whole seconds. So with a cycle a second, a job of five seconds is charged six: with this definition, and
not with the startd's own seconds, charges agree to a second or so a claim, whoever is the matchmaker.
"""

import bisect
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from gateway.lab.measure.logs import Match, stamp

_OWNER = re.compile(r"\b(slot[\d_]+)(?:@\S+?)?(?:\[\d+\])?: Remote owner is (\S+)")
_CHANGE = re.compile(r"\b(slot[\d_]+)(?:@\S+?)?(?:\[\d+\])?: Changing state(?: and activity)?: \w+(?:/\w+)? -> (\w+)")
_CYCLE = "Started Negotiation Cycle"
_HELD = frozenset({"Claimed", "Preempting"})  # a slot that vacates is its user's still (Accountant::IsClaimed)

MATCH_S_MAX = 5.0  # between a match and its claim; what is older belongs to a match that nobody claimed
# A release reaches the collector by an update, and the negotiator with the ads that it fetches after the cycle's start.
FETCH_S = 0.01


class Claim(msgspec.Struct, frozen=True):
    """A slot ("slot1@host") was held for a user from `since` to `until` (None: it is still), as its startd says."""

    slot: str
    user: str
    since: float
    until: float | None


class Charge(msgspec.Struct, frozen=True):
    """A span of whole unix seconds that a user is to be charged for one slot."""

    user: str
    since: int
    until: int


def claims(start_log: str, host: str) -> list[Claim]:
    """Return the claims of a StartLog in the order of their ends; `host` is the full name of the startd's host."""
    found: list[Claim] = []
    owners: dict[str, str] = {}
    running: dict[str, tuple[str, float]] = {}
    for line in start_log.splitlines():
        if "Remote owner is" in line and (owner := _OWNER.search(line)):
            owners[owner[1]] = owner[2]
        elif "Changing state" in line and (change := _CHANGE.search(line)) and (at := stamp(line)) is not None:
            slot, state = change[1], change[2]
            if state in _HELD:
                if slot in owners:
                    running.setdefault(slot, (owners[slot], at))
            elif slot in running:
                user, since = running.pop(slot)
                found.append(Claim(f"{slot}@{host}", user, since, at))
    return found + [Claim(f"{slot}@{host}", user, since, None) for slot, (user, since) in running.items()]


def cycle_starts(negotiator_log: str) -> list[float]:
    """Return when each negotiation cycle of a NegotiatorLog began."""
    times = (stamp(line) for line in negotiator_log.splitlines() if _CYCLE in line)
    return [at for at in times if at is not None]


def charges(
    found: Iterable[Claim], matches: Iterable[Match], cycles_for: Callable[[Claim], Sequence[float]], now: float
) -> list[Charge]:
    """Return what is to be charged for each claim.

    `cycles_for` gives the starts of the cycles, in order, that could see the end of a claim: those of the negotiator
    in office, and during a partition those of the claim's own side. What has not ended by `now` goes on to then.
    """
    matched: dict[str, list[float]] = {}
    for match in matches:
        matched.setdefault(match.slot, []).append(match.at)
    for times in matched.values():
        times.sort()
    return [
        Charge(claim.user, math.floor(_matched_at(claim, matched)), math.floor(_seen_end(claim, cycles_for, now)))
        for claim in found
    ]


def _matched_at(claim: Claim, matched: Mapping[str, Sequence[float]]) -> float:
    times = matched.get(claim.slot, ())
    place = bisect.bisect_right(times, claim.since)
    # The negotiator that made it may have died before it could write of it: then the claim itself is the best word.
    return times[place - 1] if place and claim.since - times[place - 1] <= MATCH_S_MAX else claim.since


def _seen_end(claim: Claim, cycles_for: Callable[[Claim], Sequence[float]], now: float) -> float:
    if claim.until is None:
        return now
    cycles = cycles_for(claim)
    place = bisect.bisect_left(cycles, claim.until - FETCH_S)
    return cycles[place] if place < len(cycles) else now


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
    times = sorted(at for at in cycles if since <= at < until)
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)

"""What users should be charged, from the logs of startds and negotiators. Pure functions of text and times.

The definition: a slot is charged to the user whose match the negotiator made or last saw, in whole seconds.

HTCondor's Accountant counts matches, not claims (src/condor_negotiator.V6/Accountant.cpp): a record for each slot that
begins with the negotiator's match (AddMatch) and is put right at each cycle (CheckMatches) by what the collector shows
of the slot then: claimed by another, or by nobody. And the collector is behind: a startd saves its updates up. So the
slot of a job of five seconds is charged six or seven, and now and then a second to a user who was given a slot that was
claimed already. With cycles a second apart a fifth of all charges is of this kind, whoever the matchmaker is. It is
replayed here, so that what a failure adds or takes can be told from what HTCondor always does.

How far behind is no constant, and cannot be guessed: one timer for all slots of a startd (ResMgr::rip_update_needed) is
set by the first change, is due when the next second of the clock begins, and goes off when the startd then wakes: by
itself a second after the change, or sooner for anything else. Seen: 0.03 s to 1.8 s. And as a claim follows its cycle
at once, and the next cycle comes little more than a second later, a hundredth decides whether that one sees the claim
or takes the match away. So the startd's log says when it sent (it has to be kept at D_FULLDEBUG), and the negotiator's
when it asked for the ads and when it counted: then the replay is the Accountant's to the second, match by match, but
for what is logged within a tick (4 ms) after a whole second: there time() may still give the second before.
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
_MATCHED = re.compile(r"\bMatched \d+\.\d+ (\S+) ")
_HELD = frozenset({"Claimed", "Preempting"})  # a slot that vacates is its user's still (Accountant::IsClaimed)

_SENT = "Trying to update collector"  # of every ad (daemon_list.cpp), at the moment in which its slot was looked at
_STARTED = "Started Negotiation Cycle"
_ASKED = "Getting Scheduler, Submitter and Machine ads"
_COUNTED = "Performing accounting"


class Claim(msgspec.Struct, frozen=True):
    """A slot ("slot1@host") was held for a user from `since` to `until` (None: it is still), as its startd says."""

    slot: str
    user: str
    since: float
    until: float | None


class Slot(msgspec.Struct, frozen=True):
    """One slot's claims in their order, and what its startd told the collector: from when on, held for whom."""

    claims: tuple[Claim, ...]
    shown: tuple[tuple[float, str | None], ...]


class Charge(msgspec.Struct, frozen=True):
    """A span of whole unix seconds that a user is charged for a slot."""

    user: str
    since: int
    until: int


class Cycle(msgspec.Struct, frozen=True):
    """A negotiation cycle that got as far as its accounting: when it began, asked for the ads, and counted (unix s)."""

    began: float
    asked: float
    counted: float


class UserMatch(msgspec.Struct, frozen=True):
    """A negotiator gave a slot ("slot1@host") to a user."""

    at: float
    slot: str
    user: str


def slots(start_log: str, host: str) -> dict[str, Slot]:
    """Return the slots of a StartLog by full name; `host` is the full name of the startd's host.

    A log that is not kept at D_FULLDEBUG has the claims all the same, but nothing is `shown`.
    """
    held: dict[str, list[tuple[float, str | None]]] = {}  # slot -> changes of its holder
    shown: dict[str, list[tuple[float, str | None]]] = {}
    owners: dict[str, str] = {}
    for line in start_log.splitlines():
        if "Remote owner is" in line and (owner := _OWNER.search(line)):
            owners[owner[1]] = owner[2]
        elif "Changing state" in line and (change := _CHANGE.search(line)) and (at := stamp(line)) is not None:
            user = owners.get(change[1]) if change[2] in _HELD else None
            _note(held.setdefault(f"{change[1]}@{host}", []), at, user)
        elif _SENT in line and (at := stamp(line)) is not None:
            for name, row in held.items():  # what changed twice since is sent once, as it is now
                _note(shown.setdefault(name, []), at, row[-1][1] if row else None)
    return {name: Slot(tuple(_claims(name, row)), tuple(shown.get(name, ()))) for name, row in held.items()}


def _note(row: list[tuple[float, str | None]], at: float, user: str | None) -> None:
    if (row[-1][1] if row else None) != user:
        row.append((at, user))


def _claims(slot: str, row: Sequence[tuple[float, str | None]]) -> list[Claim]:
    ends: list[float | None] = [*(at for at, _ in row[1:]), None]
    return [Claim(slot, user, at, end) for (at, user), end in zip(row, ends, strict=True) if user is not None]


def cycles(negotiator_log: str) -> list[Cycle]:
    """Return the negotiation cycles of a NegotiatorLog that charged somebody; one that was cut short before did not."""
    found: list[Cycle] = []
    began = asked = None
    for line in negotiator_log.splitlines():
        if _STARTED in line:
            began, asked = stamp(line), None
        elif _ASKED in line:
            asked = stamp(line)
        elif _COUNTED in line and (counted := stamp(line)) is not None and began is not None and asked is not None:
            found.append(Cycle(began, asked, counted))
    return found


def matches(negotiator_log: str) -> list[UserMatch]:
    """Return the matches of a NegotiatorLog with their users."""
    found = []
    for line in negotiator_log.splitlines():
        if "Matched " in line and (user := _MATCHED.search(line)) and (at := stamp(line)) is not None:
            found.append(UserMatch(at, line.removesuffix(" (offline)").rpartition("> ")[2].strip(), user[1]))
    return found


def charges(slot: Slot, given: Iterable[UserMatch], counts: Iterable[Cycle], now: float) -> list[Charge]:
    """Return what is charged for one slot up to `now`, by a negotiator that made these matches and these cycles."""
    times = [at for at, _ in slot.shown]
    events: list[tuple[float, str | None]] = []
    for cycle in counts:
        place = bisect.bisect_right(times, cycle.asked)
        events.append((cycle.counted, slot.shown[place - 1][1] if place else None))
    events += [(match.at, match.user) for match in given]  # after the cycles: it counts before it matches
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


def longest_cycle_s(starts: Sequence[float], since: float, until: float) -> float:
    """Return the longest time between two starts of cycles in [since, until), whoever made them; 0 without two."""
    return max(_cycles_s(starts, since, until), default=0.0)


def median_cycle_s(starts: Sequence[float], since: float, until: float) -> float:
    """Return the usual time between two starts of cycles in [since, until), whoever made them; 0 without two."""
    lengths = sorted(_cycles_s(starts, since, until))
    return lengths[len(lengths) // 2] if lengths else 0.0


def _cycles_s(starts: Sequence[float], since: float, until: float) -> list[float]:
    times = sorted(at for at in starts if since <= at < until)
    return [later - earlier for earlier, later in itertools.pairwise(times)]

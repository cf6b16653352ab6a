"""HTCondor's daemon logs, read for facts: matches, slots that wait, updates that were refused. Pure functions of text.

Every time is in unix seconds. Lines that are not understood are skipped: a daemon's log is not a format, and a
measurement that finds too little says so by its numbers (null) instead of failing.
"""

import calendar
import re
from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

# 11/22/26 23:04:22.123 text   (D_SUB_SECOND adds the fraction; lab hosts keep their clocks in UTC)
_STAMP = re.compile(r"(\d\d)/(\d\d)/(\d\d) (\d\d):(\d\d):(\d\d)(\.\d+)? ")
# 1732316662.123 text          (D_TIMESTAMP)
_EPOCH = re.compile(r"(\d{10}(?:\.\d+)?) ")

_SLOT_STATE = re.compile(r"\b(slot[\d_]+)(?:@\S+?)?(?:\[\d+\])?: Changing state: (\w+) -> (\w+)")
_SLOT_BOTH = re.compile(
    r"\b(slot[\d_]+)(?:@\S+?)?(?:\[\d+\])?: Changing state and activity: (\w+)/(\w+) -> (\w+)/(\w+)"
)
_SLOT_ACTIVITY = re.compile(r"\b(slot[\d_]+)(?:@\S+?)?(?:\[\d+\])?: Changing activity: (\w+) -> (\w+)")
_MATCHED = re.compile(r"\bMatched (\d+)\.(\d+) .*> (\S+?)(?: \(offline\))?$")
_NEGOTIATOR_START = re.compile(r"\*\* condor_negotiator\S* \(CONDOR_NEGOTIATOR\) STARTING UP")

# What a client's daemon writes when the server does not know the security session that it resumed (TCP) ...
_REJECTED = "Server rejected our session id"
# ... and when an update did not leave, whatever the reason (dc_collector.cpp).
_FAILED = re.compile(r"Failed to (?:send|start)(?: non-blocking)? update to (\S+)")
_OTHER_COMMAND = "Failed to send RESCHEDULE to"
# A datagram under an unknown session is dropped by the server, and only the server knows (daemon_command.cpp).
_DROPPED = re.compile(r"DC_AUTHENTICATE: session \S+ NOT FOUND; this session was requested by (\S+)")

# What a daemon writes when it gives up on a request that does not come to its end (20 s).
_GAVE_UP = re.compile(r"condor_read\(\): timeout reading \d+ bytes from <([0-9.]+):\d+>")

# A refused session makes its daemon write "Failed to ... update" as well, in the same breath: one event, not two.
SAME_EVENT_S = 0.2


class SlotChange(msgspec.Struct, frozen=True):
    """A slot of one startd went from state `old` to state `new` ("Claimed", "Unclaimed", ...) at `at`."""

    at: float
    slot: str
    old: str
    new: str


class Wait(msgspec.Struct, frozen=True):
    """A slot stood Unclaimed from `freed` to `claimed`; None: it stands so still."""

    slot: str
    freed: float
    claimed: float | None


class Match(msgspec.Struct, frozen=True):
    """The negotiator matched a job to a slot."""

    at: float
    cluster: int
    proc: int
    slot: str


class Rejection(msgspec.Struct, frozen=True):
    """An update that was lost: `kind` is "session", "failed" or "dropped"; `peer` the other end where it is named."""

    at: float
    kind: str
    peer: str


def stamp(line: str) -> float | None:
    """Return the time of a log line in unix seconds; None where the line does not begin with one."""
    if found := _STAMP.match(line):
        month, day, year, hour, minute, second = (int(part) for part in found.groups()[:6])
        whole = calendar.timegm((2000 + year, month, day, hour, minute, second))
        return whole + float(found[7] or 0.0)
    if found := _EPOCH.match(line):
        return float(found[1])
    return None


def _stamped(text: str, word: str) -> Iterator[tuple[float, str]]:
    """Yield (time, line) of the lines of `text` that hold `word`."""
    for line in text.splitlines():
        if word in line and (at := stamp(line)) is not None:
            yield at, line


def slot_changes(start_log: str) -> list[SlotChange]:
    """Return the changes of state in a StartLog, in its order. Changes of activity alone are not among them."""
    changes = []
    for at, line in _stamped(start_log, "Changing state"):
        if found := _SLOT_STATE.search(line):
            changes.append(SlotChange(at, found[1], found[2], found[3]))
        elif found := _SLOT_BOTH.search(line):
            changes.append(SlotChange(at, found[1], found[2], found[4]))
    return changes


def job_starts(start_log: str) -> list[tuple[float, str, float]]:
    """Return (time, slot, time of its claim) of every job that a StartLog saw start (the slot turned Busy)."""
    starts = []
    claimed: dict[str, float] = {}
    for at, line in _stamped(start_log, "Changing "):
        if found := _SLOT_STATE.search(line):
            claimed = {**claimed, found[1]: at} if found[3] == "Claimed" else claimed
        elif found := _SLOT_BOTH.search(line):
            if found[4] == "Claimed":
                claimed[found[1]] = at
                if found[5] == "Busy":
                    starts.append((at, found[1], at))
        elif (found := _SLOT_ACTIVITY.search(line)) and found[3] == "Busy" and found[1] in claimed:
            starts.append((at, found[1], claimed[found[1]]))
    return starts


def slot_waits(changes: Iterable[SlotChange]) -> list[Wait]:
    """Return how long slots stood Unclaimed after a claim, in the order of their becoming free.

    The first claim of a slot after its start is not a wait: nobody had released it.
    """
    waits: list[Wait] = []
    was_claimed: set[str] = set()
    free_since: dict[str, float] = {}
    for change in changes:
        if change.new == "Claimed":
            was_claimed.add(change.slot)
            if (freed := free_since.pop(change.slot, None)) is not None:
                waits.append(Wait(change.slot, freed, change.at))
        elif change.new == "Unclaimed" and change.slot in was_claimed:
            free_since.setdefault(change.slot, change.at)
    waits += [Wait(slot, freed, None) for slot, freed in free_since.items()]
    return sorted(waits, key=lambda wait: wait.freed)


def mean_wait_before_s(waits: Iterable[Wait], fault: float, span_s: float = 40.0) -> float | None:
    """Return the mean wait of the slots that became free and were claimed again in the `span_s` before the fault."""
    lengths = [
        wait.claimed - wait.freed
        for wait in waits
        if wait.claimed is not None and fault - span_s <= wait.freed and wait.claimed < fault
    ]
    return sum(lengths) / len(lengths) if lengths else None


def mean_wait_after_s(waits: Iterable[Wait], fault: float, until: float, span_s: float = 15.0) -> float | None:
    """Return the mean wait of the slots that stood free at the fault or became free in the `span_s` after it.

    Slots that the fault found free are counted with their whole wait, and a slot that still waits at `until` (the
    end of the observation) with what it has waited: leaving them out would flatter the very failure that is sought.
    """
    lengths = [
        (wait.claimed if wait.claimed is not None else until) - wait.freed
        for wait in waits
        if wait.freed < fault + span_s and (wait.claimed is None or wait.claimed >= fault)
    ]
    return sum(lengths) / len(lengths) if lengths else None


def matches(negotiator_log: str) -> list[Match]:
    """Return the matches of a NegotiatorLog in its order."""
    found_matches = []
    for at, line in _stamped(negotiator_log, "Matched "):
        if found := _MATCHED.search(line):
            found_matches.append(Match(at, int(found[1]), int(found[2]), found[3]))
    return found_matches


def reads_given_up(log: str) -> list[tuple[float, str]]:
    """Return (time, IP address) of every peer for whose data a daemon waited in vain.

    A startd or a schedd that reads a request does nothing else until it has it, or gives up.
    """
    return [(at, found[1]) for at, line in _stamped(log, "timeout reading") if (found := _GAVE_UP.search(line))]


def negotiator_starts(negotiator_log: str) -> list[float]:
    """Return the times at which a negotiator began in this log."""
    return [at for at, line in _stamped(negotiator_log, "STARTING UP") if _NEGOTIATOR_START.search(line)]


def client_rejections(log: str, ignoring: frozenset[str] = frozenset()) -> list[Rejection]:
    """Return the updates that a pool entity's daemon saw fail, each counted once.

    `ignoring`: IP addresses of hosts that are down; an update that could not reach one of these is no loss to an
    entity that lists several collectors. An entity behind a virtual address never names such a host.
    """
    lost: list[Rejection] = []
    for line in log.splitlines():
        at = stamp(line)
        if at is None:
            continue
        if _OTHER_COMMAND in line:
            # What was rejected was no update: a request to negotiate soon, which the next cycle makes good.
            if _same_breath(lost, at, "session"):
                lost.pop()
        elif _REJECTED in line:
            if not _same_breath(lost, at, "session"):
                lost.append(Rejection(at, "session", ""))
        elif found := _FAILED.search(line):
            peer = found[1].strip("<>.").partition("?")[0].rpartition(":")[0] or found[1]
            if peer not in ignoring and not _same_breath(lost, at, "session"):
                lost.append(Rejection(at, "failed", peer))
    return lost


def _same_breath(lost: list[Rejection], at: float, kind: str) -> bool:
    return bool(lost) and lost[-1].kind == kind and at - lost[-1].at < SAME_EVENT_S


def server_rejections(collector_log: str) -> list[Rejection]:
    """Return the datagrams that a collector dropped because it did not know their security session.

    TCP refusals are left to `client_rejections`: there the client learns of them, and they would count twice.
    """
    dropped = []
    for at, line in _stamped(collector_log, "NOT FOUND"):
        if found := _DROPPED.search(line):
            dropped.append(Rejection(at, "dropped", found[1].strip("<>").partition(":")[0]))
    return dropped


def json_events(log: str, event: str) -> list[dict[str, object]]:
    """Return a node's own log events called `event` (JSON lines with `at` in unix seconds), in their order."""
    found = []
    for line in log.splitlines():
        if event not in line:
            continue
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue  # a torn line: its writer was killed in the middle of it
        if isinstance(value, dict) and value.get("event") == event and isinstance(value.get("at"), int | float):
            found.append(value)
    return found


def iso_time(text: str) -> float:
    """Return the unix seconds of an ISO time without zone, taken as UTC; a space or a T in the middle."""
    return datetime.fromisoformat(f"{text.rstrip('Z')}+00:00").timestamp()

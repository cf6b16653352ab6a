"""One repeat of one scenario as a value and as a JSON line. Every key is always present; null: no such figure."""

import math
from collections.abc import Sequence

import msgspec

from gateway.lab.measure.audit import Used


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one repeat showed. `_s` seconds, `_ms` milliseconds; rates are completed jobs a minute.

    `refused` says why nothing was measured: the pool was not healthy before the fault; then all figures are null.
    """

    scenario: str
    system: str
    repeat: int
    healthy_before: bool
    elected_s: float | None = None
    first_match_s: float | None = None
    jobs_per_minute_before: float | None = None
    jobs_per_minute_after: float | None = None
    slot_wait_before_s: float | None = None
    slot_wait_after_s: float | None = None
    updates_rejected: int | None = None
    jobs_lost: int | None = None
    blackout_ms: float | None = None
    two_owner_ms: float | None = None
    first_execute_s: float | None = None  # first start of a job on a slot that was claimed after the fault
    jobs_restarted: int | None = None  # jobs that began to run a second time
    probe_late_ms: float | None = None  # longest pause of the probe itself: blackouts shorter than it may hide in it
    victim: str | None = None
    successor: str | None = None
    window_s: float | None = None  # the time on each side of the fault over which rates were counted
    at: float | None = None  # the fault, in unix seconds
    refused: tuple[str, ...] | None = None
    # The accounting, where a manager was broken.
    usage_error_s: float | None = None  # of the user for whom it is greatest: charged beyond what should be (`audit`)
    usage_bound_s: float | None = None  # one negotiation cycle's charge of every slot
    usage: dict[str, Used] | None = None
    edits_made: int | None = None  # acknowledged 0.3 s and more before the fault
    edits_lost: tuple[str, ...] | None = None
    edits_lost_after_return: tuple[str, ...] | None = None  # when the broken manager was fit again
    last_edit_ms: float | None = None  # acknowledged so long before the fault
    last_edit_written: bool | None = None  # whether it was in the broken manager's own file
    last_edit_kept: bool | None = None
    last_edit_kept_after_return: bool | None = None
    # Of the scenarios of the address alone.
    variant: str | None = None  # what exactly was broken, where a scenario has several ways
    heartbeat_ms: int | None = None
    lease_ms: int | None = None  # keepalived has none: its masters never stop by themselves
    blackout_udp_ms: float | None = None
    blackout_icmp_ms: float | None = None
    blackout_tcp_ms: float | None = None
    successor_ms: float | None = None  # from the fault to the first frame of another owner
    packets_after_lease: int | None = None  # of the old owner, after a lease that it could not renew
    black_holed: bool | None = None  # nobody answered at the end, or later than a second after the heal


FIGURES = (
    "elected_s",
    "first_match_s",
    "first_execute_s",
    "jobs_per_minute_before",
    "jobs_per_minute_after",
    "slot_wait_before_s",
    "slot_wait_after_s",
    "updates_rejected",
    "jobs_lost",
    "blackout_ms",
    "two_owner_ms",
)


ADDRESS_FIGURES = (
    "blackout_ms",
    "blackout_udp_ms",
    "blackout_icmp_ms",
    "blackout_tcp_ms",
    "successor_ms",
    "two_owner_ms",
    "packets_after_lease",
)


class Spread(msgspec.Struct, frozen=True):
    """The middle and the ends of a few values, and of how many."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """Return the spread of the values that are there; None where there is none. The median of two is their mean."""
    known = sorted(value for value in values if value is not None and not math.isnan(value))
    if not known:
        return None
    half = len(known) // 2
    median = known[half] if len(known) % 2 else (known[half - 1] + known[half]) / 2
    return Spread(median, known[0], known[-1], len(known))


def percentile(values: Sequence[float | None], percent: float) -> float | None:
    """Return the smallest value that `percent` of a hundred values do not exceed (nearest rank); None without any."""
    known = sorted(value for value in values if value is not None and not math.isnan(value))
    return known[max(0, math.ceil(len(known) * percent / 100) - 1)] if known else None


def json_line(result: Result) -> str:
    """Return the result as one line of JSON, figures rounded to what the measurement can tell (a millisecond)."""
    return msgspec.json.encode(rounded(result)).decode()


def rounded(value: object) -> object:
    """Return a value for JSON, its floats to the thousandth."""
    if isinstance(value, float):
        return round(value, 3)
    plain = msgspec.to_builtins(value)
    if isinstance(plain, dict):
        return {key: rounded(one) for key, one in plain.items()}
    return [rounded(one) for one in plain] if isinstance(plain, list | tuple) else plain


def edits_lost_count(result: Result) -> int | None:
    """Return how many of the edits were not there afterwards, be it at once or after the manager's return."""
    found = (result.edits_lost, result.edits_lost_after_return)
    return None if result.edits_lost is None else len({text for lost in found for text in lost or ()})

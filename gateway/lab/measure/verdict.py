"""What is asked of a pool that loses its manager, beside what a series showed. Pure: results in, lines out."""

from collections.abc import Callable, Sequence

from gateway.lab.measure.records import Result, edits_lost_count, percentile, spread

SCENARIO = "manager-kill"
FIRST_MATCH_S_MAX = 0.5  # the median
FIRST_MATCH_P95_S_MAX = 1.5
RATE_SHARE_MIN = 0.98
WAIT_RATIO_MAX = 1.1
# Two thirds of a series differ by chance: with seven repeats of a minute's 130 jobs each by 3 % or so.
DRIFT_RATE_MIN = 0.95
DRIFT_MATCH_S_MAX = 0.5

Line = tuple[str, str, str, bool | None]  # what, shown, asked, whether it is so (None: not shown)


def verdict(results: Sequence[Result]) -> str:
    """Return a line for each thing that is asked; "" where nothing of the kind was measured."""
    group = [one for one in results if one.scenario == SCENARIO and one.system == "ours" and one.healthy_before]
    if not group:
        return ""
    lines = [f"asked of {SCENARIO}, {len(group)} repeat{'s' if len(group) > 1 else ''}:"]
    for what, shown, asked, holds in _lines(group):
        word = "-" if holds is None else "yes" if holds else "NO"
        lines.append(f"  {word:<4} {what:<46} {shown:>10}   {asked}")
    return "\n".join(lines)


def _lines(group: Sequence[Result]) -> list[Line]:
    matches = [one.first_match_s for one in group]
    middle = spread(matches)
    # Who saw no match at all is no small number among the others.
    missing = sum(1 for one in matches if one is None)
    median = middle.median if middle and not missing else None
    return [
        _at_most("first match, median s", median, FIRST_MATCH_S_MAX, 2),
        _at_most("first match, 95th of a hundred, s", percentile(matches, 95) if not missing else None,
                 FIRST_MATCH_P95_S_MAX, 2),
        _at_least("jobs per minute, after as a share of before", _ratio(group, "jobs_per_minute"), RATE_SHARE_MIN),
        _at_most("slot wait, after as a multiple of before", _ratio(group, "slot_wait", "_s"), WAIT_RATIO_MAX, 2),
        _at_most("updates rejected", _sum(group, lambda one: one.updates_rejected), 0, 0),
        _at_most("jobs lost", _sum(group, lambda one: one.jobs_lost), 0, 0),
        _usage(group),
        _at_most("edits lost, of those acknowledged 0.3 s before", _sum(group, edits_lost_count), 0, 0),
        _kept("edits kept, of those acknowledged just before", [one.last_edit_kept for one in group]),
        _kept("... when the dead manager is back", [one.last_edit_kept_after_return for one in group]),
        *_drift(group),
    ]  # fmt: skip


def _at_most(what: str, value: float | None, limit: float, digits: int) -> Line:
    if value is None:
        return what, "-", f"at most {limit:g}", None
    return what, f"{value:.{digits}f}", f"at most {limit:g}", value <= limit


def _at_least(what: str, value: float | None, limit: float) -> Line:
    if value is None:
        return what, "-", f"at least {limit:g}", None
    return what, f"{value:.3f}", f"at least {limit:g}", value >= limit


def _ratio(group: Sequence[Result], name: str, unit: str = "") -> float | None:
    """Return the sum of what was after the faults, divided by the sum of what was before."""
    befores = [getattr(one, f"{name}_before{unit}") for one in group]
    afters = [getattr(one, f"{name}_after{unit}") for one in group]
    pairs = [(b, a) for b, a in zip(befores, afters, strict=True) if b is not None and a is not None]
    before = sum(b for b, _ in pairs)
    return sum(a for _, a in pairs) / before if before else None


def _sum(group: Sequence[Result], count: Callable[[Result], int | None]) -> float | None:
    known = [value for one in group if (value := count(one)) is not None]
    return float(sum(known)) if len(known) == len(group) else None


def _usage(group: Sequence[Result]) -> Line:
    pairs = [(one.usage_error_s, one.usage_bound_s) for one in group]
    known = [(error, bound) for error, bound in pairs if error is not None and bound is not None]
    what = "usage wrongly charged to any user, slot-seconds"
    if len(known) < len(group):
        return what, "-", "one cycle of each slot", None
    error, bound = max(known, key=lambda pair: abs(pair[0]) / (pair[1] or 1.0))
    return what, f"{error:+.1f}", f"at most {bound:.1f}", all(abs(error) <= bound for error, bound in known)


def _kept(what: str, kept: Sequence[bool | None]) -> Line:
    known = [one for one in kept if one is not None]
    return what, f"{sum(known)} of {len(known)}", "shown", None


def _drift(group: Sequence[Result]) -> list[Line]:
    third = len(group) // 3
    if not third:
        return []
    first, last = group[:third], group[-third:]
    rates = [_mean([one.jobs_per_minute_after for one in some]) for some in (first, last)]
    matches = [_mean([one.first_match_s for one in some]) for some in (first, last)]
    share = rates[1] / rates[0] if rates[0] and rates[1] is not None else None
    later = matches[1] - matches[0] if matches[0] is not None and matches[1] is not None else None
    return [
        _at_least("drift: jobs per minute, last third to first", share, DRIFT_RATE_MIN),
        _at_most("drift: first match, last third later by s", later, DRIFT_MATCH_S_MAX, 2),
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

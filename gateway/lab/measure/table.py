"""The table at the end of a measurement: one line a repeat, then medians and ranges. Text from values only."""

from collections.abc import Sequence

from gateway.lab.measure.records import Result, edits_lost_count, spread

# heading, field, digits after the point
_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("elected s", "elected_s", 2),
    ("match s", "first_match_s", 2),
    ("start s", "first_execute_s", 2),
    ("jobs/min", "jobs_per_minute_before", 0),
    ("after", "jobs_per_minute_after", 0),
    ("slot wait s", "slot_wait_before_s", 2),
    ("after", "slot_wait_after_s", 2),
    ("rejected", "updates_rejected", 0),
    ("lost", "jobs_lost", 0),
    ("gap ms", "blackout_ms", 0),
    ("two own ms", "two_owner_ms", 0),
    ("usage s", "usage_error_s", 1),
    ("edits lost", "edits_lost", 0),
    ("last kept", "last_edit_kept", 0),
    ("returned", "last_edit_kept_after_return", 0),
)
_LABELS = (("scenario", 18), ("system", 10), ("repeat", 6))
_WIDTH_MIN = 8


def cell(value: float | None, digits: int) -> str:
    """Return a figure as it stands in the table; a dash where there is none, a word where it is yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.{digits}f}"


def _figure(result: Result, field: str) -> float | None:
    if field == "edits_lost":
        return edits_lost_count(result)
    value: float | None = getattr(result, field)
    return value


def table(results: Sequence[Result]) -> str:
    """Return the table of `results`: grouped by scenario and system, in the order of their first appearance."""
    lines = [_line([name for name, _ in _LABELS], [heading for heading, _, _ in _COLUMNS])]
    lines.append("-" * len(lines[0]))
    for scenario, system in dict.fromkeys((result.scenario, result.system) for result in results):
        group = [result for result in results if (result.scenario, result.system) == (scenario, system)]
        lines += [_repeat(result) for result in group]
        measured = [result for result in group if result.healthy_before]
        if len(measured) > 1:
            lines += _medians(scenario, system, measured)
    return "\n".join(lines)


def _repeat(result: Result) -> str:
    labels = [result.scenario, result.system, str(result.repeat)]
    if not result.healthy_before:
        return f"{_line(labels, [])}  not measured: {'; '.join(result.refused or ('not healthy',))}"
    return _line(labels, [cell(_figure(result, field), digits) for _, field, digits in _COLUMNS])


def _medians(scenario: str, system: str, group: Sequence[Result]) -> list[str]:
    """Return the line of medians and, under it, the lines of the smallest and the greatest values."""
    spreads = [(spread([_figure(result, field) for result in group]), digits) for _, field, digits in _COLUMNS]
    lines = []
    for name in ("median", "low", "high"):
        cells = [cell(getattr(found, name) if found else None, digits) for found, digits in spreads]
        label = {"median": "median", "low": "min", "high": "max"}[name]
        lines.append(_line([scenario, system, label], cells))
    return lines


def _line(labels: Sequence[str], cells: Sequence[str]) -> str:
    left = "  ".join(f"{text:<{width}}" for text, (_, width) in zip(labels, _LABELS, strict=True))
    widths = [max(_WIDTH_MIN, len(heading)) for heading, _, _ in _COLUMNS]
    right = "  ".join(f"{text:>{width}}" for text, width in zip(cells, widths, strict=False))
    return f"{left}  {right}".rstrip()

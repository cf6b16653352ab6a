"""Numbers and moments as people read them. Pure; a no-break space stands between a number and its unit."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
NBSP: Final = "\N{NO-BREAK SPACE}"
UNKNOWN: Final = "\N{EN DASH}"
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def duration(ms: float | None) -> str:
    """Return a time of `ms` milliseconds: "291 ms", "1.43 s", "97 s", "12 min", "3 h", "5 d"."""
    if ms is None:
        return UNKNOWN
    if ms < 1_000:
        return f"{ms:.0f}{NBSP}ms"
    seconds = ms / 1_000
    if seconds < 10:
        return f"{seconds:.2f}{NBSP}s"
    for limit, size, unit in ((120, 1, "s"), (120 * _MINUTE, _MINUTE, "min"), (48 * _HOUR, _HOUR, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f}{NBSP}{unit}"
    return f"{seconds / _DAY:.0f}{NBSP}d"


def number(count: float | None) -> str:
    """Return a count with thousands apart: "12,400"; unknown is a dash."""
    return UNKNOWN if count is None else f"{count:,.0f}"


def rate(per_second: float | None) -> str:
    """Return so many a second: "0.4/s", "120/s"."""
    if per_second is None:
        return UNKNOWN
    return f"{number(per_second) if per_second >= 10 or per_second == 0 else f'{per_second:.1f}'}/s"


def size(count: float | None) -> str:
    """Return so many bytes: "1.4 MB"."""
    if count is None:
        return UNKNOWN
    found = float(count)
    for unit in _UNITS[:-1]:
        if found < 999.5:
            return f"{found:.0f}{NBSP}{unit}" if unit == "B" or found >= 10 else f"{found:.1f}{NBSP}{unit}"
        found /= 1_000
    return f"{found:.1f}{NBSP}{_UNITS[-1]}"


def many(count: int, what: str) -> str:
    """Return a count and what it is of: "1 node", "3 nodes"."""
    return f"{number(count)} {what}" + ("" if count == 1 else "s")


def moment(unix_s: float) -> str:
    """Return a moment: "2026-11-23 15:42:07 UTC"."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def machine_moment(unix_s: float) -> str:
    """Return a moment for programs, as HTML's `time` element takes it."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ago(unix_s: float, now_s: float) -> str:
    """Return how long ago a moment was: "just now", "12 s ago", "3 h ago"."""
    passed_s = now_s - unix_s
    return "just now" if passed_s < 1 else f"{duration(1_000 * int(passed_s)).replace('.00', '')} ago"


def listed(words: list[str]) -> str:
    """Return words as a list in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def found(document: Mapping[str, Any], *path: str) -> Any:
    """Return what stands at a path in a document, None where it lacks a part of it."""
    place: Any = document
    for step in path:
        if not isinstance(place, Mapping):
            return None
        place = place.get(step)
    return place

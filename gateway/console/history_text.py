"""The history as a table: each change of a leader, when, why, and for how long nobody served. Pure.

Several nodes see one change: the new leader knows most of it, and its word is shown.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from gateway.console.elections_text import table
from gateway.console.paint import PLAIN, Paint

Change = Mapping[str, Any]

# In the order in which they happen.
PHASES: Final[Mapping[str, str]] = {
    "noticed_ms": "noticed",
    "elected_ms": "elected",
    "serving_ms": "serving",
    "announced_ms": "announced",
    "negotiator_ms": "negotiator",
    "first_cycle_ms": "first cycle",
    "first_match_ms": "first match",
}
HEADS: Final = ("when", "election", "term", "from -> to", "cause", "gap")
_RIGHT: Final = frozenset({2, 5})  # numbers


def render_history(changes: Sequence[Change], *, paint: Paint = PLAIN) -> str:
    """Return the table, the oldest change first; below each what is known of its reason and of its phases."""
    if not changes:
        return "no leader has changed since this node was first started"
    heads, *rows = table([HEADS, *(_row(change) for change in changes)], right=_RIGHT)
    lines = [paint("dim", heads)]
    for change, row in zip(changes, rows, strict=True):
        lines.append(row)
        lines += [paint("dim", f"    {line}") for line in (_detail(change), _phases(change)) if line]
    return "\n".join(lines)


def _row(change: Change) -> tuple[str, ...]:
    gap_ms = change["gap_ms"]
    return (
        datetime.fromtimestamp(change["at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        change["election"],
        str(change["term"]),
        f"{change['from'] or '-'} -> {change['to']}",
        change["cause"],
        "-" if gap_ms is None else f"{gap_ms} ms",
    )


def _detail(change: Change) -> str:
    seen = change.get("seen_by")
    words = [change["detail"]] if change["detail"] else []
    words += [f"seen by {', '.join(seen)}"] if seen else []
    return "; ".join(words)


def _phases(change: Change) -> str:
    """Return the phases in their order; those of one moment share its number."""
    phases = change["phases"]
    found: list[tuple[list[str], int]] = []
    for name, word in PHASES.items():
        if name in phases:
            if found and found[-1][1] == phases[name]:
                found[-1][0].append(word)
            else:
                found.append(([word], phases[name]))
    if not found or "lost_ms" not in phases:
        return ""
    return "after ms: " + ", ".join(f"{'/'.join(words)} {at_ms}" for words, at_ms in found)


def merged(histories: Mapping[str, Iterable[Change]]) -> list[dict[str, Any]]:
    """Return the changes that several nodes saw, by node, as one list: `seen_by` names those that agree on each."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for node, changes in histories.items():
        for change in changes:
            key = (change["election"], change["term"], change["to"])
            known = found.get(key)
            if known is None:
                found[key] = {**change, "seen_by": [node]}
                continue
            known["seen_by"].append(node)
            if _knows(change) > _knows(known):
                found[key] = {**change, "seen_by": known["seen_by"]}
    return sorted(found.values(), key=lambda change: (change["at"], change["election"], change["term"]))


def _knows(change: Change) -> tuple[bool, int, bool]:
    """Return how much a node knows of a change, for comparison."""
    return (change["gap_ms"] is not None, len(change["phases"]), change["cause"] != "unseen")

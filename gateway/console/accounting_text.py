"""The accounting part of the status document as text: who has how much of it, what was merged, what could not be."""

from typing import Any

LATE_MS = 1_000  # a standby that is behind for so long is worth a word


def render_accounting(accounting: dict[str, Any]) -> list[str]:
    """Return the lines below a manager's own; nothing where accounting is not replicated."""
    if not accounting:
        return []
    version = f"{accounting['term']}.{accounting['generation']}.{accounting['records']}"
    lines = [f"  accounting {version} (term.generation.records)"]
    lines += [f"    {name:<14} {_standby(standby)}" for name, standby in accounting["standbys"].items()]
    lines += _missing(accounting["missing_at_takeover"])
    lines += [f"    kept aside until it is merged: {history}" for history in accounting["pending"]]
    lines += [f"    being merged: {history}" for history in accounting["waiting"]]
    lines += _last_merge(accounting["merges_total"], accounting["last_merge"])
    lines += [
        f"    NOT MERGED: {one['origin']} {one['head']} ({one['reason']}): archive/{one['archive']}"
        for one in accounting["unmerged"]
    ]
    return lines


def _standby(standby: dict[str, Any]) -> str:
    if not standby["connected"]:
        return "not connected: gets nothing"
    if standby["lag_records"] == 0:
        return "has every record"
    late = ": behind for long" if standby["lag_ms"] >= LATE_MS else ""
    return f"{standby['lag_records']} records, {standby['lag_ms']} ms behind{late}"


def _missing(missing: dict[str, Any] | None) -> list[str]:
    if missing is None:
        return []
    return [
        f"    this manager had to lead with {missing['held']}, and {missing['newest']} had been seen: "
        f"at least {missing['records_min']} records are missing until who has them is back"
    ]


def _last_merge(total: int, last: dict[str, Any] | None) -> list[str]:
    if last is None:
        return []
    conflicts = f", {last['conflicts']} conflicts" if last["conflicts"] else ""
    gap = f", no negotiator for {last['negotiator_gap_ms']} ms" if last["swapped"] else ", nothing was lacking"
    return [
        f"    {total} merged, last that of {last['origin']}: {last['edits']} edits, {last['usage_added']:.0f} "
        f"slot-seconds{conflicts}{gap}: archive/{last['archive']}"
    ]

"""Merge text: the report of a merge for people: what needs them first, then what was kept, then every slot-hour.

Rule: amounts are rounded to read, the balance is not: it is exact, or says by how much it is not.
"""

import datetime
import json
from collections.abc import Sequence

import msgspec

from gateway.core.reconcile import CustomerReport, Edit, Fate, Report, Tally
from gateway.core.reconcile.amounts import MICRO

ROWS_MAX = 40  # of a table: what a person reads; --json has all
CELL_LENGTH_MAX = 60
HOUR = 3600 * MICRO


def render_summary(report: Report, out: str) -> str:
    """Return what a merge did in a few lines, and what to do with it."""
    if report.fast_forward:
        head = f"{out}: {report.notes[0]}"
        return f"{head}; nothing had to be merged"
    sides = [side.name for side in report.sides if not side.same_as]
    kept = [edit for edit in report.edits if not edit.conflict]
    fates = [line.fate for line in report.customers]
    counts = [
        _count(len(fates), "customer", "touched"),
        _count(fates.count(Fate.ADDED), "", "added"),
        _count(fates.count(Fate.DELETED), "", "deleted"),
        _count(fates.count(Fate.RECREATED), "", "deleted and used again"),
        _count(len(kept), "one-sided edit", "kept"),
    ]
    conflicts = len(report.conflicts)
    lines = [
        f"{out}: {len(sides)} histories merged, {report.survivor} survives",
        "  " + ", ".join(filter(None, counts)),
        f"  {_count(conflicts, 'conflict', 'decided by rule: read them') or 'no conflict'}",
        f"  weighted slot-hours: {_equation(report.weighted)}",
        f"  balance: {_balance(report)}",
        "  to use it: stop the negotiator, put it in the place of $(SPOOL)/Accountantnew.log, start the negotiator",
    ]
    return "\n".join(lines)


def render_json(report: Report) -> str:
    """Return the whole report for programs; amounts in millionths of a slot-second."""
    document = msgspec.to_builtins(report)
    # Names are bytes to HTCondor: what is not UTF-8 has no other place in JSON than escaped.
    return json.dumps(document)


def render_report(report: Report) -> str:
    """Return the whole report as tables."""
    parts = [_histories(report)]
    conflicts = report.conflicts
    if conflicts:
        parts.append(
            _edits("CONFLICTS: more than one side changed these; what lost is in the files that were merged", conflicts)
        )
    kept = [edit for edit in report.edits if not edit.conflict]
    if kept:
        parts.append(_edits("Edits of one side, kept", kept))
    if report.customers:
        parts.append(_usage(report))
    parts += [f"note: {note}" for note in report.notes]
    return "\n\n".join(parts)


def _histories(report: Report) -> str:
    rows = []
    for side in report.sides:
        charged = report.weighted.charged.get(side.name)
        rows.append(
            [
                "*" if side.name == report.survivor else "",
                side.name,
                str(side.term) if side.term else "?",
                _moment(side.updated_s),
                str(side.claims),
                f"same as {side.same_as}" if side.same_as else _hours(charged or 0),
            ]
        )
    head = ["", "history", "term", "last charged (UTC)", "matches", "charged since the base, slot-h"]
    lines = [f"From the base of {_moment(report.base_s)} to {_moment(report.merged_s)} UTC; * survives"]
    lines += _table(head, rows, left=2)
    for view in report.views:
        if view.all:
            meaning = "one pool: the greater charge counts" if view.same_pool else "what both charged counts once"
            lines.append(
                f"  {view.sides[0]} and {view.sides[1]}: {view.common} of {view.all} matches common: {meaning}"
            )
    return "\n".join(lines)


def _edits(title: str, edits: Sequence[Edit]) -> str:
    rows = []
    for edit in edits[:ROWS_MAX]:
        values = "; ".join(f"{side}: {_said(edit, value)}" for side, value in edit.values.items())
        attribute = edit.attribute or "the whole record"
        before = "-" if edit.base is None else edit.base
        rows.append([edit.key.removeprefix("Customer."), attribute, before, values, _outcome(edit)])
    lines = [title, *_table(["record", "what", "base", "changed to", "kept"], rows, left=5)]
    return "\n".join(lines + _more(len(edits)))


def _said(edit: Edit, value: str | None) -> str:
    return value if value is not None else "removed" if edit.attribute else "deleted"


def _outcome(edit: Edit) -> str:
    if edit.kept is None:
        return "removed" if edit.attribute else "deleted"
    return f"{edit.kept} ({edit.kept_from})" if edit.conflict else edit.kept


def _usage(report: Report) -> str:
    sides = [side.name for side in report.sides if not side.same_as]
    # A group has no "@"; its record counts its users' usage again, so it stands behind them.
    lines = sorted(report.customers, key=lambda line: ("@" not in line.customer, -_moved(line.weighted), line.customer))
    head = ["customer", "base", *(f"+ {name}" for name in sides), "- double", "- forgotten", "= merged", "priority", ""]
    rows = [_usage_row(line, sides) for line in lines[:ROWS_MAX]]
    total = ["all users", *_terms(report.weighted, sides), "", ""]
    text = ["Usage, weighted slot-hours", *_table(head, [*rows, total], left=1)]
    text += _more(len(lines))
    doubled = report.weighted
    text.append(
        f"  double, by cause: {_hours(doubled.phantom)} charged for the gap before a take-over, "
        f"{_hours(doubled.stale)} for slots out of sight, {_hours(doubled.shared)} by several sides at once"
    )
    text.append(f"  balance: {_balance(report)}")
    return "\n".join(text)


def _usage_row(line: CustomerReport, sides: Sequence[str]) -> list[str]:
    fate = str(line.fate) if line.fate is not Fate.KEPT else "" if "@" in line.customer else "group"
    priority = "-" if line.fate is Fate.DELETED else f"{line.priority_base:.2f} -> {line.priority_merged:.2f}"
    return [line.customer, *_terms(line.weighted, sides), priority, fate]


def _terms(tally: Tally, sides: Sequence[str]) -> list[str]:
    charged = [_hours(tally.charged.get(name, 0)) for name in sides]
    double = tally.phantom + tally.stale + tally.shared
    return [_hours(tally.base), *charged, _hours(double), _hours(tally.forgotten), _hours(tally.merged)]


def _moved(tally: Tally) -> int:
    return sum(map(abs, tally.charged.values())) + abs(tally.forgotten)


def _equation(tally: Tally) -> str:
    double = tally.phantom + tally.stale + tally.shared
    text = f"{_hours(tally.base)} in the base + {_hours(sum(tally.charged.values()))} charged since"
    text += f" - {_hours(double)} charged twice" if double else ""
    text += f" - {_hours(tally.forgotten)} forgotten by order" if tally.forgotten else ""
    return f"{text} = {_hours(tally.merged)}"


def _balance(report: Report) -> str:
    off = [line.customer for line in report.customers if line.usage.balance or line.weighted.balance]
    if off or report.usage.balance or report.weighted.balance:
        return f"NOT EXACT ({len(off)} customers, {', '.join(off[:3])}): do not use this file"
    return "exact"


def _hours(amount: int) -> str:
    tenths = round(amount * 10 / HOUR)
    if amount and abs(tenths) < 1:
        return f"{amount / HOUR:.4f}"
    return f"{tenths / 10:,.1f}"


def _moment(moment_s: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(moment_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(moment_s)


def _count(number: int, what: str, done: str) -> str:
    if not number:
        return ""
    noun = f" {what}{'' if number == 1 else 's'}" if what else ""
    return f"{number:,}{noun} {done}"


def _more(number: int) -> list[str]:
    return [f"  and {number - ROWS_MAX:,} more: --json has all"] if number > ROWS_MAX else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return aligned lines: the first `left` columns to the left, the others, numbers, to the right."""
    cells = [[_cut(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        shown = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(shown)).rstrip())
    return lines


def _cut(cell: str) -> str:
    """Names come from a file: nothing in them may move the cursor."""
    shown = cell.encode("utf-8", "backslashreplace").decode()
    shown = "".join(letter if letter.isprintable() else "?" for letter in shown)
    return shown if len(shown) <= CELL_LENGTH_MAX else shown[: CELL_LENGTH_MAX - 3] + "..."

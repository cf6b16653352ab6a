"""The findings as text for a terminal, and as a document for programs."""

from collections.abc import Sequence
from typing import Any

from gateway.doctor.facts import Facts
from gateway.doctor.findings import Finding, Severity

SCHEMA = 1
_COLOURS = {Severity.OK: "32", Severity.NOTE: "36", Severity.WARNING: "33", Severity.ERROR: "31;1"}
# Worst last: that is where the eye is when the text has scrolled by.
_ORDER = (Severity.OK, Severity.NOTE, Severity.WARNING, Severity.ERROR)


def render(findings: Sequence[Finding], *, verbose: bool, colour: bool) -> str:
    """Return the findings, worst last, each with its remedy; what is fine in one line unless `verbose`."""
    lines = []
    for severity in _ORDER:
        of_this = [finding for finding in findings if finding.severity is severity]
        if severity is Severity.OK and not verbose:
            continue
        for finding in of_this:
            mark = f"{severity.value:<8}"
            lines.append(f"{_coloured(mark, severity) if colour else mark}{finding.name}: {finding.sentence}")
            if finding.remedy:
                lines.append(f"        -> {finding.remedy}")
    counts = {severity: sum(1 for one in findings if one.severity is severity) for severity in _ORDER}
    said = [f"{counts[Severity.OK]} checks are fine"]
    said += [f"{counts[one]} {one.value}{'s' if counts[one] != 1 else ''}" for one in _ORDER[1:] if counts[one]]
    return "\n".join([*lines, ", ".join(said)])


def document(facts: Facts, findings: Sequence[Finding], began_s: float, ended_s: float) -> dict[str, Any]:
    """Return the report for programs; other nodes compare it with their own."""
    return {
        "schema": SCHEMA,
        "host": facts.host,
        "node": facts.me.name if facts.me is not None else None,
        "program": facts.program,
        "digest": facts.digest,
        "running": facts.running or None,
        "began_s": began_s,
        "ended_s": ended_s,
        "findings": [
            {
                "severity": finding.severity.value,
                "name": finding.name,
                "sentence": finding.sentence,
                "remedy": finding.remedy,
            }
            for finding in findings
        ],
    }


def _coloured(text: str, severity: Severity) -> str:
    return f"\x1b[{_COLOURS[severity]}m{text}\x1b[0m"

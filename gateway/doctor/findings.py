"""Findings: what a check says of a host, how grave it is and what to do. Values, and how checks are applied.

Rule: a finding's name is stable, for programs go by it; its sentence says what is, its remedy what to do.
"""

import enum
from collections.abc import Callable, Iterable, Sequence

import msgspec

from gateway.doctor.facts import Facts


class Severity(enum.StrEnum):
    """How grave a finding is. Only an error makes `doctor` fail."""

    OK = "ok"  # looked at, and as it should be
    NOTE = "note"  # to be known; nothing need be done
    WARNING = "warning"  # it works, until something else goes wrong
    ERROR = "error"  # it does not work, or will not when it is needed


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. `remedy` is empty only where nothing need be done."""

    severity: Severity
    name: str
    sentence: str
    remedy: str = ""


class Trouble(msgspec.Struct, frozen=True):
    """What a check has found, without the check's name."""

    severity: Severity
    sentence: str
    remedy: str = ""


def error(sentence: str, remedy: str) -> Trouble:
    """Return a trouble that keeps something from working."""
    return Trouble(Severity.ERROR, sentence, remedy)


def warning(sentence: str, remedy: str) -> Trouble:
    """Return a trouble that will hurt when something else goes wrong."""
    return Trouble(Severity.WARNING, sentence, remedy)


def note(sentence: str, remedy: str = "") -> Trouble:
    """Return what is to be known."""
    return Trouble(Severity.NOTE, sentence, remedy)


class Check(msgspec.Struct, frozen=True):
    """One check: its stable name, what to say where all is well, and a pure function over the facts.

    The function returns None where the check does not apply to this host, or the facts are not known.
    """

    name: str
    fine: str
    find: Callable[[Facts], Iterable[Trouble] | None]


def examine(facts: Facts, checks: Sequence[Check]) -> list[Finding]:
    """Apply every check; return its findings in the order of the checks, what is fine among them."""
    findings = []
    for check in checks:
        found = check.find(facts)
        if found is None:
            continue
        troubles = list(found)
        findings += [
            Finding(severity=one.severity, name=check.name, sentence=one.sentence, remedy=one.remedy)
            for one in troubles
        ]
        if not troubles:
            findings.append(Finding(severity=Severity.OK, name=check.name, sentence=check.fine))
    return findings

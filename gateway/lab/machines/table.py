"""What the scenarios showed, as a Markdown table with a line for each, and below it what failed. Pure."""

from collections.abc import Sequence

from gateway.lab.machines.records import Outcome

_HEADS = (
    "scenario",
    "whom",
    "jobs flow after s",
    "jobs lost",
    "holder",
    "elected",
    "address answered by",
    "old owner afterwards",
    "well after s",
    "",
)
_NUMBERS = frozenset({2, 8})
_SILENCES = ("frozen", "suspended", "old holder silent", "minority silent")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table, and a list of what is not as it must be."""
    lines = [_line(_HEADS), _line(["---:" if place in _NUMBERS else "---" for place in range(len(_HEADS))])]
    lines += [_line(_cells(one)) for one in outcomes]
    if wrong := failures(outcomes):
        lines += ["", "Failed:", "", *(f"- {text}" for text in wrong)]
    return "\n".join(lines)


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """Return every check that was not good, by scenario and name, and every scenario that was given up."""
    found = [
        f"{one.scenario}: {check.name}: {check.text}" for one in outcomes for check in one.checks if not check.good
    ]
    return found + [f"{one.scenario}: given up: {one.refused}" for one in outcomes if one.refused]


def _cells(one: Outcome) -> list[str]:
    silence = next((check for name in _SILENCES if (check := one.check(name))), None)
    return [
        one.scenario,
        one.victim or "-",
        _seconds(one.flow_s, 1) if one.checks else "-",
        _text(one, "no job lost"),
        _text(one, "one holder"),
        _text(one, "one elected manager"),
        _text(one, "one MAC"),
        "-" if silence is None else silence.text,
        _seconds(one.healthy_s, 0),
        "good" if one.good else "FAILED",
    ]


def _text(one: Outcome, beginning: str) -> str:
    check = one.check(beginning)
    return "-" if check is None else check.text


def _seconds(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

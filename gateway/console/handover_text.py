"""What `switchover` and `failover` print of an answer. Pure; one line of outcome, whatever has happened."""

from collections.abc import Mapping
from typing import Any

# In the words of an operator, in the order in which they come; a phase without one here is left to the JSON.
WORDS = {
    "resigned_ms": "resigned",
    "elected_ms": "elected",
    "announced_ms": "announced",
    "negotiator_ms": "negotiator up",
    "first_cycle_ms": "first cycle",
}


def outcome(answer: Mapping[str, Any]) -> str:
    """Return the one line that says who leads now, and what it cost."""
    what = f"{answer['kind']} {answer['election']}: {answer['from']} -> {answer['to']}"
    gap_ms = answer.get("gap_ms")
    gap = "in a time that is not known" if gap_ms is None else f"in {gap_ms} ms"
    at = answer.get("phases", {})
    told = ", ".join(f"{WORDS[name]} {at[name]}" for name in sorted((name for name in WORDS if name in at), key=at.get))
    line = f"{what} {gap} (term {answer['term']}){f': {told}' if told else ''}"
    wanted = answer.get("wanted")
    return line if wanted in (None, answer["to"]) else f"{line}; '{wanted}' was to follow, and did not"


def losses(answer: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that may be lost."""
    return [f"may be lost: '{answer.get('wanted')}' followed while {loss}" for loss in answer.get("may_be_lost", ())]

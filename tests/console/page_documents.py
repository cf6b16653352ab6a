"""Status documents and histories for tests of the page: real ones, and what a test changes in them."""

import copy
import json
from pathlib import Path
from typing import Any

from gateway.console.page.changes import merged

DATA = Path(__file__).parent / "data"
NOW_S = 1_763_913_000.0  # 2025-11-23 15:50:00 UTC


def saved(name: str) -> Any:
    """Return a document that a real node has given; see data/README."""
    return json.loads((DATA / f"{name}.json").read_text())


def changed(document: dict[str, Any], *path: str | int, to: Any) -> dict[str, Any]:
    """Return a copy with one value replaced."""
    found = copy.deepcopy(document)
    place: Any = found
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return found


def change(**facts: Any) -> dict[str, Any]:
    """Return a change of the history: an address that moved after its holder's death."""
    phases = {"lost_ms": 0, "noticed_ms": 210, "elected_ms": 290, "serving_ms": 292, "announced_ms": 293}
    return {
        "seq": 17,
        "at": NOW_S - 120,
        "election": "pool-vip",
        "kind": "address",
        "term": 8,
        "from": "gw1",
        "to": "gw2",
        "cause": "lease-expired",
        "detail": "",
        "gap_ms": 291,
        "phases": phases,
    } | facts


def matchmaker_change(**facts: Any) -> dict[str, Any]:
    """Return a change of the matchmaker: its host died."""
    phases = {
        "lost_ms": 0,
        "noticed_ms": 215,
        "elected_ms": 296,
        "serving_ms": 299,
        "negotiator_ms": 352,
        "first_cycle_ms": 408,
        "first_match_ms": 431,
    }
    return change(election="managers", kind="matchmaker", to="cm2", gap_ms=408, phases=phases, seq=18) | {
        "from": "cm1"
    } | facts  # fmt: skip


def history_at(now_s: float) -> list[dict[str, Any]]:
    """Return the changes that real nodes have kept, the newest of them a minute before `now_s`."""
    changes = merged(saved("history")["changes"], saved("histories"))
    later_s = now_s - 60 - max(change["at"] for change in changes)
    return [{**change, "at": change["at"] + later_s} for change in changes]

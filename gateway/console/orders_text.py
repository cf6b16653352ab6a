"""Operators' orders as text: what was ordered, by whom, since when and why, and who does not know it yet. Pure."""

import datetime
from collections.abc import Iterable
from typing import Any


def when(at_s: int) -> str:
    """Return a moment in the reader's own time zone."""
    return datetime.datetime.fromtimestamp(at_s).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def order_lines(orders: dict[str, Any] | None) -> list[str]:
    """Return a line for each order in force, then what they keep from happening and who lacks them; [] for none."""
    if not orders or (orders["paused"] is None and not orders["drained"]):
        return []
    lines = []
    if orders["paused"] is not None:
        reason = f": {orders['paused']}" if orders["paused"] else ""
        since = f"since {when(orders['paused_at'])}{reason}"
        lines.append(f"PAUSED at {orders['paused_by']} {since} (nobody takes over until 'resume')")
    lines += [
        f"{one['node']} is drained (at {one['by']}, since {when(one['at'])}): it leads nothing until 'undrain'"
        for one in orders["drains"]
    ]
    return [*lines, *(f"  {held}" for held in orders["held_up"]), *_missing(orders)]


def answer_text(answer: dict[str, Any], done: str, already: str) -> str:
    """Return the answer to an order as text: `done` where it changed something, `already` where it was so before."""
    lines = [done if answer["changed"] else already]
    peers = len(answer["confirmed"]) + len(answer["missing"])
    if answer["version"]:
        lines.append(f"on this node's disk, and at {len(answer['confirmed'])} of {peers} peers")
    return "\n".join([*lines, *_missing(answer), *_notes(answer["notes"])])


def _missing(orders: dict[str, Any]) -> list[str]:
    names = ", ".join(orders["missing"])
    return [f"not known yet at {names}: told as soon as they are heard"] if names else []


def _notes(notes: Iterable[str]) -> list[str]:
    return [f"note: {note}" for note in notes]

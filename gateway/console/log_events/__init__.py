"""Every event of the log: its name, how grave it is, its fields, what it means and what to do.

Rule: a name never changes its meaning; a test compares this table with what the sources log. Where there is nothing to
do, `action` is empty. Fields that all have (`at`, `level`, `event`, `node`) are not repeated, nor are those that say
whose event it is (`address`, `device`, `backend`, `forward`, `child`, `worker`).
"""

from gateway.console.log_events import managers, node, traffic
from gateway.console.log_events.event import LogEvent

__all__ = ["EVENTS", "LogEvent", "find"]

EVENTS: dict[str, LogEvent] = {one.name: one for one in (*node.EVENTS, *traffic.EVENTS, *managers.EVENTS)}


def find(words: str) -> list[LogEvent]:
    """Return the events that are called `words`, or whose names begin so (`address` finds `address.held`)."""
    if words in EVENTS:
        return [EVENTS[words]]
    return [event for name, event in EVENTS.items() if name.startswith(words.removesuffix("*"))]

"""`condor-gateway explain`: what an event of the log means, and what to do about it."""

import argparse
import json
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches

from gateway.console.commands.common import OK, Refused
from gateway.console.log_events import EVENTS, LogEvent, find

NAME = "explain"
HELP = "say what an event of the log means, and what to do about it"
DESCRIPTION = """\
Say what an event of the log means, which fields it has, and what to do about it. The beginning of a name stands for all
that begin so; without a name every event is listed."""
EXAMPLES = ("condor-gateway explain relay.died", "condor-gateway explain address", "condor-gateway explain --json")

WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("event", metavar="EVENT", nargs="?", help="its name, or the beginning of it")
    parser.add_argument("--json", action="store_true", help="all that is known of them, for programs")


def run(chosen: argparse.Namespace) -> int:
    """Explain events."""
    found = list(EVENTS.values()) if chosen.event is None else find(chosen.event)
    if not found:
        near = get_close_matches(chosen.event, EVENTS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "'condor-gateway explain' lists all"
        raise Refused(f"there is no event '{chosen.event}': {hint}")
    if chosen.json:
        print(json.dumps([_document(event) for event in found], indent=1))
    elif len(found) == 1:
        print(explain(found[0]))
    else:
        print(listing(found))
    return OK


def explain(event: LogEvent) -> str:
    """Return all that is known of one event."""
    parts = [f"{event.name} ({event.levels.replace(' ', ' or ')})", _filled(event.meaning)]
    if event.fields:
        parts.append(_filled(f"Fields: {', '.join(event.fields.split())}."))
    parts.append(_filled(f"What to do: {event.action}" if event.action else "There is nothing to do."))
    return "\n".join(parts)


def listing(events: Sequence[LogEvent]) -> str:
    """Return a paragraph for each event."""
    lines = []
    for event in events:
        lines.append(f"{event.name:<36} {event.levels.replace(' ', ' or ')}")
        lines.append(_filled(event.meaning + (f" {event.action}" if event.action else "")))
    return "\n".join(lines)


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _document(event: LogEvent) -> dict[str, object]:
    return {
        "event": event.name,
        "levels": event.levels.split(),
        "fields": event.fields.split(),
        "meaning": event.meaning,
        "action": event.action,
    }

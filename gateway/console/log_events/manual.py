"""The man page of the log's events, from the table that `condor-gateway explain` reads. Pure."""

from typing import Final

from gateway import __version__
from gateway.console.log_events import EVENTS
from gateway.console.roff import Page, bold

EVENTS_PAGE: Final = "condor-gateway-events.7"


def events_page() -> str:
    """Return condor-gateway-events(7)."""
    page = Page("condor-gateway-events", 7, "every event of the log, and what to do", f"condor-gateway {__version__}")
    page.section("DESCRIPTION")
    page.text(
        "Nodes write events to standard output, one a line: when (at, in seconds since 1970), how grave (level), which "
        "(event), whose (node), and the fields that are named below. 'log stdout format' chooses between json, "
        "console and short; where standard output is the journal each line begins with its priority. 'condor-gateway "
        "explain EVENT' shows one of them."
    )
    page.section("EVENTS")
    for event in EVENTS.values():
        fields = f" Fields: {', '.join(event.fields.split())}." if event.fields else ""
        action = f" {event.action}" if event.action else ""
        page.item(bold(event.name), f"({event.levels.replace(' ', ' or ')}) {event.meaning}{action}{fields}")
    page.section("SEE ALSO")
    page.line(f"{bold('condor-gateway')}(1), {bold('gateway.cfg')}(5)")
    return page.render()

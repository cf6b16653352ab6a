"""`condor-gateway simulate`: what would happen if a node died now. Nothing is done to it."""

import argparse
import json
from difflib import get_close_matches

from gateway.console.commands.common import OK, Refused, add_file, ask

NAME = "simulate"
HELP = "say what would happen if a node died now"
DESCRIPTION = """\
Says what would happen if a node died now, from what the node on this host has heard; nothing is done to any node. For
each address and matchmaker: who would follow, after how long, whether accounting records may be missing, and who would
stand by after that; then how many votes are left, and how many more nodes may fail.
"""
EXAMPLES = ("condor-gateway simulate cm1", "condor-gateway simulate gw1 --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("node", metavar="NODE", help="the node's name, as in the section 'peers'")
    parser.add_argument("--json", action="store_true", help="print the forecast as JSON")
    add_file(parser)


def run(chosen: argparse.Namespace) -> int:
    """Print the forecast."""
    import msgspec

    from gateway.console.forecast_text import forecast_text
    from gateway.core.forecast import forecast

    document = ask(chosen, "status")
    try:
        found = forecast(document, chosen.node)
    except KeyError:
        names = (document["node"], *document["peers"])
        near = get_close_matches(chosen.node, names, n=1)
        guess = f"; did you mean '{near[0]}'?" if near else ""
        raise Refused(f"no peer '{chosen.node}'; peers: {', '.join(names)}{guess}") from None
    print(json.dumps(msgspec.to_builtins(found), indent=2) if chosen.json else forecast_text(found))
    return OK

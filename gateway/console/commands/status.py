"""`condor-gateway status`: who leads what, as the node on this host sees it."""

import argparse
import json

from gateway.console.commands.common import OK, add_file, ask

NAME = "status"
HELP = "show who leads, as the node on this host sees it"
DESCRIPTION = "Show who leads what and what this host's node knows: candidates, peers, traffic, accounting, warnings."
EXAMPLES = ("condor-gateway status", "condor-gateway status --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)
    parser.add_argument("--json", action="store_true", help="the whole document, for programs")


def run(chosen: argparse.Namespace) -> int:
    """Show the status."""
    from gateway.console.status_text import render_status

    document = ask(chosen, "status")
    print(json.dumps(document) if chosen.json else render_status(document))
    return OK

"""`condor-gateway undrain`: a drained node is a candidate again."""

import argparse
import json

from gateway.console.commands.common import OK, add_file, ask
from gateway.console.commands.pause import ANSWER_S

NAME = "undrain"
HELP = "let a drained node be a candidate again"
DESCRIPTION = """\
Takes a 'drain' back, from any node: the node is a candidate again. It takes nothing back by itself: whoever leads
goes on, until there is a reason for a change ('switchover' is one).
"""
EXAMPLES = ("condor-gateway undrain cm1",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("node", metavar="NODE", help="the node's name, as in the section 'peers'")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_file(parser)


def run(chosen: argparse.Namespace) -> int:
    """Give the order; print what came of it."""
    from gateway.console.orders_text import answer_text

    answer = ask(chosen, {"command": NAME, "node": chosen.node}, wait_s=ANSWER_S)
    done, already = f"{chosen.node} is a candidate again", f"{chosen.node} was not drained"
    print(json.dumps(answer, indent=2) if chosen.json else answer_text(answer, done, already))
    return OK

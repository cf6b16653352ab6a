"""`condor-gateway drain`: one node leads nothing, until somebody says otherwise."""

import argparse
import json

from gateway.console.commands.common import OK, add_file, ask
from gateway.console.commands.pause import ANSWER_S

NAME = "drain"
HELP = "let a node lead nothing, until 'undrain'"
DESCRIPTION = """\
Drains a node, from any node: it is no candidate for anything any more, and what it leads it gives up in good order
for the best of the others, as soon as there is one that is fit and, for the matchmaker, has the pool's ads; till then
it goes on, and 'status' says why. A relay finishes the connections that it has. The node goes on voting. The order
outlives restarts and reloads, and holds until 'undrain'.

The answer comes once the order is on this node's disk, and names the peers that do not act by it yet, and every
election that has no candidate left.
"""
EXAMPLES = (
    "condor-gateway drain cm1",
    "condor-gateway drain gw2 --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("node", metavar="NODE", help="the node's name, as in the section 'peers'")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_file(parser)


def run(chosen: argparse.Namespace) -> int:
    """Give the order; print what came of it."""
    from gateway.console.orders_text import answer_text

    answer = ask(chosen, {"command": NAME, "node": chosen.node}, wait_s=ANSWER_S)
    done, already = f"{chosen.node} is drained: it leads nothing until 'undrain'", f"{chosen.node} was drained already"
    print(json.dumps(answer, indent=2) if chosen.json else answer_text(answer, done, already))
    return OK

"""`condor-gateway resume`: everything goes on after a pause."""

import argparse
import json

from gateway.console.commands.common import OK, add_file, ask
from gateway.console.commands.pause import ANSWER_S

NAME = "resume"
HELP = "end a pause"
DESCRIPTION = """\
Ends a pause, from any node, and everything goes on at once: a leader whose service is not well gives up, and what
nobody leads is led by the best candidate.
"""
EXAMPLES = ("condor-gateway resume",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_file(parser)


def run(chosen: argparse.Namespace) -> int:
    """Give the order; print what came of it."""
    from gateway.console.orders_text import answer_text

    answer = ask(chosen, {"command": NAME}, wait_s=ANSWER_S)
    done, already = "the cluster is resumed", "the cluster was not paused"
    print(json.dumps(answer, indent=2) if chosen.json else answer_text(answer, done, already))
    return OK

"""`condor-gateway switchover`: hand an election to another node without a loss; print for how long nobody served."""

import argparse
import json
import sys
from typing import Any

from gateway.console.commands.common import OK, add_file, ask
from gateway.console.handover_text import outcome

NAME = "switchover"
HELP = "hand the address or the matchmaker to another node"
DESCRIPTION = """\
Hands an election to another node: asked on any node, done by its leader. It waits until the successor lacks nothing
(every record of the accounting, the pool's ads), then the leader gives up and names it. Prints who leads now, for how
long nobody served, and where that time went, in milliseconds from the end of the old service.

What stands in the way is said, and nothing is changed: nobody could follow, the cluster is paused, the successor is
drained, or is not ready within the time.
"""
EXAMPLES = (
    "condor-gateway switchover address",
    "condor-gateway switchover matchmaker --to cm2",
    "condor-gateway switchover pool --wait 5 --json",
)

WAIT_S, WAIT_S_MAX = 30.0, 300.0
ANSWER_S = 60.0  # beside the waiting: for the stop, the election and the first cycle, where things go badly


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_election(parser)
    parser.add_argument("--to", metavar="NODE", help="who is to lead (default: the best of the others)")
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=WAIT_S,
        metavar="S",
        help=f"how long to wait until it lacks nothing (default {WAIT_S:g} s)",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_file(parser)


def add_election(parser: argparse.ArgumentParser) -> None:
    """Add the word that says what is handed over."""
    parser.add_argument(
        "election",
        metavar="address|matchmaker|NAME",
        help="what to hand over; where there are several of a kind, by the name of its section",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    if not 0 <= seconds <= WAIT_S_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {WAIT_S_MAX:g} seconds")
    return seconds


def run(chosen: argparse.Namespace) -> int:
    """Hand over; print the outcome."""
    request: dict[str, Any] = {"command": NAME, "election": chosen.election, "wait_s": chosen.wait}
    if chosen.to:
        request["to"] = chosen.to
    whom = f"'{chosen.to}'" if chosen.to else "the best of the others"
    if not chosen.json:
        print(f"waiting up to {chosen.wait:g} s until {whom} can take over without a loss", file=sys.stderr, flush=True)
    answer = ask(chosen, request, wait_s=chosen.wait + ANSWER_S)
    print(json.dumps(answer, indent=2) if chosen.json else outcome(answer))
    return OK

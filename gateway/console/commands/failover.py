"""`condor-gateway failover`: have a sick leader give up at once, and say what may be lost by that."""

import argparse
import json
from typing import Any

from gateway.console.commands.common import OK, add_file, ask
from gateway.console.commands.switchover import ANSWER_S, add_election
from gateway.console.handover_text import losses, outcome

NAME = "failover"
HELP = "have a sick leader give up at once"
DESCRIPTION = """\
Has the leader of an election give up at once, for the best of the other candidates, ready or not: for a leader that is
sick and a successor that does not become ready. Where something would be lost by that, it says what and changes
nothing, unless --force is given. To move a healthy leader use 'switchover', which waits instead.

A leader that is dead or cut off needs no command: its lease ends, and another one follows by itself.
"""
EXAMPLES = (
    "condor-gateway failover matchmaker",
    "condor-gateway failover pool --force",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_election(parser)
    parser.add_argument("--force", action="store_true", help="also where something may be lost")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_file(parser)


def run(chosen: argparse.Namespace) -> int:
    """Fail over; print the outcome, and what may be lost."""
    request: dict[str, Any] = {"command": NAME, "election": chosen.election, "force": chosen.force}
    answer = ask(chosen, request, wait_s=ANSWER_S)
    if chosen.json:
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join((*losses(answer), outcome(answer))))
    return OK

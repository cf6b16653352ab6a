"""`condor-gateway pause`: nobody takes over, for as long as somebody works on the hosts."""

import argparse
import json

from gateway.console.commands.common import OK, add_file, ask

NAME = "pause"
HELP = "let nobody take over, until 'resume'"
DESCRIPTION = """\
Pauses the whole cluster, from any node: nobody takes an address or the matchmaker over, and no leader gives up
because its service is not well. HTCondor can be restarted on the elected manager, and nothing moves. The order
outlives restarts and reloads, and holds until 'resume'.

Leases rule as ever: a leader that dies, is cut off, or whose node is stopped serves no more, and nobody follows it
until 'resume', not even itself. To move the service off a host before it is rebooted, 'drain' the host instead.

The answer comes once the order is on this node's disk, and names the peers that do not act by it yet. Once a majority
of the nodes does, nobody can take over, whoever has not heard of it.
"""
EXAMPLES = (
    "condor-gateway pause new switch in rack 4",
    "condor-gateway pause --json",
)


ANSWER_S = 30.0  # another order may be under way, and a disk be slow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("reason", nargs="*", metavar="REASON", help="why, for whoever reads 'status'")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_file(parser)


def run(chosen: argparse.Namespace) -> int:
    """Give the order; print what came of it."""
    from gateway.console.orders_text import answer_text

    answer = ask(chosen, {"command": NAME, "reason": " ".join(chosen.reason)}, wait_s=ANSWER_S)
    done, already = "the cluster is paused: nobody takes over until 'resume'", "the cluster was paused already"
    print(json.dumps(answer, indent=2) if chosen.json else answer_text(answer, done, already))
    return OK

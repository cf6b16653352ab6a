"""`condor-gateway status`: who leads what, since when and why, as the node on this host sees it."""

import argparse
import json
from typing import Any

from gateway.console.commands.common import OK, add_file, ask

PEERS_WAIT_S = 10.0  # a node that is down costs its deadline, some seconds

NAME = "status"
HELP = "show who holds what, since when and why"
DESCRIPTION = """\
Show who leads what, since when and why; its lease and votes; each manager's collector, negotiator, ads and accounting;
what each frontend carries; warnings. As the node on this host sees it; --all asks the other nodes as well.

--watch shows it anew every second: in place on a terminal, one after the other in a pipe. A leader that has just
changed stands out. Ctrl-C ends it."""
EXAMPLES = (
    "condor-gateway status",
    "condor-gateway status --watch",
    "condor-gateway status --json | jq .elections",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)
    parser.add_argument("--watch", action="store_true", help="show it anew every second, until Ctrl-C")
    parser.add_argument("--all", action="store_true", help="ask the other nodes as well")
    parser.add_argument("--json", action="store_true", help="the whole document, for programs; with --watch one a line")


def run(chosen: argparse.Namespace) -> int:
    """Show the status."""
    from gateway.console.paint import paint_for
    from gateway.console.status_text import render_status
    from gateway.console.watch import watch_status

    if chosen.watch:
        return watch_status(chosen)
    document = ask(chosen, "status")
    others = ask_others(chosen) if chosen.all else {}
    if chosen.json:
        print(json.dumps({**document, "others": others} if chosen.all else document))
    else:
        print(render_status(document, others=others, paint=paint_for()))
    return OK


def ask_others(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the documents of the other nodes; those that do not answer are absent."""
    answers = ask(chosen, {"command": "peers", "request": "status"}, wait_s=PEERS_WAIT_S)
    return {name: answer for name, answer in answers.items() if "error" not in answer}

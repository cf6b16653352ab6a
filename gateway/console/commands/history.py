"""`condor-gateway history`: every change of a leader, with its cause and for how long nobody served."""

import argparse
import json
from pathlib import Path
from typing import Any

from gateway.console.commands.common import OK, Refused, add_file, ask, load_file

NAME = "history"
HELP = "show every change of a leader: when, why, and the gap"
DESCRIPTION = """\
Show the changes of leaders, the newest last: when, which election, the term, from whom to whom, why, and for how long
nobody served (no gateway answered, or no negotiator ran). Below each the reason in words, and the phases in
milliseconds since the old leader served last: noticed, elected, announced (an address), negotiator started, first
cycle and first match (a matchmaker).

Each node keeps what it has seen, over restarts too. The new leader knows most: --all asks every node, and shows the
fullest word on each change. Without a running node its file is read."""
EXAMPLES = (
    "condor-gateway history",
    "condor-gateway history --all --limit 5 --election pool-vip",
    "condor-gateway history --json | jq '.changes[] | select(.gap_ms > 1000)'",
)
LIMIT = 20
PEERS_WAIT_S = 10.0  # a node that is down costs its deadline, some seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)
    parser.add_argument(
        "--limit", type=_positive, default=LIMIT, metavar="N", help=f"so many changes (default {LIMIT}; at most 5000)"
    )
    parser.add_argument("--election", metavar="NAME", help="of one address or backend alone")
    parser.add_argument("--all", action="store_true", help="ask the other nodes as well")
    parser.add_argument("--json", action="store_true", help='{"changes": [...]}, for programs')


def run(chosen: argparse.Namespace) -> int:
    """Show the history."""
    from gateway.console.history_text import merged, render_history
    from gateway.console.paint import paint_for

    request = {"command": "history", "limit": chosen.limit}
    request |= {"election": chosen.election} if chosen.election else {}
    changes = _own(chosen, request)
    if chosen.all:
        answers = ask(chosen, {"command": "peers", "request": request}, wait_s=PEERS_WAIT_S)
        heard = {name: answer["changes"] for name, answer in answers.items() if "changes" in answer}
        changes = merged({ask(chosen, "status")["node"]: changes, **heard})[-chosen.limit :]
    print(json.dumps({"changes": changes}) if chosen.json else render_history(changes, paint=paint_for()))
    return OK


def _own(chosen: argparse.Namespace, request: dict[str, Any]) -> list[Any]:
    """Return what this host's node has seen: its own word, or its file where it does not run or has more."""
    from gateway.control.history import CHANGES_AT_HAND

    if chosen.limit <= CHANGES_AT_HAND:
        try:
            found: list[Any] = ask(chosen, request)["changes"]
        except Refused:
            if (kept := _kept(chosen)) is None:
                raise
            return kept
        return found
    return _kept(chosen) or []


def _kept(chosen: argparse.Namespace) -> list[Any] | None:
    """Return what the node's file has; None where there is none that could be read."""
    from gateway.control.history_file import HistoryFile

    settings = load_file(chosen.file).require()
    names = {one.name for one in settings.addresses} | {one.name for one in settings.backends}
    path = Path(settings.state_dir) / "history.jsonl"
    try:
        lines = HistoryFile(path).read() if path.exists() else None
    except OSError:
        return None
    if lines is None or (chosen.election and chosen.election not in names):
        return None
    changes = {line["seq"]: line for line in lines if line.get("event") == "leader-changed"}
    wanted = [line for _, line in sorted(changes.items()) if chosen.election in (None, line["election"])]
    return wanted[-chosen.limit :]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return int(text)

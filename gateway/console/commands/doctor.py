"""`condor-gateway doctor`: what is wrong with this host, or will be, and what to do about it."""

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from gateway.console.commands.common import OK, REFUSED, Refused, add_file, admin_socket

if TYPE_CHECKING:
    from gateway.config.settings import Settings
    from gateway.doctor.gather import Ask

NAME = "doctor"
HELP = "look this host over: what is wrong with it, and what to do"
DESCRIPTION = """\
Look at everything on this host that the node needs: file, key, disk, clock, kernel, limits, interfaces, virtual
addresses, ARP, IPv6, firewall, HTCondor's configuration, and the running node. Each finding has a stable name, and its
remedy. Nothing is changed; where no node runs, the network is asked who has the virtual addresses. With --peers the
other nodes look at themselves, and files, versions and clocks are compared. Exit status: 0 no error was found, 1 an
error was found."""
EXAMPLES = ("condor-gateway doctor", "condor-gateway doctor --peers", "condor-gateway doctor --json | jq .findings")
ANSWER_S_MAX = 5.0
PEERS_S_MAX = 35.0  # the node itself waits for less


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)
    parser.add_argument("--node", metavar="NAME", help="which peer of the file this host is; found out where not given")
    parser.add_argument("--peers", action="store_true", help="let the other nodes look at themselves too")
    parser.add_argument("--verbose", action="store_true", help="say what is fine as well")
    parser.add_argument("--json", action="store_true", help="the report as a document, for programs")


def run(chosen: argparse.Namespace) -> int:
    """Look, and say."""
    from gateway.doctor.checks import CHECKS
    from gateway.doctor.findings import Severity, examine
    from gateway.doctor.render import document, render

    began_s = time.time()
    facts = look(chosen)
    findings = examine(facts, CHECKS)
    if chosen.json:
        print(json.dumps(document(facts, findings, began_s, time.time())))
    else:
        print(render(findings, verbose=chosen.verbose, colour=_coloured()))
    return REFUSED if any(finding.severity is Severity.ERROR for finding in findings) else OK


def look(chosen: argparse.Namespace) -> Any:
    """Return the facts of this host, and with `chosen.peers` what the others say of themselves."""
    import msgspec

    from gateway.doctor.gather import NodeSilent, ask_peers, gather

    facts = gather(chosen.file, node=chosen.node, ask=asking)
    if not chosen.peers:
        return facts
    if facts.settings is None:
        raise Refused(f"the other nodes are in the file, and it is not valid: {facts.invalid.splitlines()[0]}")
    try:
        return msgspec.structs.replace(facts, peers=ask_peers(asking(facts.settings), {"command": "doctor"}))
    except NodeSilent as error:
        raise Refused(f"the other nodes are asked by the node on this host: {error}") from error


def asking(settings: "Settings") -> "Ask":
    """Return a function that asks the node on this host."""
    from gateway.console.admin import AdminUnreachable, ask_admin
    from gateway.doctor.gather import NodeSilent

    def ask(request: str | dict[str, Any]) -> Any:
        wait_s = PEERS_S_MAX if isinstance(request, dict) and request.get("command") == "peers" else ANSWER_S_MAX
        try:
            answer = ask_admin(admin_socket(settings), request, wait_s=wait_s)
        except (AdminUnreachable, OSError) as error:
            raise NodeSilent(str(error)) from error
        if isinstance(answer, dict) and "error" in answer:
            raise NodeSilent(str(answer["error"]))
        return answer

    return ask


def _coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")

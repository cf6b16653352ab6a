"""The reload command: asks the node on this host to let a new process take over, and waits until one has.

Synchronous: it is a command of its own, not a part of the node.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

from gateway.console.admin import AdminUnreachable, ask_admin

RELOAD_S_MAX = 90.0  # HTCondor's tools may take 20 s of a start on a busy host
LOOK_S = 0.1


class ReloadFailed(Exception):  # noqa: N818 (an answer to the operator)
    """No other process has taken the node over; the text says why. The old one goes on."""


def reload_node(admin_socket: Path) -> str:
    """Have the node behind `admin_socket` taken over by a new process; return what to tell the operator.

    Raises:
        AdminUnreachable: no node runs here.
        ReloadFailed: nothing has changed.
    """
    before: dict[str, Any] = ask_admin(admin_socket, "status")
    guard = before["guard"]
    if guard is None:
        raise ReloadFailed("this node runs without a guard, which would start the new process: restart it instead")
    os.kill(guard["pid"], signal.SIGHUP)
    until = time.monotonic() + RELOAD_S_MAX
    while time.monotonic() < until:
        time.sleep(LOOK_S)
        try:
            now = ask_admin(admin_socket, "status")
        except AdminUnreachable:
            continue  # between the two processes nobody answers, for some milliseconds
        if now["pid"] != before["pid"]:
            return _describe(before, now)
        if now["reloads"]["failed_total"] > before["reloads"]["failed_total"]:
            raise ReloadFailed(f"nothing was changed: {now['reloads']['failure']}")
    raise ReloadFailed(f"no new process has taken over within {RELOAD_S_MAX:g} s: see the node's log")


def _describe(before: dict[str, Any], now: dict[str, Any]) -> str:
    kept = [
        name
        for name, election in now["elections"].items()
        if election["leader"] == now["node"] and election["term"] == before["elections"].get(name, {}).get("term")
    ]
    text = f"process {now['pid']} has taken over from {before['pid']}"
    return f"{text}; it goes on serving {', '.join(kept)}" if kept else text

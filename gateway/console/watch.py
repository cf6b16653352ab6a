"""`status --watch`: the status anew every second, until Ctrl-C. Rule: the terminal is left as it was found."""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from gateway.console.commands.common import OK, Refused, ask
from gateway.console.paint import Paint, paint_for
from gateway.console.status_text import render_status

EVERY_S: Final = 1.0
NEW_S: Final = 15.0  # for so long a leader that has just changed stands out
# ECMA-48 and xterm: the alternate screen, the cursor hidden; home; clear to the end of the line, of the screen.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_LINE, _END_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Leaders:
    """Who has just become a leader, from one look to the next."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str | None, int]] = {}
        self._changed_s: dict[str, float] = {}

    def new(self, document: dict[str, Any], now_s: float) -> frozenset[str]:
        """Return the elections whose leader has changed while somebody watched, and not long ago."""
        for name, election in document["elections"].items():
            leader = (election["leader"], election.get("leader_term") or 0)
            if self._known.setdefault(name, leader) != leader:
                self._known[name] = leader
                self._changed_s[name] = now_s
        return frozenset(name for name, at_s in self._changed_s.items() if now_s - at_s < NEW_S)


def watch_status(chosen: argparse.Namespace) -> int:
    """Show the status of the node by `chosen` every second; return when the user has had enough."""
    screen = sys.stdout.isatty() and not chosen.json
    paint, leaders = paint_for(), Leaders()
    first = ask(chosen, "status")  # a file that is wrong, or no node: said as ever
    try:
        with _screen(on=screen):
            shown = _shown(chosen, first, leaders, paint)
            while True:  # ends by Ctrl-C, or with the reader of the pipe
                sys.stdout.write(_frame(shown) if screen else f"{shown}\n" if chosen.json else f"{shown}\n\n")
                sys.stdout.flush()
                time.sleep(EVERY_S)
                try:
                    shown = _shown(chosen, ask(chosen, "status"), leaders, paint)
                except Refused as refusal:  # it may be restarting
                    shown = json.dumps({"error": str(refusal)}) if chosen.json else str(refusal)
    except KeyboardInterrupt:
        return OK


def _shown(chosen: argparse.Namespace, document: dict[str, Any], leaders: Leaders, paint: Paint) -> str:
    from gateway.console.commands.status import ask_others

    others = ask_others(chosen) if chosen.all else {}
    if chosen.json:
        return json.dumps({**document, "others": others} if chosen.all else document)
    now_s = time.time()
    when = paint("dim", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now_s)))
    new = leaders.new(document, now_s)
    return f"{when}\n{render_status(document, now_s=now_s, others=others, paint=paint, new=new)}"


def _frame(text: str) -> str:
    """Return what draws `text` over what stood there before; lines that do not fit are left out."""
    rows = shutil.get_terminal_size((100, 40)).lines
    lines = text.split("\n")
    if len(lines) > rows:
        lines = [*lines[: rows - 1], f"... {len(lines) - rows + 1} more lines"]
    return _HOME + f"{_END_LINE}\n".join(lines) + _END_LINE + _END_SCREEN


@contextmanager
def _screen(*, on: bool) -> Iterator[None]:
    """Use the terminal's other screen for the time of the block."""
    if not on:
        yield
        return
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()

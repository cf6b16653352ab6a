"""Colours for a terminal, where there is one. Rule: a pipe gets none, and NO_COLOR is obeyed (no-color.org)."""

import os
import sys
from collections.abc import Mapping
from typing import Final, TextIO

_CODES: Final = {"bold": "1", "dim": "2", "good": "32", "warn": "33", "bad": "1;31", "new": "7"}


class Paint:
    """Colours words, or leaves them as they are."""

    def __init__(self, *, on: bool) -> None:
        self.on = on

    def __call__(self, style: str, text: str) -> str:
        """Return `text` in a style: bold, dim, good, warn, bad, new (what has just changed)."""
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self.on and text else text


PLAIN: Final = Paint(on=False)


def paint_for(stream: TextIO | None = None, environment: Mapping[str, str] = os.environ) -> Paint:
    """Return what suits a stream (standard output): colours on a terminal that has any, else none."""
    stream = stream or sys.stdout
    wanted = not environment.get("NO_COLOR") and environment.get("TERM", "") not in ("", "dumb")
    return Paint(on=wanted and stream.isatty())

"""The history's file: events, one JSON object a line, the oldest first. Synchronous: to be called in a thread.

Rule: a line is whole or not there. What a crash has torn is passed over, and what is written next begins a new line.
One thread at a time has the file: one that was given up while its disk hung goes on by itself, and others wait for it.

A change of a leader is written again when more of it is known; the later line of a number counts.
"""

import os
import threading
from pathlib import Path
from typing import Any, Final

import msgspec

CHANGES_MAX: Final = 5_000  # at one failover a day, 13 years
OTHERS_MAX: Final = 1_000  # of all other events: what a reader that was away may ask for again
LINES_MAX: Final = 20_000  # in the file before it is trimmed: some 6 MB; a change takes three lines
_CHANGE: Final = b'"event":"leader-changed"'

Line = dict[str, Any]


class HistoryFile:
    """One file of events.

    Args:
        path: where; the folder need not exist before the first `append`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._one = threading.Lock()
        self._read_to = 0
        self._identity = (0, 0)  # of the file that has been read so far: whoever trims it makes another one
        self._lines = 0
        self._torn = False  # the file ends within a line

    def read(self) -> list[Line]:
        """Return what has been written since the last call, by whomever; lines that are none are passed over.

        Raises:
            OSError: the file can't be read; one that is not there holds nothing.
        """
        with self._one:
            try:
                with open(self.path, "rb") as file:
                    self._begin_anew_if_trimmed(os.fstat(file.fileno()))
                    file.seek(self._read_to)
                    data = file.read()
            except FileNotFoundError:
                return []
            *pieces, rest = data.split(b"\n")
            self._torn = bool(rest)  # whoever is writing it will be read by the next call
            self._read_to += len(data) - len(rest)
            self._lines += len(pieces)
        return [line for piece in pieces if (line := _decoded(piece)) is not None]

    def _begin_anew_if_trimmed(self, found: os.stat_result) -> None:
        """Read from the beginning what is another file than it was: whoever was writing it has trimmed it."""
        identity = found.st_dev, found.st_ino
        # The number of a file that is gone may be another one's by now.
        if identity != self._identity or found.st_size < self._read_to:
            self._read_to = self._lines = 0
        self._identity = identity

    def append(self, lines: list[bytes]) -> None:
        """Write lines, each a JSON object without its end.

        Raises:
            OSError: the disk is full, or will not; some of the lines may be in the file.
        """
        with self._one:
            self._append(lines)

    def _append(self, lines: list[bytes]) -> None:
        data = b"".join(line + b"\n" for line in lines)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            data = b"\n" + data if self._torn else data
            if self._read_to == 0:  # it was not there, or empty
                self._know(os.fstat(opened))
            written = os.write(opened, data)
            self._torn = data[written - 1 : written] != b"\n" if written else self._torn
            self._read_to += written
            self._lines += len(lines)
            if written < len(data):
                raise OSError(28, "only a part could be written")  # ENOSPC, as the next write would say
        finally:
            os.close(opened)

    def trim(self) -> None:
        """Make the file short again, where it has grown long.

        Raises:
            OSError: the disk is full, or will not; the file is as it was.
        """
        with self._one:
            if self._lines > LINES_MAX:
                self._trim()

    def _trim(self) -> None:
        self._lines = LINES_MAX // 2  # also where this fails: it is tried again after as many lines
        kept = trimmed(self.path.read_bytes().split(b"\n"))
        fresh = self.path.with_suffix(".new")
        try:
            with open(fresh, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(b"".join(line + b"\n" for line in kept))
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self.path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        self._lines, self._torn = len(kept), False
        self._know(found := self.path.stat())
        self._read_to = found.st_size

    def _know(self, found: os.stat_result) -> None:
        self._identity = found.st_dev, found.st_ino


def trimmed(lines: list[bytes], changes_max: int = CHANGES_MAX, others_max: int = OTHERS_MAX) -> list[bytes]:
    """Return the newest lines, in their order: so many changes, each once, and so many other events."""
    kept: dict[bytes, bytes] = {}
    changes = others = 0
    for line in reversed(lines):
        number = line.split(b",", 1)[0]  # '{"seq":17'
        if not line.endswith(b"}") or number in kept:
            continue
        is_change = _CHANGE in line
        if (changes < changes_max) if is_change else (others < others_max):
            kept[number] = line
            changes, others = changes + is_change, others + (not is_change)
    return list(reversed(kept.values()))


def _decoded(piece: bytes) -> Line | None:
    try:
        line = msgspec.json.decode(piece)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("seq"), int) else None

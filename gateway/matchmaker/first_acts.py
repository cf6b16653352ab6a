"""First acts: when a negotiator that has just been started begins its first cycle, and makes its first match.

Rule: it reads what HTCondor writes for people (NegotiatorLog), for a figure that people read: nothing depends on it.
"""

import contextlib
import os
import re
from collections.abc import Callable
from typing import Final

import trio

from gateway.matchmaker.follow import Writes

CYCLE: Final = b"Started Negotiation Cycle"  # src/condor_negotiator.V6/matchmaker.cpp, negotiationTime
MATCH: Final = re.compile(rb"\bMatched \d+\.\d+ ")  # the same, matchmakingProtocol
LOOK_MS: Final = 5  # between two looks, at least: a negotiator in full cry writes thousands of lines a second
LOOK_MS_MAX: Final = 1_000
LOOK_BYTES_MAX: Final = 1024 * 1024
OVERLAP_BYTES: Final = 100  # of the look before: a line may have been written in two pieces
WAIT_S_MAX: Final = 120.0  # two intervals of a negotiator at its default; a pool without idle jobs has no first match


class FirstActs:
    """The log of this host's negotiator, from a moment on.

    Args:
        path: HTCondor's NEGOTIATOR_LOG; "": nowhere, and nothing comes to be known.
        watch_writes: as `gateway.kernel.inotify.FileWatch`; without it the file is looked at all the time.
    """

    def __init__(self, path: str, watch_writes: Callable[[str], Writes] | None = None) -> None:
        self._path = path
        self._watch_writes = watch_writes
        self._file = -1
        self._tail = b""

    async def mark(self) -> None:
        """Let what is written from now on count. To be called before the negotiator is started."""
        await trio.to_thread.run_sync(self._mark)

    async def run(self, cycle: Callable[[], None], match: Callable[[], None]) -> None:
        """Call `cycle` at the first one, `match` at the first one; return after both, or when it is too late."""
        awaited = {"cycle": cycle, "match": match} if self._path else {}
        watch = self._watch() if awaited else None
        try:
            # A log that can't be read (a folder, a stale file of NFS) says nothing; nobody's work ends for that.
            with contextlib.suppress(OSError), trio.move_on_after(WAIT_S_MAX):
                while awaited:
                    text = self._tail + await trio.to_thread.run_sync(self._read)
                    self._tail = text[-OVERLAP_BYTES:]
                    if "cycle" in awaited and CYCLE in text:
                        awaited.pop("cycle")()
                    if "cycle" not in awaited and "match" in awaited and MATCH.search(text):
                        awaited.pop("match")()
                    if awaited:
                        await _pause(watch)
        finally:
            if watch is not None:
                watch.close()
            self.close()

    def _watch(self) -> Writes | None:
        try:
            return None if self._watch_writes is None else self._watch_writes(self._path)
        except OSError:  # no such folder, or no inotify left
            return None

    def close(self) -> None:
        """Let the file go."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _mark(self) -> None:
        self.close()
        self._tail = b""
        self._open()
        if self._file >= 0:
            with contextlib.suppress(OSError):  # a pipe has no end
                os.lseek(self._file, 0, os.SEEK_END)

    def _open(self) -> None:
        try:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self._file = -1  # it will be made, or there is none that could be read

    def _read(self) -> bytes:
        """Return what is new; of a log that was put aside (MAX_NEGOTIATOR_LOG) the rest first."""
        if self._file < 0:
            self._open()
            if self._file < 0:
                return b""
        new = os.read(self._file, LOOK_BYTES_MAX)
        try:
            here = os.stat(self._path)
        except OSError:
            return new
        if not new and (here.st_dev, here.st_ino) != _identity(self._file):
            os.close(self._file)
            self._open()
            new = os.read(self._file, LOOK_BYTES_MAX) if self._file >= 0 else b""
        return new


async def _pause(watch: Writes | None) -> None:
    if watch is not None and not watch.lost:
        with trio.move_on_after(LOOK_MS_MAX / 1000):
            await watch.changed()
    await trio.sleep(LOOK_MS / 1000)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino

"""Snapshot: a whole accounting file on its way into a store, piece by piece.

Rule: a piece is refused as soon as it is known that a negotiator would not read it; nothing is shown before the end.
"""

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any, Final, Protocol

import trio

from gateway.core.timeline import Position
from gateway.matchmaker.disk import PIECE_BYTES, remove
from gateway.matchmaker.journal_files import Fresh, JournalRefused, Refusal, require_closed
from gateway.wire.accountant import Scanner, Stop

GATHERED_BYTES: Final = 1024 * 1024  # between two visits of a thread


class Do(Protocol):
    """Does work in a thread. Errors are counted, and named."""

    async def __call__(self, work: Callable[..., Any], *args: object) -> Any:
        """Return what `work` returns."""


class SnapshotWriter:
    """A whole file on its way into a store. Nothing of it is shown before `commit` has returned.

    Args:
        do: the store's way to do something in a thread, one piece at a time.
        promote: makes a whole file what is held.
        fresh: where it goes.
        length: how long it will be.
    """

    def __init__(self, do: Do, promote: Callable[[Fresh], Position], fresh: Fresh, length: int) -> None:
        self._do = do
        self._promote = promote
        self._fresh = fresh
        self._length = length
        self._written = 0
        self._gathered = bytearray()
        self._scanner = Scanner()
        self._digest = hashlib.sha256()

    async def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            JournalRefused: TOO_LONG (more than was announced), CORRUPT_RECORD, OUT_OF_ORDER (it was discarded, or
                another one has begun), NO_SPACE, DISK. The snapshot is discarded then.
        """
        self._gathered += data
        if len(self._gathered) < GATHERED_BYTES and self._written + len(self._gathered) <= self._length:
            await trio.lowlevel.checkpoint()
        else:
            await self._do(self._held_open, self._flush)

    async def commit(self, sha256: bytes) -> Position:
        """Hold the file; return the head, which is on the disk. What was held before is the previous one then.

        Raises:
            JournalRefused: BAD_CHECKSUM, TOO_SHORT, NOT_CLOSED, STALE (more has been held meanwhile), and as `write`.
        """
        head: Position = await self._do(self._held_open, self._commit, sha256)
        return head

    async def discard(self) -> None:
        """Give it up; no harm where it has ended already."""
        await self._do(self.abandon)

    def abandon(self) -> None:
        """Give it up, by a call that waits for the disk."""
        if self._fresh.is_open:
            self._fresh.drop()
            with contextlib.suppress(OSError):  # it is removed before the next one
                remove(self._fresh.path)

    def _flush(self) -> None:
        data = bytes(self._gathered)
        self._gathered.clear()
        self._written += len(data)
        if self._written > self._length:
            raise JournalRefused(Refusal.TOO_LONG, f"more than the {self._length} bytes that were announced")
        self._digest.update(data)
        for start in range(0, len(data), PIECE_BYTES):  # other threads may run in between
            self._scanner.feed_untrusted(data[start : start + PIECE_BYTES])
        if (scan := self._scanner.scan()).stop is Stop.CORRUPT:
            raise JournalRefused(Refusal.CORRUPT_RECORD, f"the snapshot has no record at byte {scan.stop_offset}")
        self._fresh.write(data)

    def _commit(self, sha256: bytes) -> Position:
        self._flush()
        if self._written < self._length:
            raise JournalRefused(Refusal.TOO_SHORT, f"{self._written} of {self._length} bytes")
        if self._digest.digest() != sha256:
            raise JournalRefused(Refusal.BAD_CHECKSUM, f"not the {self._length} bytes that were announced")
        require_closed(self._scanner.scan(), self._length, "the snapshot")
        return self._promote(self._fresh)

    def _held_open(self, work: Callable[..., Any], *args: object) -> Any:
        if not self._fresh.is_open:
            raise JournalRefused(Refusal.OUT_OF_ORDER, "the snapshot has ended: begin another one")
        try:
            return work(*args)
        except BaseException:
            self.abandon()
            raise

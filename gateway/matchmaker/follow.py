"""Follow: the leader's accounting file, as the negotiator writes it.

Rule: only a closed prefix is told of, and only what is new is read. A compaction is another file under the same name.
A charge that was only announced (`gateway.wire.charges`) is not closed.
"""

import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog
import trio

from gateway.core.timeline import Position, Timeline
from gateway.matchmaker.feed import Feed
from gateway.wire.accountant import Scanner, Stop
from gateway.wire.charges import TAIL_BYTES, Charges
from gateway.wire.errors import Malformed

FOLLOW_INTERVAL_MS: Final = 10  # between two looks, at least: one look for many records
LOOK_MS_MAX: Final = 1_000  # looked at so often even where nothing is said to have changed
PIECE_BYTES: Final = 32 * 1024  # read and scanned at a time: the stream can be cut where one ends
LOOK_BYTES_MAX: Final = 4 * 1024 * 1024  # in one look: others need the thread, and the interpreter, as well

log = structlog.get_logger()

Opened = Callable[[Timeline, int, int], Awaitable[Timeline | None]]


class Writes(Protocol):
    """Says when a file is written to."""

    lost: bool  # it will not say so any more

    async def changed(self) -> None:
        """Wait until the file may have changed since the last call."""

    def close(self) -> None:
        """Watch no longer."""


async def follow(
    path: Path | str,
    feed: Feed,
    *,
    timeline: Timeline,
    resume: tuple[int, int] | None,
    opened: Opened,
    watch_writes: Callable[[str], Writes] | None = None,
    resume_sequence: int | None = None,
    interval_ms: int = FOLLOW_INTERVAL_MS,
) -> None:
    """Keep `feed` at what the accounting file holds, for ever.

    A file that is not there yet, is corrupt, or has shrunk yields nothing, with one log event: a standby's good replica
    is not to be followed by the rest of a bad file.

    Args:
        path: `Accountantnew.log`.
        feed: told of each new file, and of each growth.
        timeline: the leader's history: the head says in which term, and which generation was the last one before this
            call.
        resume: inode and generation of the file that this leader was following before; if it is still there, it is gone
            on with, as the same generation.
        opened: awaited with the history (its head at offset 0), the inode and the sequence number of each new
            generation before the feed hears of it: the place to make it durable. May return another history to use,
            with the same head: what a merge has added, for instance.
        watch_writes: as `gateway.kernel.inotify.FileWatch`; without it the file is looked at all the time.
        resume_sequence: of that file, where it is known: an inode's number is soon used again, that of a compaction
            never.
        interval_ms: between two looks, at least.
    """
    follower = _Follower(Path(path), feed, timeline, opened)
    if resume is not None:
        follower.resume(*resume, resume_sequence)
    with contextlib.closing(_Pause(str(path), interval_ms, watch_writes)) as pause, contextlib.closing(follower):
        while True:  # ends with the leadership
            pause.begin()  # before the look: what is written meanwhile ends the pause
            while await follower.look():
                await trio.lowlevel.checkpoint()
            await pause.end()


class _Follower:
    """The file that is followed now, and what was told of it."""

    def __init__(self, path: Path, feed: Feed, timeline: Timeline, opened: Opened) -> None:
        self._path = path
        self._feed = feed
        self._timeline = timeline
        self._opened = opened
        self._file: _File | None = None
        self._is_told = False  # the feed knows this file
        self._marks: list[_End] = []  # of a file that the feed does not know yet
        self._resume: tuple[int, int, int | None] | None = None
        self._complaint = ""

    def resume(self, inode: int, generation: int, sequence: int | None) -> None:
        """Take that file for that generation if it is the first one found."""
        self._resume = (inode, generation, sequence)

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()

    async def look(self) -> bool:
        """Read what is new; return whether there may be more at once."""
        file, read = await trio.to_thread.run_sync(_look, self._path, self._file, abandon_on_cancel=True)
        if file is None:
            self._complain(read.fault)
            return False
        if file is not self._file:
            self.close()
            self._file, self._is_told, self._marks = file, False, []
        if read.fault:
            self._complain(read.fault)
            if not self._is_told:
                return False
        elif not read.is_all or read.ends:
            self._complaint = ""
        await self._tell(file, read)
        return not read.is_all

    async def _tell(self, file: "_File", read: "_Read") -> None:
        if not self._is_told:
            # All of it is looked at first: a corrupt record would stop a negotiator even far behind.
            self._marks += read.ends
            if not read.is_all or not self._marks:
                return
            await self._open(file, read.sequence)
            ends, self._marks = self._marks, []
        else:
            ends = read.ends
        for end in ends:
            self._feed.grown(end.closed, end.records)

    async def _open(self, file: "_File", sequence: int) -> None:
        head = self._timeline.head
        generation = head.generation + 1
        if self._resume is not None:
            inode, known_generation, known_sequence = self._resume
            generation = max(generation, known_generation + 1)
            if file.inode == inode and known_sequence in (None, sequence):
                generation = known_generation
            self._resume = None
        told = self._timeline if self._feed.source is None else self._feed.timeline
        timeline = msgspec.structs.replace(told, head=Position(head.term, generation, 0))
        timeline = await self._opened(timeline, file.inode, sequence) or timeline
        assert timeline.head == Position(head.term, generation, 0), f"{timeline.head} is not generation {generation}"
        self._timeline = timeline
        self._feed.opened(timeline, file.another_descriptor())
        self._is_told = True
        log.info("accounting.file", path=str(self._path), position=str(timeline.head), sequence=sequence)

    def _complain(self, fault: str) -> None:
        if fault and fault != self._complaint:
            log.error("accounting.unfit", path=str(self._path), fault=fault)
        self._complaint = fault


class _End(msgspec.Struct, frozen=True):
    closed: int
    records: int


class _Read(msgspec.Struct, frozen=True):
    """What one look has found: ends of the closed prefix, in order."""

    ends: list[_End]
    is_all: bool
    sequence: int = 0
    fault: str = ""


class _File:
    """One file and the scan of it. Used in threads, one at a time; a look that nobody waits for any more may linger."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.identity = _identity(os.fstat(descriptor))
        self._scanner = Scanner()
        self._charges = Charges()
        self._offset = 0
        self._told = 0  # the last end that was returned
        self._lock = threading.Lock()
        self._is_closed = False
        self._fault = ""

    @property
    def inode(self) -> int:
        """Its number."""
        return self.identity[1]

    def another_descriptor(self) -> int:
        """Return a descriptor of the same file, for somebody else."""
        return os.dup(self._descriptor)

    def close(self) -> None:
        """Let it go; the thread that still reads it does so at its end."""
        self._is_closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._lock.release()

    def __del__(self) -> None:
        self._release()  # a look that was abandoned has found it, and nobody will close it

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self) -> _Read:
        """Read on from where the last call ended."""
        with self._lock:
            try:
                return _Read([], True) if self._is_closed else self._read()
            finally:
                if self._is_closed:
                    self._release()

    def _read(self) -> _Read:
        ends: list[_End] = []
        scanner, begun = self._scanner, self._offset
        is_all = False
        try:
            if os.fstat(self._descriptor).st_size < self._offset:
                self._fault = self._fault or f"it has shrunk below {self._offset} bytes"
            while not self._fault and self._offset - begun < LOOK_BYTES_MAX:  # or at the file's end
                piece = os.pread(self._descriptor, PIECE_BYTES, self._offset)
                if not piece:
                    is_all = True
                    break
                scanner.feed_untrusted(piece)
                self._charges.feed(piece)
                self._offset += len(piece)
                end = self._end(scanner.closed_length, scanner.records)
                if end.closed > (ends[-1].closed if ends else self._told):
                    ends.append(end)
        except Malformed as error:
            self._fault = str(error)
        except OSError as error:
            return _Read(ends, True, fault=error.strerror or str(error))
        if ends:
            self._told = ends[-1].closed
        scan = scanner.scan()
        if scan.stop is Stop.CORRUPT:
            self._fault = self._fault or f"corrupt record at byte {scan.stop_offset}"
        return _Read(ends, is_all or bool(self._fault), scan.sequence, self._fault)

    def _end(self, closed: int, records: int) -> _End:
        """Return where the file may be gone on with: not behind a charge that was only announced."""
        start = max(closed - TAIL_BYTES, 0)
        announced = self._charges.announced(closed, os.pread(self._descriptor, closed - start, start))
        return _End(closed - announced, records - bool(announced))


def _look(path: Path, known: _File | None) -> tuple[_File | None, _Read]:
    """Return the file under that name, `known` if it still is, and what is new in it. In a thread."""
    try:
        if known is not None and _identity(os.stat(path)) == known.identity:
            return known, known.read()
        file = _File(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except FileNotFoundError:
        return None, _Read([], True)
    except OSError as error:
        return None, _Read([], True, fault=error.strerror or str(error))
    return file, file.read()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class _Pause:
    """The time between two looks: until something is written, and the interval since the last look at least."""

    def __init__(self, path: str, interval_ms: int, watch_writes: Callable[[str], Writes] | None) -> None:
        self._path = path
        self._interval_ms = interval_ms
        self._watch_writes = watch_writes
        self._written: Writes | None = None
        self._looked_s = 0.0

    def begin(self) -> None:
        self._looked_s = trio.current_time()
        if self._watch_writes is not None and (self._written is None or self._written.lost):
            self.close()
            with contextlib.suppress(OSError):  # no folder yet, or no inotify left
                self._written = self._watch_writes(self._path)

    async def end(self) -> None:
        if self._written is not None:
            with trio.move_on_after(LOOK_MS_MAX / 1000):
                await self._written.changed()
        await trio.sleep_until(self._looked_s + self._interval_ms / 1000)

    def close(self) -> None:
        if self._written is not None:
            self._written.close()
            self._written = None

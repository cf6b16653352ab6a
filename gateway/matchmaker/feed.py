"""Feed: what a leader has to ship, for any number of `ship` tasks.

Rule: it holds descriptors, never contents; a file stays readable until the last task that reads it lets go.
"""

import bisect
import os
from typing import Final

import msgspec
import trio

from gateway.core.timeline import Position, Timeline, same_file
from gateway.wire.stream import CHUNK_BYTES

MARKS_MAX: Final = 4_096  # 40 s of looks; older ones are joined
MARK_BYTES: Final = 32 * 1024  # joined marks are no farther apart: 64 MiB are 2,048 of them


class Shared:
    """A file descriptor that several read from; closed when the last one drops it. For one thread."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._users = 1

    def take(self) -> None:
        """Hold it, too."""
        assert self._users > 0, "a closed descriptor can't be taken"
        self._users += 1

    def drop(self) -> None:
        """Let it go."""
        assert self._users > 0, "a descriptor was dropped once too often"
        self._users -= 1
        if self._users == 0:
            os.close(self.descriptor)

    def read(self, start: int, end: int) -> bytes:
        """Return those bytes; fewer where the file ends before. May wait for the disk."""
        pieces = []
        while start < end:  # ends with the bytes, or the file
            piece = os.pread(self.descriptor, end - start, start)
            if not piece:
                break
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)


class Mark(msgspec.Struct, frozen=True):
    """The file was closed there, with so many records; what is between here and the mark before was first seen then."""

    closed: int
    records: int
    seen_s: float  # trio's clock


class Source(Shared):
    """One generation of the accounting file. `timeline`: its history, the head where it is closed now."""

    def __init__(self, timeline: Timeline, descriptor: int) -> None:
        super().__init__(descriptor)
        self.timeline = timeline
        self.opened_s = trio.current_time()
        self._marks: list[Mark] = []

    @property
    def closed(self) -> int:
        """How many bytes are closed."""
        return self.timeline.head.offset

    @property
    def records(self) -> int:
        """How many records those bytes hold."""
        return self._marks[-1].records if self._marks else 0

    def grown(self, closed: int, records: int) -> None:
        """Take a new end."""
        assert closed > self.closed, f"{self.closed} -> {closed}: a closed prefix only grows"
        head = self.timeline.head
        self.timeline = self.timeline.at(Position(head.term, head.generation, closed))
        self._marks.append(Mark(closed, records, trio.current_time()))
        if len(self._marks) > MARKS_MAX:
            self._marks = _thinned(self._marks)

    def cut(self, start: int) -> int | None:
        """Return where to cut what comes after `start`: at most 64 KiB on where that is possible; None: no more."""
        at = bisect.bisect_right(self._marks, start + CHUNK_BYTES, key=lambda mark: mark.closed)
        if at and self._marks[at - 1].closed > start:
            return self._marks[at - 1].closed
        return self._marks[at].closed if at < len(self._marks) else None

    def seen_s(self, offset: int) -> float:
        """Return when the byte at `offset` was first seen, or a little before."""
        at = bisect.bisect_right(self._marks, offset, key=lambda mark: mark.closed)
        return self._marks[at].seen_s if at < len(self._marks) else trio.current_time()

    def records_at(self, offset: int) -> int:
        """Return how many records are before `offset`, or a few less."""
        at = bisect.bisect_right(self._marks, offset, key=lambda mark: mark.closed)
        return self._marks[at - 1].records if at else 0


class Version(Shared):
    """A replicated file as it was a moment ago: a copy of its own that has no name."""

    def __init__(self, name: str, descriptor: int, *, length: int, sha256: bytes, mode: int) -> None:
        super().__init__(descriptor)
        self.name = name
        self.length = length
        self.sha256 = sha256
        self.mode = mode


class Feed:
    """The leader's accounting file as it grows, and the newest version of each replicated file.

    Args:
        origin: the node that leads.
        timeline: its history before its file is known: `taken_over`, as a rule.
    """

    def __init__(self, origin: str, timeline: Timeline) -> None:
        self.origin = origin
        self.source: Source | None = None
        self.files: dict[str, Version] = {}
        self.news = trio.Event()  # replaced by another whenever it is set
        self.file_news = trio.Event()
        self._timeline = timeline

    @property
    def timeline(self) -> Timeline:
        """The leader's history; its head is what every standby should hold."""
        return self._timeline if self.source is None else self.source.timeline

    @property
    def records(self) -> int:
        """How many records the file holds."""
        return 0 if self.source is None else self.source.records

    def opened(self, timeline: Timeline, descriptor: int) -> None:
        """Take a new generation: its file, open for reading, which belongs to the feed from now on.

        Args:
            timeline: the head is of that generation, at offset 0; `grown` says how long it is.
            descriptor: may be of a file without a name.
        """
        assert timeline.head.offset == 0, f"{timeline.head} is not the start of a file"
        assert self.timeline.head < timeline.head, f"{self.timeline.head} -> {timeline.head} goes back"
        self._let_go()
        self.source = Source(timeline, descriptor)

    def grown(self, closed: int, records: int) -> None:
        """Take a new end of the closed prefix. Every end that was told is a place where the stream may be cut."""
        assert self.source is not None, "nothing was opened that could grow"
        self.source.grown(closed, records)
        event, self.news = self.news, trio.Event()
        event.set()

    def retell(self, timeline: Timeline) -> None:
        """Take a shortened history of the same state. Its head is of the present term and generation."""
        if self.source is None:
            self._timeline = timeline
            return
        head = self.source.timeline.head
        assert same_file(timeline.head, head), f"{timeline.head} is not of {head}"
        self.source.timeline = timeline.at(head)
        event, self.news = self.news, trio.Event()
        event.set()

    def put_file(self, version: Version) -> None:
        """Take a newer version of a replicated file; it belongs to the feed from now on."""
        if (former := self.files.get(version.name)) is not None:
            former.drop()
        self.files[version.name] = version
        event, self.file_news = self.file_news, trio.Event()
        event.set()

    def close(self) -> None:
        """Give all descriptors back; ship tasks that still read keep theirs until they end."""
        self._let_go()
        for version in self.files.values():
            version.drop()
        self.files.clear()

    def _let_go(self) -> None:
        if self.source is not None:
            self._timeline = self.source.timeline
            self.source.drop()
            self.source = None


def _thinned(marks: list[Mark]) -> list[Mark]:
    """Join neighbours in the older half, two and two; each keeps the later end and the earlier time."""
    half = len(marks) // 2
    kept: list[Mark] = []
    begin = 0  # of the bytes that the last kept mark stands for
    for at, mark in enumerate(marks):
        last = kept[-1] if kept else None
        if last is not None and at < half and at % 2 and mark.closed - begin <= MARK_BYTES:
            kept[-1] = Mark(mark.closed, mark.records, last.seen_s)
        else:
            begin = last.closed if last is not None else 0
            kept.append(mark)
    return kept

"""Journal files: a journal of `gateway.wire.journal` on a disk: found, read, written, and put there for good.

Rule: what a function here has written is on the disk when it returns. A file is read in pieces, never whole.
"""

import contextlib
import enum
import errno
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from gateway.core.timeline import FORKS_MAX, INCLUDED_MAX, Position, Timeline, same_file
from gateway.matchmaker.disk import PIECE_BYTES, create, opened, pieces, write_all, write_at, write_synced
from gateway.wire.accountant import FILE_BYTES_MAX, Scan, Scanner, Stop
from gateway.wire.charges import TAIL_BYTES, Charges
from gateway.wire.errors import Malformed, Reason
from gateway.wire.journal import JOURNAL_BYTES_MAX, Mark, Reader, Writer
from gateway.wire.seal import NAME_BYTES_MAX

NUMBER_MAX: Final = 2**63 - 1


class Refusal(enum.StrEnum):
    """Why something was not taken. Stable names: they are metric labels."""

    CORRUPT_RECORD = "corrupt-record"  # it would stop a negotiator from ever starting
    NOT_CLOSED = "not-closed"  # it ends inside a record or a transaction
    OUT_OF_ORDER = "out-of-order"  # it does not begin where what is held ends
    STALE = "stale"  # something is held that it has not
    DIFFERENT = "different"  # of the same position, other bytes are held
    TOO_LONG = "too-long"
    TOO_SHORT = "too-short"  # less than was announced
    BAD_CHECKSUM = "bad-checksum"  # not the bytes that were announced, or that were written
    BAD_JOURNAL = "bad-journal"  # no journal, or none of what it was said to be
    NOT_HELD = "not-held"
    BAD_NAME = "bad-name"
    NO_SPACE = "no-space"  # on the disk
    DISK = "disk"  # it would not, for another reason


class JournalRefused(Exception):  # noqa: N818 (an answer, not a failure)
    """Something was not taken; what was held is held. Counted by `reason`."""

    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a journal's content is.

    Attributes:
        timeline: its history at the content's start: `head.offset` is 0.
        origin: the node whose negotiator wrote it.
        ended_s: when that stopped, in seconds since 1970; 0: not known, or it goes on.
        made_s: when the journal was begun.
    """

    timeline: Timeline
    origin: str
    ended_s: int
    made_s: int


class Journal(msgspec.Struct, frozen=True):
    """A journal that was found, or written: its file, and how far it is good."""

    path: Path
    head: Head
    mark: Mark

    @property
    def timeline(self) -> Timeline:
        """Return the history of the whole content."""
        return self.at(self.mark.length)

    def at(self, length: int) -> Timeline:
        """Return the history of the content's first `length` bytes."""
        return at_length(self.head.timeline, length)

    def reaches(self, position: Position) -> bool:
        """Tell whether `position` is one of this file."""
        return same_file(self.head.timeline.head, position) and position.offset <= self.mark.length


class Found(msgspec.Struct, frozen=True):
    """What a look at a journal's file has found.

    Attributes:
        journal: its good part; None where there is none.
        torn: something is behind that, as a crash leaves it.
        fault: what is wrong behind it, or with it; None for nothing worse than torn.
    """

    journal: Journal | None
    torn: bool = False
    fault: Malformed | OSError | None = None


def at_length(timeline: Timeline, length: int) -> Timeline:
    """Return `timeline` with `length` bytes of its newest file."""
    return timeline.at(msgspec.structs.replace(timeline.head, offset=length))


def encode_head(head: Head) -> bytes:
    """Return a head's payload. Raises `JournalRefused` (BAD_JOURNAL) for what a reader would refuse."""
    payload = msgspec.msgpack.encode(head)
    try:
        decode_head_untrusted(payload)
    except Malformed as fault:  # it would not be read again
        raise JournalRefused(Refusal.BAD_JOURNAL, f"{head.timeline.head} of {head.origin!r}: {fault}") from None
    return payload


def decode_head_untrusted(payload: bytes) -> Head:
    """Return a journal's head. Raises `Malformed` (BAD_PAYLOAD): a disk is no more to be trusted than a network."""
    try:
        head = msgspec.msgpack.decode(payload, type=Head)
    except ValueError as error:
        raise Malformed(Reason.BAD_PAYLOAD, str(error)) from None
    timeline = head.timeline
    positions = (timeline.head, *(fork.position for fork in timeline.forks), *timeline.included)
    numbers = [number for one in positions for number in (one.term, one.generation, one.offset)]
    numbers += [head.ended_s, head.made_s, *(fork.taken_s for fork in timeline.forks)]
    if not all(0 <= number <= NUMBER_MAX for number in numbers):
        raise Malformed(Reason.BAD_PAYLOAD, "a number is out of bounds")
    if len(timeline.forks) > FORKS_MAX or len(timeline.included) > INCLUDED_MAX:
        raise Malformed(Reason.BAD_PAYLOAD, f"{len(timeline.forks)} forks, {len(timeline.included)} included")
    if timeline.head.offset or not timeline.head.term or len(head.origin.encode(errors="replace")) > NAME_BYTES_MAX:
        raise Malformed(Reason.BAD_PAYLOAD, "position or origin")
    return head


def find(path: Path) -> Found:
    """Prove the journal at `path` as far as it is good. A journal's file that is not there raises `OSError`."""
    reader = Reader()
    fault: Malformed | None = None
    with opened(path) as descriptor:
        try:
            for piece in bounded(descriptor, JOURNAL_BYTES_MAX):
                for _ in reader.feed_untrusted(piece):
                    pass
        except Malformed as damage:
            fault = damage
    if reader.mark is None:
        return Found(None, reader.torn, fault)
    try:
        return Found(Journal(path, decode_head_untrusted(reader.head), reader.mark), reader.torn, fault)
    except Malformed as damage:
        return Found(None, reader.torn, damage)


def find_head(path: Path) -> Head:
    """Return a journal's first head, without a look at what follows. Raises `OSError`, `Malformed`."""
    reader = Reader()
    with opened(path) as descriptor:
        data = os.pread(descriptor, PIECE_BYTES, 0)
    with contextlib.suppress(Malformed):  # behind the head
        next(reader.feed_untrusted(data), None)
    return decode_head_untrusted(reader.head)


class Contents:
    """The plain bytes of a journal's file, in pieces, each proven before it is given away.

    Args:
        path: the file.
        upto: how many bytes of content.

    Raises (while it is read):
        JournalRefused: BAD_JOURNAL, BAD_CHECKSUM, TOO_LONG, NOT_HELD (it has not that many).
        OSError: it can't be read.
    """

    def __init__(self, path: Path, upto: int) -> None:
        self._path = path
        self._upto = upto
        self.head: Head | None = None  # as it was at `upto`: known once all was read

    def __iter__(self) -> Iterator[bytes]:
        try:
            with opened(self._path) as descriptor:
                yield from self._proven(descriptor)
        except Malformed as damage:
            raise JournalRefused(refusal_of(damage), f"'{self._path}': {damage}") from None

    def _proven(self, descriptor: int) -> Iterator[bytes]:
        reader = Reader()
        given = 0
        gathered = bytearray()
        for payload in _payloads(reader, bounded(descriptor, JOURNAL_BYTES_MAX), self._upto):
            gathered += payload
            if len(gathered) >= PIECE_BYTES and given + len(gathered) < self._upto:
                yield bytes(gathered)
                given += len(gathered)
                gathered.clear()
        if given + len(gathered) < self._upto or not reader.head:
            raise JournalRefused(Refusal.NOT_HELD, f"'{self._path}' ends before byte {self._upto}")
        self.head = decode_head_untrusted(reader.head)
        yield bytes(gathered[: self._upto - given])


def _payloads(reader: Reader, run: Iterable[bytes], upto: int) -> Iterator[bytes]:
    """Yield a journal's content up to `upto` bytes or more; `reader.head` is what was said of it last until then.

    What follows is not asked for, and may be damaged. Raises `Malformed`, `OSError`.
    """
    content = itertools.chain.from_iterable(map(reader.feed_untrusted, run))
    length = 0
    while length < upto:
        payload = next(content, None)
        if payload is None:
            return
        length += len(payload)
        yield payload
    # A head that follows at once, perhaps behind an empty frame that closes a snapshot, is of these very bytes.
    with contextlib.suppress(Malformed):
        while length == upto and next(content, None) == b"":
            pass


class Fresh:
    """A journal that is being written at `path`, where nothing is shown until it is whole. `finish` or `drop` it."""

    def __init__(self, path: Path, head: Head) -> None:
        self.path = path
        self._head = head
        self._writer = Writer()
        first = self._writer.head(encode_head(head))
        self._descriptor = create(path)
        try:
            write_all(self._descriptor, first)
        except BaseException:
            self.drop()
            raise

    def write(self, data: bytes) -> None:
        """Write a part of the content. Raises `OSError`."""
        self._write(self._writer.data(data, closed=False))

    @property
    def is_open(self) -> bool:
        """Return whether it was neither finished nor dropped."""
        return self._descriptor >= 0

    @property
    def timeline(self) -> Timeline:
        """Return the history of what was written."""
        return at_length(self._head.timeline, self._writer.mark.length)

    def finish(self) -> Journal:
        """Close the content; the file is on the disk then. Raises `OSError`."""
        self._write(self._writer.data(b"", closed=True))
        os.fsync(self._descriptor)
        self.drop()
        return Journal(self.path, self._head, self._writer.mark)

    def drop(self) -> None:
        """Let go of the file, which is not removed. Never waits."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _write(self, frames: Iterable[bytes]) -> None:
        write_all(self._descriptor, b"".join(frames))


def extend(journal: Journal, data: Iterable[bytes] = (), head: Head | None = None) -> Journal:
    """Add content, and then perhaps another head, to a journal; all of it, on the disk, or nothing.

    Args:
        journal: as it was found or written last.
        data: pieces which together end a whole state.
        head: what the content is from now on.

    Raises:
        JournalRefused: BAD_JOURNAL: the file is not as it was left.
        OSError: the disk would not; the journal is as it was.
    """
    writer = Writer(journal.mark)
    start = offset = journal.mark.file_bytes
    with opened(journal.path, os.O_RDWR) as descriptor:
        if os.fstat(descriptor).st_size != start:
            raise JournalRefused(Refusal.BAD_JOURNAL, f"'{journal.path}' was changed by somebody else")
        try:
            last = b""
            for piece in data:
                if last:
                    offset += write_at(descriptor, b"".join(writer.data(last, closed=False)), offset)
                last = piece
            frames = list(writer.data(last, closed=True)) if last else []
            if head is not None:
                frames.append(writer.head(encode_head(head)))
            write_at(descriptor, b"".join(frames), offset)
            os.fdatasync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, start)  # or its torn end would be taken for damage by the next look
            raise
    return Journal(journal.path, journal.head if head is None else head, writer.mark)


def cut_off(journal: Journal) -> None:
    """Remove what is behind the good part of a journal's file. Raises `OSError`."""
    with opened(journal.path, os.O_RDWR) as descriptor:
        os.ftruncate(descriptor, journal.mark.file_bytes)
        os.fsync(descriptor)


def scan_file(path: Path) -> Scan:
    """Scan a plain accounting file. Raises `JournalRefused` (TOO_LONG, before anything is read), `OSError`."""
    scanner = Scanner()
    try:
        with opened(path) as descriptor:
            for piece in bounded(descriptor, FILE_BYTES_MAX):
                scanner.feed_untrusted(piece)
    except Malformed as damage:
        raise JournalRefused(refusal_of(damage), f"'{path}': {damage}") from None
    return scanner.scan()


def announced_bytes(path: Path, closed_length: int) -> int:
    """Return how many bytes before `closed_length` of a plain file only announce a charge. Raises `OSError`."""
    charges, tail, left = Charges(), b"", closed_length
    with opened(path) as descriptor:
        for piece in pieces(descriptor):
            charges.feed(piece[:left])
            tail = (tail + piece[:left])[-TAIL_BYTES:]
            left -= len(piece)
            if left <= 0:
                break
    return charges.announced(closed_length, tail)


def proven_closed(contents: Iterable[bytes], what: str) -> Iterator[bytes]:
    """Yield `contents`; at their end, raise `JournalRefused` unless a negotiator reads all of it without harm."""
    scanner = Scanner()
    length = 0
    for piece in contents:
        length += len(piece)
        try:
            for start in range(0, len(piece), PIECE_BYTES):  # other threads may run in between
                scanner.feed_untrusted(piece[start : start + PIECE_BYTES])
        except Malformed as damage:
            raise JournalRefused(refusal_of(damage), f"{what}: {damage}") from None
        yield piece
    require_closed(scanner.scan(), length, what)


def require_closed(scan: Scan, length: int, what: str) -> None:
    """Raise `JournalRefused` (CORRUPT_RECORD, NOT_CLOSED) unless all `length` bytes are whole and closed."""
    if scan.stop is Stop.CORRUPT:
        raise JournalRefused(Refusal.CORRUPT_RECORD, f"{what} has no record at byte {scan.stop_offset}")
    if scan.closed_length != length:
        raise JournalRefused(Refusal.NOT_CLOSED, f"{what} ends in an open {scan.stop} at byte {scan.stop_offset}")


def export(path: Path, upto: int | None, target: Path) -> Journal:
    """Write a journal's plain bytes to `target`; see `gateway.matchmaker.journal.Store.export`."""
    if upto is None:
        found = find(path)
        if found.fault is not None:
            raise JournalRefused(refusal_of(found.fault), f"'{path}': {found.fault}")
        if found.journal is None:
            raise JournalRefused(Refusal.BAD_JOURNAL, f"nothing in '{path}' is whole")
        upto = found.journal.mark.length
    contents = Contents(path, upto)
    records = 0

    def counted() -> Iterator[bytes]:
        nonlocal records
        for piece in proven_closed(contents, f"'{path}'"):
            records += piece.count(b"\n")
            yield piece

    write_synced(target, counted())
    assert contents.head is not None, "all was read"
    return Journal(target, contents.head, Mark(0, upto, records, b""))


def bounded(descriptor: int, bytes_max: int) -> Iterator[bytes]:
    """Yield a file's bytes. Raises `Malformed` (TOO_LONG) before it has read any, `OSError`."""
    size = os.fstat(descriptor).st_size
    if size > bytes_max:
        raise Malformed(Reason.TOO_LONG, f"a file of {size} bytes; at most {bytes_max}")
    return pieces(descriptor)


def refusal_of(fault: Malformed | OSError) -> Refusal:
    """Return the named reason for an error of a format or of a disk."""
    if isinstance(fault, OSError):
        return Refusal.NO_SPACE if fault.errno in (errno.ENOSPC, errno.EDQUOT) else Refusal.DISK
    named = {Reason.TOO_LONG: Refusal.TOO_LONG, Reason.BAD_CHECKSUM: Refusal.BAD_CHECKSUM}
    return named.get(fault.reason, Refusal.BAD_JOURNAL)

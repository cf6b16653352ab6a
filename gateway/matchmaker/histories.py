"""Histories: accounting files on the disk, read for a merge, and the one that a merge makes.

Rule: inputs are only read. What is written is proven by reading it back, and has its name when it is on the disk, or
never. Synchronous: for the merge command, and for the process that merges for a node.
"""

import contextlib
import gc
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from gateway.core.reconcile import Merged, Side
from gateway.core.reconcile.sides import ACCOUNTANT
from gateway.matchmaker.merge_letters import MergeFailed, MergeReason, Story
from gateway.wire.accountant import (
    FILE_BYTES_MAX,
    Reading,
    Records,
    Scan,
    State,
    Stop,
    replay_untrusted,
    scan_untrusted,
)
from gateway.wire.charges import TAIL_BYTES, Charges, announcement_bytes
from gateway.wire.compacted import compact, difference, records_of
from gateway.wire.errors import Malformed

LINE_BYTES_SHOWN: Final = 60
BYTES_MAX = FILE_BYTES_MAX
_DROP: Final = rb"10(?:2[^\S\n]+(Resource\.\S+)|3 Accountant\. LastUpdateTime (\d{1,19}))"
_FIRST_DROP: Final = re.compile(_DROP)
_DROPS: Final = re.compile(rb"\n" + _DROP)  # found much faster than by ^ and re.MULTILINE
SEEN_BYTES: Final = 4096  # the last of what was read: still there when a file has only been appended to


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Millions of small strings and no cycles: looking for some takes longer than a merge."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Stamp(msgspec.Struct, frozen=True):
    """What tells one file, as it is at one moment, from another, or from itself later."""

    device: int
    inode: int
    length: int
    modified_ns: int


class Tail(msgspec.Struct, frozen=True):
    """What was appended to a file: key -> the record as it is now, None where it is deleted."""

    changes: dict[str, dict[str, str] | None]
    warnings: list[str]
    drops: set[str]  # Resource keys of matches that ended in it


class History:
    """One accounting file, as far as it was read. Held open until `close`, so that no other file gets its number.

    Args:
        path: the file.
        alike: records that it may share with the files read before, as of `replay_untrusted`.

    Attributes:
        state: what the file holds up to the last whole record outside a transaction.
        sequence, birthdate_s: of its 107 record.
        warnings: what was left out, in sentences.

    Raises (when it is made, and by `appended`):
        MergeFailed: UNREADABLE, CORRUPT, TOO_LONG.
    """

    def __init__(self, path: Path, alike: Records | None = None) -> None:
        self.path = path
        self.state: State = {}
        self.sequence = self.birthdate_s = 0
        self.warnings: list[str] = []
        self._drops: dict[str, list[int]] = {}  # Resource key -> when it was dropped, in order
        self._updated_s = 0
        with _reading(path):
            # O_NONBLOCK: a pipe in the place of a file is refused, not waited for.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._read(alike)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)

    def side(self, name: str, story: Story | None = None, since_s: int = 0) -> Side:
        """Return what was read as a side of a merge whose base was charged up to `since_s`."""
        told = story or Story(name=name, path="")
        return Side(
            name=name,
            state=self.state,
            term=told.term,
            sequence=self.sequence,
            birthdate_s=self.birthdate_s,
            ended_s=told.ended_s,
            took_over_s=told.took_over_s,
            dropped_s=told.dropped_s or self.dropped_after(since_s),
        )

    def dropped_after(self, since_s: int) -> dict[str, int]:
        """Return until when each match was charged that ended after `since_s`: the first time, as far as it is told.

        A negotiator charges, then drops the matches that its collector shows no more (Accountant.cpp, CheckMatches):
        what stands before such a record is the time up to which it was charged. What was compacted tells nothing.
        """
        return {
            key: next(time_s for time_s in times if time_s > since_s)
            for key, times in self._drops.items()
            if times[-1] > since_s
        }

    def _note_drops(self, data: bytes) -> set[str]:
        fresh: set[str] = set()
        first = _FIRST_DROP.match(data)
        for record in itertools.chain([first] if first else [], _DROPS.finditer(data)):
            if record[1] is None:
                self._updated_s = int(record[2])
            else:
                key = record[1].decode(errors="surrogateescape")
                self._drops.setdefault(key, []).append(self._updated_s)
                fresh.add(key)
        return fresh

    def is_unchanged(self) -> bool:
        """Whether its path still names what was read, and nothing has been written since."""
        try:
            return _stamp(os.stat(self.path)) == self._stamp
        except OSError:
            return False

    def appended(self) -> Tail | None:
        """Read what was appended since, and count it as read; `state` becomes another object, as it is now.

        None where the file is another one (a negotiator compacts into a new one), or was not only appended to: then
        all of it is to be read anew.
        """
        with _reading(self.path):
            now = _stamp(os.stat(self.path))
        length = now.length - self._closed
        if (now.device, now.inode) != (self._stamp.device, self._stamp.inode) or length < 0:
            return None
        if now.length > BYTES_MAX:
            _refuse_length(self.path)
        with _reading(self.path):
            seen = os.pread(self._descriptor, len(self._seen), self._closed - len(self._seen))
            data = os.pread(self._descriptor, length, self._closed)
        if seen != self._seen or len(data) != length:
            return None
        scan = scan_untrusted(data, BYTES_MAX)
        if scan.sequence:
            return None  # the head of a file in its midst
        if scan.stop is Stop.CORRUPT:
            _refuse_corrupt(self.path, data, scan, self._closed)
        closed = scan.closed_length - announcement_bytes(data[: scan.closed_length][-TAIL_BYTES:])
        drops = self._note_drops(data[:closed])
        changes = _changes(self.state, data, closed)
        self.state = dict(self.state)
        for key, ad in changes.items():
            if ad is None:
                self.state.pop(key, None)
            else:
                self.state[key] = ad
        self._note(now, self._closed + closed, (seen + data[:closed])[-SEEN_BYTES:])
        warnings = [] if scan.stop is Stop.END else [_unfinished(self.path, len(data), scan)]
        return Tail(changes, warnings, drops)

    def _read(self, alike: Records | None) -> None:
        path = self.path
        with _reading(path):
            found = os.fstat(self._descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise MergeFailed(MergeReason.UNREADABLE, f"'{path}' is no file")
            if found.st_size > BYTES_MAX:
                _refuse_length(path)
            with open(self._descriptor, "rb", closefd=False) as file:
                data = file.read(BYTES_MAX + 1)
        if not data:
            raise MergeFailed(MergeReason.UNREADABLE, f"'{path}' is empty: no negotiator has ever charged on it")
        try:
            reading = Reading(data, BYTES_MAX, alike)
        except Malformed:
            _refuse_length(path)
        scan = reading.scan
        if scan.stop is Stop.CORRUPT:
            _refuse_corrupt(path, data, scan)
        charges = Charges()
        charges.feed(data[: scan.closed_length])
        announced = charges.announced(scan.closed_length, data[: scan.closed_length][-TAIL_BYTES:])
        closed = scan.closed_length - announced  # the charge that is only announced is not made: the next one makes it
        self.state = reading.state(closed)
        self._note_drops(data[:closed])
        self.sequence, self.birthdate_s = scan.sequence, scan.birthdate
        if not any(name.lower() == "lastupdatetime" for name in self.state.get(ACCOUNTANT, {})):
            text = f"'{path}' has no LastUpdateTime in its {scan.closed_length} good bytes: "
            raise MergeFailed(MergeReason.UNREADABLE, text + "no negotiator has charged on it")
        if scan.stop is not Stop.END:
            self.warnings.append(_unfinished(path, len(data), scan))
        self._note(_stamp(found), closed, data[:closed][-SEEN_BYTES:])

    def _note(self, stamp: Stamp, closed: int, seen: bytes) -> None:
        self._stamp, self._closed, self._seen = stamp, closed, seen


class Draft:
    """A merged file on its way: beside `out` under a name of its own, and on the disk. `commit` gives it its name.

    It may be brought to another state before that, by appending what differs.

    Args:
        merged: what it holds; the state is not kept.
        out: the name that it will have.
        like: a file whose owner and mode it gets; else it is readable by who writes it alone (0600).

    Raises (when it is made, and by its methods):
        MergeFailed: NOT_WRITTEN; nothing is left behind.
    """

    def __init__(self, merged: Merged, out: Path, like: Path | None = None) -> None:
        self._out = out
        self._fresh = draft_path(out)
        self._descriptor = -1
        self._length = 0
        with self._writing():
            self._fresh.unlink(missing_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._fresh, flags, 0o600)
        with self._writing():
            if like is not None:
                _own_as(self._descriptor, like)
            self._length = _write_all(self._descriptor, compact(merged.state, merged.sequence, merged.birthdate_s))
            os.fsync(self._descriptor)
            scan = self._proven(0, records_of(merged.state))
        if (scan.sequence, scan.birthdate) != (merged.sequence, merged.birthdate_s):
            self._refuse_unproven(scan, 0)

    def bring_to(self, state: State, held: State, keys: Iterable[str]) -> None:
        """Append what makes the file one of `state`; it holds `held`, which differs at most at `keys`."""
        with self._writing():
            records = difference(held, state, keys)
            begin = self._length
            self._length += _write_all(self._descriptor, [b"".join(records)])
            os.fsync(self._descriptor)
            self._proven(begin, len(records))

    def commit(self) -> None:
        """Give the file its name, in the place of any other one."""
        with self._writing():
            os.replace(self._fresh, self._out)
            directory = os.open(self._out.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        self._close()

    def discard(self) -> None:
        """Remove it, unless it has its name already."""
        self._close()
        self._fresh.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what the disk refuses into an answer, and leave nothing behind."""
        try:
            yield
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError | ValueError):
                said = error.strerror if isinstance(error, OSError) else str(error)
                raise MergeFailed(MergeReason.NOT_WRITTEN, f"'{self._out}' cannot be written: {said}") from error
            raise

    def _proven(self, begin: int, records: int) -> Scan:
        """Read what the disk has as a negotiator would. A difference is a bug of ours, or of the disk."""
        if self._length > BYTES_MAX:
            text = f"the merged file would be too long for any reader ({self._length} bytes): nothing was written"
            raise MergeFailed(MergeReason.NOT_WRITTEN, text)
        length = self._length - begin
        data = os.pread(self._descriptor, length + 1, begin)
        scan = scan_untrusted(data, BYTES_MAX)
        if (scan.stop, scan.closed_length, scan.records) != (Stop.END, length, records):
            self._refuse_unproven(scan, begin)
        return scan

    def _refuse_unproven(self, scan: Scan, begin: int) -> NoReturn:
        self.discard()
        text = f"the merged file does not read back whole (byte {begin + scan.stop_offset}, {scan.stop})"
        raise MergeFailed(MergeReason.NOT_WRITTEN, f"{text}: nothing was written")


def draft_path(out: Path) -> Path:
    """Return where a merged file is until it has its name."""
    return out.with_name(f".{out.name}.merging")


def _changes(before: State, data: bytes, closed_length: int) -> dict[str, dict[str, str] | None]:
    """Replay appended records on the state before them; return the records that they name, as they are now."""
    named = {words[1] for line in data[:closed_length].splitlines() if len(words := line.split(None, 2)) > 1}
    keys = {key.decode(errors="surrogateescape") for key in named}
    held = b"".join(compact({key: before[key] for key in keys & before.keys()}, 1, 0))
    now = replay_untrusted(held + data, len(held) + closed_length)
    return {key: now.get(key) for key in sorted(keys) if now.get(key) != before.get(key)}


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise MergeFailed(MergeReason.UNREADABLE, f"'{path}' does not exist") from None
    except OSError as error:
        raise MergeFailed(MergeReason.UNREADABLE, f"'{path}' cannot be read: {error.strerror}") from None


def _refuse_length(path: Path) -> NoReturn:
    text = f"'{path}' has more than {BYTES_MAX} bytes: no accounting file is so long"
    raise MergeFailed(MergeReason.TOO_LONG, text) from None


def _refuse_corrupt(path: Path, data: bytes, scan: Scan, begin: int = 0) -> NoReturn:
    end = data.find(b"\n", scan.stop_offset)
    line = data[scan.stop_offset : len(data) if end < 0 else end]
    shown = line[:LINE_BYTES_SHOWN].decode("ascii", "backslashreplace")
    text = f"'{path}' is corrupt at byte {begin + scan.stop_offset}: {shown!r} is no accounting record"
    raise MergeFailed(MergeReason.CORRUPT, text + (" (the start of it)" if len(line) > LINE_BYTES_SHOWN else ""))


def _unfinished(path: Path, length: int, scan: Scan) -> str:
    what = "record" if scan.stop is Stop.TORN else "transaction"
    left = length - scan.closed_length
    return f"'{path}' ends in an unfinished {what}: its last {left} bytes are left out, as a negotiator does"


def _own_as(descriptor: int, like: Path) -> None:
    """Let HTCondor's user read what root has merged."""
    model = like.stat()
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, model.st_uid, model.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(model.st_mode) | 0o600)


def _write_all(descriptor: int, pieces: Iterable[bytes]) -> int:
    length = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            written = os.write(descriptor, view)
            length += written
            view = view[written:]
    return length

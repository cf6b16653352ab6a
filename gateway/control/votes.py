"""Votes on stable storage: the highest term of each election and whom this node voted for in it (rule 1).

Rule: a file that can't be trusted stops the start, for a node that has forgotten its vote could vote twice in one term.

An election has one small file of two slots, and each slot holds its record twice. A vote is written over the *older*
slot, in place, and is on stable storage after one `fdatasync`: 0.1 ms where writing a new file, renaming it and
syncing file and folder took 0.6 ms, and one flush of a disk's cache instead of three. Why this is as safe:

1. The message that depends on a vote leaves after `fdatasync` has returned. A crash before that loses at most a vote
   that nobody has heard of.
2. A crash meanwhile harms only the slot that was being written; the vote before it lies in the other one, untouched.
   The blocks were written when the file was made, and so no metadata has to follow.
3. Disks write whole sectors. Each copy fits into one, so a torn write leaves each copy either old or new; even a disk
   that tears a sector spoils one copy of the two.
4. So a slot without a single good copy is no trace of a crash but damage, perhaps to the newest vote: the file is
   refused. So are slots whose numbers are not neighbours: a write between them was lost.
5. Damage to one sector costs nothing: the other copy holds the same vote.

What no file can notice is a disk that says "written" and forgets all of it, in this format or in the older one
(`vote-NAME.json`, one record replaced by rename), which is still read, and removed after the first vote in this one.
"""

import os
import zlib
from pathlib import Path

import msgspec

from gateway.core.node import SavedVote

FORMAT, OLD_FORMAT = 2, 1
SLOT_BYTES = 4_096  # a page, and the largest sector of a disk: what is written of one slot touches none of the other
COPY_BYTES = 2_048
RECORD_BYTES_MAX = 512  # the smallest sector; two names of 64 characters and three numbers take some 300
FILE_BYTES = 2 * SLOT_BYTES
OLD_FILE_BYTES_MAX = 4_096


class VoteFileBroken(Exception):  # noqa: N818 (an answer to the operator, not a traceback)
    """A vote file holds what this program did not write."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One vote; `sequence` counts the votes in the file; 0 is what was known when it was made."""

    format: int
    election: str
    sequence: int
    term: int
    vote: str | None
    checksum: int = 0

    def sum(self) -> int:
        return zlib.crc32(repr((self.format, self.election, self.sequence, self.term, self.vote)).encode())

    def encoded(self) -> bytes:
        """Return the contents of a slot: the record twice, and nothing of what was there before."""
        record = msgspec.json.encode(msgspec.structs.replace(self, checksum=self.sum())) + b"\n"
        assert len(record) <= RECORD_BYTES_MAX, f"a vote of {len(record)} bytes does not fit into a sector"
        return record.ljust(COPY_BYTES, b"\0") * 2


class _OldRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    election: str
    term: int
    vote: str | None
    checksum: int

    def sum(self) -> int:
        return zlib.crc32(repr((self.format, self.election, self.term, self.vote)).encode())


class VoteFiles:
    """The vote files of one node, in `directory` (made if missing)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, election: str) -> Path:
        """Return where the vote in `election` is kept."""
        return self.directory / f"vote-{election}.slots"

    def read(self, election: str) -> SavedVote:
        """Return the saved vote; `SavedVote()` where this node never voted.

        Raises:
            VoteFileBroken: the file is there but damaged.
        """
        newest = self._newest(election)
        if newest is not None:
            return SavedVote(newest.term, newest.vote)
        return self._read_old(election)

    def write(self, election: str, term: int, vote: str) -> None:
        """Put a vote on stable storage. Blocks for as long as the disk takes: call it in a thread.

        Raises:
            OSError: the disk is full, gone or broken; the vote may or may not be there after a crash.
            VoteFileBroken: the file was damaged since the start.
        """
        newest = self._newest(election)
        if newest is None:
            before = self._read_old(election)
            newest = _Record(format=FORMAT, election=election, sequence=0, term=before.term, vote=before.vote)
            self._create(election, newest, msgspec.structs.replace(newest, sequence=1, term=term, vote=vote))
            return
        sequence = newest.sequence + 1
        record = msgspec.structs.replace(newest, sequence=sequence, term=term, vote=vote)
        opened = os.open(self.path(election), os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write_all(opened, record.encoded(), _offset(sequence))
            os.fdatasync(opened)
        finally:
            os.close(opened)

    def _create(self, election: str, zeroth: _Record, first: _Record) -> None:
        """Make the file with its first vote, whole or not at all. The slot beside it says what was before."""
        path = self.path(election)
        fresh = path.with_suffix(".new")
        opened = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for record in (zeroth, first):
                _write_all(opened, record.encoded(), _offset(record.sequence))
            os.fsync(opened)
        finally:
            os.close(opened)
        os.rename(fresh, path)
        self._sync_directory()  # the new name itself must survive the crash, before the old one goes
        self._old_path(election).unlink(missing_ok=True)

    def _sync_directory(self) -> None:
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _newest(self, election: str) -> _Record | None:
        """Return the last vote in the file, None where there is no file."""
        path = self.path(election)
        try:
            with open(path, "rb") as opened:
                data = opened.read(FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(data) != FILE_BYTES:
            raise _broken(path, f"it has not {FILE_BYTES} bytes")
        older, newer = sorted(
            (self._slot(path, election, number, data) for number in (0, 1)), key=lambda record: record.sequence
        )
        if newer.sequence != older.sequence + 1:
            raise _broken(path, f"vote {older.sequence} stands beside vote {newer.sequence}")
        return newer

    def _slot(self, path: Path, election: str, number: int, data: bytes) -> _Record:
        """Return the newer good copy of a slot."""
        start = number * SLOT_BYTES
        copies = (data[at : at + COPY_BYTES] for at in (start, start + COPY_BYTES))
        good = [record for copy in copies if (record := _decode(copy, election, number)) is not None]
        if not good:
            raise _broken(path, f"neither copy in slot {number} is whole")
        return max(good, key=lambda record: record.sequence)

    def _old_path(self, election: str) -> Path:
        return self.directory / f"vote-{election}.json"

    def _read_old(self, election: str) -> SavedVote:
        path = self._old_path(election)
        try:
            data = path.read_bytes()[:OLD_FILE_BYTES_MAX]
        except FileNotFoundError:
            return SavedVote()
        try:
            record = msgspec.json.decode(data, type=_OldRecord)
        except ValueError as error:
            raise _broken(path, str(error)) from error
        if record.format != OLD_FORMAT or record.election != election or record.checksum != record.sum():
            raise _broken(path, "its checksum does not fit")
        return SavedVote(record.term, record.vote)


def _offset(sequence: int) -> int:
    """Return where the vote of this number goes: always over the last but one."""
    return sequence % 2 * SLOT_BYTES


def _decode(copy: bytes, election: str, number: int) -> _Record | None:
    record_bytes = copy.rstrip(b"\0")
    try:
        record = msgspec.json.decode(record_bytes, type=_Record)
    except ValueError:
        return None
    belongs = record.format == FORMAT and record.election == election and record.sequence % 2 == number
    # One text for one record: a bit that JSON does not mind is damage all the same.
    whole = record.checksum == record.sum() and record.encoded()[:COPY_BYTES] == copy
    return record if belongs and whole else None


def _write_all(opened: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):  # a write to a file is short only where the disk is full: then the next one says so
        done += os.pwrite(opened, data[done:], offset + done)


def _broken(path: Path, detail: str) -> VoteFileBroken:
    return VoteFileBroken(
        f"vote file '{path}' is damaged ({detail}): with every node of the cluster running or stopped for more "
        "than a minute, remove it and start again; never remove it to hurry"
    )

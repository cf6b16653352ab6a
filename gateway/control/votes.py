"""Votes on stable storage: the highest term of each election and whom this node voted for in it (rule 1).

One small file an election, written whole, replaced by rename, with a checksum: a file that can't be trusted stops the
start, for a node that has forgotten its vote could vote twice in one term.
"""

import os
import zlib
from pathlib import Path

import msgspec

from gateway.core.node import SavedVote

FORMAT = 1
FILE_BYTES_MAX = 4_096


class VoteFileBroken(Exception):  # noqa: N818 (an answer to the operator, not a traceback)
    """A vote file holds what this program did not write."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
        return self.directory / f"vote-{election}.json"

    def read(self, election: str) -> SavedVote:
        """Return the saved vote; `SavedVote()` where this node never voted.

        Raises:
            VoteFileBroken: the file is there but damaged.
        """
        path = self.path(election)
        try:
            data = path.read_bytes()[:FILE_BYTES_MAX]
        except FileNotFoundError:
            return SavedVote()
        try:
            record = msgspec.json.decode(data, type=_Record)
        except ValueError as error:
            raise self._broken(path, str(error)) from error
        if record.format != FORMAT or record.election != election or record.checksum != record.sum():
            raise self._broken(path, "its checksum does not fit")
        return SavedVote(record.term, record.vote)

    def write(self, election: str, term: int, vote: str) -> None:
        """Put a vote on stable storage. Blocks for as long as the disk takes: call it in a thread."""
        blank = _Record(FORMAT, election, term, vote, 0)
        data = msgspec.json.encode(msgspec.structs.replace(blank, checksum=blank.sum())) + b"\n"
        path = self.path(election)
        fresh = path.with_suffix(".new")
        with open(fresh, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, path)
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the new name itself must survive the crash
        finally:
            os.close(folder)

    @staticmethod
    def _broken(path: Path, detail: str) -> VoteFileBroken:
        return VoteFileBroken(
            f"vote file '{path}' is damaged ({detail}): with every node of the cluster running or stopped for more "
            "than a minute, remove it and start again; never remove it to hurry"
        )

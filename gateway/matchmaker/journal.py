"""Store: the accounting histories on this node's disk, for tasks that must not wait for a disk in the event loop.

Rule: what was acknowledged is on the disk, what is read is proven, nothing is replaced before its successor is whole.

Files of a store's directory:

    accounting.journal              what is held: it grows in place, and is replaced by a newer snapshot
    accounting.journal.new          a snapshot on its way; worth nothing after a crash
    accounting.journal.previous     what was held before: for when a bit flips in what is held
    accounting.journal.damaged      for a person
    pending-POSITION.journal        a history of this node that no leader has yet
    fork-POSITION.journal           the content at POSITION; more may follow, for it may be the file that grows
    lead                            what this node leads or led
    Accountantnew.log.before-TERM   what was replaced in HTCondor's spool
    archive/NAME/                   what was merged or given up
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog
import trio

from gateway.core.timeline import Position, Timeline
from gateway.matchmaker import archive
from gateway.matchmaker.journal_files import (
    Journal,
    JournalRefused,
    Refusal,
    export,
    refusal_of,
)
from gateway.matchmaker.lead import Lead, read_lead, write_lead
from gateway.matchmaker.shelf import Shelf
from gateway.matchmaker.snapshot import SnapshotWriter
from gateway.wire.errors import Malformed

__all__ = ["Held", "JournalRefused", "Lead", "Pending", "Refusal", "SnapshotWriter", "Store"]

log = structlog.get_logger()
T = TypeVar("T")


class Held(msgspec.Struct, frozen=True):
    """What is held, without the content. `timeline.head` is on the disk."""

    timeline: Timeline
    origin: str
    records: int
    ended_s: int


class Pending(msgspec.Struct, frozen=True):
    """A history of this node that no leader has yet."""

    timeline: Timeline
    origin: str
    ended_s: int
    path: Path


_NOTHING: Final = Held(Timeline(), "", 0, 0)


def _held(journal: Journal) -> Held:
    return Held(journal.timeline, journal.head.origin, journal.mark.records, journal.head.ended_s)


class Store:
    """All that a node keeps of one pool's accounting, in `directory` (made if missing, 0700).

    `load` must have run before anything else. File work is done in threads, one piece of it at a time. Every method
    may raise `JournalRefused`, with NO_SPACE or DISK where the disk would not; what was held is held then. A method
    that is cancelled has done its work or has not begun.

    Attributes:
        lead: what this node leads or led.
        refused: how often something was not taken, by the reason.
    """

    def __init__(self, directory: Path | str) -> None:
        self._shelf = Shelf(Path(directory))
        self._lock = trio.Lock()
        self._archiving = trio.Lock()
        self._snapshot: SnapshotWriter | None = None
        self._loaded = False
        self.lead: Lead | None = None
        self.refused: Counter[str] = Counter()

    @property
    def directory(self) -> Path:
        """Return where everything is."""
        return self._shelf.names.directory

    @property
    def held(self) -> Held:
        """Return what is held; an empty timeline where nothing is."""
        journal = self._shelf.held
        return _NOTHING if journal is None else _held(journal)

    @property
    def pending(self) -> tuple[Pending, ...]:
        """Return the histories that no leader has yet, oldest first."""
        return tuple(Pending(one.timeline, one.head.origin, one.head.ended_s, one.path) for one in self._shelf.pending)

    @property
    def forks(self) -> tuple[Position, ...]:
        """Return the positions whose contents are kept, in order."""
        return self._shelf.forks

    @property
    def damaged(self) -> int:
        """Return how many files were found damaged."""
        return self._shelf.damaged

    async def load(self) -> None:
        """Find what is on the disk. Damaged files are passed over, with a log event.

        Raises:
            OSError: the directory can't be made, read or written.
        """
        async with self._lock:
            await trio.to_thread.run_sync(self._load)
            self._loaded = True

    async def append(self, start: Position, data: bytes) -> Position:
        """Add whole transactions behind what is held; return the new head. They are on the disk then.

        Raises:
            JournalRefused: OUT_OF_ORDER (`start` is not the held head), NOT_HELD, CORRUPT_RECORD, NOT_CLOSED, TOO_LONG,
                NO_SPACE, DISK. Nothing was added.
        """
        return await self._do(self._shelf.append, start, data)

    async def open_snapshot(self, timeline: Timeline, origin: str, length: int) -> SnapshotWriter:
        """Begin to take a whole file. One at a time: a former one that was not finished ends.

        Args:
            timeline: its history; `head.offset` is 0 or `length`.
            origin: the node whose negotiator wrote it.
            length: of the file.

        Raises:
            JournalRefused: TOO_LONG, STALE, OUT_OF_ORDER, NO_SPACE, DISK.
        """

        def begin() -> SnapshotWriter:
            if self._snapshot is not None:
                self._snapshot.abandon()
            fresh = self._shelf.begin(timeline, origin, length)
            self._snapshot = SnapshotWriter(self._do, self._shelf.promote, fresh, length)
            return self._snapshot

        return await self._do(begin)

    async def adopt(self, source: Path, timeline: Timeline, origin: str, ended_s: int) -> Position:
        """Hold the closed prefix of a plain accounting file; no work where its bytes are held already.

        Args:
            source: the file.
            timeline: its history; the head's offset is not looked at.
            origin: the node whose negotiator wrote it.
            ended_s: when that stopped, in seconds since 1970; 0 where it did not, or nobody knows.

        Returns:
            The head that is held now.

        Raises:
            JournalRefused: CORRUPT_RECORD (with the end of a transaction behind it), STALE, DIFFERENT (of the same term
                and generation other bytes are held), TOO_LONG, NO_SPACE, DISK.
        """
        # Who leads takes nothing from others: what is held of an earlier term is what its own file began with. The
        # history need not tell that any more (`Timeline.forgotten`).
        led = 0 if self.lead is None else self.lead.timeline.head.term
        return await self._do(functools.partial(self._shelf.adopt, source, timeline, origin, ended_s, led=led))

    async def retell(self, timeline: Timeline) -> None:
        """Take what the leader says of the held history now: the same term and generation, other forks and included.

        Raises:
            JournalRefused: OUT_OF_ORDER, NOT_HELD, NO_SPACE, DISK.
        """
        await self._do(self._shelf.retell, timeline)

    async def make_way(self, leaders: Timeline) -> None:
        """Keep aside what is held and `leaders` does not hold: it is pending then, and held until a snapshot comes.

        Pending histories that what is held holds go to the archive.

        Raises:
            JournalRefused: NO_SPACE, DISK.
        """
        async with self._archiving:
            await self._do(self._shelf.make_way, leaders)

    async def keep_fork(self) -> Position | None:
        """Keep what is held as the content at its head; return that, or None where nothing is held.

        Raises:
            JournalRefused: NO_SPACE, DISK.
        """
        return await self._do(self._shelf.keep_fork)

    async def add_fork(self, position: Position, source: Path) -> None:
        """Keep a journal's file that came from elsewhere as the content at `position`, once it is proven.

        Args:
            position: in it.
            source: the file; it is not changed, and not needed afterwards.

        Raises:
            JournalRefused: OUT_OF_ORDER (of another term or generation), BAD_JOURNAL, BAD_CHECKSUM, NOT_HELD (it does
                not reach so far), CORRUPT_RECORD, NOT_CLOSED, TOO_LONG, NO_SPACE, DISK.
        """
        await self._do(self._shelf.add_fork, position, source)

    async def prune_forks(self, keep: Timeline) -> None:
        """Remove the contents at forks that are not of `keep`, its head or a pending history, and the oldest above 16.

        Raises:
            JournalRefused: DISK.
        """
        await self._do(self._shelf.prune_forks, keep)

    def path_of(self, position: Position) -> Path | None:
        """Return a journal's file with the content at `position`, which may go on behind it; None where there is none.

        To be read up to the position's offset only (see `export`).
        """
        return self._shelf.path_of(position)

    async def export(self, journal: Path, upto: int | None, target: Path) -> Held:
        """Write a journal's plain bytes to `target` (0600, on the disk); every checksum and record is proven.

        Args:
            journal: the journal's file, of this store or from elsewhere.
            upto: how many bytes; None for all that is closed.
            target: replaced where it is there.

        Returns:
            What was written.

        Raises:
            JournalRefused: BAD_JOURNAL, BAD_CHECKSUM, NOT_HELD (it has less), CORRUPT_RECORD, NOT_CLOSED, TOO_LONG,
                NO_SPACE, DISK. `target` is gone then, or as it was.
        """
        with self._named():  # no lock: what it reads does not change, and records go on coming
            return _held(await trio.to_thread.run_sync(export, journal, upto, target))

    async def install(self, accountant_log: Path, uid: int | None = None, gid: int | None = None) -> Position | None:
        """Put what is held in the place of HTCondor's accounting file. Only while no negotiator runs.

        A bit that has flipped since `load` leads to the good part, or to what was held before.

        Args:
            accountant_log: HTCondor's `Accountantnew.log`; it is kept as `.before-TERM` in the store's directory.
            uid: its owner afterwards; None leaves it to who runs this.
            gid: its group.

        Returns:
            The position that was installed; None where nothing is held, or the file holds the same bytes already.

        Raises:
            JournalRefused: CORRUPT_RECORD, BAD_CHECKSUM, NO_SPACE, DISK. The file is as it was.
        """
        return await self._do(self._shelf.install, accountant_log, uid, gid)

    async def take_over(
        self, accountant_log: Path, uid: int | None = None, gid: int | None = None
    ) -> tuple[Held, Position | None]:
        """Install what is held, as `install` does, and keep that very state as a base: nothing comes in between.

        Returns:
            What HTCondor's file holds now, and what `install` returns.

        Raises:
            JournalRefused: as `install` and `keep_fork`.
        """

        def take_over() -> tuple[Held, Position | None]:
            installed = self._shelf.take_over(accountant_log, uid, gid)
            return self.held, installed

        return await self._do(take_over)

    async def replace(self, accountant_log: Path, merged: Path, uid: int | None = None, gid: int | None = None) -> None:
        """Put a plain file that a merge has made in the place of HTCondor's. Only while no negotiator runs.

        Args:
            accountant_log: as for `install`; `.before-TERM` is of the term that this node leads.
            merged: the file; it must be closed.
            uid: as for `install`.
            gid: as for `install`.

        Raises:
            JournalRefused: CORRUPT_RECORD, NOT_CLOSED, TOO_LONG, NO_SPACE, DISK. HTCondor's file is as it was.
        """
        term = self.held.timeline.head.term if self.lead is None else self.lead.timeline.head.term
        await self._do(self._shelf.replace, accountant_log, merged, uid, gid, term)

    async def put_lead(self, lead: Lead | None) -> None:
        """Keep what this node leads or led. Raises `JournalRefused` (NO_SPACE, DISK)."""

        def put() -> None:
            write_lead(self._shelf.names.lead, lead)
            self.lead = lead

        await self._do(put)

    async def archive(self, name: str, files: Mapping[str, Path]) -> Path:
        """Keep files for a person, in a folder of their own; the oldest go above 20 folders and 1 GiB.

        Raises:
            JournalRefused: BAD_NAME, NO_SPACE, DISK.
        """
        async with self._archiving:  # it may take a while, and has nothing to do with what is held
            with self._named():
                names = self._shelf.names
                return await trio.to_thread.run_sync(archive.put, names.archive, name, files, names.directory)

    def _load(self) -> None:
        self._shelf.load()
        self.lead = None
        try:
            self.lead = read_lead(self._shelf.names.lead)
        except (Malformed, OSError) as error:
            self._shelf.damaged += 1
            log.error("journal.lead-damaged", path=str(self._shelf.names.lead), detail=str(error))

    async def _do(self, work: Callable[..., T], *args: object) -> T:
        assert self._loaded, "before load: what is on the disk would be forgotten"
        async with self._lock:
            with self._named():
                return await trio.to_thread.run_sync(functools.partial(work, *args))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Give the errors of a disk a name, and count what is refused."""
        try:
            try:
                yield
            except OSError as error:
                raise JournalRefused(refusal_of(error), str(error)) from error
        except JournalRefused as refusal:
            self.refused[refusal.reason] += 1
            raise

"""Shelf: a store's files, by plain calls that wait for the disk. `gateway.matchmaker.journal` calls them in threads.

Rule: what is held changes in memory only after it has changed on the disk.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.core.timeline import Position, Relation, Timeline, meet, same_file
from gateway.matchmaker import archive
from gateway.matchmaker.accounting_file import put_in_place
from gateway.matchmaker.disk import link, plain, remove, same, space_left, sync
from gateway.matchmaker.journal_files import (
    Contents,
    Fresh,
    Head,
    Journal,
    JournalRefused,
    Refusal,
    announced_bytes,
    at_length,
    encode_head,
    extend,
    find_head,
    proven_closed,
    refusal_of,
    scan_file,
)
from gateway.matchmaker.recovery import Names, recover
from gateway.wire.accountant import FILE_BYTES_MAX
from gateway.wire.errors import Malformed
from gateway.wire.journal import JOURNAL_BYTES_MAX

# Bases of merges that may still come, one a failover: the oldest are of the managers that are away for longest.
FORKS_OLDEST_KEPT: Final = 8
FORKS_KEPT: Final = 32
PENDING_KEPT: Final = 8  # histories that no leader has fetched: as many partitions in a row without a heal between them
SPACE_KEPT_BYTES: Final = 16 * 1024 * 1024  # of the disk, for what others write and for the records to come

_UNREADABLE: Final = (Refusal.BAD_CHECKSUM, Refusal.BAD_JOURNAL, Refusal.NOT_HELD)

log = structlog.get_logger()


class Shelf:
    """See `gateway.matchmaker.journal.Store`: the same, with plain calls. Not for two threads at once."""

    def __init__(self, directory: Path) -> None:
        self.names = Names(directory)
        self.held: Journal | None = None
        self.previous: Journal | None = None
        self.pending: tuple[Journal, ...] = ()
        self.forks: tuple[Position, ...] = ()
        self.damaged = 0

    def load(self) -> None:
        """Find what is on the disk. Raises `OSError`."""
        found = recover(self.names, int(time.time()))
        self.held, self.previous, self.pending, self.forks = found.held, found.previous, found.pending, found.forks
        self.damaged += found.damaged

    # -- what is held

    def append(self, start: Position, data: bytes) -> Position:
        """Add whole transactions."""
        journal = self._require_held()
        if start != journal.timeline.head:
            raise JournalRefused(Refusal.OUT_OF_ORDER, f"records at {start}, {journal.timeline.head} is held")
        if not data:
            return start
        _require_length(journal.mark.length + len(data))
        _require_length(journal.mark.file_bytes + 2 * len(data), JOURNAL_BYTES_MAX)  # a frame weighs less than that
        for _ in proven_closed([data], f"what follows {start}"):
            pass
        self.held = self._extended(journal, [data])
        return self.held.timeline.head

    def begin(self, timeline: Timeline, origin: str, length: int) -> Fresh:
        """Begin a snapshot, which `promote` makes the held journal."""
        _require_length(length)
        if timeline.head.offset not in (0, length):
            raise JournalRefused(Refusal.OUT_OF_ORDER, f"{timeline.head} is not of a file of {length} bytes")
        self._require_newer(at_length(timeline, length))
        self._require_space(length)
        return Fresh(self.names.new, _head(timeline, origin, 0))

    def promote(self, fresh: Fresh) -> Position:
        """Hold a snapshot that is whole; what was held is the previous one then."""
        self._require_newer(fresh.timeline)
        return self._promote(fresh)

    def _promote(self, fresh: Fresh) -> Position:
        journal = fresh.finish()
        if self.held is not None:
            link(self.names.held, self.names.previous)
        os.replace(self.names.new, self.names.held)
        sync(self.names.directory)
        if self.held is not None:
            self.previous = msgspec.structs.replace(self.held, path=self.names.previous)
        self.held = msgspec.structs.replace(journal, path=self.names.held)
        return self.held.timeline.head

    def adopt(self, source: Path, timeline: Timeline, origin: str, ended_s: int, *, led: int) -> Position:
        """Hold the closed prefix of a plain file. One of the term that was `led` here began with what is held."""
        head = _head(timeline, origin, ended_s)
        scan = scan_file(source)
        if scan.fatal:
            raise JournalRefused(Refusal.CORRUPT_RECORD, f"'{source}' has no record at byte {scan.stop_offset}")
        length = scan.closed_length - announced_bytes(source, scan.closed_length)
        held = self.held
        if held is not None and held.reaches(head.timeline.head):
            return self._adopt_more(held, source, head, length)
        if held is None or not held.timeline.head.term < timeline.head.term == led:
            self._require_newer(at_length(timeline, length))
        self._require_space(length)
        fresh = Fresh(self.names.new, head)
        try:
            for piece in plain(source, length):
                fresh.write(piece)
            if fresh.timeline.head.offset != length:
                raise JournalRefused(Refusal.TOO_SHORT, f"'{source}' is being changed")
            return self._promote(fresh)
        finally:
            fresh.drop()

    def retell(self, timeline: Timeline) -> None:
        """Take what the leader says of the held history."""
        journal = self._require_held()
        if not journal.reaches(msgspec.structs.replace(timeline.head, offset=0)):
            raise JournalRefused(Refusal.OUT_OF_ORDER, f"{timeline.head} told of, {journal.timeline.head} held")
        self._say(journal, msgspec.structs.replace(journal.head, timeline=at_length(timeline, 0)))

    def make_way(self, leaders: Timeline) -> None:
        """Keep aside what `leaders` does not hold; it is held as well until something else is."""
        journal = self.held
        if journal is not None and meet(leaders, journal.timeline).relation is not Relation.BEHIND:
            position = journal.timeline.head
            target = self.names.pending(position)
            if not any(one.path == target for one in self.pending):
                link(self.names.held, target)
                sync(self.names.directory)
                self.pending = (*self.pending, msgspec.structs.replace(journal, path=target))
                log.warning("history.pending", position=str(position), leader=str(leaders.head))
        self.archive_pending()

    def archive_pending(self) -> None:
        """Move the histories that what is held holds, and the oldest above `PENDING_KEPT`, to the archive."""
        for one in self.pending:
            known = (
                self.held is not None
                and self.held.timeline.head != one.timeline.head  # it is the same one, and nothing else yet
                and meet(self.held.timeline, one.timeline).relation is Relation.BEHIND
            )
            if not known and len(self.pending) <= PENDING_KEPT:
                continue
            position = one.timeline.head
            try:
                files = {"accounting.journal": one.path}
                archive.put(self.names.archive, f"history-{position}", files, self.names.directory)
                remove(one.path)
                sync(self.names.directory)
            except OSError as error:  # the leader's records must not wait for this
                log.error("history.not-archived", position=str(position), reason=str(error))
                continue
            log.info("history.merged" if known else "history.given-up", position=str(position))
            self.pending = tuple(other for other in self.pending if other is not one)

    # -- forks

    def keep_fork(self) -> Position | None:
        """Keep what is held as the content at its head."""
        if self.held is None:
            return None
        position = self.held.timeline.head
        if position not in self.forks:
            link(self.names.held, self.names.fork(position))
            sync(self.names.directory)
            self._add_fork(position)
        return position

    def add_fork(self, position: Position, source: Path) -> None:
        """Keep a journal's file from elsewhere as the content at `position`."""
        head = _head_of(source)
        own = head.timeline.head
        if not same_file(own, position):
            raise JournalRefused(Refusal.OUT_OF_ORDER, f"{position} is not in a file of {own}")
        self._require_space(position.offset)
        beside = self.names.directory / "fork.journal.new"
        contents = Contents(source, position.offset)
        fresh = Fresh(beside, head)
        try:
            for piece in proven_closed(contents, f"'{source}'"):
                fresh.write(piece)
            journal = fresh.finish()
            if contents.head is not None and contents.head != head:  # it was told anew before that position
                extend(journal, head=contents.head)
            os.replace(beside, self.names.fork(position))
        except BaseException:
            remove(beside)
            raise
        finally:
            fresh.drop()
        sync(self.names.directory)
        self._add_fork(position)

    def prune_forks(self, keep: Timeline) -> None:
        """Remove the contents at forks that are neither of `keep` nor of a history that is yet to be merged."""
        wanted = {keep.head, *(fork.position for fork in keep.forks)}
        wanted.update(fork.position for one in self.pending for fork in one.timeline.forks)
        self._keep_forks([position for position in self.forks if position in wanted])

    def path_of(self, position: Position) -> Path | None:
        """Return a journal's file with the content at `position`."""
        if position in self.forks:
            return self.names.fork(position)
        for journal in (self.held, self.previous, *self.pending):
            if journal is not None and journal.reaches(position):
                return journal.path
        return None

    # -- HTCondor's file

    def install(self, accountant_log: Path, uid: int | None, gid: int | None) -> Position | None:
        """Put what is held in the place of HTCondor's accounting file."""
        try:
            return self._install(accountant_log, uid, gid)
        except JournalRefused as refusal:
            if refusal.reason not in _UNREADABLE:
                raise
            log.error("journal.damaged", path=str(self.names.held), detail=str(refusal))
        self.load()
        return self._install(accountant_log, uid, gid)

    def take_over(self, accountant_log: Path, uid: int | None, gid: int | None) -> Position | None:
        """Install what is held, and keep that very state as a base."""
        installed = self.install(accountant_log, uid, gid)
        self.keep_fork()
        return installed

    def replace(self, accountant_log: Path, merged: Path, uid: int | None, gid: int | None, term: int) -> None:
        """Put a plain file in the place of HTCondor's, in `term`."""
        length = merged.stat().st_size
        _require_length(length)
        self._put(accountant_log, proven_closed(plain(merged, length), f"'{merged}'"), uid, gid, term)

    def _install(self, target: Path, uid: int | None, gid: int | None) -> Position | None:
        journal = self.held
        if journal is None:
            return None
        head, length = journal.timeline.head, journal.mark.length
        if _size(target) == length and same(Contents(journal.path, length), plain(target, length)):
            return None
        self._put(target, proven_closed(Contents(journal.path, length), f"'{journal.path}'"), uid, gid, head.term)
        return head

    def _put(self, target: Path, contents: Iterable[bytes], uid: int | None, gid: int | None, term: int) -> None:
        put_in_place(target, contents, uid=uid, gid=gid, keep_in=self.names.directory, term=term)

    # -- parts

    def _adopt_more(self, held: Journal, source: Path, head: Head, length: int) -> Position:
        """Adopt a file of the term and generation that are held."""
        common = min(length, held.mark.length)
        if not same(Contents(held.path, common), plain(source, common)):
            raise JournalRefused(Refusal.DIFFERENT, f"'{source}' is not the {held.timeline.head} that is held")
        if length > held.mark.length:
            self._require_space(length - held.mark.length)
            self.held = held = self._extended(held, _behind(source, held.mark.length, length))
        self._say(held, msgspec.structs.replace(head, made_s=held.head.made_s))
        return held.timeline.head

    def _say(self, journal: Journal, head: Head) -> None:
        if head != journal.head:
            self.held = self._extended(journal, head=head)

    def _extended(self, journal: Journal, data: Iterable[bytes] = (), head: Head | None = None) -> Journal:
        try:
            return extend(journal, data, head)
        except (JournalRefused, FileNotFoundError):
            self.load()  # somebody else was at it: what is there now is what is held
            raise

    def _add_fork(self, position: Position) -> None:
        self.forks = tuple(sorted({*self.forks, position}))
        self._keep_forks(self.forks)

    def _keep_forks(self, wanted: Sequence[Position]) -> None:
        kept = tuple(wanted)
        if len(kept) > FORKS_KEPT:
            kept = (*kept[:FORKS_OLDEST_KEPT], *kept[FORKS_OLDEST_KEPT - FORKS_KEPT :])
        dropped = set(self.forks) - set(kept)
        for position in dropped:
            remove(self.names.fork(position))
        if dropped:
            sync(self.names.directory)
        self.forks = kept

    def _require_held(self) -> Journal:
        if self.held is None:
            raise JournalRefused(Refusal.NOT_HELD, "nothing is held yet: send a snapshot")
        return self.held

    def _require_newer(self, timeline: Timeline) -> None:
        if self.held is None or meet(timeline, self.held.timeline).relation is Relation.BEHIND:
            return
        if not any(one.timeline.head == self.held.timeline.head for one in self.pending):
            raise JournalRefused(Refusal.STALE, f"{timeline.head} offered, {self.held.timeline.head} is held")

    def _require_space(self, length: int) -> None:
        if space_left(self.names.directory) < length + SPACE_KEPT_BYTES:
            raise JournalRefused(Refusal.NO_SPACE, f"on the disk, for {length} bytes")


def _head(timeline: Timeline, origin: str, ended_s: int) -> Head:
    head = Head(timeline=at_length(timeline, 0), origin=origin, ended_s=ended_s, made_s=int(time.time()))
    encode_head(head)  # refused before anything is done, if at all
    return head


def _require_length(length: int, bytes_max: int | None = None) -> None:
    bytes_max = FILE_BYTES_MAX if bytes_max is None else bytes_max
    if length > bytes_max:
        raise JournalRefused(Refusal.TOO_LONG, f"a file of {length} bytes; at most {bytes_max}")


def _head_of(path: Path) -> Head:
    try:
        return find_head(path)
    except Malformed as damage:
        raise JournalRefused(refusal_of(damage), f"'{path}': {damage}") from None


def _behind(source: Path, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes from `start` to `end` of a plain file."""
    for piece in plain(source, end):
        if (skipped := min(start, len(piece))) < len(piece):
            yield piece[skipped:]
        start -= skipped


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None

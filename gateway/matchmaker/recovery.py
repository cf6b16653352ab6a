"""Recovery: what a store finds on its disk when a node starts, after whatever ended it the last time.

Rule: a good history is never lost for a damaged one, and what is shown is on the disk, also if the crash came before.
"""

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.core.timeline import Position, same_file
from gateway.matchmaker.disk import plain, remove, sync, write_synced
from gateway.matchmaker.former import FORMER_NAMES, convert_former, remove_former
from gateway.matchmaker.journal_files import Found, Journal, cut_off, find, find_head
from gateway.wire.errors import Malformed
from gateway.wire.journal import JOURNAL_BYTES_MAX

NAME: Final = "accounting.journal"

_HALF_DONE: Final = (".new", ".link", ".keeping")
_POSITIONED: Final = re.compile(r"(?:fork|pending)-(\d{1,19})\.(\d{1,19})\.(\d{1,19})\.journal")

# What opening or reading a file may fail with for a reason that will be there the next time.
_OF_THE_FILE: Final = (errno.EIO, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENXIO)

log = structlog.get_logger()


class Names(msgspec.Struct, frozen=True):
    """The files of a store in `directory`."""

    directory: Path

    @property
    def held(self) -> Path:
        """What is held."""
        return self.directory / NAME

    @property
    def new(self) -> Path:
        """A snapshot on its way."""
        return self.directory / f"{NAME}.new"

    @property
    def previous(self) -> Path:
        """What was held before."""
        return self.directory / f"{NAME}.previous"

    @property
    def damaged(self) -> Path:
        """For a person."""
        return self.directory / f"{NAME}.damaged"

    @property
    def lead(self) -> Path:
        """What this node leads or led."""
        return self.directory / "lead"

    @property
    def archive(self) -> Path:
        """What was merged or given up."""
        return self.directory / "archive"

    def pending(self, position: Position) -> Path:
        """Return where a history that no leader has is kept."""
        return self.directory / f"pending-{position}.journal"

    def fork(self, position: Position) -> Path:
        """Return where the content at a fork is kept."""
        return self.directory / f"fork-{position}.journal"


class Recovered(msgspec.Struct, frozen=True):
    """What was found, and how many files were damaged."""

    held: Journal | None
    previous: Journal | None
    pending: tuple[Journal, ...]
    forks: tuple[Position, ...]
    damaged: int


def recover(names: Names, now_s: int) -> Recovered:
    """Find what is there, mend what a crash has left, pass over what is damaged.

    Raises:
        OSError: the directory can't be made, read or written.
    """
    _make(names.directory)
    for path in names.directory.iterdir():
        if path.name.endswith(_HALF_DONE) and path.name not in FORMER_NAMES:
            remove(path)
    damages = _Damages()
    held = _held(names, damages)
    previous = damages.good(names.previous)
    if held is None:
        held = convert_former(names.directory, names.new, now_s)
        if held is not None:
            os.replace(names.new, names.held)
            held = msgspec.structs.replace(held, path=names.held)
            sync(names.directory)
    if held is not None:
        remove_former(names.directory)
    pending = [damages.good(path) for path in _listed(names.directory, "pending-")]
    forks = _forks(names, damages)
    if held is not None:
        sync(names.held)
    sync(names.directory)
    found = sorted((one for one in pending if one is not None), key=lambda one: one.head.made_s)
    return Recovered(held, previous, tuple(found), forks, damages.count)


def _make(directory: Path) -> None:
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        sync(directory.parent)


class _Damages:
    """Looks at files, and tells of those that are not as they were written."""

    def __init__(self) -> None:
        self.count = 0

    def look(self, path: Path) -> Found | None:
        """Return what is at `path`; None where nothing is. Raises `OSError`, but not for a fault of that file."""
        try:
            found = find(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in _OF_THE_FILE:
                raise
            found = Found(None, fault=error)
        if found.fault is not None:
            self.tell(path, str(found.fault))
        elif found.journal is None:
            self.tell(path, "it ends before it is whole")
        return found

    def good(self, path: Path) -> Journal | None:
        """Return the good part of the journal at `path`."""
        found = self.look(path)
        return None if found is None else found.journal

    def tell(self, path: Path, detail: str) -> None:
        """Count a file that is damaged, and say so."""
        self.count += 1
        log.error("journal.damaged", path=str(path), detail=detail)


def _held(names: Names, damages: _Damages) -> Journal | None:
    """Return what is held, cut off where it is no longer good, or else what was held before."""
    found = damages.look(names.held)
    if found is None or found.journal is None:
        if found is not None:
            os.replace(names.held, names.damaged)
        # Who takes away what is held takes away the previous one first: this is where a crash came in between here.
        if not names.previous.exists():
            return None
        os.replace(names.previous, names.held)
        sync(names.directory)
        log.warning("journal.previous-taken")
        return _held(names, damages)
    if found.fault is not None:
        write_synced(names.damaged, plain(names.held, JOURNAL_BYTES_MAX))
    if found.torn or found.fault is not None:
        log.warning("journal.cut-off", position=str(found.journal.timeline.head))
        cut_off(found.journal)
    return found.journal


def _listed(directory: Path, prefix: str) -> Iterable[Path]:
    for path in sorted(directory.iterdir()):
        if path.name.startswith(prefix) and _POSITIONED.fullmatch(path.name):
            yield path


def _forks(names: Names, damages: _Damages) -> tuple[Position, ...]:
    """Return the forks whose files begin well. They are proven when they are read: there may be a gigabyte of them."""
    found = []
    for path in _listed(names.directory, "fork-"):
        words = _POSITIONED.fullmatch(path.name)
        assert words is not None
        position = Position(*map(int, words.groups()))
        try:
            own = find_head(path).timeline.head
            if not same_file(own, position):
                raise OSError(f"it is of {own}")
            if path.stat().st_size < position.offset:
                raise OSError("it ends before that")
        except (Malformed, OSError) as error:
            damages.tell(path, str(error))
            continue
        found.append(position)
    return tuple(sorted(found))

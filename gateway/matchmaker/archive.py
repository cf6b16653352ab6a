"""Archive: what was merged or given up, kept for a person for a while.

Rule: a folder is there whole or not at all; the oldest make room for the newest.
"""

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.matchmaker.disk import opened, pieces, sync, write_synced
from gateway.matchmaker.journal_files import JournalRefused, Refusal

ARCHIVE_KEPT: Final = 20  # folders: one a merge; a person comes before twenty more partitions
ARCHIVE_BYTES_MAX: Final = 1024 * 1024 * 1024

_SAFE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}")


def put(archive: Path, name: str, files: Mapping[str, Path], own: Path) -> Path:
    """Keep `files` in a new folder `name`, or `name.2` and so on; return the folder.

    Args:
        archive: where; made if missing.
        name: of the folder.
        files: name in the folder -> file. Those below `own` are linked, for nobody changes them; others are copied.
        own: see there.

    Raises:
        JournalRefused: BAD_NAME.
        OSError: the disk would not; there is no such folder then.
    """
    for word in (name, *files):
        if not _SAFE.fullmatch(word):
            raise JournalRefused(Refusal.BAD_NAME, f"{word!r} can't be a name in the archive")
    archive.mkdir(mode=0o700, exist_ok=True)
    fresh = archive / ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    for inside, source in files.items():
        if source.is_relative_to(own):
            with contextlib.suppress(OSError):  # another file system
                os.link(source, fresh / inside, follow_symlinks=False)
                sync(fresh / inside)
                continue
        with opened(source) as descriptor:
            write_synced(fresh / inside, pieces(descriptor))
    sync(fresh)
    names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2)))
    folder = next(path for path in map(archive.joinpath, names) if not path.exists())
    os.rename(fresh, folder)
    sync(archive)
    _prune(archive, folder)
    return folder


def _prune(archive: Path, newest: Path) -> None:
    folders = sorted((path.stat().st_ctime_ns, path.name, path) for path in archive.iterdir() if path.name != ".new")
    taken = [sum(inside.stat().st_size for inside in path.iterdir()) for _, _, path in folders]
    while folders and (len(folders) > ARCHIVE_KEPT or sum(taken) > ARCHIVE_BYTES_MAX):
        _, _, oldest = folders.pop(0)
        taken.pop(0)
        if oldest != newest:  # which may be all that there is room for
            shutil.rmtree(oldest, ignore_errors=True)

"""Accounting file: a file takes the place of HTCondor's own. Only while no negotiator runs.

Rule: HTCondor finds the old file or the new one, whole; the old one is kept beside the journals.

It is kept there and not in HTCondor's spool because condor_preen deletes from there whatever it does not know.
"""

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gateway.matchmaker.disk import link, opened, pieces, remove, sync, write_synced
from gateway.wire.charges import TAIL_BYTES

BEFORE_KEPT: Final = 5  # replaced files kept: five failovers to find out that something went wrong


_UPDATE: Final = re.compile(rb"^103 Accountant\. LastUpdateTime (\d{1,19})\n", re.MULTILINE)


def put_in_place(
    target: Path, contents: Iterable[bytes], *, uid: int | None, gid: int | None, keep_in: Path, term: int
) -> None:
    """Replace `target` by `contents`; what was there is `keep_in`/NAME.before-TERM afterwards.

    Raises:
        OSError: the disk would not; `target` is as it was, or new.
        JournalRefused: as `contents` does; `target` is as it was.
    """
    beside = target.with_name(f".{target.name}.install")
    write_synced(beside, contents, uid, gid)
    try:
        _keep(target, keep_in, term)
        os.replace(beside, target)
    except BaseException:
        remove(beside)
        raise
    sync(target.parent)
    with contextlib.suppress(OSError):  # the work is done
        _prune(keep_in, target.name)


def updated_s(path: Path) -> int:
    """Return the last LastUpdateTime in an accounting file, in seconds since 1970; 0 where there is none.

    Raises:
        OSError: it is there, and can't be read.
    """
    found = 0
    try:
        with opened(path) as descriptor:
            rest = b""
            for piece in pieces(descriptor):
                data = rest + piece
                for update in _UPDATE.finditer(data):
                    found = int(update[1])
                rest = data[-TAIL_BYTES:]
    except FileNotFoundError:
        return 0
    return found


def _keep(target: Path, keep_in: Path, term: int) -> None:
    """Keep the file that is about to be replaced; those of earlier times stay, up to `BEFORE_KEPT`."""
    try:
        present = os.lstat(target)
    except FileNotFoundError:
        return
    name = f"{target.name}.before-{term}"
    names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2)))
    kept = next(path for path in map(keep_in.joinpath, names) if not path.exists() or _is(path, present))
    if stat.S_ISREG(present.st_mode):
        with contextlib.suppress(OSError):  # another file system
            link(target, kept)
            sync(kept)
            sync(keep_in)
            return
    fresh = keep_in / f"{target.name}.keeping"
    with opened(target) as descriptor:
        write_synced(fresh, pieces(descriptor))
    os.replace(fresh, kept)
    sync(keep_in)


def _is(path: Path, present: os.stat_result) -> bool:
    """Whether a crash came between the link to `path` and what was to follow."""
    return os.path.samestat(os.lstat(path), present)


def _prune(keep_in: Path, name: str) -> None:
    # A link's own time is the file's last change; that of its inode is when it was replaced.
    kept = sorted(keep_in.glob(f"{name}.before-*"), key=lambda path: (path.stat().st_ctime_ns, path.name))
    for path in kept[:-BEFORE_KEPT]:
        remove(path)

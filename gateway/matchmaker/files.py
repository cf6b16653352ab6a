"""Files: what `replicate file` names, watched on the leader and put in its place on a standby.

Rule: what is shipped is a copy that nobody writes to; what is installed is whole, and was on the disk before its name.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from gateway.matchmaker import disk
from gateway.matchmaker.feed import Feed, Version
from gateway.matchmaker.follow import Writes
from gateway.wire.stream import SHIPPED_FILE_BYTES_MAX

LOOK_MS_MAX: Final = 10_000  # looked at so often even where nothing is said to have changed
# Between two looks: it is copied in whole for each change, and what is replicated here is not worth more.
FILES_INTERVAL_MS: Final = 1_000
TRIES: Final = 3  # to copy a file that is being written to; the next look tries again

log = structlog.get_logger()

_numbers = itertools.count(1)

Stamp = tuple[int, int, int, int]  # device, inode, length, time of the last write in ns


class _Copy(msgspec.Struct, frozen=True):
    stamp: Stamp | None
    descriptor: int = -1
    length: int = 0
    sha256: bytes = b""
    mode: int = 0
    fault: str = ""


async def follow_files(
    paths: tuple[str, ...],
    feed: Feed,
    *,
    scratch: Path,
    watch_writes: Callable[[str], Writes] | None = None,
    interval_ms: int = FILES_INTERVAL_MS,
) -> None:
    """Put each version of the files into `feed`, for ever. A file that is not there is not removed elsewhere.

    Args:
        paths: absolute.
        feed: takes them.
        scratch: a folder with room for a copy of each; the copies have no names there.
        watch_writes: as `gateway.kernel.inotify.FileWatch`; without it the files are looked at all the time.
        interval_ms: between two looks at a file, at least.
    """
    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(_follow_file, path, feed, scratch, watch_writes, interval_ms)


async def _follow_file(
    path: str, feed: Feed, scratch: Path, watch_writes: Callable[[str], Writes] | None, interval_ms: int
) -> None:
    seen: Stamp | None = None
    shown: tuple[bytes, int] | None = None
    complaint = ""
    written: Writes | None = None
    try:
        while True:  # ends with the leadership
            if watch_writes is not None and (written is None or written.lost):
                if written is not None:
                    written.close()
                    written = None
                with contextlib.suppress(OSError):  # no folder yet, or no inotify left
                    written = watch_writes(path)
            copy = await trio.to_thread.run_sync(_copy, path, seen, scratch)
            if copy is not None:
                seen = copy.stamp
                if copy.fault and copy.fault != complaint:
                    log.warning("files.unfit", path=path, fault=copy.fault)
                complaint = copy.fault
                if copy.descriptor >= 0:
                    version = Version(path, copy.descriptor, length=copy.length, sha256=copy.sha256, mode=copy.mode)
                    if (copy.sha256, copy.mode) == shown:
                        version.drop()
                    else:
                        shown = copy.sha256, copy.mode
                        feed.put_file(version)
            if written is not None:
                with trio.move_on_after(LOOK_MS_MAX / 1000):
                    await written.changed()
            await trio.sleep(interval_ms / 1000)
    finally:
        if written is not None:
            written.close()


def _copy(path: str, seen: Stamp | None, scratch: Path) -> _Copy | None:
    """Copy the file; None where it is as `seen`, or not there, or changes all the time."""
    for _ in range(TRIES):
        try:
            with disk.opened(Path(path)) as source:
                stamp = _stamp(os.fstat(source))
                if stamp == seen:
                    return None
                if stamp[2] > SHIPPED_FILE_BYTES_MAX:
                    return _Copy(stamp, fault=f"{stamp[2]} bytes; at most {SHIPPED_FILE_BYTES_MAX}")
                copied = _copied(source, stamp, scratch)
                if copied is not None:
                    return copied
        except FileNotFoundError:
            return None
        except OSError as error:
            return _Copy(None, fault=error.strerror or str(error))
    return None


def _copied(source: int, stamp: Stamp, scratch: Path) -> _Copy | None:
    named = scratch / f"file-{next(_numbers)}.going"
    target = disk.create(named)
    try:
        disk.remove(named)  # gone with its last user, whatever happens
        digest, length = hashlib.sha256(), 0
        for piece in disk.pieces(source):
            length += len(piece)
            if length > stamp[2]:
                break
            digest.update(piece)
            disk.write_all(target, piece)
        after = os.fstat(source)
        if length != stamp[2] or _stamp(after) != stamp:
            os.close(target)
            return None
        return _Copy(stamp, target, length, digest.digest(), stat.S_IMODE(after.st_mode) & 0o777)
    except BaseException:
        os.close(target)
        raise


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


async def install_file(name: str, staged: Path, uid: int | None = None, gid: int | None = None) -> None:
    """Put a replicated file in its place: whole, on the disk, by a rename. What was there keeps its owner and mode.

    Args:
        name: its absolute path.
        staged: a copy, whose permission bits it gets where there is no file yet.
        uid: its owner where there is no file yet; None leaves it to who runs this.
        gid: its group, likewise.

    Raises:
        OSError: it can't be put there; what was there is there.
    """
    await trio.to_thread.run_sync(functools.partial(_install, Path(name), staged, uid, gid))


def _install(target: Path, staged: Path, uid: int | None, gid: int | None) -> None:
    mode = stat.S_IMODE(staged.stat().st_mode) & 0o777
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(target)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(target))
        mode, uid, gid = stat.S_IMODE(found.st_mode) & 0o777, found.st_uid, found.st_gid
    beside = target.with_name(f".{target.name}.replicated")
    descriptor = disk.create(beside, uid, gid)
    try:
        with disk.opened(staged) as source:
            for piece in disk.pieces(source):
                disk.write_all(descriptor, piece)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
        os.replace(beside, target)
    except BaseException:
        disk.remove(beside)
        raise
    finally:
        os.close(descriptor)
    disk.sync(target.parent)

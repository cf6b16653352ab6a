"""Disk: how files are read and written here: in pieces, never whole; and on the disk, not only in memory.

Rule: each call of the system stands here or is named here, so that a test can stop the machine at any of them.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 64 * 1024  # read and written at a time: a thread lets the others have their turn in between
# O_EXCL and O_NOFOLLOW: root writes into a directory of HTCondor's user, who must not choose where.
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Hold a descriptor of a regular file. Raises `OSError`, also for what is no regular file."""
    # O_NONBLOCK: a FIFO in its place would hold the thread for ever.
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def pieces(descriptor: int) -> Iterator[bytes]:
    """Yield a file's bytes from where the descriptor stands. Raises `OSError`."""
    while piece := os.read(descriptor, PIECE_BYTES):
        yield piece


def plain(path: Path, upto: int) -> Iterator[bytes]:
    """Yield the first `upto` bytes of a file, or all that it has. Raises `OSError`."""
    with opened(path) as descriptor:
        while upto and (piece := os.read(descriptor, min(upto, PIECE_BYTES))):
            upto -= len(piece)
            yield piece


def digest_of(path: Path) -> bytes:
    """Return a file's SHA-256; b"" where there is none. Raises `OSError`."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        return b""


def same(one: Iterable[bytes], other: Iterable[bytes]) -> bool:
    """Tell whether two runs of pieces are the same bytes, however they are cut."""
    one, other = iter(one), iter(other)
    ours = theirs = b""
    while True:  # ends at the end of one, or at the first difference
        ours, theirs = ours or next(one, b""), theirs or next(other, b"")
        length = min(len(ours), len(theirs))
        if not length:
            return ours == theirs
        if ours[:length] != theirs[:length]:
            return False
        ours, theirs = ours[length:], theirs[length:]


def create(path: Path, uid: int | None = None, gid: int | None = None) -> int:
    """Return a descriptor of a new file at `path` (0600); what was there is removed. Raises `OSError`."""
    remove(path)
    descriptor = os.open(path, _CREATE, 0o600)
    try:
        if uid is not None or gid is not None:
            os.fchown(descriptor, -1 if uid is None else uid, -1 if gid is None else gid)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_synced(path: Path, contents: Iterable[bytes], uid: int | None = None, gid: int | None = None) -> None:
    """Write a new file at `path`. It is on the disk when this returns, and gone where it raises."""
    descriptor = create(path, uid, gid)
    try:
        for piece in contents:
            write_all(descriptor, piece)
        os.fsync(descriptor)
    except BaseException:
        remove(path)
        raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_at(descriptor: int, data: bytes, offset: int) -> int:
    """Write all of `data` at `offset`; return how much that was. Raises `OSError`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    return len(data)


def link(source: Path, target: Path) -> None:
    """Give a file another name, which another one may have had. Not on the disk until the directory is synced."""
    beside = target.with_name(f".{target.name}.link")
    remove(beside)
    os.link(source, beside, follow_symlinks=False)
    os.replace(beside, target)
    remove(beside)  # rename(2) does nothing where both names are of one file already


def remove(path: Path) -> None:
    """Remove a file that may be there. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def sync(path: Path) -> None:
    """Put a file's bytes, or a directory's names, on the disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def space_left(directory: Path) -> int:
    """Return how many bytes may still be written there. Raises `OSError`."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize

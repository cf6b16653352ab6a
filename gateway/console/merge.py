"""The merge command: accounting files that went on from a common base, into one. Nothing is written that is not proven.

Synchronous, as HTCondor's tools are: it is a command of its own, not a part of the node. Rule: inputs are only read,
OUT appears whole or not at all.
"""

import contextlib
import gc
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.core.reconcile import Merged, NotContinued, Pool, Side, reconcile
from gateway.core.reconcile.sides import ACCOUNTANT
from gateway.wire.accountant import FILE_BYTES_MAX, Scan, Stop, replay_untrusted, scan_untrusted
from gateway.wire.compacted import compact, records_of
from gateway.wire.errors import Malformed

LINE_BYTES_SHOWN = 60
# Four times what a link carries: 100,000 customers take 75 MB, and a file that grew too long is merged all the same.
BYTES_MAX = 4 * FILE_BYTES_MAX


class MergeRefused(Exception):  # noqa: N818 (an answer to the operator)
    """The files can't be merged, or the result can't be written; the text says why. Nothing was written."""


class Given(msgspec.Struct, frozen=True):
    """One side as the operator names it; see `gateway.core.reconcile.Side`."""

    path: Path
    term: int = 0
    took_over_s: int | None = None


class Done(msgspec.Struct, frozen=True):
    """What a merge has written. `warnings` are about the files, in sentences."""

    merged: Merged
    warnings: list[str]


def merge_files(base: Path, sides: Sequence[Given], out: Path, pool: Pool, *, force: bool = False) -> Done:
    """Merge `sides`, which went on from `base`, into `out`: on the disk, and read again, when this returns.

    Args:
        base: what the sides have in common.
        sides: two or more.
        out: the new file, as owned and as readable as the first side.
        pool: what must be known of the pool's configuration.
        force: replace `out` if it is there.

    Raises:
        MergeRefused: nothing was written.
    """
    _check_paths(base, [side.path for side in sides], out, force=force)
    with _no_collection():
        warnings: list[str] = []
        names = _names([base, *(side.path for side in sides)])
        before = _read(Given(base), names[0], warnings)
        parsed = [_read(side, name, warnings) for side, name in zip(sides, names[1:], strict=True)]
        try:
            merged = reconcile(before, parsed, pool)
        except (NotContinued, ValueError) as error:
            raise MergeRefused(str(error)) from error
        del before, parsed
        try:
            _write(merged, out, sides[0].path)
        except OSError as error:
            raise MergeRefused(f"'{out}' cannot be written: {error.strerror}") from error
    return Done(merged, warnings)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of small strings and no cycles: looking for some takes longer than the merge."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_paths(base: Path, sides: Sequence[Path], out: Path, *, force: bool) -> None:
    inputs = [base, *sides]
    for number, path in enumerate(inputs):
        if any(_is_same(path, other) for other in inputs[:number]):
            raise MergeRefused(f"'{path}' is given twice: name the common base, then each side's own file")
    if any(_is_same(path, out) for path in inputs):
        raise MergeRefused(f"'{out}' is one of the files to merge: name another one with -o")
    if os.path.lexists(out) and not force:
        raise MergeRefused(f"'{out}' exists: name another one with -o, or replace it with --force")
    if out.is_dir():
        raise MergeRefused(f"'{out}' is a directory: name a file with -o")


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return path == other  # what can't be opened is refused later, with its reason


def _names(paths: Sequence[Path]) -> list[str]:
    """Return what the report calls each file: its name, or where two have the same, its path."""
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _read(given: Given, name: str, warnings: list[str]) -> Side:
    """Read one accounting file. Raises `MergeRefused` with the file, the byte and the reason."""
    path = given.path
    try:
        data = _bytes_of(path)
        scan = scan_untrusted(data, BYTES_MAX)
    except FileNotFoundError:
        raise MergeRefused(f"'{path}' does not exist") from None
    except OSError as error:
        raise MergeRefused(f"'{path}' cannot be read: {error.strerror}") from None
    except Malformed:
        raise MergeRefused(f"'{path}' has more than {BYTES_MAX} bytes: no accounting file is so long") from None
    if not data:
        raise MergeRefused(f"'{path}' is empty: no negotiator has ever charged on it")
    if scan.stop is Stop.CORRUPT:
        raise MergeRefused(f"'{path}' is corrupt at byte {scan.stop_offset}: {_line(data, scan.stop_offset)}")
    state = replay_untrusted(data, scan.closed_length)
    if not any(name.lower() == "lastupdatetime" for name in state.get(ACCOUNTANT, {})):
        raise MergeRefused(
            f"'{path}' has no LastUpdateTime in its {scan.closed_length} good bytes: no negotiator has charged on it"
        )
    if scan.stop is not Stop.END:
        warnings.append(_unfinished(path, data, scan))
    return Side(
        name=name,
        state=state,
        term=given.term,
        sequence=scan.sequence,
        birthdate_s=scan.birthdate,
        took_over_s=given.took_over_s,
    )


def _bytes_of(path: Path) -> bytes:
    # O_NONBLOCK: a pipe in the place of a file is refused, not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise MergeRefused(f"'{path}' is no file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(BYTES_MAX + 1)
    finally:
        os.close(descriptor)


def _line(data: bytes, offset: int) -> str:
    end = data.find(b"\n", offset)
    line = data[offset : len(data) if end < 0 else end]
    shown = line[:LINE_BYTES_SHOWN].decode("ascii", "backslashreplace")
    return f"{shown!r} is no accounting record" + (" (the start of it)" if len(line) > LINE_BYTES_SHOWN else "")


def _unfinished(path: Path, data: bytes, scan: Scan) -> str:
    what = "record" if scan.stop is Stop.TORN else "transaction"
    left = len(data) - scan.closed_length
    return f"'{path}' ends in an unfinished {what}: its last {left} bytes are left out, as a negotiator does"


def _write(merged: Merged, out: Path, like: Path) -> None:
    """Write the file beside `out`, prove it, and give it its name."""
    fresh = out.with_name(f".{out.name}.merging")
    fresh.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(fresh, flags, 0o600)
    try:
        with open(descriptor, "w+b") as file:
            for piece in compact(merged.state, merged.sequence, merged.birthdate_s):
                file.write(piece)
            file.flush()
            _own_as(descriptor, like)
            os.fsync(descriptor)
            file.seek(0)
            _prove(merged, file.read(BYTES_MAX + 1))
        os.replace(fresh, out)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    directory = os.open(out.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _own_as(descriptor: int, like: Path) -> None:
    """Let HTCondor's user read what root has merged."""
    model = like.stat()
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, model.st_uid, model.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(model.st_mode) | 0o600)


def _prove(merged: Merged, data: bytes) -> None:
    """Read what the disk has as a negotiator would. A difference is a bug of ours, or of the disk."""
    try:
        scan = scan_untrusted(data, BYTES_MAX)
    except Malformed as error:
        raise MergeRefused(
            f"the merged file would be too long for any reader ({error}): nothing was written"
        ) from error
    whole = (scan.stop, scan.closed_length, scan.records) == (Stop.END, len(data), records_of(merged.state))
    if not whole or (scan.sequence, scan.birthdate) != (merged.sequence, merged.birthdate_s):
        raise MergeRefused(
            f"the merged file does not read back whole (byte {scan.stop_offset}, {scan.stop}): nothing was written"
        )

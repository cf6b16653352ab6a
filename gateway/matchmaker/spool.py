"""Spool: the accounting file's replica on this node's disk, and its way into HTCondor's spool.

Rule: what was acknowledged is on the disk, what is read is checked, nothing is replaced before its successor is whole.

Files of a store's directory: `accounting.replica` (the newest), `accounting.replica.previous` (the one before),
`accounting.replica.new` (on its way), and `Accountantnew.log.before-TERM`: what `install` replaced. The latter stand
here and not in HTCondor's spool because condor_preen deletes from there whatever it does not know.
"""

import hashlib
import io
import itertools
import os
import shutil
import struct
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog
import trio

from gateway.wire.accountant import FILE_BYTES_MAX, verify_untrusted
from gateway.wire.errors import Malformed, Reason
from gateway.wire.replica import Kind, Replica

BEFORE_KEPT: Final = 5  # replaced files kept: five failovers to find out that something went wrong

_MAGIC: Final = b"CGREPLI1"
_SUM_BYTES: Final = 32
_HEAD_LENGTH: Final = struct.Struct("!L")
_STORED_BYTES_MAX: Final = FILE_BYTES_MAX + 4096  # the data and its head
COPY_BYTES: Final = 1024 * 1024  # at a time, of a file that is kept

log = structlog.get_logger()


class ReplicaStale(Exception):  # noqa: N818 (an answer, not a failure)
    """The store holds a newer replica than the one that it was given."""


class ReplicaCorrupt(Exception):  # noqa: N818
    """A replica would stop a negotiator from ever starting; nothing was installed."""


class Held(msgspec.Struct, frozen=True):
    """What a store holds, without the data."""

    term: int
    generation: int
    sha256: bytes
    origin: str

    @property
    def version(self) -> tuple[int, int]:
        """Term and generation: the greater is the newer."""
        return self.term, self.generation


class _Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Stands before the data in a replica's file."""

    kind: Kind
    origin: str
    term: int
    generation: int
    sha256: bytes


class ReplicaStore:
    """The newest accounting replica of this node, in `directory` (made if missing, 0700).

    `load` must have run before anything else. All methods work in threads; `put` is one at a time.
    """

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory)
        self._path = self._directory / "accounting.replica"
        self._new = self._directory / "accounting.replica.new"
        self._previous = self._directory / "accounting.replica.previous"
        self._lock = trio.Lock()
        self._loaded = False
        self.held: Held | None = None

    async def load(self) -> Held | None:
        """Find the newest whole replica; also sets `held`. Damaged files are passed over, with a log event.

        Raises:
            OSError: the directory can't be made or read.
        """
        await self.read()
        return self.held

    async def read(self) -> Replica | None:
        """Return the newest whole replica, its checksum proven again; None where there is none."""
        async with self._lock:
            replica = await trio.to_thread.run_sync(self._read_newest)
            self.held = None if replica is None else _held(replica)
            self._loaded = True
            return replica

    async def put(self, replica: Replica) -> None:
        """Keep `replica`. When this returns, it survives a crash. The same one again is no work.

        Raises:
            ReplicaStale: a newer one is held, or another of the same term and generation.
            ReplicaCorrupt: it would stop a negotiator from ever starting.
            OSError: the disk would not; the one before is still there.
        """
        assert self._loaded, "put before load: what is on the disk would be forgotten"
        async with self._lock:
            held = self.held
            if held is not None and held.version >= replica.version:
                if held.version == replica.version and held.sha256 == replica.sha256:
                    return
                raise ReplicaStale(f"{replica.term}.{replica.generation} offered, {held.term}.{held.generation} held")
            await trio.to_thread.run_sync(self._write, replica)
            self.held = _held(replica)

    async def install(self, accountant_log: Path | str, uid: int | None = None, gid: int | None = None) -> Held | None:
        """Put the newest replica in the place of HTCondor's accounting file. Only while no negotiator runs.

        Args:
            accountant_log: HTCondor's `Accountantnew.log`.
            uid: its owner afterwards; None leaves it to who runs this.
            gid: its group.

        Returns:
            What was installed; None where there is no replica, or the file holds the same bytes already.

        Raises:
            ReplicaCorrupt: the replica would stop the negotiator. The file is as it was.
            OSError: the disk would not. The file is as it was, or the replica: never in between.
        """
        replica = await self.read()
        if replica is None:
            return None
        done = await trio.to_thread.run_sync(self._install, replica, Path(accountant_log), uid, gid)
        return _held(replica) if done else None

    def _read_newest(self) -> Replica | None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: dict[Path, Replica] = {}
        for path in (self._path, self._new, self._previous):
            try:
                found[path] = _decode_untrusted(_read_bounded(path, _STORED_BYTES_MAX))
            except FileNotFoundError:
                continue
            except Malformed as damage:
                if path != self._new:  # that one is half written after any crash
                    log.error("replica.damaged", path=str(path), detail=str(damage))
        if not found:
            return None
        newest = max(found, key=lambda path: found[path].version)
        if newest == self._new:
            # A crash before the last rename of _write. Once shown it may not be lost again: finish the work.
            _sync(self._new)
            self._promote_new()
        return found[newest]

    def _write(self, replica: Replica) -> None:
        """Replace the newest. A crash between any two lines leaves it, or its successor, whole under some name."""
        if replica.kind is Kind.ACCOUNTING:
            try:
                verify_untrusted(replica.data)
            except Malformed as damage:
                raise ReplicaCorrupt(f"replica {replica.term}.{replica.generation} is not kept: {damage}") from None
        _write_synced(self._new, io.BytesIO(_encode(replica)))
        self._promote_new()

    def _promote_new(self) -> None:
        if self._path.exists():
            os.replace(self._path, self._previous)
        os.replace(self._new, self._path)
        _sync(self._directory)

    def _install(self, replica: Replica, target: Path, uid: int | None, gid: int | None) -> bool:
        try:
            scan = verify_untrusted(replica.data)
        except Malformed as damage:
            raise ReplicaCorrupt(
                f"replica {replica.term}.{replica.generation} of {replica.origin} is not installed: {damage}"
            ) from None
        data = replica.data[: scan.closed_length]
        if _holds(target, data):
            return False
        if target.exists():
            self._keep(target, replica.term)
        beside = target.with_name(f".{target.name}.install")
        _write_synced(beside, io.BytesIO(data), uid, gid)
        os.replace(beside, target)
        _sync(target.parent)
        self._prune(target.name)
        return True

    def _keep(self, target: Path, term: int) -> None:
        """Copy the file that is about to be replaced; the copies of earlier times stay, up to `BEFORE_KEPT`."""
        name = f"{target.name}.before-{term}"
        names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2)))
        kept = next(path for path in map(self._directory.joinpath, names) if not path.exists())
        fresh = self._directory / f"{target.name}.keeping"
        with open(target, "rb") as present:
            _write_synced(fresh, present)
        os.replace(fresh, kept)
        _sync(self._directory)

    def _prune(self, name: str) -> None:
        kept = sorted(self._directory.glob(f"{name}.before-*"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        for path in kept[:-BEFORE_KEPT]:
            path.unlink(missing_ok=True)


def _held(replica: Replica) -> Held:
    return Held(replica.term, replica.generation, replica.sha256, replica.origin)


def _encode(replica: Replica) -> bytes:
    head = msgspec.msgpack.encode(_Head(replica.kind, replica.origin, replica.term, replica.generation, replica.sha256))
    rest = _HEAD_LENGTH.pack(len(head)) + head + replica.data
    return _MAGIC + hashlib.sha256(rest).digest() + rest


def _decode_untrusted(file: bytes) -> Replica:
    """Return the replica in a store's file. Raises `Malformed`: a disk is no more to be trusted than a network."""
    start = len(_MAGIC) + _SUM_BYTES
    if not file.startswith(_MAGIC):
        raise Malformed(Reason.BAD_MAGIC)
    if len(file) < start + _HEAD_LENGTH.size:
        raise Malformed(Reason.TOO_SHORT, f"{len(file)} bytes")
    if hashlib.sha256(memoryview(file)[start:]).digest() != file[len(_MAGIC) : start]:
        raise Malformed(Reason.BAD_CHECKSUM)
    (head_bytes,) = _HEAD_LENGTH.unpack_from(file, start)
    start += _HEAD_LENGTH.size
    try:
        head = msgspec.msgpack.decode(file[start : start + head_bytes], type=_Head)
    except ValueError as error:
        raise Malformed(Reason.BAD_PAYLOAD, str(error)) from None
    return Replica(
        kind=head.kind,
        origin=head.origin,
        term=head.term,
        generation=head.generation,
        sha256=head.sha256,
        data=file[start + head_bytes :],
    )


def _read_bounded(path: Path, bytes_max: int) -> bytes:
    """Return the file's bytes, at most one more than `bytes_max`."""
    with open(path, "rb") as file:
        return file.read(bytes_max + 1)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _write_synced(path: Path, source: BinaryIO, uid: int | None = None, gid: int | None = None) -> None:
    """Write a new file at `path` (0600) from `source`; it is on the disk when this returns."""
    path.unlink(missing_ok=True)
    # O_EXCL and O_NOFOLLOW: root writes into a directory of HTCondor's user, who must not choose where.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        if uid is not None or gid is not None:
            os.fchown(descriptor, -1 if uid is None else uid, -1 if gid is None else gid)
        shutil.copyfileobj(source, file, COPY_BYTES)
        file.flush()
        os.fsync(descriptor)


def _sync(path: Path) -> None:
    """Put a file's bytes, or a directory's names after a rename, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

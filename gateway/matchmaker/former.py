"""Former: the replica's file of versions before there were journals, read once and never written.

Rule: it is believed only whole, by its checksum.

    CGREPLI1, SHA-256 of the rest, u32 length, msgpack [kind, origin, term, generation, sha256], the accounting file
"""

import hashlib
import os
import struct
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.core.timeline import Position, Timeline
from gateway.matchmaker.disk import opened, pieces, remove, sync
from gateway.matchmaker.journal_files import Fresh, Head, Journal, decode_head_untrusted, encode_head
from gateway.wire.accountant import FILE_BYTES_MAX, Scanner
from gateway.wire.errors import Malformed, Reason

FORMER_NAMES: Final = ("accounting.replica", "accounting.replica.new", "accounting.replica.previous")
_MAGIC: Final = b"CGREPLI1"
_SUM_BYTES: Final = 32
_LENGTH: Final = struct.Struct("!L")
_HEAD_BYTES_MAX: Final = 4096

log = structlog.get_logger()


class _Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    kind: str
    origin: str
    term: int
    generation: int
    sha256: bytes


def convert_former(directory: Path, target: Path, made_s: int) -> Journal | None:
    """Write the newest former replica in `directory` as a journal at `target`; None where there is none.

    Raises:
        OSError: the disk would not.
    """
    found: list[tuple[int, int, Path, _Head, int]] = []
    for name in FORMER_NAMES:
        path = directory / name
        try:
            head, start = _prove_untrusted(path)
        except FileNotFoundError:
            continue
        except (Malformed, OSError) as damage:
            if not name.endswith(".new"):  # that one is half written after any crash
                log.error("journal.former-damaged", path=str(path), detail=str(damage))
            continue
        found.append((head.term, head.generation, path, head, start))
    for _, _, path, head, start in sorted(found, key=lambda one: one[:2], reverse=True):
        if (journal := _convert(path, head, start, target, made_s)) is not None:
            return journal
    return None


def remove_former(directory: Path) -> None:
    """Remove what was converted. Raises `OSError`."""
    paths = [directory / name for name in FORMER_NAMES if (directory / name).exists()]
    for path in paths:
        remove(path)
    if paths:
        sync(directory)


def _convert(path: Path, former: _Head, start: int, target: Path, made_s: int) -> Journal | None:
    scanner = Scanner()
    with opened(path) as descriptor:
        _skip(descriptor, start)
        for piece in pieces(descriptor):
            scanner.feed_untrusted(piece)
    scan = scanner.scan()
    timeline = Timeline(Position(former.term, former.generation, 0))
    head = Head(timeline=timeline, origin=former.origin, ended_s=0, made_s=made_s)
    try:
        decode_head_untrusted(encode_head(head))
    except Malformed as damage:
        log.error("journal.former-damaged", path=str(path), detail=str(damage))
        return None
    if scan.fatal:
        log.error("journal.former-damaged", path=str(path), detail=f"no record at byte {scan.stop_offset}")
        return None
    fresh = Fresh(target, head)
    try:
        with opened(path) as descriptor:
            _skip(descriptor, start)
            left = scan.closed_length
            for piece in pieces(descriptor):
                fresh.write(piece[:left])
                left -= len(piece[:left])
        return fresh.finish()
    finally:
        fresh.drop()


def _prove_untrusted(path: Path) -> tuple[_Head, int]:
    """Return the head, and where the content begins. Raises `Malformed`, `OSError`."""
    with opened(path) as descriptor:
        run = pieces(descriptor)
        first = next(run, b"")
        start = len(_MAGIC) + _SUM_BYTES
        if not first.startswith(_MAGIC):
            raise Malformed(Reason.BAD_MAGIC)
        if len(first) < start + _LENGTH.size:
            raise Malformed(Reason.TOO_SHORT, f"{len(first)} bytes")
        digest = hashlib.sha256(first[start:])
        length = len(first)
        for piece in run:
            length += len(piece)
            if length > FILE_BYTES_MAX + _HEAD_BYTES_MAX:
                raise Malformed(Reason.TOO_LONG, f"more than {FILE_BYTES_MAX} bytes")
            digest.update(piece)
    if digest.digest() != first[len(_MAGIC) : start]:
        raise Malformed(Reason.BAD_CHECKSUM)
    (head_bytes,) = _LENGTH.unpack_from(first, start)
    start += _LENGTH.size
    try:
        head = msgspec.msgpack.decode(first[start : start + min(head_bytes, _HEAD_BYTES_MAX)], type=_Head)
    except ValueError as error:
        raise Malformed(Reason.BAD_PAYLOAD, str(error)) from None
    return head, start + head_bytes


def _skip(descriptor: int, start: int) -> None:
    os.lseek(descriptor, start, os.SEEK_SET)

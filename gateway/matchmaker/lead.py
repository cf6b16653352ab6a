"""Lead: what this node leads, or led when it stopped or died. One small file.

Rule: it is replaced whole, and believed only whole.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

from gateway.core.timeline import Timeline
from gateway.matchmaker.disk import opened, remove, sync, write_synced
from gateway.wire.errors import Malformed, Reason

_MAGIC: Final = b"CGLEAD01"
_SUM_BYTES: Final = 32
_FILE_BYTES_MAX: Final = 64 * 1024  # two timelines are some 20 KiB at most


class Lead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a node leads or led.

    Attributes:
        timeline: its history, at the start of its newest file or later.
        inode: of that file.
        sequence: of that file's first record.
        merging: identifies the merged file that is about to take the file's place; b"" for none.
        merging_timeline: the history of that one.
    """

    timeline: Timeline
    inode: int
    sequence: int
    merging: bytes = b""
    merging_timeline: Timeline | None = None


def write_lead(path: Path, lead: Lead | None) -> None:
    """Keep `lead`, or nothing. Raises `OSError`; the one before is there then."""
    if lead is None:
        remove(path)
    else:
        payload = msgspec.msgpack.encode(lead)
        beside = path.with_name(f"{path.name}.new")
        write_synced(beside, [_MAGIC + hashlib.sha256(payload).digest() + payload])
        os.replace(beside, path)
    sync(path.parent)


def read_lead(path: Path) -> Lead | None:
    """Return what was kept; None where nothing was. Raises `Malformed`, `OSError`."""
    try:
        with opened(path) as descriptor:
            data = os.read(descriptor, _FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    start = len(_MAGIC) + _SUM_BYTES
    if not data.startswith(_MAGIC):
        raise Malformed(Reason.BAD_MAGIC)
    if hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        raise Malformed(Reason.BAD_CHECKSUM)
    try:
        return msgspec.msgpack.decode(data[start:], type=Lead)
    except ValueError as error:
        raise Malformed(Reason.BAD_PAYLOAD, str(error)) from None

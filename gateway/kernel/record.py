"""Records: small files that say what was changed in the kernel, so that a later process can undo it.

A record is whole or not there, also through a crash, and on the disk before the change that it tells of. A record of
another boot or another network namespace is stale: the kernel has forgotten those changes by itself.
"""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any, Final

from gateway.kernel.netlink import KernelRefused

_BYTES_MAX: Final = 262_144  # some hundred bytes in fact


def read_record(path: Path) -> dict[str, Any]:
    """Return what the record says; {} where there is none, or none that this kernel still has to do with.

    Raises:
        KernelRefused: it cannot be read, or somebody else has written it.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_BYTES_MAX)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise KernelRefused(f"read {str(path)!r}", error.errno or 0, "is the disk well?") from error
    try:
        said = json.loads(data)
        value, where = said["changed"], said["where"]
    except (ValueError, TypeError, KeyError) as error:
        remedy = "it is no record of ours: look at it, then remove it"
        raise KernelRefused(f"read {str(path)!r}", errno.EBADMSG, remedy) from error
    return dict(value) if where == _here() else {}


def write_record(path: Path, changed: dict[str, Any]) -> None:
    """Put `changed` (JSON values) into the record; {} removes it. Waits for the disk: call it in a thread.

    Raises:
        KernelRefused: the disk did not take it; the old record is as it was.
    """
    try:
        if not changed:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _replace(path, json.dumps({"where": _here(), "changed": changed}, sort_keys=True).encode() + b"\n")
    except OSError as error:
        remedy = "nothing was changed: give the state directory room"
        raise KernelRefused(f"write {str(path)!r}", error.errno or 0, remedy) from error


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _here() -> str:
    """Name this boot and this network namespace."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return f"{boot} {os.stat('/proc/self/ns/net').st_ino}"

"""Sysctls: kernel settings changed for as long as they are needed. What they were before is on the disk first.

Rule: a setting that somebody else has changed since is theirs, and is not put back.
"""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.kernel.netlink import KernelRefused
from gateway.kernel.record import read_record, write_record

_ROOT: Final = Path("/proc/sys")


class Sysctls:
    """The settings that this node has changed, and their former values in the file `record`.

    One object (and one record) for all that set the same setting: of two, the first that restores takes it from the
    other. Names are paths under /proc/sys, as "net/ipv4/conf/eth0/forwarding": a device's name may contain a dot.

    `set` and `restore` wait for the disk: call them in a thread.
    """

    def __init__(self, record: Path) -> None:
        self._record = record

    def set(self, values: Mapping[str, str]) -> None:
        """Give each setting its value. A former value is recorded once, before the first change of that setting.

        A setting that has its value already is left alone, and so is not put back either.

        Raises:
            KernelRefused: the record can't be written (nothing was changed), the kernel has no such setting or does
                not take the value (those before it are changed; `restore` puts them back).
        """
        wanted = {name: _words(value) for name, value in values.items()}
        changes = {name: (before, value) for name, value in wanted.items() if (before := read_sysctl(name)) != value}
        if not changes:
            return
        recorded = read_record(self._record)
        for name, (before, value) in changes.items():
            recorded[name] = [recorded[name][0] if name in recorded else before, value]
        write_record(self._record, recorded)
        for name, (_, value) in changes.items():
            _write(name, value)

    def restore(self) -> None:
        """Put back what the record says, unless somebody else has changed it meanwhile, and remove the record.

        For a clean stop, and at a start that no longer needs what a crashed process has changed.

        Raises:
            KernelRefused: the record can't be read, or a value not be put back; the others are, the record stays.
        """
        recorded = read_record(self._record)
        refused: KernelRefused | None = None
        for name, (before, ours) in recorded.items():
            try:
                if read_sysctl(name) == ours:
                    _write(name, before)
            except KernelRefused as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):  # gone with its device: nothing to put back
                    refused = error
        if refused is not None:
            raise refused
        write_record(self._record, {})


def read_sysctl(name: str) -> str:
    """Return the value of the setting at /proc/sys/`name`, its words separated by single blanks.

    Raises:
        KernelRefused: the kernel has no such setting (errno ENOENT), or does not show it.
    """
    try:
        return _words((_ROOT / name).read_text(encoding="ascii", errors="replace"))
    except OSError as error:
        raise _refused("read", name, error) from error


def _write(name: str, value: str) -> None:
    try:
        # Not O_CREAT, which `open(..., "w")` brings along and /proc refuses in another way.
        with open(_ROOT / name, "r+", encoding="ascii") as file:
            file.write(value + "\n")
    except OSError as error:
        raise _refused(f"write {value!r} to", name, error) from error


def _words(value: str) -> str:
    return " ".join(value.split())


def _refused(verb: str, name: str, error: OSError) -> KernelRefused:
    remedies = {
        errno.ENOENT: "this kernel has no such setting, or the device is gone",
        errno.EACCES: "run as root",
        errno.EPERM: "run as root",
        errno.EROFS: "/proc/sys is read-only for this service: see ProtectKernelTunables, or the container's options",
    }
    number = error.errno or 0
    return KernelRefused(f"{verb} /proc/sys/{name}", number, remedies.get(number, "nothing was changed"))

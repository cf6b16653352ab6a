"""Stopped disk: a disk that stops at a chosen call, and what may be on it then, after a kill or a loss of power.

Rule: after the stop nothing changes any more, whatever clean-up still runs.

The modules under test call `os` by its name; `StoppedDisk.patch` puts itself in that name's place there. What counts as
on the disk is what POSIX promises: a file's bytes after fsync or fdatasync of it, a name after fsync of its directory.
"""

import os
import shutil
import stat
from pathlib import Path

from gateway.matchmaker import accounting_file, archive, disk, former, journal_files, lead, recovery, shelf

MODULES = (accounting_file, archive, disk, former, journal_files, lead, recovery, shelf)
SURVIVALS = ("everything", "old names", "old bytes", "old names and bytes")


class Stop(BaseException):
    """The machine stopped here."""


class OtherCalls:
    """Stands for the module `os`, with some calls replaced."""

    def __init__(self, **calls) -> None:
        vars(self).update(calls)

    def patch(self, monkeypatch) -> None:
        for module in MODULES:
            if hasattr(module, "os"):
                monkeypatch.setattr(module, "os", self)

    def __getattr__(self, name: str):
        return getattr(os, name)


class StoppedDisk(OtherCalls):
    """Stands for the module `os`: everything below `root` that changes is counted, and noted as on the disk or not."""

    def __init__(self, root: Path, calls_max: int) -> None:
        super().__init__()
        self.calls: list[str] = []
        self._root = root
        self._left = calls_max
        self._serial = 0
        self._files: dict[int, int] = {}  # inode -> serial: inodes are used again
        self._bytes: dict[int, bytes] = {}  # serial -> on the disk
        self._names: dict[Path, dict[str, int]] = {}  # directory -> on the disk
        for directory in self._directories():  # all that is there is on the disk
            for path in directory.iterdir():
                if path.is_file():
                    inode = path.stat().st_ino
                    if inode not in self._files:
                        self._bytes[self._new(inode)] = path.read_bytes()
            self._names[directory] = self._names_now(directory)

    # -- the calls that change something

    def open(self, path, flags, mode=0o777):
        if not flags & os.O_CREAT:
            return os.open(path, flags, mode)
        self._spend("open")
        descriptor = os.open(path, flags, mode)
        self._bytes[self._new(os.fstat(descriptor).st_ino)] = b""
        return descriptor

    def write(self, descriptor, data):
        self._half("write", lambda: os.write(descriptor, data[: len(data) // 2]))
        return os.write(descriptor, data)

    def pwrite(self, descriptor, data, offset):
        self._half("pwrite", lambda: os.pwrite(descriptor, data[: len(data) // 2], offset))
        return os.pwrite(descriptor, data, offset)

    def ftruncate(self, descriptor, length):
        self._spend("ftruncate")
        return os.ftruncate(descriptor, length)

    def fchown(self, descriptor, uid, gid):
        self._spend("fchown")
        return os.fchown(descriptor, uid, gid)

    def fsync(self, descriptor):
        self._spend("fsync")
        self._note(descriptor)

    def fdatasync(self, descriptor):
        self._spend("fdatasync")
        self._note(descriptor)

    def replace(self, source, target):
        self._spend("replace")
        return os.replace(source, target)

    def rename(self, source, target):
        self._spend("rename")
        return os.rename(source, target)

    def link(self, source, target, **options):
        self._spend("link")
        return os.link(source, target, **options)

    def unlink(self, path):
        self._spend("unlink")
        return os.unlink(path)

    # -- what is there after the stop

    def survive(self, target: Path, survival: str) -> None:
        """Make `target` what the next boot finds in the place of `root`."""
        made: dict[int, Path] = {}
        for directory in self._directories():
            now, then = self._names_now(directory), self._names.get(directory, {})
            names = then if "names" in survival else now
            place = target / directory.relative_to(self._root)
            place.mkdir(parents=True, exist_ok=True)
            for name, serial in names.items():
                content = self._bytes[serial]
                if "bytes" not in survival:
                    current = next((directory / other for other, one in now.items() if one == serial), None)
                    content = content if current is None else current.read_bytes()
                if serial in made:
                    os.link(made[serial], place / name)
                else:
                    (place / name).write_bytes(content)
                    made[serial] = place / name
        if (kept := self._root / "state" / "archive").exists():
            shutil.copytree(kept, target / "state" / "archive", dirs_exist_ok=True)

    def _directories(self) -> list[Path]:
        """Where names are noted; folders of an archive are renamed, and left alone."""
        return [self._root, *(path for path in self._root.iterdir() if path.is_dir())]

    def _names_now(self, directory: Path) -> dict[str, int]:
        found = {}
        for path in directory.iterdir():
            if path.is_file():
                inode = path.stat().st_ino
                found[path.name] = self._files[inode] if inode in self._files else self._new(inode)
                self._bytes.setdefault(found[path.name], b"")
        return found

    def _new(self, inode: int) -> int:
        self._serial += 1
        self._files[inode] = self._serial
        return self._serial

    def _note(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if stat.S_ISDIR(status.st_mode):
            if path in self._directories():
                self._names[path] = self._names_now(path)
        elif status.st_ino in self._files:
            self._bytes[self._files[status.st_ino]] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def _spend(self, name: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise Stop(name)
        self.calls.append(name)

    def _half(self, name: str, half) -> None:
        if self._left == 0:
            half()
        self._spend(name)

"""Processes of a lab's hosts: told from all others by start time or by namespace, signalled through pidfds.

A process id alone is never trusted: it may belong to somebody else by now.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import trio

ZOMBIE_STATES = "ZX"
STOPPED_STATES = "Tt"


class Process(msgspec.Struct, frozen=True):
    """One process for all time: its id, and when it started in ticks since the machine's boot."""

    pid: int
    started: int


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, from the state on; empty: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def find(pid: int) -> Process | None:
    """The process that has this id now. Only for an id that has just been learnt from its living parent."""
    fields = _stat(pid)
    return Process(pid, int(fields[19])) if fields else None


def is_alive(process: Process) -> bool:
    """Whether that very process runs (one that has ended and waits to be collected does not)."""
    fields = _stat(process.pid)
    return bool(fields) and fields[0] not in ZOMBIE_STATES and int(fields[19]) == process.started


def send(process: Process, number: int) -> bool:
    """Send a signal to that very process; False: it is gone."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(process.pid)
        try:
            # The start time is read after the pidfd is open: from here on the id cannot pass to another process.
            if is_alive(process):
                signal.pidfd_send_signal(pidfd, number)
                return True
        finally:
            os.close(pidfd)
    return False


async def wait_gone(process: Process, timeout_s: float) -> bool:
    """Wait until that very process has ended; False: it has not within `timeout_s`."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if not is_alive(process):
            return True
        with trio.move_on_after(timeout_s):
            await trio.lowlevel.wait_readable(pidfd)
            return True
        return False
    finally:
        os.close(pidfd)


def in_namespaces(kind: str, keys: set[tuple[int, int]]) -> Iterator[tuple[Process, str]]:
    """Every live process whose namespace of `kind` (net, pid) is one of `keys`, with the letter of its state."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            found = (folder / "ns" / kind).stat()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if (found.st_dev, found.st_ino) not in keys:
            continue
        if (fields := _stat(int(folder.name))) and fields[0] not in ZOMBIE_STATES:
            yield Process(int(folder.name), int(fields[19])), fields[0]


def command_line(pid: int) -> str:
    """The command line of the process that has this id now, its arguments parted by blanks; "": there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def used(pid: int) -> tuple[int, float] | None:
    """Kilobytes of memory that the process of this id has, and seconds of processor it has had; None: it is gone."""
    fields = _stat(pid)
    if not fields:
        return None
    pages, ticks = int(fields[21]), int(fields[11]) + int(fields[12])  # proc(5): rss, utime, stime
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024, ticks / os.sysconf("SC_CLK_TCK")


def named(name: str) -> Iterator[tuple[int, int]]:
    """The process namespaces of the live processes of this name, of which the kernel keeps the first 15 characters."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            if (folder / "comm").read_text().strip() == name[:15] and _stat(int(folder.name))[0] not in ZOMBIE_STATES:
                found = (folder / "ns" / "pid").stat()
                yield found.st_dev, found.st_ino
        except (OSError, IndexError):
            continue  # it has ended


def namespace_key(path: Path) -> tuple[int, int] | None:
    """What tells one namespace from another; None: there is none at `path`."""
    try:
        found = path.stat()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return found.st_dev, found.st_ino

"""The condor_master of this host, held by a pidfd: found, told to read its configuration again, watched.

Rule: a process is signalled only through a pidfd that was opened on it and checked after; never by its number.
"""

import enum
import os
import select
import signal
from types import TracebackType
from typing import Self

import trio

from gateway.matchmaker.condor import CondorHost


class MasterReason(enum.StrEnum):
    """Why this host's condor_master can't be had. Stable names: they are metric labels."""

    NOT_RUNNING = "not-running"
    SEVERAL = "several"  # more than one HTCondor in this PID namespace: which is ours can't be told
    ENDED = "ended"  # it was there, and is gone


class MasterMissing(Exception):  # noqa: N818 (the condition's name)
    """There is no condor_master to talk to."""

    def __init__(self, reason: MasterReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Held:
    """A process held by its pidfd: the number can't come to mean somebody else."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    @classmethod
    def open(cls, pid: int, binary: str) -> Self | None:
        """Hold process `pid` if it runs `binary`; None where it has ended or is another program."""
        try:
            pidfd = os.pidfd_open(pid)
        except (ProcessLookupError, ValueError):
            return None
        if executable(pid) != binary:  # looked at after the pidfd is open: the number can't have changed hands since
            os.close(pidfd)
            return None
        return cls(pid, pidfd)

    @property
    def pidfd(self) -> int | None:
        """The descriptor, which stays this object's own; None when it is closed."""
        return self._pidfd if self._pidfd >= 0 else None

    @property
    def running(self) -> bool:
        """Whether it lives: a process that is dead and not yet collected by its parent does not."""
        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal at once (a system call, microseconds); False where the process has ended."""
        if self._pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    async def wait_exit(self) -> None:
        """Return when the process has ended: at once (a pidfd is readable from then on), or never.

        Several may wait: who watches a negotiator, and who stops it for a swap. Trio lets one task wait for a
        descriptor, so each has a copy.
        """
        if self._pidfd < 0:
            await trio.lowlevel.checkpoint()
            return
        pidfd = os.dup(self._pidfd)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)

    def close(self) -> None:
        """Let go of it. Who waits for its end goes on waiting."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Master(Held):
    """The condor_master of this host."""

    def reconfigure(self) -> None:
        """Have it, and every daemon under it, read the configuration again: SIGHUP, handled within milliseconds.

        Raises:
            MasterMissing: it has ended.
        """
        if not self.signal(signal.SIGHUP):
            raise MasterMissing(MasterReason.ENDED, f"condor_master (pid {self.pid}) has ended: is HTCondor stopped?")

    def child(self, binary: str) -> int | None:
        """Return the pid of its child that runs `binary`, None where there is none. Reads a few lines of /proc."""
        return next((pid for pid in children(self.pid) if executable(pid) == binary), None)


async def find_master(host: CondorHost) -> Master:
    """Find and hold this host's condor_master.

    It is the process of our own PID namespace that runs the master's binary and is not the child of another one
    (a master that forks shows its own binary for a moment). Scans /proc in a thread.

    Raises:
        MasterMissing: NOT_RUNNING, or SEVERAL.
    """
    found = await trio.to_thread.run_sync(processes, host.master)
    masters = [pid for pid, parent in found.items() if parent not in found]
    if len(masters) > 1:
        pids = ", ".join(map(str, sorted(masters)))
        raise MasterMissing(MasterReason.SEVERAL, f"several run here (pids {pids}): end those that are not the pool's")
    master = Master.open(masters[0], host.master) if masters else None
    if master is None:
        raise MasterMissing(MasterReason.NOT_RUNNING, f"no {host.master} runs here: start HTCondor")
    return master


def processes(binary: str) -> dict[int, int]:
    """Return {pid: parent's pid} of the processes in our PID namespace that run `binary`. Blocks for milliseconds."""
    namespace = os.readlink("/proc/self/ns/pid")
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal() or executable(pid := int(name)) != binary:
            continue
        try:
            # Processes of containers are seen from outside, under other numbers: they are not this host's.
            if os.readlink(f"/proc/{pid}/ns/pid") != namespace:
                continue
            found[pid] = _parent(pid)
        except OSError:
            continue  # it has ended meanwhile
    return found


def executable(pid: int) -> str | None:
    """Return the path of the program that `pid` runs (also where an upgrade has replaced it); None: it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return None


def children(pid: int) -> list[int]:
    """Return the pids of the children of `pid` (proc_pid_children(5)); none where it has ended."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        # proc_pid_stat(5): the name in parentheses may hold anything; the state and the parent follow it.
        return int(file.read().rpartition(")")[2].split()[1])

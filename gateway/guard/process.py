"""Processes as the guard needs them: started, held by a pidfd, judged by their state. C modules only.

Rule: nothing here waits, but for the exec of a new process.
"""

import _signal
import posix
import select

# Scheduler states of proc_pid_stat(5).
STOPPED = b"Tt"  # until somebody continues it, who may never come
BUSY = b"RD"  # runs, or is about to; or the kernel has it wait for what comes by itself, as a lock does

_PF_EXITING = 0x4  # linux/sched.h

_abandoned: list[int] = []


def spawn(argv: list[str], passed: list[int]) -> tuple[int, int]:
    """Start `argv` with the descriptors `passed` under their own numbers; return pid and pidfd.

    Raises:
        OSError: EAGAIN, ENOMEM, or `argv[0]` can't be run.
    """
    for descriptor in passed:
        posix.set_inheritable(descriptor, True)
    try:
        # SIGPIPE is ignored by Python, and a child would inherit that.
        pid = posix.posix_spawn(argv[0], argv, posix.environ, setsigdef=(_signal.SIGPIPE, _signal.SIGXFSZ))
    finally:
        for descriptor in passed:
            posix.set_inheritable(descriptor, False)
    return pid, posix.pidfd_open(pid)  # our own child, not yet waited for: the number is still its own


def hasten(pid: int, priority: int) -> None:
    """Let the threads of a process that was killed die at once.

    A process is dead when its last thread is. Those of control that only wait have no real-time priority: with busy
    CPUs they need 5 to 20 ms to be scheduled for their own end.
    """
    try:
        threads = posix.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:  # noqa: SIM105 (contextlib is not imported here)
            posix.sched_setscheduler(int(thread), posix.SCHED_FIFO, posix.sched_param(priority))
        except OSError:  # it has ended; or no real-time priority is granted
            pass


def ended(pidfd: int) -> bool:
    """Whether the process has ended: all of its threads, so that not one system call of it is to come."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def send(pidfd: int, number: int) -> bool:
    """Send a signal; False where the process has ended and was waited for."""
    try:
        _signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def collect(pid: int) -> int | None:
    """Wait for our ended child; return its status, negative for a signal. None: it has not ended."""
    found, status = posix.waitpid(pid, posix.WNOHANG)
    return posix.waitstatus_to_exitcode(status) if found else None


def collect_ended(pid: int) -> int:
    """Return the status of a child that has ended; where a tracer of it (strace, gdb) keeps that, SIGTERM's.

    Such a child is collected once the tracer has let it go.
    """
    status = collect(pid)
    if status is None:
        _abandoned.append(pid)
        return -int(_signal.SIGTERM)
    return status


def abandon(pid: int) -> None:
    """Kill our child, and do not wait for its end: a hung disk may hold it for ever."""
    posix.kill(pid, _signal.SIGKILL)  # not waited for: the number is still its own
    _abandoned.append(pid)


def reap() -> None:
    """Collect the abandoned children that have ended."""
    _abandoned[:] = [pid for pid in _abandoned if collect(pid) is None]


def state(pid: int) -> bytes:
    """Return the letter of the state of our child's first thread; b"" where it has ended. Takes 15 us."""
    text = _read(f"/proc/{pid}/stat")
    return text[text.rindex(b")") + 2 :][:1] if text else b""


def exiting(pid: int) -> bool:
    """Whether our child's first thread is on its way out of the kernel for good (PF_EXITING in proc_pid_stat(5))."""
    text = _read(f"/proc/{pid}/stat")
    return not text or bool(int(text[text.rindex(b")") + 2 :].split()[6]) & _PF_EXITING)


def children(pid: int) -> list[int]:
    """Return the pids of the children of `pid` (proc_pid_children(5)); none where it has ended."""
    return [int(word) for word in _read(f"/proc/{pid}/task/{pid}/children").split()]


def hold(pid: int, binary: str) -> int | None:
    """Return a pidfd of `pid` if it runs `binary`; None where it has ended or is another program."""
    try:
        pidfd = posix.pidfd_open(pid)
    except OSError:
        return None
    try:
        # Looked at after the pidfd is open: the number can't have changed hands since.
        if posix.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)") == binary:
            return pidfd
    except OSError:
        pass
    posix.close(pidfd)
    return None


def _read(path: str) -> bytes:
    try:
        opened = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return posix.read(opened, 4096)
    except OSError:  # ESRCH: it has ended since
        return b""
    finally:
        posix.close(opened)

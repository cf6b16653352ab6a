"""Real time: runs this process before others and keeps its memory in RAM. What is not permitted is said, not fatal.

Call it after all imports: under SCHED_FIFO a busy start would hold its CPU alone. Children and new threads start
with the ordinary scheduler (SCHED_RESET_ON_FORK). Made of C modules alone, for the guard imports it.
"""

import _ctypes
import _signal
import gc
import posix
import resource

CONTROL_PRIORITY = 10  # above everything that is not realtime; below what an administrator runs on purpose

# sys/mman.h
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4

# A loop that runs so long without ever waiting is a bug or a flood. At the first limit the process steps back to
# the ordinary scheduler; at the second the kernel kills it. Without limits a busy SCHED_FIFO loop leaves its CPU
# to others for 50 ms of each second (kernel.sched_rt_runtime_us), and nothing says why the host is dead.
BUSY_US_MAX = 300_000
BUSY_US_KILLED = 1_000_000


def prefer_realtime(priority: int) -> str | None:
    """Ask for SCHED_FIFO at `priority` (1 to 99) and for locked memory. None: both granted; else a warning sentence.

    Must be called on the main thread for the step back to the ordinary scheduler to work; elsewhere there is
    only the kill.
    """
    gc.collect()
    gc.freeze()  # what lives by now lives to the end: a full collection would look through all of it, for 10 to 30 ms
    warnings = [warning for warning in (_schedule(priority), _lock_memory()) if warning is not None]
    return "; ".join(warnings) if warnings else None


def is_realtime() -> bool:
    """Return whether this process runs in real time now: it may have stepped back after a busy spell."""
    return posix.sched_getscheduler(0) & ~posix.SCHED_RESET_ON_FORK == posix.SCHED_FIFO


def _schedule(priority: int) -> str | None:
    try:  # noqa: SIM105 (contextlib is not imported here)
        _signal.signal(_signal.SIGXCPU, _step_back)
    except ValueError:
        pass  # not the main thread
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, (BUSY_US_MAX, BUSY_US_KILLED))
    except (OSError, ValueError) as error:
        return f"no real-time priority: its time limit cannot be set ({error}); timers may be late under load"
    try:
        posix.sched_setscheduler(0, posix.SCHED_FIFO | posix.SCHED_RESET_ON_FORK, posix.sched_param(priority))
    except OSError as error:
        reason = posix.strerror(error.errno or 0).lower()
        return (
            f"no real-time priority ({reason}): timers may be late under load; run as root, give the service"
            " CAP_SYS_NICE, or move it to a cpu cgroup with a real-time share"
        )
    return None


def _step_back(number: int, frame: object) -> None:
    posix.sched_setscheduler(0, posix.SCHED_OTHER, posix.sched_param(0))


def _lock_memory() -> str | None:
    mlockall = _ctypes.dlsym(_ctypes.dlopen(None, 2), "mlockall")  # type: ignore[arg-type] # None: dlopen(3); RTLD_NOW
    # ONFAULT: lock what is used as it is used, not every mapped page; MCL_FUTURE alone would fault in all stacks.
    if _ctypes.call_function(mlockall, (_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT,)) == 0:
        return None
    return (
        "memory is not locked: swapping may delay timers; run as root, give the service CAP_IPC_LOCK, or"
        " raise LimitMEMLOCK"
    )

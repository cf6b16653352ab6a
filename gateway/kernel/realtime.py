"""Real time: runs this process before others and keeps its memory in RAM. What is not permitted is said, not fatal.

Call it after all imports: under SCHED_FIFO a busy start would hold its CPU alone. Children and new threads start
with the ordinary scheduler (SCHED_RESET_ON_FORK).
"""

import ctypes
import os
import resource
import signal
import threading
from types import FrameType

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
    warnings = [warning for warning in (_schedule(priority), _lock_memory()) if warning is not None]
    return "; ".join(warnings) if warnings else None


def is_realtime() -> bool:
    """Return whether this process runs in real time now: it may have stepped back after a busy spell."""
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO


def _schedule(priority: int) -> str | None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGXCPU, _step_back)
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, (BUSY_US_MAX, BUSY_US_KILLED))
    except (OSError, ValueError) as error:
        return f"no real-time priority: its time limit cannot be set ({error}); timers may be late under load"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        return (
            f"no real-time priority ({reason}): timers may be late under load; run as root, give the service"
            " CAP_SYS_NICE, or move it to a cpu cgroup with a real-time share"
        )
    return None


def _step_back(number: int, frame: FrameType | None) -> None:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _lock_memory() -> str | None:
    libc = ctypes.CDLL(None, use_errno=True)
    # ONFAULT: lock what is used as it is used, not every mapped page; MCL_FUTURE alone would fault in all stacks.
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0:
        return None
    reason = os.strerror(ctypes.get_errno()).lower()
    return (
        f"memory is not locked ({reason}): swapping may delay timers; run as root, give the service CAP_IPC_LOCK, or"
        " raise LimitMEMLOCK"
    )

"""Alarms: a file descriptor that becomes readable at a moment of CLOCK_BOOTTIME, the clock by which leases are judged.

Rule: setting one costs microseconds. A trio timeout costs a scope and an exception each time (90 us of a cold CPU, at
every beat), and its clock stands still while the machine sleeps.
"""

import ctypes
import os

# sys/timerfd.h; Python's own os.timerfd_create came with 3.13.
_CLOCK_BOOTTIME = 7
_TFD_TIMER_ABSTIME = 1
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_settime = _libc.timerfd_settime
_settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class Alarm:
    """One alarm, not set at first. `fileno()` is readable from the moment that was set until it is set again.

    Raises:
        OSError: no file descriptor is left.
    """

    def __init__(self) -> None:
        self._fd: int = _libc.timerfd_create(_CLOCK_BOOTTIME, _TFD_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no timer to be had")
        self._when = (ctypes.c_long * 4)()  # struct itimerspec: interval, then value, each in s and ns
        self._pointer = ctypes.addressof(self._when)

    def fileno(self) -> int:
        """Return the file descriptor, to be waited for."""
        return self._fd

    def set(self, at_ms: int) -> None:
        """Ring at `at_ms` of CLOCK_BOOTTIME, at once where that has passed; whatever was set before is forgotten."""
        seconds, ms = divmod(max(at_ms, 1), 1000)  # 0 would mean never
        self._when[2], self._when[3] = seconds, ms * 1_000_000
        if _settime(self._fd, _TFD_TIMER_ABSTIME, self._pointer, None) != 0:
            raise OSError(ctypes.get_errno(), f"no alarm at {at_ms} ms")

    def close(self) -> None:
        """Give the file descriptor back; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

"""Clocks: the time by which leases are judged, and the time that is written in logs.

A lease is judged by `boot_ms` alone, read again right before each act: it goes on while the machine is suspended
and no administrator or time server can move it. `wall_s` is for people.
"""

import time


def boot_ms() -> int:
    """Return CLOCK_BOOTTIME in whole milliseconds; trio's own clock is CLOCK_MONOTONIC and stops in suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_s() -> float:
    """Return the time of day in seconds since 1970, for logs and files that people read."""
    return time.time()


def asleep_ms() -> int:
    """Return for how long the machine has slept since it booted: what CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC."""
    return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)) // 1_000_000

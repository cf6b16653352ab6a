"""Clocks, and what a process gets that asks for real time."""

import os
import signal
import time

import pytest

from gateway.kernel import realtime
from gateway.kernel.clock import boot_ms, wall_s
from tests.support.netns import Host, Segment


def test_boot_clock_is_the_one_that_counts_suspended_time() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
    assert before - 1 <= boot_ms() <= time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
    assert abs(wall_s() - time.time()) < 1


@pytest.fixture
def host(segment: Segment) -> Host:
    return segment.host("gw1")


@pytest.mark.kernel
def test_real_time_is_granted_or_the_warning_says_what_to_do(host: Host) -> None:
    def ask() -> tuple[str | None, bool, bool]:
        warning = realtime.prefer_realtime(10)
        with open("/proc/self/status") as status:
            locked = next(line for line in status if line.startswith("VmLck"))
        return warning, realtime.is_realtime(), int(locked.split()[1]) > 0

    warning, real, locked = host.call(ask)
    assert real == ("real-time priority" not in (warning or ""))
    assert locked == ("memory is not locked" not in (warning or ""))


@pytest.mark.kernel
def test_without_permission_there_is_a_warning_and_no_error(host: Host) -> None:
    def ask() -> tuple[str | None, bool]:
        import resource

        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        return realtime.prefer_realtime(10), realtime.is_realtime()

    warning, real = host.call(ask)
    assert warning is not None
    assert "CAP_SYS_NICE" in warning
    assert "CAP_IPC_LOCK" in warning
    assert real is False


@pytest.mark.kernel
def test_children_get_the_ordinary_scheduler(host: Host) -> None:
    def ask() -> tuple[bool, int]:
        realtime.prefer_realtime(10)
        pid = os.fork()
        if pid == 0:
            os._exit(os.sched_getscheduler(0))
        return realtime.is_realtime(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    real, childs = host.call(ask)
    if not real:
        pytest.skip("no real-time priority is granted here")
    assert childs == os.SCHED_OTHER


@pytest.mark.kernel
def test_a_loop_that_never_waits_steps_back_from_real_time(host: Host) -> None:
    def spin() -> tuple[bool, bool, int]:
        realtime.prefer_realtime(10)
        before = realtime.is_realtime()
        until = time.monotonic() + 5
        while realtime.is_realtime() and time.monotonic() < until:
            pass
        return before, realtime.is_realtime(), signal.getsignal(signal.SIGXCPU) is not signal.SIG_DFL

    before, after, handled = host.call(spin)
    if not before:
        pytest.skip("no real-time priority is granted here")
    assert (after, handled) == (False, True)

"""Alarms ring at the moment that was set, on the clock of the leases."""

import select

import pytest

from gateway.kernel.alarm import Alarm
from gateway.kernel.clock import boot_ms


@pytest.fixture
def alarm():
    made = Alarm()
    yield made
    made.close()


def rings(alarm: Alarm, within_s: float) -> bool:
    return bool(select.select([alarm], [], [], within_s)[0])


def test_an_alarm_never_rings_before_its_moment(alarm):
    for after_ms in (1, 7, 30):
        at_ms = boot_ms() + after_ms
        alarm.set(at_ms)
        assert rings(alarm, 10)
        assert boot_ms() >= at_ms


def test_an_alarm_that_is_set_again_forgets_the_earlier_moment(alarm):
    alarm.set(boot_ms())
    assert rings(alarm, 10)
    alarm.set(boot_ms() + 3_600_000)
    assert not rings(alarm, 0.05)


@pytest.mark.parametrize("at_ms", [0, 1, -5])
def test_a_moment_of_the_past_rings_at_once(alarm, at_ms):
    alarm.set(at_ms)
    assert rings(alarm, 10)


def test_an_alarm_that_was_never_set_is_silent(alarm):
    assert not rings(alarm, 0.05)


def test_an_alarm_may_be_closed_twice(alarm):
    alarm.close()
    alarm.close()

"""The pump beside trio's own tasks: neither keeps the other from its turn, however trio's loop is asked."""

import contextlib
import os

import pytest
import trio

from gateway.control import pump as module
from gateway.control.pump import Pump
from gateway.kernel.alarm import Alarm
from gateway.kernel.clock import boot_ms

BEAT_MS = 2
S_MAX = 20


@pytest.fixture(params=["direct", "indirect"])
def pump(request, monkeypatch):
    if request.param == "indirect":
        monkeypatch.setattr(module._Loop, "of_this_thread", classmethod(lambda cls: None))
    made = Pump()
    made.expected_direct = request.param == "direct"
    return made


class Beat:
    """Something that is due again and again."""

    def __init__(self, pump: Pump) -> None:
        self.count = 0
        self.alarm = Alarm()
        self.alarm.set(boot_ms() + BEAT_MS)
        self.at = {}
        pump.add(self.alarm, self.ring)

    def ring(self) -> None:
        self.count += 1
        self.alarm.set(boot_ms() + BEAT_MS)
        if call := self.at.get(self.count):
            call()


@contextlib.asynccontextmanager
async def running(pump: Pump):
    beat = Beat(pump)
    with trio.fail_after(S_MAX), contextlib.closing(beat.alarm):
        async with trio.open_nursery() as nursery:
            await nursery.start(pump.run)
            assert pump.direct is pump.expected_direct
            yield beat
            nursery.cancel_scope.cancel()


async def test_functions_are_called_while_no_task_runs(pump):
    async with running(pump) as beat:
        await trio.sleep(0.1)
        assert beat.count >= 5


async def test_a_deadline_of_a_task_is_kept_while_the_pump_waits(pump):
    async with running(pump) as beat:
        for _ in range(20):
            before = beat.count
            await trio.sleep(0.005)
            assert beat.count - before < 100  # it came back before the pump had run on for long


async def test_a_task_that_a_function_wakes_runs_at_once(pump):
    async with running(pump) as beat:
        woken, counts = trio.Event(), []
        beat.at[5] = woken.set
        await woken.wait()
        counts.append(beat.count)
        assert counts[0] - 5 <= 2


async def test_a_deadline_that_a_function_brings_forward_is_kept(pump):
    async with running(pump) as beat:
        with trio.CancelScope() as scope:
            beat.at[5] = lambda: setattr(scope, "deadline", trio.current_time() + 0.005)
            await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_a_thread_and_a_descriptor_wake_their_tasks(pump):
    async with running(pump):
        assert await trio.to_thread.run_sync(lambda: 7) == 7
        reading, writing = os.pipe()
        os.write(writing, b"x")
        await trio.lowlevel.wait_readable(reading)
        os.close(reading)
        os.close(writing)


async def test_functions_have_their_turn_beside_a_busy_task(pump):
    async with running(pump) as beat:
        until = trio.current_time() + 0.1
        while trio.current_time() < until:
            await trio.lowlevel.checkpoint()
        assert beat.count >= 5


async def test_tasks_that_were_woken_together_all_run(pump):
    """The pump must not take the thread while one of them waits for its turn in the same batch."""
    async with running(pump) as beat:
        done = []
        go = trio.Event()

        async def one(number: int) -> None:
            await go.wait()
            done.append((number, beat.count))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(one, number)
            beat.at[beat.count + 3] = go.set
        assert len(done) == 10
        assert len({count for _, count in done}) <= 2


async def test_what_a_function_raises_ends_the_pump(pump):
    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="broken"), flatten_subgroups=True):
        async with running(pump) as beat:
            beat.at[3] = fail
            await trio.sleep_forever()


async def test_what_is_not_listened_for_waits(pump):
    async with running(pump) as beat:
        pump.listen(beat.alarm, listen=False)
        await trio.sleep(0.05)
        before = beat.count
        await trio.sleep(0.05)
        assert beat.count == before
        pump.listen(beat.alarm, listen=True)
        await trio.sleep(0.05)
        assert beat.count > before


async def test_nothing_is_called_after_the_end(pump):
    async with running(pump) as beat:
        pass
    before = beat.count
    await trio.sleep(0.05)
    assert beat.count == before
    assert pump.closed
    assert not pump.direct

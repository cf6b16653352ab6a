"""The loop and its timers."""

import os

import trio

from gateway.relay.engine import READABLE, Engine
from gateway.relay.timers import STEP_MS, Timers


def test_timers_fire_in_order_never_early_and_at_most_a_step_late():
    timers, fired = Timers(), []
    for delay_ms in (300, 50, 100):
        timers.after(1000.0, delay_ms, lambda delay_ms=delay_ms: fired.append(delay_ms))
    for now_ms in range(0, 400):
        timers.expire(1000 + now_ms / 1000)
        for delay_ms in (50, 100, 300):
            if now_ms < delay_ms:
                assert delay_ms not in fired
            if now_ms > delay_ms + STEP_MS + 1:
                assert delay_ms in fired
    assert fired == [50, 100, 300]


def test_cancelled_timer_does_not_fire_and_holds_nothing():
    timers = Timers()
    timer = timers.after(0.0, 100, lambda: fail())
    timers.cancel(timer)
    timers.cancel(timer)
    assert timers.next_in(0.0) is None
    timers.expire(1.0)


def fail():
    raise AssertionError("a cancelled timer has fired")


def test_timer_may_cancel_its_neighbour():
    timers = Timers()
    victims = []
    timers.after(0.0, 100, lambda: timers.cancel(victims[0]))
    victims.append(timers.after(0.0, 100, fail))
    timers.expire(1.0)


def test_timer_may_set_itself_anew():
    timers, fired = Timers(), []

    def again():
        fired.append(1)
        timers.after(1.0, 100, again)

    timers.after(0.0, 100, again)
    timers.expire(1.0)
    assert fired == [1]
    assert 0 < timers.next_in(1.0) <= 0.106


class Recorder:
    def __init__(self, act=lambda: None):
        self.heard = 0
        self.act = act

    def on_ready(self, events):
        self.heard += 1
        self.act()


async def test_event_of_a_closed_descriptor_is_not_given_to_its_successor():
    """Both are ready in one poll; the first handler closes the second's descriptor, and its number is used again."""
    engine = Engine()
    pairs = [os.pipe(), os.pipe()]
    successor = Recorder()
    handlers = {}

    def close_the_other(own):
        def act():
            other = pairs[1 - own][0]
            if len(pairs) == 3:
                return
            engine.forget(other)
            os.close(other)
            pairs.append(os.pipe())
            assert pairs[2][0] == other, "the kernel gives the lowest free number"
            engine.watch(pairs[2][0], READABLE, successor)
            engine.after(50, engine.stop)
            engine.unwatch(pairs[own][0])

        return act

    for number in (0, 1):
        handlers[number] = Recorder(close_the_other(number))
        engine.watch(pairs[number][0], READABLE, handlers[number])
        os.write(pairs[number][1], b"x")
    with trio.fail_after(20):
        await engine.run()
    assert sum(handler.heard for handler in handlers.values()) == 1
    assert successor.heard == 0
    for descriptor in {each for pair in pairs for each in pair}:
        os.close(descriptor)


async def test_timers_wake_the_loop_without_any_event():
    engine = Engine()
    engine.after(20, engine.stop)
    with trio.fail_after(20):
        await engine.run()


async def test_busy_loop_still_lets_trio_take_its_turns():
    """A descriptor that is always ready must not starve cancellation."""
    engine = Engine()
    reading, writing = os.pipe()
    os.write(writing, b"x")
    engine.watch(reading, READABLE, Recorder())
    with trio.move_on_after(0.1) as scope:
        await engine.run()
    assert scope.cancelled_caught
    os.close(reading)
    os.close(writing)


async def test_long_task_lets_those_who_are_ready_have_their_turn():
    engine = Engine()
    reading, writing = os.pipe()
    order = []

    def step():
        order.append("step")
        if len(order) == 2:
            os.write(writing, b"!")
        if len(order) < 6:
            engine.soon(step)
        else:
            engine.stop()

    engine.watch(reading, READABLE, Recorder(lambda: (order.append("ready"), os.read(reading, 1))))
    engine.soon(step)
    with trio.fail_after(20):
        await engine.run()
    assert order[0] == "step"
    assert "ready" in order
    assert order[-1] == "step"
    os.close(reading)
    os.close(writing)


async def test_engine_that_lingers_serves_timers_and_descriptors_and_lets_trio_have_its_turn():
    engine = Engine()
    reading, writing = os.pipe()
    served, fired = [], []

    def serve():
        served.append(os.read(reading, 1))
        os.write(writing, b"!")  # there is always something to do

    def fire():
        fired.append(1)
        engine.after(10, fire)

    engine.watch(reading, READABLE, Recorder(serve))
    engine.after(10, fire)
    os.write(writing, b"!")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: engine.run(linger_ms=20))
            for _ in range(5):
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert len(served) > 100
    assert fired
    os.close(reading)
    os.close(writing)


async def test_engine_that_lingers_ends_when_it_is_told_to():
    engine = Engine()
    engine.after(30, engine.stop)
    with trio.fail_after(20):
        await engine.run(linger_ms=1_000)

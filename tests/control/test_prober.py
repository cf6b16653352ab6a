"""The prober beside trio's tasks: one question at a time, at its times, whatever the collector does. Real sockets."""

import contextlib
import time

import pytest
import trio
import trio.lowlevel

from gateway.config.settings import Endpoint
from gateway.control.prober import Prober
from gateway.control.pump import Pump
from gateway.matchmaker.probe import ProbeReason
from gateway.wire.cedar import query_instance_request

ANSWER = bytes.fromhex("01 00000010") + b"0123456789abcdef"
S_MAX = 10


class Said:
    """What a prober has said, and how often it was said."""

    def __init__(self) -> None:
        self.instances: list[str] = []
        self.reasons: list[ProbeReason] = []

    async def until(self, count: int) -> None:
        with trio.fail_after(S_MAX):
            while len(self.instances) + len(self.reasons) < count:  # noqa: ASYNC110 (plain calls say it)
                await trio.sleep(0.002)


async def listen(nursery, behave) -> Endpoint:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, behave, [listener])
    return Endpoint("127.0.0.1", listener.socket.getsockname()[1])


@contextlib.asynccontextmanager
async def probing(endpoint: Endpoint, *, every_ms: int = 20, timeout_ms: int = 200, lag_ms: int = 0):
    """Probe an endpoint; give the prober and what it says."""
    said, pump = Said(), Pump()
    async with trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        prober = Prober(
            endpoint=endpoint,
            pump=pump,
            every_ms=every_ms,
            lag_ms=lag_ms,
            timeout_ms=timeout_ms,
            succeeded=said.instances.append,
            failed=lambda failure: said.reasons.append(failure.reason),
        )
        with prober:
            yield prober, said
        nursery.cancel_scope.cancel()


async def answer(stream) -> None:
    asked = b""
    while len(asked) < len(query_instance_request()):
        asked += await stream.receive_some()
    await stream.send_all(ANSWER)


async def test_a_collector_that_answers_is_asked_again_and_again(nursery):
    async with probing(await listen(nursery, answer)) as (_, said):
        await said.until(5)
    assert set(said.instances) == {"0123456789abcdef"}
    assert said.reasons == []


async def be_silent(stream) -> None:
    await trio.sleep_forever()


async def test_a_collector_that_is_silent_is_late_and_asked_again(nursery):
    async with probing(await listen(nursery, be_silent), timeout_ms=30) as (_, said):
        await said.until(3)
    assert set(said.reasons) == {ProbeReason.TIMED_OUT}


async def test_a_collector_that_comes_back_is_heard(nursery):
    tries = 0

    async def behave(stream):
        nonlocal tries
        tries += 1
        if tries > 2:
            await answer(stream)

    async with probing(await listen(nursery, behave)) as (_, said):
        await said.until(3)
    assert said.reasons == [ProbeReason.CLOSED] * 2
    assert said.instances


async def test_nobody_there_is_refused_each_time():
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets the port meanwhile
        async with probing(Endpoint("127.0.0.1", sock.getsockname()[1])) as (_, said):
            await said.until(3)
    assert set(said.reasons) == {ProbeReason.REFUSED}


async def test_one_question_at_a_time(nursery):
    open_now = most = 0

    async def behave(stream):
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await trio.sleep(0.05)  # longer than the interval
        open_now -= 1
        await answer(stream)

    async with probing(await listen(nursery, behave), every_ms=10, timeout_ms=5_000) as (prober, said):
        with trio.fail_after(S_MAX):
            while len(said.instances) < 3:
                prober.wake()
                await trio.sleep(0.002)
    assert most == 1


async def test_a_question_that_is_due_goes_with_a_wake_up_for_something_else(nursery):
    async with probing(await listen(nursery, answer), every_ms=20, lag_ms=60_000) as (prober, said):
        await said.until(1)
        await trio.sleep(0.05)
        assert len(said.instances) == 1, "it waits for a wake-up"
        prober.wake()
        await said.until(2)


@pytest.mark.parametrize("when", ["waiting", "between"])
async def test_a_prober_that_is_closed_asks_no_more(nursery, when):
    asked = 0

    async def behave(stream):
        nonlocal asked
        asked += 1
        behaviour = be_silent if when == "waiting" else answer
        await behaviour(stream)

    async with probing(await listen(nursery, behave), every_ms=10, timeout_ms=60_000) as (_, said):
        while not asked:  # noqa: ASYNC110
            await trio.sleep(0.002)
    before, said_before = asked, len(said.instances)
    await trio.sleep(0.05)
    assert (asked, len(said.instances)) == (before, said_before)


async def test_a_failure_that_wakes_others_up_does_not_begin_two_questions(nursery):
    """To tell of it is a wake-up, and every wake-up asks whether a question is due."""
    said, pump, probers = Said(), Pump(), []

    def failed(failure) -> None:
        said.reasons.append(failure.reason)
        probers[0].wake()

    endpoint = await listen(nursery, be_silent)
    with trio.fail_after(S_MAX):
        await nursery.start(pump.run)
        probers.append(
            Prober(
                endpoint=endpoint,
                pump=pump,
                every_ms=10,
                lag_ms=0,
                timeout_ms=30,
                succeeded=said.instances.append,
                failed=failed,
            )
        )
        with probers[0]:
            await said.until(5)


async def test_a_question_begun_in_the_turn_of_the_alarm_is_not_late(nursery):
    """The process was late: a heartbeat and the alarm are ready at once, and the heartbeat's wake-up asks first."""
    async with probing(await listen(nursery, answer), every_ms=20, timeout_ms=2_000) as (prober, said):
        await said.until(1)
        for _ in range(20):
            while prober._exchange is not None:
                await trio.lowlevel.checkpoint()
            time.sleep(0.03)  # noqa: ASYNC251 (that is the lateness)
            prober.wake()
            prober._ring()
    assert said.reasons == []

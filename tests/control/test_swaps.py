"""What is done in the negotiator's place: who asked learns of it, and a negotiator runs again only where it may."""

from typing import Any

import pytest
import trio
import trio.testing

from gateway.control.swaps import SwapAbandoned, Swaps, SwapUnsafe, Work


class Negotiator:
    """Stands in for the one of a host: it runs, or it does not."""

    def __init__(self) -> None:
        self.running = True
        self._ended = trio.Event()

    async def start(self) -> None:
        await trio.testing.wait_all_tasks_blocked()  # a process takes its time
        self.running, self._ended = True, trio.Event()

    async def stop(self, grace_ms: int) -> None:
        self.running = False
        self._ended.set()

    async def wait_exit(self) -> None:
        await self._ended.wait()


class Asked:
    """What became of a piece of work: how long no negotiator ran, or an error."""

    answer: Any = None

    async def ask(self, swaps: Swaps, work: Work) -> None:
        try:
            self.answer = await swaps.swap(work)
        except Exception as error:  # noqa: BLE001 (looked at by the test)
            self.answer = error


def swaps_of(negotiator: Any) -> Swaps:
    return Swaps(negotiator, negotiator.start)


async def test_work_is_done_while_no_negotiator_runs_and_it_runs_afterwards() -> None:
    negotiator, seen = Negotiator(), []

    async def work() -> None:
        seen.append(negotiator.running)

    swaps = swaps_of(negotiator)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swaps.run)
        assert await swaps.swap(work) >= 0
        nursery.cancel_scope.cancel()
    assert (seen, negotiator.running, swaps.total) == ([False], True, 1)


async def test_after_unsafe_work_no_negotiator_runs_and_all_who_asked_are_told() -> None:
    negotiator, done = Negotiator(), []

    async def unsafe() -> None:
        await trio.testing.wait_all_tasks_blocked()  # somebody else asks meanwhile
        raise SwapUnsafe("what the file holds can't be kept")

    async def never_done() -> None:
        done.append(True)

    swaps, first, second = swaps_of(negotiator), Asked(), Asked()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.ask, swaps, unsafe)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(second.ask, swaps, never_done)
            with pytest.raises(SwapUnsafe, match="can't be kept"):
                await swaps.run()
    assert isinstance(first.answer, SwapUnsafe)
    assert isinstance(second.answer, SwapAbandoned)
    assert (negotiator.running, done, swaps.total) == (False, [], 0)


async def test_after_work_that_fails_in_any_other_way_the_negotiator_runs_and_more_can_be_done() -> None:
    negotiator, asked = Negotiator(), Asked()

    async def failing() -> None:
        raise OSError("Input/output error")

    swaps = swaps_of(negotiator)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swaps.run)
            await asked.ask(swaps, failing)
            assert isinstance(asked.answer, OSError)
            assert negotiator.running
            assert await swaps.swap(trio.lowlevel.checkpoint) >= 0
            nursery.cancel_scope.cancel()
    assert negotiator.running


async def test_a_swap_is_not_taken_for_the_end_of_the_negotiator_but_unsafe_work_is() -> None:
    negotiator, ended = Negotiator(), trio.Event()
    swaps = swaps_of(negotiator)

    async def watch() -> None:
        await swaps.negotiator_ended()
        ended.set()

    async def unsafe() -> None:
        raise SwapUnsafe("what the file holds can't be kept")

    async def run() -> None:
        with pytest.raises(SwapUnsafe):
            await swaps.run()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(run)
            await swaps.swap(trio.lowlevel.checkpoint)
            await trio.testing.wait_all_tasks_blocked()
            assert not ended.is_set()
            with pytest.raises(SwapUnsafe):
                await swaps.swap(unsafe)
            await ended.wait()

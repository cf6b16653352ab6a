"""When a node should stop: told by a signal, or left alone by its guard. Nothing else ends it from outside."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from gateway.control.guard import GuardLink


@asynccontextmanager
async def open_stop(link: GuardLink) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Give a function that returns when this node should stop. Until the end of the block no signal ends it otherwise.

    Under a guard SIGINT is ignored: a terminal sends it to the whole group, and the guard decides.
    """
    numbers = (signal.SIGTERM,) if link.present else (signal.SIGTERM, signal.SIGINT)
    with trio.open_signal_receiver(*numbers) as signals:

        async def stop_wanted() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_with_guard, link, nursery.cancel_scope)
                await anext(signals)
                nursery.cancel_scope.cancel()

        yield stop_wanted


async def _end_with_guard(link: GuardLink, waiting: trio.CancelScope) -> None:
    await link.lost.wait()
    waiting.cancel()

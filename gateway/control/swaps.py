"""Swaps: what is done to HTCondor's accounting file while, for a moment, an elected manager's negotiator does not run.

Rule: all of it happens within the leadership. Whoever asks learns whether it was done; the negotiator runs again in any
case, as long as this manager is the elected one.
"""

from collections.abc import Awaitable, Callable

import trio

from gateway.kernel.clock import boot_ms
from gateway.matchmaker.negotiator import Negotiator

GRACE_MS = 150  # for the negotiator's own way to end; within the lease, which is at least twice as long

Work = Callable[[], Awaitable[None]]


class SwapAbandoned(Exception):  # noqa: N818 (an answer)
    """The leadership has ended: another leader will see to it."""


class SwapUnsafe(Exception):  # noqa: N818 (an answer)
    """No negotiator may run on what the work has left; the leadership must end."""


class _Request:
    def __init__(self, work: Work) -> None:
        self.work = work
        self.done = trio.Event()
        self.gap_ms: int | None = None
        self.error: Exception | None = None


class Swaps:
    """Runs one piece of work after the other in the negotiator's place.

    Args:
        negotiator: the one of this host.
        start: start it again, where this manager still leads.
    """

    def __init__(self, negotiator: Negotiator, start: Callable[[], Awaitable[None]]) -> None:
        self._negotiator = negotiator
        self._start = start
        self._requests: list[_Request] = []
        self._wanted = trio.Event()
        self._under_way: _Request | None = None
        self.total = 0

    async def swap(self, work: Work) -> int:
        """Have `work` done while no negotiator runs; return for how many ms none ran.

        Raises:
            SwapAbandoned: this manager leads no more.
            Exception: whatever `work` raised; the negotiator runs again.
        """
        request = _Request(work)
        self._requests.append(request)
        self._wanted.set()
        await request.done.wait()
        if request.error is not None:
            raise request.error
        if request.gap_ms is None:
            raise SwapAbandoned
        return request.gap_ms

    async def negotiator_ended(self) -> None:
        """Wait until the negotiator has ended by itself: not because of a swap."""
        await self._negotiator.wait_exit()
        while self._under_way is not None:  # ends with the negotiator after the last swap
            await self._under_way.done.wait()
            await self._negotiator.wait_exit()

    async def run(self) -> None:
        """Do what is asked for; ends by cancellation, with the leadership.

        Raises:
            SwapUnsafe: by the work; the negotiator does not run.
            NegotiatorFailed, MasterMissing: by `start`, or by the stop.
        """
        try:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                while self._requests:  # ends with the last one
                    await self._do(self._requests[0])
                    self._requests.pop(0)
        finally:
            self._under_way = None
            for request in self._requests:
                request.done.set()
            self._requests.clear()
            self._wanted = trio.Event()

    async def _do(self, request: _Request) -> None:
        self._under_way, started_ms = request, boot_ms()
        await self._negotiator.stop(GRACE_MS)
        try:
            await request.work()
        except SwapUnsafe as error:
            request.error = error
            raise
        except Exception as error:  # noqa: BLE001 (handed on)
            request.error = error  # to whoever asked; the pool needs its negotiator whatever it was
        await self._start()
        request.gap_ms = boot_ms() - started_ms
        self._under_way = None
        self.total += 1
        request.done.set()

"""Pump: calls plain functions when their descriptors are readable, on the trio thread, at the cost of plain epoll.

Rule: trio goes first. As soon as a task could run, a descriptor that a task waits for is ready, or a deadline has come,
the thread is trio's.

To take a heartbeat costs some tens of microseconds, and the turn of trio's loop around it 60-90 us of a cold CPU: with
350 wake-ups a second that was a third of what the control process cost. So the pump waits where trio is about to wait
(`before_io_wait` of trio's instruments), on its own descriptors and on the epoll of trio's loop together.

The descriptor of that epoll, and whether a function has woken a task, are not part of trio's interface. Where they are
not found (another version) a task waits in the ordinary way, and all that changes is the cost.
"""

import select
from collections.abc import Callable
from typing import Any, Protocol

import structlog
import trio

WAIT_S_MAX = 60.0  # nothing is due: look again, for the sake of what should not happen


class Readable(Protocol):
    """Anything that epoll can wait for."""

    def fileno(self) -> int:
        """Return its descriptor."""


class Pump(trio.abc.Instrument):
    """Waits for descriptors and calls their functions, which must return within microseconds."""

    def __init__(self) -> None:
        self._awaited = select.epoll()  # our sources and, while it is shared, trio's loop
        self._calls: dict[int, Callable[[], None]] = {}
        self._loop: _Loop | None = None
        self._failure: Exception | None = None
        self._failed = trio.Event()

    @property
    def direct(self) -> bool:
        """Whether trio's loop is shared now."""
        return self._loop is not None

    @property
    def closed(self) -> bool:
        """Whether `run` has ended: nothing can be listened for any more."""
        return self._awaited.closed

    def add(self, source: Readable, call: Callable[[], None], *, listen: bool = True, writable: bool = False) -> None:
        """Call `call` whenever `source` is readable (or `writable`), from now on or once `listen` asks for it."""
        self._calls[source.fileno()] = call
        self._awaited.register(source, (select.EPOLLOUT if writable else select.EPOLLIN) if listen else 0)

    def remove(self, source: Readable) -> None:
        """Forget `source`, before it is closed."""
        self._awaited.unregister(source)
        del self._calls[source.fileno()]

    def listen(self, source: Readable, *, listen: bool) -> None:
        """Heed `source`, or let it wait."""
        self._awaited.modify(source, select.EPOLLIN if listen else 0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait and call; ends by cancellation, or with what a function raises."""
        loop = _Loop.of_this_thread()
        with self._awaited:
            if loop is None:
                structlog.get_logger().info("pump.indirect", reason="this version of trio does not show its loop")
                task_status.started()
                while True:
                    await trio.lowlevel.wait_readable(self._awaited)
                    self._call(self._awaited.poll(0))
            self._awaited.register(loop.descriptor, select.EPOLLIN)
            self._calls[loop.descriptor] = _nothing
            self._loop = loop
            trio.lowlevel.add_instrument(self)
            try:
                task_status.started()
                await self._failed.wait()
                assert self._failure is not None
                raise self._failure
            finally:
                self._loop = None
                trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """Wait in trio's place, until it has something to do. Called by trio, with how long it would wait."""
        loop = self._loop
        if loop is None or self._failure is not None:
            return
        try:
            if timeout <= 0:  # a task is to run; then what is ready here has its turn first
                self._call(self._awaited.poll(0))
                return
            while True:  # ends with anything that is trio's business
                ready = self._awaited.poll(min(timeout, WAIT_S_MAX))
                self._call(ready)
                if any(descriptor == loop.descriptor for descriptor, _ in ready):
                    return  # trio's own wait ends at once
                timeout = loop.idle_s()
                if timeout <= 0:
                    loop.wake()  # trio has planned to wait for as long as it said above
                    return
        except Exception as error:  # noqa: BLE001 (trio would log it and drop the instrument)
            self._failure = error
            self._failed.set()
            loop.wake()

    def _call(self, ready: list[tuple[int, int]]) -> None:
        for descriptor, _ in ready:
            if (call := self._calls.get(descriptor)) is not None:  # else removed by one before it
                call()


class _Loop:
    """Trio's loop in this thread, as far as one must know what it waits for."""

    def __init__(self, runner: Any) -> None:
        self._runnable = runner.runq
        self._deadlines = runner.deadlines
        self._clock = runner.clock
        self._token = trio.lowlevel.current_trio_token()
        self.descriptor: int = runner.io_manager._epoll.fileno()
        self.idle_s()

    @classmethod
    def of_this_thread(cls) -> "_Loop | None":
        """Return the loop that runs the caller, None where it is not as it is known here."""
        try:
            from trio._core._run import GLOBAL_RUN_CONTEXT

            return cls(GLOBAL_RUN_CONTEXT.runner)
        except (ImportError, AttributeError, TypeError, ValueError):
            return None

    def idle_s(self) -> float:
        """Return for how long the loop has nothing to do unless a descriptor becomes ready; 0: a task is to run."""
        if self._runnable:
            return 0.0
        left_s: float = self._clock.deadline_to_sleep_time(self._deadlines.next_deadline())
        return left_s

    def wake(self) -> None:
        """End the wait that the loop is about to begin."""
        self._token.run_sync_soon(_nothing)


def _nothing() -> None:
    """What a loop that is only to be woken runs."""

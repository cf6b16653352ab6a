"""The engine: one trio task waits on an epoll of our own, a plain loop calls who is ready.

Rule: handlers never block and never await. A task for each direction of each connection costs four times this in
memory and half the connection rate (measured), so trio sees one file descriptor, however many there are inside.
"""

import select
import time
from collections.abc import Callable
from typing import Protocol

import trio

from gateway.relay.timers import Timer, Timers

EVENTS_MAX = 64  # of one poll: bounds the wait of a newly ready one behind the rest
POLLS_PER_TURN_MAX = 8  # then trio gets a turn: its signals and cancellation must not starve under load
TURN_MS_MAX = 50  # the same where the engine has trio to itself

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
PEER_SHUT = select.EPOLLRDHUP
HANG_UP = select.EPOLLHUP
BROKEN = select.EPOLLERR
EDGE = select.EPOLLET  # told of changes only: nothing has to be asked for anew, or be silenced


class Handler(Protocol):
    """Who owns a file descriptor."""

    def on_ready(self, events: int) -> None:
        """Act on `events` (an epoll mask). Without EDGE, what is left over is told again."""


class Engine:
    """File descriptors and timers of the relay, and the loop that serves them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._closed_this_poll: set[int] = set()
        self._soon: list[Callable[[], None]] = []
        self._timers = Timers()
        self._stopped = False
        self.now = time.monotonic()  # of the current poll; good enough for idle clocks

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Tell `handler` of `events` on `fd` from now on, in place of what was asked before."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Say nothing more of `fd`, not even that it broke; it stays open."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Forget `fd`, which the caller closes now.

        The kernel takes a closed descriptor out of the epoll itself. Events of this poll that still name the number
        belong to the dead one, even when an accept has handed out the same number again: they are skipped.
        """
        self._handlers.pop(fd, None)
        self._closed_this_poll.add(fd)

    def soon(self, action: Callable[[], None]) -> None:
        """Call `action` once, after those who are ready now: how a long task lets the others have their turn."""
        self._soon.append(action)

    def after(self, delay_ms: float, action: Callable[[], None]) -> Timer:
        """Call `action` once, `delay_ms` from now."""
        return self._timers.after(time.monotonic(), delay_ms, action)

    def cancel(self, timer: Timer) -> None:
        """Forget `timer`, whether or not it has fired."""
        self._timers.cancel(timer)

    def stop(self) -> None:
        """Let `run` return after the current poll."""
        self._stopped = True

    async def run(self, *, linger_ms: float = 0) -> None:
        """Serve until `stop` or cancellation.

        Args:
            linger_ms: wait for so long in our own epoll before going back to trio, whose wait costs more than it takes
                to move a message. All other tasks wait as long: not 0 only where there are none.
        """
        try:
            while not self._stopped:
                await self._wait()
                if linger_ms:
                    self._serve_and_linger(linger_ms / 1000)
                else:
                    for _ in range(POLLS_PER_TURN_MAX):
                        if not self._serve_ready(0) or self._stopped:
                            break
        finally:
            self._epoll.close()

    async def _wait(self) -> None:
        delay_s = 0.0 if self._soon else self._timers.next_in(time.monotonic())
        if delay_s is None:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            return
        with trio.move_on_after(delay_s):
            await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _serve_and_linger(self, linger_s: float) -> None:
        """Serve until nothing has come for a while, or it is trio's turn."""
        timers = self._timers
        turn_ends = time.monotonic() + TURN_MS_MAX / 1000
        while not self._stopped:
            due_s = timers.due_at - self.now
            if not self._serve_ready(linger_s if due_s > linger_s else due_s) or self.now > turn_ends:
                return

    def _serve_ready(self, wait_s: float) -> bool:
        """Poll once and call the handlers and what is due; return whether there may be more at once.

        A wait of less than nothing is none, not an endless one.
        """
        closed, handlers = self._closed_this_poll, self._handlers
        if closed:
            closed.clear()
        ready = self._epoll.poll(0 if self._soon or wait_s < 0 else wait_s, EVENTS_MAX)
        now = self.now = time.monotonic()
        for fd, events in ready:
            handler = handlers.get(fd)  # None: unwatched by a handler before it in this poll
            if handler is not None and fd not in closed:
                handler.on_ready(events)
        if self._soon:
            actions, self._soon = self._soon, []
            for action in actions:
                action()
        if now >= self._timers.due_at:
            self._timers.expire(now)
        return bool(ready) or bool(self._soon)

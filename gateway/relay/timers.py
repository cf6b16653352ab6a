"""Timers: what is to be done later, in coarse steps. Setting and cancelling cost one dictionary entry.

Rule: a timer never fires early, and up to one step late. Nothing here reads a clock: the caller says what time it is.
"""

import heapq
import math
from collections.abc import Callable

STEP_MS = 5  # coarser than any deadline here needs (the shortest is 50 ms), fine enough not to be noticed


class Timer:
    """One thing to do later; hand it to `Timers.cancel` when it need not be done."""

    __slots__ = ("action", "step")

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step = step
        self.action = action


class Timers:
    """Timers in buckets of one step each.

    A relay under load sets and cancels a connect timer for every connection: a plain heap would carry thousands of
    cancelled entries, and the connections that they hold, until they run out. A bucket forgets at once.
    """

    def __init__(self) -> None:
        self.due_at = math.inf  # when to call `expire` next, at the earliest; an attribute: the loop asks all the time
        self._buckets: dict[int, dict[Timer, None]] = {}
        self._steps: list[int] = []  # heap of the keys of `_buckets`

    def after(self, now: float, delay_ms: float, action: Callable[[], None]) -> Timer:
        """Do `action` once, `delay_ms` after `now` (seconds of the caller's monotonic clock)."""
        step = int((now * 1000 + delay_ms) / STEP_MS) + 1
        timer = Timer(step, action)
        bucket = self._buckets.get(step)
        if bucket is None:
            self._buckets[step] = {timer: None}
            heapq.heappush(self._steps, step)
            self.due_at = self._steps[0] * STEP_MS / 1000
        else:
            bucket[timer] = None
        return timer

    def cancel(self, timer: Timer) -> None:
        """Forget `timer`; one that has fired already is forgotten already."""
        bucket = self._buckets.get(timer.step)
        if bucket is not None:
            bucket.pop(timer, None)

    def next_in(self, now: float) -> float | None:
        """Return the seconds until the next timer may fire, at least 0; None where nothing is set."""
        while self._steps and not self._buckets[self._steps[0]]:
            del self._buckets[heapq.heappop(self._steps)]
        if not self._steps:
            self.due_at = math.inf
            return None
        self.due_at = self._steps[0] * STEP_MS / 1000
        return max(0.0, self.due_at - now)

    def expire(self, now: float) -> None:
        """Fire all timers that are due, in the order of their steps."""
        due = int(now * 1000 / STEP_MS)
        while self._steps and self._steps[0] <= due:
            # Popped one by one: an action may cancel a neighbour in the same bucket.
            bucket = self._buckets[self._steps[0]]
            while bucket:
                timer = next(iter(bucket))
                del bucket[timer]
                timer.action()
            del self._buckets[heapq.heappop(self._steps)]
        self.due_at = self._steps[0] * STEP_MS / 1000 if self._steps else math.inf

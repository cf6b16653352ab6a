"""Sources: how many connections each client address has, and how fast it makes new ones.

Rule: a source is forgotten when it has no connection and its bucket is full again, so it costs what connections cost.
"""

BURST_S = 10  # so many seconds' worth may come at once: what a host, or a whole site behind one address, has reconnects
FORGET_S = BURST_S  # between two looks at the buckets


class Sources:
    """The client addresses of one TCP listener. Limits come with each question: they may change."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._buckets: dict[str, tuple[float, float]] = {}  # what was left in it, and when (the monotonic clock)
        self._looked_at = 0.0

    def __len__(self) -> int:
        return len(self._open.keys() | self._buckets.keys())

    def is_too_fast(self, source: str, rate_max: int, now: float) -> bool:
        """Count a new connection; whether it is one too many: then it is not counted."""
        if now - self._looked_at >= FORGET_S:
            self._forget_full(rate_max, now)
        burst = BURST_S * rate_max
        left, at = self._buckets.get(source, (burst, now))
        left = min(burst, left + (now - at) * rate_max)
        if left < 1:
            return True
        self._buckets[source] = left - 1, now
        return False

    def _forget_full(self, rate_max: int, now: float) -> None:
        burst = BURST_S * rate_max
        self._buckets = {
            source: (left, at) for source, (left, at) in self._buckets.items() if left + (now - at) * rate_max < burst
        }
        self._looked_at = now

    def has_too_many(self, source: str, open_max: int) -> bool:
        """Whether the source has as many connections as it may."""
        return self._open.get(source, 0) >= open_max

    def add(self, source: str) -> None:
        """Note one more connection."""
        self._open[source] = self._open.get(source, 0) + 1

    def remove(self, source: str) -> None:
        """Note that one of its connections is gone."""
        count = self._open[source]
        if count > 1:
            self._open[source] = count - 1
        else:
            del self._open[source]

"""Sources: how many connections each client address has, and how many new ones it has made in this second.

Rule: nobody is remembered for longer than a second after his last connection, so it costs what the connections cost.
"""

SECOND_S = 1.0


class Sources:
    """The client addresses of one TCP listener. Limits come with each question: they may change; 0 is none."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._new: dict[str, int] = {}  # since `_since`
        self._since = 0.0

    def is_too_fast(self, source: str, rate_max: int, now: float) -> bool:
        """Count a new connection; whether it is one too many in this second of the monotonic clock."""
        if now - self._since >= SECOND_S:
            self._new.clear()
            self._since = now
        new = self._new.get(source, 0)
        if new >= rate_max:
            return True
        self._new[source] = new + 1
        return False

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

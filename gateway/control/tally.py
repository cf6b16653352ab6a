"""Tally: what the kernel has counted for one backend: totals, rates, and how much of it by each server.

Rule: totals never go back, also where the rules were built anew and count from 0. Reads no clock and asks nobody.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

RATE_S_MIN: Final = 0.9  # rates are those of at least so long, however often somebody looks
_OF_FORMER: Final = frozenset({"reset"})  # ends what a former server had


class Tally:
    """What was counted by the rules of one backend at one place. Names of figures are the caller's.

    Totals are the kernel's own, a former process' time included; the servers' parts begin with this process, and with
    the counters as they are at the first `take`.
    """

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.rates: dict[str, float] = {}  # per second
        self.servers: dict[str, Counter[str]] = {}
        self.elected: str | None = None
        self.former: str | None = None  # the last server before the elected one
        self._last: dict[str, int] | None = None
        self._since: tuple[float, Counter[str]] | None = None  # where the interval of the rates begins

    def follow(self, server: str | None) -> None:
        """Count what comes from now on as that of `server`; `take` first what was counted until now.

        None: nobody is elected. What is open goes on to the last server, and is counted as its own.
        """
        if server is not None and server != self.elected:
            self.former, self.elected = self.elected, server

    def take(self, counted: Mapping[str, int], now_s: float) -> None:
        """Take the counters as they are now."""
        last = self._last
        self._last = dict(counted)
        # A counter that is less than before is that of new rules: all that it says has come since.
        before = {name: (last or {}).get(name, 0) for name in counted}
        grown = Counter({name: now - before[name] if now >= before[name] else now for name, now in counted.items()})
        self.totals.update(grown)
        if last is not None:
            for name, number in grown.items():
                server = self.former if name in _OF_FORMER else self.elected
                if server is not None:
                    self.servers.setdefault(server, Counter())[name] += number
        self._rate(now_s)

    def _rate(self, now_s: float) -> None:
        if self._since is not None and now_s - self._since[0] < RATE_S_MIN:
            return
        if self._since is not None:
            since_s, then = self._since
            self.rates = {name: (self.totals[name] - then[name]) / (now_s - since_s) for name in self.totals}
        self._since = now_s, Counter(self.totals)

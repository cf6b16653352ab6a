"""The executor of wills: begins each at its time, goes on with what takes longer, and posts the letters. Never waits.

Rule: an address' will never waits for a matchmaker's; each is gone on with by itself.
"""

from __future__ import annotations

from gateway.guard.will import KILLED_MS_MAX, Hands, Will

TYPE_CHECKING = False  # `typing` takes 9 ms and 2 MiB, for nothing at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Executor:
    """The wills that have been begun. `fenced` is told of an election whose lease has ended with control alive."""

    def __init__(self, fenced: Callable[[str], None]) -> None:
        self._fenced = fenced
        self._hands = Hands()
        self._undone: list[Will] = []  # begun, and not yet certain
        self.posted = 0  # letters, in all

    @property
    def busy(self) -> bool:
        """Whether a will has been begun and is not certain yet."""
        return bool(self._undone)

    def strike(self, wills: Iterable[Will], now_ms: int) -> None:
        """Do of each what takes microseconds. May be done again."""
        for will in wills:
            will.strike(self._hands, now_ms)

    def bequeath(self, wills: Iterable[Will], now_ms: int) -> None:
        """Do the wills of a control that takes no step any more, letters and all; those that take longer last."""
        wills = sorted(wills, key=lambda will: will.at_end)
        self.strike(wills, now_ms)
        for will in wills:
            will.bequeathed_ms = now_ms
            self.begin(will, now_ms)

    def begin(self, will: Will, now_ms: int) -> None:
        """Do a will as far as it goes now; the rest follows."""
        if will.struck_ms is None:
            will.strike(self._hands, now_ms)
        if not self._advance(will, now_ms) and will not in self._undone:
            self._undone.append(will)

    def go_on(self, now_ms: int, *, ending: bool) -> None:
        """Go on with what has been begun. With `ending` nobody comes after us: what has taken too long is left."""
        for will in [will for will in self._undone if will.closed or self._advance(will, now_ms)]:
            self._undone.remove(will)
        if ending:
            self._undone = [will for will in self._undone if now_ms - (will.struck_ms or 0) <= KILLED_MS_MAX]

    def forget_bequeathed(self) -> None:
        """Leave the wills of the dead to a control that has started since: it may write other files."""
        for will in self._undone:
            if will.bequeathed_ms is not None:
                will.close()

    def _advance(self, will: Will, now_ms: int) -> bool:
        """Go on with a will; return whether it is done. Its letters leave when the fence is certain."""
        if not will.advance(self._hands, now_ms):
            return False
        if will.bequeathed_ms is None:  # the lease has ended; control lives, and speaks for itself
            self._fenced(will.election)
            return True
        if now_ms - will.bequeathed_ms <= KILLED_MS_MAX:
            self.posted += sum(self._hands.post(*letter) for letter in will.letters)
        will.close()
        return True

"""Slowness: how much a node doubts itself before it doubts others. Counts late timers; reads no clock.

Who was frozen, swapped out or starved finds every other node silent when it wakes: the heartbeats are still in its
socket. It is the one to blame. This is Lifeguard's local health (Dadgar, Phillips, Currey, "Lifeguard: SWIM-ing with
Situational Awareness", 2018, section IV.A): a score that rises with each late timer, falls with time, and makes
the node more patient with others, never with itself.
"""

from gateway.core.timing import Timing

SCORE_MAX = 8  # as in Lifeguard: nine heartbeats of patience at most, or a slow node would never take part again


class Slowness:
    """The doubts of one node about itself.

    Args:
        timing: the cluster's periods.
        now_ms: the present.
    """

    def __init__(self, timing: Timing, now_ms: int) -> None:
        self._timing = timing
        self._late_ms = timing.late_ms
        self.score = 0
        self.late_total = 0
        self.late_ms_max = 0
        self._changed_ms = now_ms

    @property
    def patience_ms(self) -> int:
        """What this node adds to its suspicion of others."""
        return self.score * self._timing.heartbeat_ms

    def woke(self, now_ms: int, due_ms: int) -> bool:
        """Note that the node took a step at `now_ms` and wanted to at `due_ms`; return whether that was late."""
        late_ms = now_ms - due_ms
        if late_ms < self._late_ms:
            if self.score and now_ms - self._changed_ms >= self._timing.lease_ms:
                self.score, self._changed_ms = self.score - 1, now_ms
            return False
        self.score, self._changed_ms = min(self.score + 1, SCORE_MAX), now_ms
        self.late_total += 1
        self.late_ms_max = max(self.late_ms_max, late_ms)
        return True

"""Lease: until when a leader may act, from what its voters have answered. Nothing here reads a clock."""

from gateway.core.timing import Timing


class Lease:
    """The lease of one term of one leader (rule 3 of `gateway.core.election`).

    Args:
        timing: the cluster's periods.
    """

    def __init__(self, timing: Timing) -> None:
        self._acted_ms = timing.lease_ms - timing.margin_ms
        self.answers: dict[str, int] = {}  # voter -> `sent_ms` of the newest request or heartbeat that it answered
        self.until_ms = 0
        self.since_ms = 0  # what was sent before asked for a shorter lease, and does not count

    def begin(self, granted: set[str], sent_ms: int) -> None:
        """Start afresh from votes: the lease dates from the moment the requests were sent."""
        self.answers = dict.fromkeys(granted, sent_ms)
        self.until_ms = self._until_ms(sent_ms)

    def answer(self, voter: str, sent_ms: int) -> None:
        """Note that `voter` has answered what was sent at `sent_ms`. An older answer changes nothing."""
        if sent_ms >= self.since_ms:
            self.answers[voter] = max(self.answers.get(voter, 0), sent_ms)

    def extend(self, now_ms: int, quorum: int) -> bool:
        """Recompute the end from what a `quorum` has answered, the leader itself now; return whether it moved on.

        It never moves back.
        """
        assert now_ms < self.until_ms, "an expired lease is not extended"
        sent = sorted((*self.answers.values(), now_ms), reverse=True)
        if len(sent) < quorum:
            return False
        until_ms = self._until_ms(sent[quorum - 1])
        moved = until_ms > self.until_ms
        self.until_ms = max(self.until_ms, until_ms)
        return moved

    def _until_ms(self, sent_ms: int) -> int:
        return sent_ms + self._acted_ms

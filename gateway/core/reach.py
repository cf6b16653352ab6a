"""Reach: whom this node hears, and so how many make a decision. Pure bookkeeping of who was heard when.

Rule 9 of `gateway.core.election`. Under `hold` a decision takes a majority of all voters, whoever is heard. Under
`serve` it takes a majority of those that are heard: of two that lose each other, both decide alone.
"""

from gateway.core.timing import Timing


class Reach:
    """The voters of the cluster, as far as they are heard.

    Args:
        me: this node's name.
        voters: every node of the cluster.
        timing: the cluster's periods.
        serve_apart: whether each side of a partition serves.
    """

    def __init__(self, me: str, voters: tuple[str, ...], timing: Timing, *, serve_apart: bool) -> None:
        self.voters = voters
        self.serve_apart = serve_apart
        self.heard_ms: dict[str, int] = {}  # peer -> when it was last heard
        self.majority = len(voters) // 2 + 1
        self._index = voters.index(me)
        self._apart_ms = timing.apart_ms
        self._excused_until_ms = 0
        self.grace_ms = timing.late_ms
        self._silence_ms = timing.promise_ms

    def heard(self, now_ms: int, peer: str) -> bool:
        """Note a message of `peer`; return whether it comes back from a silence that others may have used."""
        before_ms = self.heard_ms.get(peer)
        self.heard_ms[peer] = now_ms
        return before_ms is None or now_ms - before_ms >= self._silence_ms

    def excuse(self, now_ms: int) -> None:
        """This node was late: nobody counts as cut off until what lies in its socket is read (rule 11)."""
        self._excused_until_ms = now_ms + self.grace_ms

    def quorum(self, now_ms: int) -> int:
        """Return how many voters, this node among them, make a decision now."""
        if not self.serve_apart or now_ms < self._excused_until_ms:
            return self.majority
        near = 1 + sum(1 for heard_ms in self.heard_ms.values() if now_ms - heard_ms < self._apart_ms)
        return near // 2 + 1

    def next_term(self, term: int) -> int:
        """Return the least term above `term` in which this node may stand.

        Where both sides of a partition decide, each node has terms of its own (its place in the list, modulo their
        number), or both sides might elect a leader for the same term.
        """
        if not self.serve_apart:
            return term + 1
        count = len(self.voters)
        return term + 1 + (self._index - term - 1) % count

"""Ranking: who is the best candidate, as far as this node has heard. Decides nothing; gives candidates their turn."""

from collections.abc import Set as AbstractSet

from gateway.wire.messages import Standing


def rank_key(standing: Standing, preference: int) -> tuple[bool, bool, int, int, int, int]:
    """Return the sort key of a candidate: the smallest is the best. `preference` is its place in the file."""
    return (not standing.fit, not standing.warm, -standing.term, -standing.generation, -standing.records, preference)


class Ranking:
    """What the candidates of one election say of themselves.

    Args:
        candidates: who may lead, best first.
        memory_ms: a candidate that was silent for so long is out of the count.
    """

    def __init__(self, candidates: tuple[str, ...], memory_ms: int) -> None:
        self.candidates = candidates
        self.memory_ms = memory_ms
        self.heard: dict[str, tuple[Standing, int]] = {}  # candidate -> what it said, when

    def hear(self, now_ms: int, candidate: str, standing: Standing) -> None:
        """Note what a candidate says of itself; what others say is nobody's business."""
        if candidate in self.candidates:
            self.heard[candidate] = (standing, now_ms)

    def forget(self, candidate: str) -> None:
        """Leave a candidate out of the count until it is heard again."""
        self.heard.pop(candidate, None)

    def best(self, now_ms: int, me: str, without: AbstractSet[str] = frozenset()) -> str:
        """Return the best live and fit candidate but `me` and those that are left out; "" where there is none."""
        return min(
            (
                name
                for name, (standing, heard_ms) in self.heard.items()
                if name != me and name not in without and standing.fit and now_ms - heard_ms < self.memory_ms
            ),
            key=lambda name: rank_key(self.heard[name][0], self.candidates.index(name)),
            default="",
        )

    def fit(self, now_ms: int, candidate: str) -> bool:
        """Tell whether `candidate` was heard lately, and could serve."""
        standing, heard_ms = self.heard.get(candidate, (None, 0))
        return standing is not None and standing.fit and now_ms - heard_ms < self.memory_ms

    def rank(self, now_ms: int, me: str, mine: Standing) -> int:
        """Return how many live and fit candidates are better than `me` (0: none)."""
        my_key = rank_key(mine, self.candidates.index(me))
        return sum(
            1
            for name, (standing, heard_ms) in self.heard.items()
            if name != me
            and now_ms - heard_ms < self.memory_ms
            and standing.fit
            and rank_key(standing, self.candidates.index(name)) < my_key
        )

"""Promise: whom this node is bound to, until when. One at a time; that single slot keeps two leases apart."""


class Promise:
    """A node's one promise: no vote for, and no acknowledgement of, anyone but `to` before `until_ms`.

    Args:
        now_ms: the present; a new node is bound to nobody (what it has forgotten is rule 4's concern).
    """

    def __init__(self, now_ms: int) -> None:
        self.to: str | None = None
        self.term = 0
        self.until_ms = now_ms

    def make(self, to: str, term: int, until_ms: int) -> None:
        """Bind this node; the caller has made sure that it is free or bound to `to` already."""
        assert to != self.to or term >= self.term, f"the promise to {to} goes back from term {self.term} to {term}"
        if to == self.to:
            until_ms = max(until_ms, self.until_ms)  # its periods may have been shortened while a longer lease runs
        self.to, self.term, self.until_ms = to, term, until_ms

    def release(self, now_ms: int) -> None:
        """End the promise."""
        self.to, self.until_ms = None, now_ms

    def left_ms(self, now_ms: int, candidate: str) -> int:
        """Return for how long it still forbids `candidate`; 0: it does not."""
        return 0 if self.to in (None, candidate) else max(self.until_ms - now_ms, 0)

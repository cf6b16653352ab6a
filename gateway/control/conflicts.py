"""Conflicts: who else claims the address that this node holds, since when, and whether to answer. Reads no clock.

RFC 5227 §2.4 offers a host whose address is claimed three ways: (a) give it up, (b) defend it once and then give it
up, (c) defend it for as long as it is claimed. The holder of a lease takes (c): a majority has said that the address
is its own, so whoever else claims it is mistaken, and giving way would let one misconfigured printer stop the pool.

The RFC bids whoever takes (c) to leave DEFEND_INTERVAL, 10 s, between two defences, lest two hosts that are both sure
answer each other without end. Here the interval is 1 s: of ten seconds up to ten would be lost, each time, to
neighbours that believe the other; and what two such hosts can do to the segment is two rounds a second. 1 s is also
the RetransTimer that RFC 4861 §7.2.6 asks for between unsolicited advertisements.
"""

from typing import Any

DEFEND_INTERVAL_MS = 1_000


class Conflicts:
    """The present claimants, and how many claims there were in all."""

    def __init__(self) -> None:
        self.claims_total = 0
        self.defences_total = 0
        self.claimants: dict[str, int] = {}  # MAC -> since when, as bounded as what `ConflictWatch` reports
        self._defended_ms: int | None = None

    def claimed(self, mac: str, now_ms: int) -> bool:
        """Take a claim. Returns whether to defend the address now; a defence is to all, so one serves against many."""
        self.claims_total += 1
        self.claimants.setdefault(mac, now_ms)
        if self._defended_ms is not None and now_ms - self._defended_ms < DEFEND_INTERVAL_MS:
            return False
        self._defended_ms = now_ms
        self.defences_total += 1
        return True

    def ended(self, mac: str) -> None:
        """Take that a claimant has let go."""
        self.claimants.pop(mac, None)

    def forget(self) -> None:
        """Take that the address is ours no more: who claims it now may be its holder."""
        self.claimants.clear()

    def status(self, now_ms: int) -> dict[str, Any]:
        """Return the counters, and by MAC for how many milliseconds each claimant has claimed the address."""
        return {
            "conflicts_total": self.claims_total,
            "defences_total": self.defences_total,
            "claimed_by": {mac: {"for_ms": now_ms - since_ms} for mac, since_ms in self.claimants.items()},
        }

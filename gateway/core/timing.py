"""Timing: the periods that an election is built of, derived from two numbers of the configuration. Pure arithmetic."""

import msgspec

DRIFT_PER_MILLE = 10  # clocks may differ by 1 % in rate; a PC's crystal is good to 0.01 %
MARGIN_MS_MIN = 10  # between a leader's end and its voters' freedom: a timer tick and a wake-up


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Periods in whole milliseconds."""

    heartbeat_ms: int
    lease_ms: int

    @property
    def promise_ms(self) -> int:
        """How long a vote or an acknowledgement binds: a lease, and what a fast clock may take off it (rule 2)."""
        return self.lease_ms + -(-self.lease_ms * DRIFT_PER_MILLE // 1000) + 1

    @property
    def margin_ms(self) -> int:
        """How long before the end of its lease a leader gives up (rule 3)."""
        return max(MARGIN_MS_MIN, self.lease_ms // 20)

    @property
    def stagger_ms(self) -> int:
        """What a candidate waits for each better one (rule 6); longer than a round of votes takes on a LAN."""
        return max(self.lease_ms // 4, 1)

    @property
    def round_ms(self) -> int:
        """How long a candidate waits for an answer to its requests before it starts again."""
        return max(self.lease_ms // 2, 2)

"""Timing: the periods that an election is built of, derived from two numbers of the configuration. Pure arithmetic."""

import msgspec

DRIFT_PER_MILLE = 10  # clocks may differ by 1 % in rate; a PC's crystal is good to 0.01 %
MARGIN_MS_MIN = 10  # between a leader's end and its voters' freedom: a timer tick and a wake-up
PATIENT_HEARTBEATS = 8
LATE_MS_MIN = 10  # a timer that is later than this is worth noting: a tick of HZ 100


def promise_ms_for(lease_ms: int) -> int:
    """Return how long a promise to the holder of such a lease binds: the lease, and what a fast clock takes off it."""
    return lease_ms + -(-lease_ms * DRIFT_PER_MILLE // 1000) + 1


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Periods in whole milliseconds."""

    heartbeat_ms: int
    lease_ms: int

    @property
    def promise_ms(self) -> int:
        """How long a vote or an acknowledgement binds (rule 2), where the one that asks has the same lease."""
        return promise_ms_for(self.lease_ms)

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

    @property
    def idle_ms(self) -> int:
        """How often a node that leads nothing is heard: three times within what peers remember of it."""
        return max(self.lease_ms // 3, self.heartbeat_ms)

    @property
    def patient(self) -> bool:
        """Whether a lease is so many heartbeats long that one more or less is no matter."""
        return self.lease_ms >= PATIENT_HEARTBEATS * self.heartbeat_ms

    @property
    def apart_ms(self) -> int:
        """After how much silence a peer counts as cut off, where each side of a partition serves (rule 9).

        Less than a lease, so that a leader that is left alone goes on without a break.
        """
        return max(self.lease_ms * 2 // 3, 1)

    @property
    def late_ms(self) -> int:
        """From when on a timer is late enough to doubt oneself before others (rule 11)."""
        return max(self.heartbeat_ms // 2, LATE_MS_MIN)

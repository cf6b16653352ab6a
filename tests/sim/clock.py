"""Clock: one host's CLOCK_BOOTTIME, off by a constant and a rate, as a function of the simulator's true time."""

PPM = 1_000_000


class SimClock:
    """A host's clock. True time is in whole microseconds, the host's in whole milliseconds, rounded down.

    Args:
        offset_us: what the clock showed at true time 0.
        rate_ppm: how much too fast it runs; negative: too slow.
    """

    __slots__ = ("offset_us", "rate_ppm")

    def __init__(self, offset_us: int, rate_ppm: int) -> None:
        self.offset_us = offset_us
        self.rate_ppm = rate_ppm

    def read_us(self, true_us: int) -> int:
        return self.offset_us + true_us + true_us * self.rate_ppm // PPM

    def read_ms(self, true_us: int) -> int:
        return (self.offset_us + true_us + true_us * self.rate_ppm // PPM) // 1000

    def true_us(self, local_ms: int) -> int:
        """Return the first true microsecond at which the clock shows `local_ms`."""
        wanted_us = local_ms * 1000
        true_us = (wanted_us - self.offset_us) * PPM // (PPM + self.rate_ppm)
        while self.read_us(true_us) >= wanted_us:
            true_us -= 1
        while self.read_us(true_us) < wanted_us:
            true_us += 1
        return true_us

    def reboot(self, true_us: int, shows_us: int) -> None:
        """Start counting afresh, as CLOCK_BOOTTIME does when the host reboots."""
        self.offset_us += shows_us - self.read_us(true_us)

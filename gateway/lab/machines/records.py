"""What a scenario left: plain values, for the table and for programs."""

import msgspec

from gateway.lab.machines.evidence import Check


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario that was run, or was not (`refused` says why). Times in seconds.

    `flow_s`: from the fault until a job that was submitted after it ran; the longest, where there were several faults.
    `healthy_s`: from the end of the fault until the pool was proven well.
    """

    scenario: str
    victim: str = ""
    flow_s: float | None = None
    healthy_s: float | None = None
    took_s: float = 0.0
    checks: tuple[Check, ...] = ()
    refused: str = ""

    @property
    def good(self) -> bool:
        """Whether it was run and every check was good."""
        return not self.refused and bool(self.checks) and all(check.good for check in self.checks)

    def check(self, beginning: str) -> Check | None:
        """Return the check whose name begins so."""
        return next((one for one in self.checks if one.name.startswith(beginning)), None)

"""Is the pool fit to be measured? A snapshot in, the reasons against it out. Reads nothing itself.

A pool that limps before the fault gives figures that mean nothing, and good ones at that: so every doubt is a refusal.
"""

import msgspec

# Jobs a minute that a healthy pool reaches at least, as a share of what its slots could do at best.
RATE_SHARE_MIN = 0.6
# A pool that stood still for a while within the window looks good after any fault. A quarter of a window is 8 to 15
# jobs, give or take two or three; half of the mean is far outside that.
QUARTER_SHARE_MIN = 0.5
QUARTERS = 4
# Between a slot's last job and its next one: the negotiation interval, claiming, starting a shadow and a starter.
TURNAROUND_S = 2.5


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of the pool at one moment, over the address. `None` in a field: the question was not answered."""

    submitter_ads: int | None  # condor_status -submitters
    slots_seen: int | None  # condor_status
    slots_expected: int
    jobs_idle: int
    jobs_idle_min: int
    jobs_per_minute: float  # over the whole window before the fault ...
    jobs_per_minute_least: float  # ... and in the poorest quarter of it
    job_mean_s: float
    leader: str | None = None  # the elected manager
    holder: str | None = None  # who holds the address
    managers_unfit: tuple[str, ...] = ()  # down, cold, or not answering
    gateways_unfit: tuple[str, ...] = ()
    has_address: bool = True  # false for pools without a virtual address


def rate_min(slots: int, job_mean_s: float) -> float:
    """Return the jobs a minute that `slots` slots must reach with jobs of `job_mean_s` for the pool to be healthy."""
    return RATE_SHARE_MIN * slots * 60.0 / (job_mean_s + TURNAROUND_S)


def objections(snapshot: Snapshot) -> tuple[str, ...]:
    """Return why this pool may not be measured now; empty when it may."""
    found = []
    if not snapshot.submitter_ads:
        found.append(
            "condor_status -submitters gave no answer" if snapshot.submitter_ads is None else "no submitter ad"
        )
    if snapshot.slots_seen is None:
        found.append("condor_status gave no answer")
    elif snapshot.slots_seen != snapshot.slots_expected:
        found.append(f"{snapshot.slots_seen} slots in the collector instead of {snapshot.slots_expected}")
    if snapshot.jobs_idle < snapshot.jobs_idle_min:
        found.append(f"{snapshot.jobs_idle} idle jobs in the queue, fewer than {snapshot.jobs_idle_min}")
    least = rate_min(snapshot.slots_expected, snapshot.job_mean_s)
    if snapshot.jobs_per_minute < least:
        found.append(f"{snapshot.jobs_per_minute:.0f} jobs per minute, fewer than {least:.0f}")
    elif snapshot.jobs_per_minute_least < QUARTER_SHARE_MIN * snapshot.jobs_per_minute:
        found.append(
            f"jobs do not flow evenly: {snapshot.jobs_per_minute:.0f} per minute, "
            f"but {snapshot.jobs_per_minute_least:.0f} in a quarter of that time"
        )
    if snapshot.leader is None:
        found.append("no elected manager")
    if snapshot.has_address and snapshot.holder is None:
        found.append("nobody holds the address")
    if snapshot.managers_unfit:
        found.append(f"not fit and warm: {', '.join(snapshot.managers_unfit)}")
    if snapshot.gateways_unfit:
        found.append(f"not in the cluster: {', '.join(snapshot.gateways_unfit)}")
    return tuple(found)

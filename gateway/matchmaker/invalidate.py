"""Invalidate: what its owner has withdrawn from the leader's collector goes from a standby's as well.

Rule: only what this leader's collector had, and has no more, is ever taken from a standby, and never on one look alone.

HTCondor's collector forwards a withdrawal (INVALIDATE_*_ADS) as it forwards an ad, where CONDOR_VIEW_CLASSAD_TYPES
names the type that is withdrawn (seen with 23.9.6). What came while a standby was refused, or while HTCondor's back-off
for all its view hosts ran, is lost: the standby keeps a dead slot until CLASSAD_LIFETIME, 15 minutes, and would match
it.

Why nothing else can be taken away:
- a collector that has been restarted has another instance id, and what it does not hold was never seen in it: an empty
  leader takes nothing from a full standby;
- what only the standby ever had (its own condor_master, the slots of its side of a partition) was never seen here;
- what has expired here (nobody has withdrawn it: its owner is silent, or speaks to another leader) is left to expire
  there: it came with the same LastHeardFrom, which a collector keeps when it forwards;
- what has come to the standby since it went here is somebody who is back.
"""

from collections.abc import Mapping

import msgspec

from gateway.config.settings import Endpoint
from gateway.matchmaker.census import ADS_MAX, Ad, Census, Key, host_of, quoted
from gateway.matchmaker.condor import ToolFailed, run_tool

LIFETIME_S = 900  # CLASSAD_LIFETIME's default
LOOKS_MIN = 2  # in succession without it
GONE_S_MIN = 5  # an owner that restarts withdraws its ads, and sends new ones within seconds
# As many at once that somebody should wonder (a rack that is shut down in good order, or a mistake of ours) must be
# gone at more looks.
FEW = 16
FRACTION_MAX = 0.25
LOOKS_MANY = 4
SLACK_S = 2  # LastHeardFrom has whole seconds
BATCH_MAX = 2_000  # ads in one call of condor_advertise: 0.1 s

# kind -> command, and the type that the collector looks at (INVALIDATE_STARTD_ADS is for two of its tables:
# src/condor_collector.V6/collector.cpp, process_invalidation). A slot takes its private ad along.
_COMMANDS = {
    "slot": ("INVALIDATE_STARTD_ADS", "Machine"),
    "startd": ("INVALIDATE_STARTD_ADS", "StartD"),
    "submitter": ("INVALIDATE_SUBMITTOR_ADS", "Submitter"),
    "schedd": ("INVALIDATE_SCHEDD_ADS", "Scheduler"),
    "master": ("INVALIDATE_MASTER_ADS", "DaemonMaster"),
}


class Gone(msgspec.Struct, frozen=True):
    """An ad that was in the leader's collector. Unix times by this host's clock, which is also its collector's."""

    ad: Ad  # as it was at the last look that found it
    had_s: float  # when that was
    missed_s: float  # the first look that did not find it
    looks: int  # in succession, without it


class Withdrawals:
    """What has gone from one collector, by looking at it from time to time.

    Args:
        lifetime_s: CLASSAD_LIFETIME of the pool, after which a collector drops what nobody renews.
    """

    def __init__(self, lifetime_s: int = LIFETIME_S) -> None:
        self._lifetime_s = lifetime_s
        self._instance = ""
        self._seen: Census = {}
        self._seen_s = 0.0
        self._gone: dict[Key, Gone] = {}

    def __len__(self) -> int:
        return len(self._gone)

    def look(self, instance: str, census: Census, now_s: float) -> None:
        """Take what the collector with the id `instance` holds at `now_s`."""
        if instance != self._instance:
            self._instance, self._gone = instance, {}
        else:
            went = self._seen.keys() - census.keys()
            still = {key: gone for key, gone in self._gone.items() if key not in census and not self._over(gone, now_s)}
            self._gone = {key: msgspec.structs.replace(gone, looks=gone.looks + 1) for key, gone in still.items()}
            for key in went:
                if now_s - self._seen[key].heard < self._lifetime_s * 2 / 3:  # else it may have expired
                    self._gone[key] = Gone(self._seen[key], self._seen_s, now_s, 1)
            if len(self._gone) > ADS_MAX:  # more than can be: they will expire
                self._gone = {}
        self._seen, self._seen_s = census, now_s

    def _over(self, gone: Gone, now_s: float) -> bool:
        # By then the standby has dropped it of itself: it looks every third of a lifetime.
        return now_s - gone.missed_s > self._lifetime_s * 4 / 3

    def to_confirm(self) -> bool:
        """Tell whether something has gone that one more look could confirm."""
        return any(gone.looks < LOOKS_MANY for gone in self._gone.values())

    def doomed(self, standby: Census, standby_host: str, now_s: float) -> dict[Key, Ad]:
        """Return what is to be withdrawn from the collector that holds `standby`, on the host `standby_host`.

        As the standby has it, which is how it is to be named there.
        """
        left = {
            key: standby[key]
            for key, gone in self._gone.items()
            if key in standby and _is_left_over(standby[key], gone) and host_of(standby[key].address) != standby_host
        }
        many = len(left) > max(FEW, FRACTION_MAX * len(standby))
        looks = LOOKS_MANY if many else LOOKS_MIN
        return {
            key: ad
            for key, ad in left.items()
            if self._gone[key].looks >= looks and now_s - self._gone[key].missed_s >= GONE_S_MIN
        }


def _is_left_over(there: Ad, gone: Gone) -> bool:
    """Tell whether a standby's ad is what the leader had: as old, or what came between the leader's last two looks."""
    if not there.is_newer(gone.ad):
        return there.heard <= gone.missed_s + SLACK_S
    return gone.had_s - SLACK_S <= there.heard <= gone.missed_s + SLACK_S


async def invalidate(standby: Endpoint, ads: Mapping[Key, Ad], *, timeout_ms: int) -> int:
    """Withdraw `ads` from the collector at `standby`, at most BATCH_MAX of a kind; return how many were sent.

    The collector does not say whether it had them: look again.

    Raises:
        ToolFailed: it can't be reached, or refuses this host (ALLOW_ADVERTISE_STARTD and its like; ALLOW_DAEMON).
    """
    sent = 0
    for kind, (command, target) in _COMMANDS.items():
        chosen = [(key, ads[key]) for key in sorted(ads) if key.kind == kind][:BATCH_MAX]
        if not chosen:
            continue
        text = "\n".join(invalidation(key, ad, target) for key, ad in chosen)
        tool = ("condor_advertise", "-pool", str(standby), "-tcp", "-multiple", command, "-")
        said = await run_tool(*tool, stdin=text.encode(), timeout_ms=timeout_ms)
        if f"Sent {len(chosen)} of {len(chosen)} ad" not in said:
            raise ToolFailed("condor_advertise", f"{command}: {said.strip()[:200]!r}")
        sent += len(chosen)
    return sent


def invalidation(key: Key, ad: Ad, target: str) -> str:
    """Return the ad that withdraws `ad`, a line an attribute.

    A collector finds an ad by its hash key: the name, the schedd's name for submitters, and the host in MyAddress
    (src/condor_utils/hashkey.cpp). Without one it would walk its whole table, and withdraw what Requirements match.
    """
    lines = ['MyType = "Query"', f"TargetType = {quoted(target)}", f"Name = {quoted(key.name)}"]
    if key.schedd:
        lines.append(f"ScheddName = {quoted(key.schedd)}")
    lines.append(f"MyAddress = {quoted(ad.address)}")
    return "\n".join(lines) + "\n"

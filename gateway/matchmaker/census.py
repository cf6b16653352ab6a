"""Census: which ads a collector holds, how new each is, and what another collector lacks of them.

Rule: an ad's age is told by its own sender's count (DaemonStartTime, UpdateSequenceNumber), never by a clock.
"""

from collections.abc import Iterable, Mapping

import msgspec
import trio

from gateway.config.settings import Endpoint
from gateway.matchmaker.condor import ToolFailed, run_tool

ADS_MAX = 200_000  # far above the largest pool; a census of it takes 100 MB

# MyType -> the kind under which ads are counted. Slots are "Machine"; HTCondor >= 23.2 has a type of its own for the
# startd itself. What is not here is neither forwarded nor needed by a new leader.
KINDS = {"Machine": "slot", "Slot": "slot", "StartD": "startd", "Submitter": "submitter", "Scheduler": "schedd"}
KINDS |= {"DaemonMaster": "master"}
COUNTED = tuple(dict.fromkeys(KINDS.values()))  # the kinds, in the order in which they are shown
IN_THREAD_BYTES = 65_536  # some 400 ads take 3 ms to read; more would make a heartbeat late

_ATTRIBUTES = (
    "MyType",
    "Name",
    "ScheddName",
    "MyAddress",
    "DaemonStartTime",
    "UpdateSequenceNumber",
    "LastHeardFrom",
)
_CONSTRAINT = " || ".join(f'MyType == "{name}"' for name in KINDS)


class Key(msgspec.Struct, frozen=True, order=True):
    """What tells an ad from all others of a collector. `schedd` is "" but for submitters: a user has one for each."""

    kind: str
    name: str
    schedd: str = ""


class Ad(msgspec.Struct, frozen=True):
    """One ad: where its sender listens, and how new it is."""

    address: str  # the daemon's "<address:port?...>", as HTCondor's tools take it
    started: int  # unix time at which the daemon started
    sequence: int  # how many updates of this ad it has sent since then
    heard: int  # unix time, by the collector's clock, at which the ad came

    def is_newer(self, other: "Ad") -> bool:
        """Whether its sender sent it after `other`."""
        return (self.started, self.sequence) > (other.started, other.sequence)


Census = Mapping[Key, Ad]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What a standby's collector lacks of the leader's."""

    total: int  # ads of the leader
    missing: frozenset[Key]
    stale: frozenset[Key]  # there, and older than the leader's
    extra: frozenset[Key]  # there, and not on the leader: withdrawn ads stay on a standby until CLASSAD_LIFETIME

    @property
    def complete(self) -> bool:
        """Whether the standby could take over: it has every ad, each as new as the leader's."""
        return not self.missing and not self.stale

    @property
    def lacking(self) -> frozenset[Key]:
        """What has to be sent again."""
        return self.missing | self.stale

    def counts(self) -> dict[str, int]:
        """Return {kind: ads that the standby lacks}, kinds without any left out."""
        return {kind: count for kind, count in count_kinds(self.lacking).items() if count}


def count_kinds(keys: Iterable[Key]) -> dict[str, int]:
    """Return {kind: how many}, of every kind that is counted."""
    counts = dict.fromkeys(COUNTED, 0)
    for key in keys:
        counts[key.kind] += 1
    return counts


def quoted(text: str) -> str:
    """Return `text` as a string of the ClassAd language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def host_of(address: str) -> str:
    """Return the IP address in a daemon's "<address:port?...>", "" where there is none."""
    host = address.removeprefix("<").partition("?")[0].rpartition(":")[0]
    return host.removeprefix("[").removesuffix("]")


async def take(collector: Endpoint, *, timeout_ms: int) -> Census:
    """Ask `collector` for its ads: one query, some 25 ms of CPU for a small pool, 60 ms for 2,000 slots.

    Raises:
        ToolFailed: no answer in time, or refused.
    """
    command = ["condor_status", "-pool", str(collector), "-any", "-constraint", _CONSTRAINT, "-af:t", *_ATTRIBUTES]
    text = await run_tool(*command, timeout_ms=timeout_ms)
    return parse(text) if len(text) < IN_THREAD_BYTES else await trio.to_thread.run_sync(parse, text)


def parse(text: str) -> dict[Key, Ad]:
    """Return the ads in what condor_status printed, one a line, attributes separated by tabs.

    Raises:
        ToolFailed: a line of another shape, or more than ADS_MAX ads.
    """
    found: dict[Key, Ad] = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) != len(_ATTRIBUTES) or fields[0] not in KINDS:
            raise ToolFailed("condor_status", f"printed {line[:200]!r}, not {len(_ATTRIBUTES)} attributes of an ad")
        kind, name, schedd, address, *numbers = fields
        started, sequence, heard = map(_number, numbers)
        key = Key(KINDS[kind], name, schedd if kind == "Submitter" else "")
        found[key] = Ad(address, started, sequence, heard)
    if len(found) > ADS_MAX:
        raise ToolFailed("condor_status", f"printed {len(found)} ads, more than {ADS_MAX}")
    return found


def _number(text: str) -> int:
    # An attribute that an ad lacks is printed as "undefined": daemons of other makes (glidein factories) count nothing.
    return int(text) if text.isascii() and text.isdecimal() else 0


def compare(leader: Census, standby: Census, standby_host: str = "") -> Comparison:
    """Return what `standby` lacks of `leader`. Take the leader's census first: what comes in between is no lack.

    What daemons of `standby_host` (an IP address) tell their own collector alone is not counted as extra.
    """
    return Comparison(
        total=len(leader),
        missing=frozenset(leader.keys() - standby.keys()),
        stale=frozenset(key for key, ad in leader.items() if key in standby and ad.is_newer(standby[key])),
        extra=frozenset(
            key
            for key in standby.keys() - leader.keys()
            if not standby_host or host_of(standby[key].address) != standby_host
        ),
    )

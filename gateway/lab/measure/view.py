"""Who leads and who is fit, from a node's status document. Pure; for HTCondor's own daemons see `observe`."""

from collections.abc import Mapping
from typing import Any

import msgspec

HEARD_MS_MAX = 1_000  # heartbeats come every 50 ms: a candidate that was silent for so long is not there


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as one node sees it. Names of elections are those of the configuration."""

    leader: str | None = None
    holder: str | None = None
    matchmaker_election: str | None = None
    address_election: str | None = None
    managers_unfit: tuple[str, ...] = ()
    gateways_unfit: tuple[str, ...] = ()


def cluster_view(document: Mapping[str, Any]) -> ClusterView:
    """Return what `condor-gateway status --json` says, of its first matchmaker and its first address."""
    found: dict[str, Any] = {}
    for name, election in document.get("elections", {}).items():
        if election["kind"] == "matchmaker" and "matchmaker_election" not in found:
            found |= {"matchmaker_election": name, "leader": election["leader"]}
            found["managers_unfit"] = _unfit(election["candidates"], warm=True)
        elif election["kind"] == "address" and "address_election" not in found:
            found |= {"address_election": name, "holder": election["leader"]}
            found["gateways_unfit"] = _unfit(election["candidates"], warm=False)
    return ClusterView(**found)


def _unfit(candidates: Mapping[str, Any], *, warm: bool) -> tuple[str, ...]:
    """Return the candidates that are silent, not fit, or (where `warm` counts) cold."""
    return tuple(name for name, standing in candidates.items() if not _fit(standing, warm=warm))


def _fit(standing: Mapping[str, Any] | None, *, warm: bool) -> bool:
    if standing is None or standing["heard_ms_ago"] is None or standing["heard_ms_ago"] > HEARD_MS_MAX:
        return False
    return bool(standing["fit"]) and (bool(standing["warm"]) or not warm)

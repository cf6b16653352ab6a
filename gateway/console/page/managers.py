"""The managers of the page: each one's collector, negotiator, ads by type, and how far its replica is behind. Pure."""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from gateway.console.page import words

Document = Mapping[str, Any]

SILENT_MS: Final = 1_000  # a node that was not heard for so long is called silent
LATE_MS: Final = 1_000  # a replica that is behind for so long is worth attention


class Said(NamedTuple):
    """A state and its word; state "" has no shape."""

    state: str
    word: str


class ManagerView(NamedTuple):
    """One manager of one backend."""

    name: str
    elected: bool
    collector: Said
    negotiator: Said
    ads: tuple[str, ...]  # by the kinds of its backend
    standby: Said  # what its collector has of the elected one's ads
    replica: Said


class PoolView(NamedTuple):
    """The managers of one backend."""

    name: str
    kinds: tuple[str, ...]
    looked: str
    managers: tuple[ManagerView, ...]


class ManagersView(NamedTuple):
    """All backends, and what needs attention: state and sentence."""

    pools: tuple[PoolView, ...]
    attention: tuple[tuple[str, str], ...]


def managers_view(said: Document, known: Mapping[str, Document]) -> ManagersView:
    """Return every manager as the elected one sees it, and as it sees itself.

    Args:
        said: the status of this node.
        known: node -> its own status, where it is known.
    """
    pools = []
    attention: list[tuple[str, str]] = []
    peers = said.get("peers", {})
    silent = {name for name, peer in peers.items() if (peer["heard_ms_ago"] or 0) >= SILENT_MS}
    for name, election in said.get("elections", {}).items():
        if election["kind"] == "matchmaker":
            pools.append(_pool(name, election, known, silent, attention))
    return ManagersView(tuple(pools), tuple(attention))


def _pool(
    name: str,
    election: Document,
    known: Mapping[str, Document],
    silent: Collection[str],
    attention: list[tuple[str, str]],
) -> PoolView:
    leader = election["leader"]
    elected = _own(known, leader, name)
    kinds = tuple(elected.get("ads") or {})
    looked_ms = elected.get("looked_ms_ago")
    managers = []
    for candidate in election["candidates"]:
        own, standby = _own(known, candidate, name), (elected.get("standbys") or {}).get(candidate)
        shipped = ((elected.get("accounting") or {}).get("standbys") or {}).get(candidate)
        leads = candidate == leader
        ads = (elected if leads else standby or {}).get("ads") or {}
        managers.append(
            ManagerView(
                name=candidate,
                elected=leads,
                collector=_collector(own),
                negotiator=_negotiator(
                    own, leads, words.found(known, candidate, "elections", name, "leader") == candidate
                ),
                ads=tuple(words.number(ads.get(kind)) for kind in kinds),
                standby=Said("", "elected") if leads else _standby(standby),
                replica=Said("", "original") if leads and elected.get("accounting") else _replica(shipped),
            )
        )
    # That a silent manager gets nothing needs no second word.
    attention += _faults([one for one in managers if one.name not in silent], elected)
    looked = "" if looked_ms is None else f"ads counted {words.ago(0, looked_ms / 1_000)}"
    return PoolView(name, kinds, looked, tuple(managers))


def _own(known: Mapping[str, Document], node: str | None, name: str) -> Document:
    """Return what a manager says of itself; empty where it could not be asked."""
    found: Document = known.get(node or "", {}).get("matchmakers", {}).get(name) or {}
    return found


def _collector(own: Document) -> Said:
    collector = str(own.get("collector") or "")
    if not collector:
        return Said("idle", "not known")
    return Said("ok", "up") if collector == "up" else Said("bad", collector)


def _negotiator(own: Document, leads: bool, said_to_lead: bool) -> Said:
    """Return the state of a manager's negotiator; what it said while it led, or before it did, is of the past."""
    running = own.get("negotiator_running")
    if running is None:
        return Said("idle", "not known")
    if own.get("negotiator_left_alone"):
        return Said("idle", "left alone")
    if leads:
        return Said("ok", "running") if running else Said("warn", "not running yet")
    if said_to_lead:
        return Said("idle", "led until now")
    return Said("warn", "still running") if running else Said("idle", "stands by")


def _standby(standby: Document | None) -> Said:
    if standby is None:
        return Said("idle", "not known")
    if not standby.get("forwarding"):
        return Said("warn", "not reached")
    if not standby.get("primed"):
        return Said("warn", "being primed")
    found = [f"{standby[kind]} {kind}" for kind in ("missing", "stale", "extra") if standby.get(kind)]
    # A few ads always differ for a moment: they arrive one after another.
    return Said("ok", "warm" + (f", {', '.join(found)}" if found else ""))


def _replica(shipped: Document | None) -> Said:
    if shipped is None:
        return Said("idle", "not known")
    if not shipped.get("connected"):
        return Said("warn", "not connected")
    records, late_ms = shipped.get("lag_records"), shipped.get("lag_ms")
    if records == 0:
        return Said("ok", "has every record")
    if records is None or late_ms is None:
        return Said("idle", "connected")
    behind = f"{words.many(records, 'record')}, {words.duration(late_ms)} behind"
    return Said("warn" if late_ms >= LATE_MS else "ok", behind)


def _faults(managers: list[ManagerView], elected: Document) -> list[tuple[str, str]]:
    found = [("bad", f"The collector of {one.name} is {one.collector.word}.") for one in managers
             if one.collector.state == "bad"]  # fmt: skip
    found += [("bad", f"The negotiator of {one.name} is still running, and it is not the elected manager.")
              for one in managers if not one.elected and one.negotiator.state == "warn"]  # fmt: skip
    found += [("warn", f"The negotiator of {one.name} does not run yet: nothing is matched.")
              for one in managers if one.elected and one.negotiator.state == "warn"]  # fmt: skip
    found += [("warn", f"{one.name} is not warm: {one.standby.word}.") for one in managers
              if one.standby.state == "warn"]  # fmt: skip
    found += [("warn", f"The replica of {one.name} is late: {one.replica.word}.") for one in managers
              if one.replica.state == "warn"]  # fmt: skip
    for one in (elected.get("accounting") or {}).get("unmerged") or ():
        found.append(("bad", f"Accounting of {one['origin']} was not merged ({one['reason']}): {one['archive']}."))
    return found

"""From what was seen of a scenario to what it shows: a list of checks, each with a name, an answer and what was seen.

Pure: frames, answers and status documents in. A check that could not be made has failed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.lab.machines.watch import Frame, Reply

ADDRESS, MATCHMAKER = "address", "matchmaker"
REPLIES_MIN = 4  # two seconds' worth

Documents = Mapping[str, Mapping[str, Any] | None]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that must be so. `text` is what was seen."""

    name: str
    good: bool
    text: str


def leaders(documents: Documents, kind: str) -> tuple[str, ...]:
    """Return the nodes that say they lead an election of this kind, with a lease that runs."""
    return tuple(
        sorted(
            {
                name
                for name, document in documents.items()
                for election in ((document or {}).get("elections") or {}).values()
                if election["kind"] == kind and election["leader"] == name and election["lease_left_ms"]
            }
        )
    )


def named(documents: Documents, kind: str) -> set[str | None]:
    """Return whom the nodes name as the leader of the elections of this kind; a node that does not answer: None."""
    found: set[str | None] = set()
    for document in documents.values():
        if document is None:
            found.add(None)
            continue
        found |= {one["leader"] for one in document["elections"].values() if one["kind"] == kind}
    return found


def negotiators(documents: Documents) -> tuple[str, ...]:
    """Return the nodes whose host runs a negotiator."""
    return tuple(
        name
        for name, document in documents.items()
        if any(one.get("negotiator_running") for one in ((document or {}).get("matchmakers") or {}).values())
    )


def one_leader(documents: Documents, kind: str, check: str) -> Check:
    """Check that exactly one node leads, and that every node says so."""
    leading = leaders(documents, kind)
    said = named(documents, kind)
    good = len(leading) == 1 and said == set(leading)
    text = " and ".join(leading) or "nobody"
    if not good:
        told = ", ".join(sorted(str(one) for one in said))
        text += f"; the nodes name {told}"
    return Check(name=check, good=good, text=text)


def one_negotiator(documents: Documents) -> Check:
    """Check that one negotiator runs, on the elected manager."""
    running = negotiators(documents)
    good = len(running) == 1 and running == leaders(documents, MATCHMAKER)
    return Check(name="one negotiator", good=good, text=" and ".join(running) or "none")


def flow(seconds: float | None, bound_s: float) -> Check:
    """Check that a job that was submitted after the fault ran in time."""
    text = "not at all" if seconds is None else f"after {seconds:.1f} s"
    return Check(name=f"jobs flow within {bound_s:g} s", good=seconds is not None and seconds <= bound_s, text=text)


def lost(jobs: Iterable[tuple[int, int]] | None, submitted: int) -> Check:
    """Check that no job was lost."""
    if jobs is None:
        return Check(name="no job lost", good=False, text="the queue did not answer")
    if not submitted:
        return Check(name="no job lost", good=False, text="none was submitted")
    found = sorted(jobs)
    shown = ", ".join(f"{one[0]}.{one[1]}" for one in found[:5])
    return Check(name="no job lost", good=not found, text=f"{len(found)} of {submitted}{f': {shown}' if found else ''}")


def answered_by(replies: Sequence[Reply], macs: Mapping[str, str], holder: str | None) -> Check:
    """Check that the address is answered by one MAC, that of the holder. `macs`: MAC -> host."""
    found = sorted({one.mac for one in replies})
    who = [macs.get(mac, mac) for mac in found]
    good = len(replies) >= REPLIES_MIN and holder is not None and who == [holder]
    return Check(
        name="one MAC answers for the address",
        good=good,
        text=f"{len(replies)} answers of {' and '.join(who) or 'nobody'}" + (f" ({found[0]})" if good else ""),
    )


def heard(frames: Iterable[Frame], holder: str, until: float) -> Check:
    """Check that the capture hears: before anything was broken it saw the holder answer for the address."""
    count = sum(1 for one in frames if one.node == holder and one.at < until)
    return Check(name="capture hears the holder", good=count > 0, text=f"{count} frames of {holder} before")


def silent(frames: Iterable[Frame], node: str, since: float, until: float, check: str) -> Check:
    """Check that a host sent nothing in the name of the address in a span of time."""
    sent = [one for one in frames if one.node == node and since <= one.at < until]
    kinds = {kind: sum(1 for one in sent if one.kind == kind) for kind in ("arp", "ip")}
    text = f"0 frames of {node} in {until - since:.0f} s"
    if sent:
        last = max(one.at for one in sent) - since
        text = f"{node} sent {kinds['arp']} ARP and {kinds['ip']} IP frames, the last after {last:.2f} s"
    return Check(name=check, good=not sent, text=text)


def soon_silent(frames: Iterable[Frame], node: str, since: float, until: float, within_s: float, check: str) -> Check:
    """Check that a host whose clocks stood still soon sends nothing more in the name of the address."""
    sent = [one for one in frames if one.node == node and since <= one.at < until]
    late = [one for one in sent if one.at >= since + within_s]
    last = max((one.at - since for one in sent), default=0.0)
    text = f"{node} sent {len(sent)} frames" + (
        f", the last after {last:.2f} s" if sent else f" in {until - since:.0f} s"
    )
    return Check(name=check, good=not late, text=text)


def left_it(frames: Sequence[Frame], old: str, since: float, until: float) -> Check:
    """Check that an old holder sent nothing after the first announcement of another one."""
    taken = [one.at for one in frames if one.node != old and one.kind == "arp" and since <= one.at < until]
    if not taken:
        return Check(name="old holder silent", good=False, text="nobody else announced the address")
    return silent(frames, old, min(taken), until, "old holder silent")


def nobody_leads(documents: Documents, nodes: Iterable[str], check: str) -> Check:
    """Check that none of some nodes leads anything."""
    among = {name: documents.get(name) for name in nodes}
    leading = sorted({*leaders(among, ADDRESS), *leaders(among, MATCHMAKER)})
    dumb = sorted(name for name, one in among.items() if one is None)
    text = f"{', '.join(leading) or 'none'} leads" + (f"; no answer of {', '.join(dumb)}" if dumb else "")
    return Check(name=check, good=not leading and not dumb, text=text)

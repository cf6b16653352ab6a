"""From what was recorded around a fault to the figures of a repeat. Pure: texts and times in, a `Result` out."""

from collections.abc import Mapping

import msgspec

from gateway.lab.measure import logs, probe
from gateway.lab.measure.ledger import Ledger
from gateway.lab.measure.records import Result


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What was broken, when (unix seconds), in which repeat of which scenario.

    `election`: the election that it ends, as the nodes' logs name it; None for HTCondor's own daemons.
    `down`: IP addresses that nobody can reach because of it.
    """

    scenario: str
    system: str
    repeat: int
    victim: str
    at: float
    window_s: float
    election: str | None
    down: frozenset[str] = frozenset()


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded until `until`. Texts are logs since well before the fault, by host.

    `negotiators`: the NegotiatorLogs of every manager that may match after the fault (not the victim's).
    """

    until: float
    nodes: Mapping[str, str]
    negotiators: Mapping[str, str]
    startds: Mapping[str, str]
    clients: Mapping[str, str]
    collectors: Mapping[str, str]
    ledger: Ledger
    lost: int | None
    restarted: int
    probe: str | None


def winner(fault: Fault, nodes: Mapping[str, str], negotiators: Mapping[str, str]) -> tuple[float, str] | None:
    """Return (time, node) of the successor: the first election won by another node than the victim after the fault.

    condor_had writes nothing that is as plain; there it is the first negotiator that was started after the fault.
    """
    if fault.election is None:
        wins = [(at, host) for host, text in negotiators.items() for at in logs.negotiator_starts(text)]
    else:
        wins = [
            (float(str(event["at"])), host)
            for host, text in nodes.items()
            for event in logs.json_events(text, "election.won")
            if event.get("election") == fault.election
        ]
    return min((win for win in wins if win[0] >= fault.at and win[1] != fault.victim), default=None)


def first_match(negotiators: Mapping[str, str], since: float) -> float | None:
    """Return the time of the first match since then by any of these managers."""
    times = (match.at for text in negotiators.values() for match in logs.matches(text))
    return min((at for at in times if at >= since), default=None)


def first_execute(startds: Mapping[str, str], since: float) -> float | None:
    """Return when a job first started on a slot that was claimed since then."""
    starts = (start for text in startds.values() for start in logs.job_starts(text))
    return min((at for at, _, claimed in starts if claimed >= since), default=None)


def rejected(fault: Fault, found: Evidence) -> int:
    """Return how many updates were lost from the fault on, as far as any daemon's log tells."""
    lost = [one for text in found.clients.values() for one in logs.client_rejections(text, fault.down)]
    lost += [one for text in found.collectors.values() for one in logs.server_rejections(text)]
    return sum(1 for one in lost if fault.at <= one.at < found.until)


def result(fault: Fault, found: Evidence) -> Result:
    """Return the figures of this repeat."""
    won = winner(fault, found.nodes, found.negotiators)
    waits = [wait for text in found.startds.values() for wait in logs.slot_waits(logs.slot_changes(text))]
    span = (fault.at, found.until)
    probed = found.probe
    return Result(
        scenario=fault.scenario,
        system=fault.system,
        repeat=fault.repeat,
        healthy_before=True,
        elected_s=_since(won[0] if won else None, fault.at),
        first_match_s=_since(first_match(found.negotiators, fault.at), fault.at),
        first_execute_s=_since(first_execute(found.startds, fault.at), fault.at),
        jobs_per_minute_before=found.ledger.per_minute(fault.at - fault.window_s, fault.at),
        jobs_per_minute_after=found.ledger.per_minute(fault.at, fault.at + fault.window_s),
        slot_wait_before_s=logs.mean_wait_before_s(waits, fault.at),
        slot_wait_after_s=logs.mean_wait_after_s(waits, fault.at, found.until),
        updates_rejected=rejected(fault, found),
        jobs_lost=found.lost,
        jobs_restarted=found.restarted,
        blackout_ms=None if probed is None else probe.blackout_ms(probed, *span),
        two_owner_ms=None if probed is None else probe.two_owner_ms(probed, *span),
        probe_late_ms=None if probed is None else probe.late_ms(probed, *span),
        victim=fault.victim,
        successor=won[1] if won else None,
        window_s=fault.window_s,
        at=fault.at,
    )


def _since(at: float | None, fault: float) -> float | None:
    return None if at is None else at - fault

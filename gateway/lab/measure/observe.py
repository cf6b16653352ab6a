"""Eyes on a running lab: its health, its leaders, its logs since a mark. Asks and reads; breaks nothing."""

import time
from typing import Any

import msgspec
import trio

from gateway.lab import cluster
from gateway.lab.errors import LabError
from gateway.lab.measure.health import QUARTERS, Snapshot
from gateway.lab.measure.load import JOB_MEAN_S, SUBMIT_HOST, Load
from gateway.lab.measure.view import ClusterView, cluster_view
from gateway.lab.pool import Lab
from gateway.lab.topology import Kind, System

CONDOR_LOGS = "/var/log/condor"
ASK_S_MAX = 10.0

# Which daemons of a pool entity send updates to the collector, and where they write of it.
_CLIENT_LOGS = {
    Kind.SUBMIT: ("MasterLog", "SchedLog", "ShadowLog"),
    Kind.EXECUTE: ("MasterLog", "StartLog"),
}


class Logs:
    """The logs of every host of a lab, read from a mark on."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._marks: dict[tuple[str, str], int] = {}

    def mark(self) -> None:
        """From now on `read` returns what is written from now on."""
        for host in self._lab.topology.hosts:
            names = [f"{CONDOR_LOGS}/{name}" for name in _names(host.kind)]
            for path in (*names, cluster.LOG_FILE):
                file = self._lab.file(host.name, path)
                self._marks[host.name, path] = file.stat().st_size if file.exists() else 0

    def read(self, host: str, path: str) -> str:
        """Return what the file has gained since the mark; "" where there is no such file."""
        try:
            with self._lab.file(host, path).open("rb") as file:
                start = self._marks.get((host, path), 0)
                # A log that is shorter than it was has been rotated or begun anew: then all of it is new.
                if file.seek(0, 2) < start:
                    start = 0
                file.seek(start)
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def condor(self, kind: Kind, name: str) -> dict[str, str]:
        """Return one daemon's log of every host of a kind, by host."""
        return {host.name: self.read(host.name, f"{CONDOR_LOGS}/{name}") for host in self._lab.topology.of_kind(kind)}

    def clients(self) -> dict[str, str]:
        """Return the logs of all daemons that send updates, by "host/name"."""
        return {
            f"{host.name}/{name}": self.read(host.name, f"{CONDOR_LOGS}/{name}")
            for kind, names in _CLIENT_LOGS.items()
            for host in self._lab.topology.of_kind(kind)
            for name in names
        }

    def nodes(self) -> dict[str, str]:
        """Return the gateway's own logs, by host."""
        kinds = (Kind.GATEWAY, Kind.MANAGER)
        hosts = [host.name for kind in kinds for host in self._lab.topology.of_kind(kind)]
        return {name: self.read(name, cluster.LOG_FILE) for name in hosts}


def _names(kind: Kind) -> tuple[str, ...]:
    return ("NegotiatorLog", "CollectorLog") if kind is Kind.MANAGER else _CLIENT_LOGS.get(kind, ())


async def view(lab: Lab) -> ClusterView:
    """Return who leads and who is fit; an empty view where nobody can say."""
    if lab.topology.system is System.OURS:
        return await _own_view(lab)
    return await _condor_view(lab)


async def _own_view(lab: Lab) -> ClusterView:
    # One node is asked, not all: a status is a Python start, and two cores run the whole pool.
    for host in (*lab.topology.of_kind(Kind.GATEWAY), *lab.topology.of_kind(Kind.MANAGER)):
        if not lab.is_up(host.name):
            continue
        said = await _output(lab, host.name, ["condor-gateway", "status", "-f", cluster.CONFIG_FILE, "--json"])
        if said is None:
            continue
        try:
            return cluster_view(msgspec.json.decode(said, type=dict[str, Any]))
        except (msgspec.DecodeError, KeyError):
            continue
    return ClusterView()


async def _condor_view(lab: Lab) -> ClusterView:
    """See which manager runs a negotiator, and whether every collector knows every slot."""
    managers = lab.topology.of_kind(Kind.MANAGER)
    wanted = lab.topology.execute * lab.topology.slots
    running, unfit = [], []
    for host in managers:
        if not lab.is_up(host.name):
            unfit.append(host.name)
            continue
        if await _output(lab, host.name, ["pgrep", "-x", "condor_negotiat"]):  # the kernel keeps 15 characters
            running.append(host.name)
        if await slots_seen(lab, pool=host.address) != wanted:
            unfit.append(host.name)
    # Two negotiators at once are as bad as none: nobody can say which one is to be killed.
    return ClusterView(leader=running[0] if len(running) == 1 else None, managers_unfit=tuple(unfit))


async def slots_seen(lab: Lab, pool: str | None = None) -> int | None:
    """Return how many slots a pool entity is shown (by one collector, where `pool` names it); None: no answer."""
    there = ["-pool", pool] if pool else []
    said = await _output(lab, SUBMIT_HOST, ["condor_status", *there, "-af", "Name"])
    return None if said is None else len(said.split())


async def snapshot(lab: Lab, load: Load, seen: ClusterView, window_s: float) -> Snapshot:
    """Return the pool's health as a pool entity meets it."""
    submitters = await _output(lab, SUBMIT_HOST, ["condor_status", "-submitters", "-af", "Name"])
    slots = await slots_seen(lab)
    ledger = load.look()
    now = time.time()
    quarter_s = window_s / QUARTERS
    quarters = [ledger.per_minute(now - (n + 1) * quarter_s, now - n * quarter_s) for n in range(QUARTERS)]
    return Snapshot(
        submitter_ads=None if submitters is None else len(submitters.split()),
        slots_seen=slots,
        slots_expected=lab.topology.execute * lab.topology.slots,
        jobs_idle=ledger.idle,
        jobs_idle_min=load.idle_min // 2,  # a batch may be on its way
        jobs_per_minute=ledger.per_minute(now - window_s, now),
        jobs_per_minute_least=min(quarters),
        job_mean_s=JOB_MEAN_S,
        leader=seen.leader,
        holder=seen.holder,
        managers_unfit=seen.managers_unfit,
        gateways_unfit=seen.gateways_unfit,
        has_address=lab.topology.system is System.OURS,
    )


async def _output(lab: Lab, host: str, argv: list[str]) -> str | None:
    try:
        done = await lab.exec(host, argv, timeout_s=ASK_S_MAX)
    except LabError:
        return None
    return done.stdout if done.returncode == 0 else None


async def sleep_until(moment: float) -> None:
    """Sleep until a unix time; return at once when it has passed."""
    await trio.sleep(max(0.0, moment - time.time()))

# ruff: noqa: ASYNC110 (what is waited for happens in other processes)
"""What tests ask of a lab's pool and do with it, as its users and administrators would: jobs, ads, elections."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from gateway.lab.pool import Lab
from gateway.lab.topology import Kind

# An election takes a second; what a switch costs is measured (`lab measure`), not tested. HTCondor's own longest wait
# for an answer that was lost is 60 s (QUERY_TIMEOUT), and the machine's other work takes its part.
RECOVERY_S_MAX = 120
SILENCE_MS_MAX = 300  # a node that was heard within this is alive
LOG_LINES = 12
CONDOR_LOG_LINES = 40
CONDOR_LOGS = {"submit1": ("SchedLog",), "exec1": ("StartLog",), "exec2": ("StartLog",)}
MANAGER_LOGS = ("NegotiatorLog", "CollectorLog")


async def run(lab: Lab, host: str, *argv: str, user: str | None = None) -> str:
    """Return what a command that must succeed prints."""
    done = await lab.exec(host, list(argv), timeout_s=30, user=user)
    assert done.returncode == 0, f"{argv} on {host}: {done.stdout}{done.stderr}"
    return str(done.stdout)


async def status(lab: Lab, host: str) -> dict:
    """Return what `condor-gateway status` says on a host."""
    return json.loads(await run(lab, host, "condor-gateway", "status", "--json"))


async def leader(lab: Lab, election: str, asked: str) -> str | None:
    """Return whom `asked` takes for the leader of an election."""
    return (await status(lab, asked))["elections"][election]["leader"]


async def wait_leader(lab: Lab, election: str, *, other_than: str, asked: str) -> str:
    """Wait until `asked` follows a leader other than that one; return it."""
    async with recovering(lab, f"{asked} to follow another than {other_than} in {election}"):
        while (found := await leader(lab, election, asked)) in (None, other_than):
            await trio.sleep(0.1)
    return found


async def wait_healthy(lab: Lab) -> None:
    """Wait until every node runs, and the first gateway hears every candidate to be fit and warm."""
    managers = [host.name for host in lab.topology.of_kind(Kind.MANAGER)]
    gateways = [host.name for host in lab.topology.of_kind(Kind.GATEWAY)]
    candidates: list[dict | None] = []
    with trio.move_on_after(RECOVERY_S_MAX):
        while True:
            seen = {host: await lab.gateway_status(host) for host in (*gateways, *managers)}
            elections = seen[gateways[0]]["elections"].values() if all(seen.values()) else ()
            candidates = [found for election in elections for found in election["candidates"].values()]
            if candidates and all(
                one and one["fit"] and one["warm"] and one["heard_ms_ago"] < SILENCE_MS_MAX for one in candidates
            ):
                return
            await trio.sleep(0.3)
    logs = [f"{host}: {line}" for host in managers for line in last_events(lab, host)]
    pytest.fail("\n".join((f"not healthy after {RECOVERY_S_MAX} s", str(candidates), *logs)))


def last_events(lab: Lab, host: str) -> list[str]:
    """Return the last lines of the gateway's log on a host."""
    return lab.file(host, "/var/log/condor-gateway.log").read_text().splitlines()[-LOG_LINES:]


async def wait_done(lab: Lab, cluster: str) -> list[str]:
    """Wait until no job of a cluster is queued; return each one's status and number of starts, as in "4 1"."""
    async with recovering(lab, f"the jobs of cluster {cluster} to end"):
        while (await run(lab, "submit1", "condor_q", cluster, "-af", "ClusterId")).strip():
            await trio.sleep(0.3)
    history = await run(lab, "submit1", "condor_history", cluster, "-af", "JobStatus", "NumJobStarts")
    return history.splitlines()


@asynccontextmanager
async def recovering(lab: Lab, what: str) -> AsyncIterator[None]:
    """Give the pool the time that it may take; fail with what all of it last said, where that is over."""
    with trio.move_on_after(RECOVERY_S_MAX) as scope:
        yield
    if scope.cancelled_caught:
        pytest.fail(f"waited {RECOVERY_S_MAX} s in vain for {what}\n{await what_it_says(lab)}")


async def what_it_says(lab: Lab) -> str:
    """Return the pool's queue and slots, and the last lines of every log, for whoever reads that a test has failed."""
    said = []
    for argv in (["condor_q", "-nobatch"], ["condor_status"]):
        done = await lab.exec("submit1", argv, timeout_s=30)
        said.append(f"{' '.join(argv)}:\n{done.stdout}{done.stderr}")
    for host in lab.topology.hosts:
        names = MANAGER_LOGS if host.kind is Kind.MANAGER else CONDOR_LOGS.get(host.name, ())
        for name in names:
            path = lab.file(host.name, f"/var/log/condor/{name}")
            if path.exists():
                tail = path.read_text(errors="replace").splitlines()[-CONDOR_LOG_LINES:]
                said.append("\n".join((f"{host.name} {name}:", *tail)))
        if host.kind in (Kind.MANAGER, Kind.GATEWAY):
            said.append("\n".join((f"{host.name} condor-gateway:", *last_events(lab, host.name))))
    return "\n\n".join(said)


async def restore(lab: Lab) -> None:
    """Undo every fault that a test has left: the next one finds all hosts up, awake and plugged in."""
    await lab.mend()
    for host in lab.topology.hosts:
        await lab.link_up(host.name)
        if lab.is_up(host.name):
            await lab.thaw(host.name)
        else:
            await lab.revive(host.name)


async def heard(lab: Lab) -> dict[str, str]:
    """For each slot: how many updates of it the pool's collector has counted by the slot's own number."""
    out = await run(lab, "submit1", "condor_status", "-af", "Name", "UpdateSequenceNumber", "DaemonStartTime")
    return {line.split()[0]: line for line in out.splitlines()}

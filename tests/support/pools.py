# ruff: noqa: ASYNC110 (what is waited for happens in other processes)
"""What tests ask of a lab's pool and do with it, as its users and administrators would: jobs, ads, elections."""

import json

import pytest
import trio

from gateway.lab.pool import Lab
from gateway.lab.topology import Kind

RECOVERY_S_MAX = 60  # an election takes a second; the pool's jobs and the machine's other work take the rest
SILENCE_MS_MAX = 300  # a node that was heard within this is alive
LOG_LINES = 12


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
    with trio.fail_after(RECOVERY_S_MAX):
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
    with trio.fail_after(RECOVERY_S_MAX):
        while (await run(lab, "submit1", "condor_q", cluster, "-af", "ClusterId")).strip():
            await trio.sleep(0.3)
    history = await run(lab, "submit1", "condor_history", cluster, "-af", "JobStatus", "NumJobStarts")
    return history.splitlines()


async def heard(lab: Lab) -> dict[str, str]:
    """For each slot: how many updates of it the pool's collector has counted by the slot's own number."""
    out = await run(lab, "submit1", "condor_status", "-af", "Name", "UpdateSequenceNumber", "DaemonStartTime")
    return {line.split()[0]: line for line in out.splitlines()}

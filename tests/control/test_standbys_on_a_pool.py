"""Warm standbys of a real pool: three managers, a gateway, eight slots that are busy, and what befalls the standbys."""

import json
import os
import re

import pytest
import trio

from gateway.lab.topology import Topology
from tests.support.labs import running
from tests.support.pools import run
from tests.support.standby_faults import COLLECTOR_LOG, leader_of, signal, trial, wait_warm, warmth

pytestmark = pytest.mark.pool

SLOTS = 8
JOBS = """\
universe = vanilla
executable = /usr/bin/sleep
seconds = $(Process) % 3 + 1
arguments = $INT(seconds)
should_transfer_files = NO
queue 600
"""


@pytest.fixture(scope="module")
def lab():
    with running(Topology(name=f"warm{os.getpid()}", managers=3, gateways=1, execute=1, slots=SLOTS)) as lab:
        yield lab


async def roles(lab):
    """Return the leader and the two standbys, when all is warm."""
    leader = await leader_of(lab)
    await wait_warm(lab, leader)
    return leader, *sorted({"cm1", "cm2", "cm3"} - {leader})


async def eventually(condition, limit_s=30):
    with trio.fail_after(limit_s):
        while True:
            if await condition():
                return
            await trio.sleep(0.2)


async def ads(lab, host):
    """Return the names in one manager's collector, each with its type."""
    query = ["condor_status", "-pool", lab.topology.host(host).address, "-any", "-af:t", "MyType", "Name"]
    done = await lab.exec(host, query)
    assert done.returncode == 0, done.stderr
    return {tuple(line.split("\t")) for line in done.stdout.splitlines()}


async def slots(lab, host):
    return {name for kind, name in await ads(lab, host) if kind == "Machine" and "@exec1" in name}


async def test_ads_withdrawn_while_a_standby_was_cut_off_go_there_too(lab):
    leader, standby, _ = await roles(lab)
    assert len(await slots(lab, standby)) == SLOTS
    log = lab.file(standby, COLLECTOR_LOG)
    mark = log.stat().st_size
    await lab.cut(leader, standby)
    try:
        await eventually(lambda: _refused(lab, leader, standby))
        await lab.exec("exec1", ["condor_off", "-daemon", "startd"])
        await eventually(lambda: _none(slots(lab, leader)))
        assert len(await slots(lab, standby)) == SLOTS
    finally:
        await lab.heal(leader, standby)
    await eventually(lambda: _none(slots(lab, standby)), limit_s=60)
    said = log.read_bytes()[mark:].decode(errors="replace")
    private = re.findall(r'Removed\(1\) MachinePrivate ad\(s\): "< (slot\d+)@exec1', said)
    assert len(set(private)) == SLOTS
    assert ("DaemonMaster", f"{standby}.lab.internal") in await ads(lab, standby), "its own, which the leader never had"
    assert (await warmth(lab, leader))["ads_invalidated_total"] >= SLOTS
    await lab.exec("exec1", ["condor_on", "-daemon", "startd"])
    await eventually(lambda: _all_back(lab))


async def _none(asking):
    return not await asking


async def _all_back(lab):
    return all([len(await slots(lab, host)) == SLOTS for host in ("cm1", "cm2", "cm3")])


@pytest.mark.parametrize("fault", ["hung", "black-holed"])
async def test_broken_standby_stalls_neither_the_leaders_collector_nor_the_other_standby(lab, fault):
    leader, standby, _ = await roles(lab)
    found = await trial(lab, leader, standby, fault, before_s=1, broken_s=2.5)
    assert found.longest_s < 2, found  # without a relay between: 20 to 40 s
    assert found.failed == []
    assert found.sent > 100
    assert all(count >= 0.9 * found.sent for count in found.others.values()), found
    assert await leader_of(lab) == leader


async def test_manager_that_came_back_under_load_matches_at_once_when_it_must_lead(lab):
    leader, standby, other = await roles(lab)
    await lab.submit(JOBS)
    try:
        await lab.kill(standby)
        await eventually(lambda: _refused(lab, leader, standby))  # what is said of it afterwards is of its next life
        log = lab.file(standby, COLLECTOR_LOG)
        mark = log.stat().st_size
        await lab.revive(standby)
        await eventually(lambda: _primed(lab, leader, standby))
        said = log.read_bytes()[mark:].decode(errors="replace")
        assert len(set(re.findall(r'MachinePvtAd : Inserting \*\* "< (slot\d+)@exec1', said))) == SLOTS
        await signal(lab, other, "condor_collector", "SIGSTOP")  # it can't be the one
        await eventually(lambda: _refused(lab, leader, other))
        await lab.kill(leader)
        await eventually(lambda: _leads(lab, standby), limit_s=10)
        await eventually(lambda: _matched(lab, standby), limit_s=20)
    finally:  # what comes first must not keep the next test's leader dead
        await lab.revive(leader)
        await lab.exec("submit1", ["condor_rm", "-all"])
        await signal(lab, other, "condor_collector", "SIGCONT")


async def _primed(lab, leader, standby):
    said = (await warmth(lab, leader))["standbys"][standby]
    return said["forwarding"] and said["primed"]


async def _leads(lab, host):
    return await leader_of(lab) == host


async def _refused(lab, leader, standby):
    return not (await warmth(lab, leader))["standbys"][standby]["forwarding"]


async def _matched(lab, host):
    """Whether every slot has been matched there."""
    log = lab.file(host, "/var/log/condor/NegotiatorLog")
    said = log.read_text(errors="replace") if log.exists() else ""
    return len(set(re.findall(r"Matched .* (slot\d+)@exec1", said))) == SLOTS


async def test_restart_of_the_leaders_collector_takes_nothing_from_the_standbys(lab):
    leader, *standbys = await roles(lab)
    await signal(lab, leader, "condor_collector", "SIGKILL")
    with trio.move_on_after(12):  # condor_master starts it again after 10 s
        while True:
            for standby in standbys:
                assert len(await slots(lab, standby)) == SLOTS
            await trio.sleep(0.5)
    await wait_warm(lab, await leader_of(lab))
    assert await _all_back(lab)


async def test_while_the_cluster_is_paused_htcondor_is_restarted_on_the_leader_and_nothing_moves(lab):
    leader, *_ = await roles(lab)
    before = json.loads(await run(lab, leader, "condor-gateway", "status", "--json"))
    await run(lab, "gw1", "condor-gateway", "pause", "a new HTCondor")
    try:
        await run(lab, leader, "condor_restart", "-master")

        async def runs_again():
            found = json.loads(await run(lab, leader, "condor-gateway", "status", "--json"))
            pid = found["matchmakers"]["managers"]["negotiator_pid"]
            fit = found["elections"]["managers"]["candidates"][leader]["fit"]
            return fit and pid not in (None, before["matchmakers"]["managers"]["negotiator_pid"])

        await eventually(runs_again)
    finally:
        await run(lab, "gw1", "condor-gateway", "resume")
    after = json.loads(await run(lab, leader, "condor-gateway", "status", "--json"))["elections"]["managers"]
    assert (after["leader"], after["term"]) == (leader, before["elections"]["managers"]["term"])

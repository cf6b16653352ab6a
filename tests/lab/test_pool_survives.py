# ruff: noqa: ASYNC110 (what is waited for happens in other processes)
"""The product on a real pool: managers and the gateway fail, the pool's users and hosts do not notice.

One lab for all tests, in the order of the file: each test leaves the pool healthy. The first execute host updates the
collector by UDP, the second by TCP.
"""

import os

import pytest
import trio

from gateway.lab.machines import series
from gateway.lab.machines.namespaces import NamespacePool
from gateway.lab.machines.records import Outcome
from gateway.lab.pool import Lab
from gateway.lab.topology import System, Topology
from tests.support import labs, pools
from tests.support.pools import heard, recovering, restore, run, status, wait_done, wait_healthy, wait_leader

pytestmark = [
    pytest.mark.pool,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

NAME = f"s{os.getpid()}"
ENTITIES = ("submit1", "exec1", "exec2")
MANAGERS = ("cm1", "cm2", "cm3")
JOBS = (
    "universe = vanilla\nexecutable = /usr/bin/sleep\narguments = $RANDOM_INTEGER(2,4)\n"
    "should_transfer_files = NO\nqueue {count}\n"
)
UDP = "UPDATE_COLLECTOR_WITH_TCP = False\n"


@pytest.fixture(scope="module")
def lab():
    files = {"exec1": {"/etc/condor/config.d/60-udp.config": UDP}}
    with labs.running(Topology(name=NAME, system=System.OURS, slots=4), files=files) as made:
        yield made


@pytest.fixture(autouse=True)
def whole_again(lab: Lab):
    """One test that fails fails alone."""
    yield
    trio.run(restore, lab)


async def leader(lab: Lab, election: str, asked: str = "gw2") -> str | None:
    return await pools.leader(lab, election, asked)


def configuration(lab: Lab) -> dict[tuple[str, str], bytes]:
    """Every byte of HTCondor's configuration on the submit and execute hosts."""
    found = {}
    for host in ENTITIES:
        folder = lab.file(host, "/etc/condor")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                found[host, str(path.relative_to(folder))] = path.read_bytes()
    assert found
    return found


async def use_every_tool(lab: Lab) -> None:
    """What a user and an administrator do, all through the address."""
    assert (await run(lab, "submit1", "condor_status", "-af", "Name")).count("slot") == 8
    cluster = (await lab.submit(JOBS.format(count=2))).split(".")[0]
    assert "Total for" in await run(lab, "submit1", "condor_q", "-totals")
    await run(lab, "submit1", "condor_reschedule")
    assert await wait_done(lab, cluster) == ["4 1", "4 1"]
    assert "physicist@lab.internal" in await run(lab, "submit1", "condor_userprio", "-all")


async def negotiators(lab: Lab) -> list[str]:
    """The managers on which a negotiator runs."""
    found = []
    for host in MANAGERS:
        if lab.is_up(host) and "condor_negotiat" in await run(lab, host, "ps", "-eo", "comm"):
            found.append(host)
    return found


async def test_the_pools_hosts_know_the_address_and_nothing_else(lab: Lab) -> None:
    for host in ENTITIES:
        assert (await run(lab, host, "condor_config_val", "CONDOR_HOST")).strip() == "10.77.0.100"
        whole = await run(lab, host, "condor_config_val", "-dump")
        for manager in (*MANAGERS, "10.77.0.11", "10.77.0.12", "10.77.0.13", "gw1", "gw2"):
            assert manager not in whole


async def test_one_negotiator_runs_and_every_tool_works(lab: Lab) -> None:
    assert await negotiators(lab) == [await leader(lab, "managers")]
    await use_every_tool(lab)


async def test_the_pool_survives_its_elected_manager_that_is_cut_off(lab: Lab) -> None:
    """One that is killed: `test_pool_ways`."""
    await wait_healthy(lab)
    before = configuration(lab)
    elected = await leader(lab, "managers")
    cluster = (await lab.submit(JOBS.format(count=24))).split(".")[0]
    await lab.link_down(elected)
    successor = await wait_leader(lab, "managers", other_than=elected, asked="gw2")
    await use_every_tool(lab)
    assert await wait_done(lab, cluster) == ["4 1"] * 24, "every job has run, once"
    await lab.link_up(elected)
    await wait_healthy(lab)
    assert await leader(lab, "managers") == successor, "who comes back disturbs nobody"
    assert await negotiators(lab) == [successor]
    assert configuration(lab) == before


async def test_updates_by_udp_and_by_tcp_reach_the_new_manager(lab: Lab) -> None:
    await wait_healthy(lab)
    elected = await leader(lab, "managers")
    await lab.kill(elected)
    await wait_leader(lab, "managers", other_than=elected, asked="gw2")
    before = await heard(lab)
    await lab.submit(JOBS.format(count=40))
    async with recovering(lab, "an update of every slot"):
        while True:
            now = await heard(lab)
            if all(now[slot] != before[slot] for slot in before):
                break
            await trio.sleep(0.5)
    assert {slot.split("@")[1] for slot in before} == {"exec1.lab.internal", "exec2.lab.internal"}
    relay = (await status(lab, await leader(lab, "pool-vip")))["relay"]["listeners"]
    udp = [listener for name, listener in relay.items() if name.endswith("/udp")]
    assert udp[0]["datagrams_to_server_total"] > 0, "the first execute host speaks UDP"
    await lab.revive(elected)
    await wait_healthy(lab)


async def test_an_administrators_edit_survives_the_manager_that_took_it(lab: Lab) -> None:
    await wait_healthy(lab)
    elected = await leader(lab, "managers")
    await run(lab, elected, "condor_userprio", "-setfactor", "physicist@lab.internal", "4321")
    await trio.sleep(1.0)  # what a change may take to every standby's disk
    await lab.kill(elected)
    successor = await wait_leader(lab, "managers", other_than=elected, asked="gw2")
    async with recovering(lab, f"a negotiator on {successor} alone"):
        while await negotiators(lab) != [successor]:
            await trio.sleep(0.1)
    assert "4321" in await run(lab, "submit1", "condor_userprio", "-all")
    await lab.revive(elected)
    await wait_healthy(lab)


async def test_the_pool_survives_the_gateway_that_holds_its_address(lab: Lab) -> None:
    await wait_healthy(lab)
    before = configuration(lab)
    holder = await leader(lab, "pool-vip", asked="cm1")
    await lab.kill(holder)
    await wait_leader(lab, "pool-vip", other_than=holder, asked="cm1")
    await use_every_tool(lab)
    await lab.revive(holder)
    await wait_healthy(lab)
    assert configuration(lab) == before


async def test_a_frozen_manager_is_replaced_and_has_no_negotiator_when_it_wakes(lab: Lab) -> None:
    await wait_healthy(lab)
    elected = await leader(lab, "managers")
    await lab.freeze(elected)
    successor = await wait_leader(lab, "managers", other_than=elected, asked="gw2")
    await use_every_tool(lab)
    await lab.thaw(elected)
    await wait_healthy(lab)
    assert await leader(lab, "managers") == successor
    async with recovering(lab, f"a negotiator on {successor} alone"):
        while await negotiators(lab) != [successor]:
            await trio.sleep(0.2)


async def test_a_collector_that_dies_takes_its_manager_out_of_office(lab: Lab) -> None:
    await wait_healthy(lab)
    elected = await leader(lab, "managers")
    pids = (await run(lab, elected, "pgrep", "-x", "condor_collecto")).split()
    # Stopped, not killed: its port stays open and HTCondor notices nothing for an hour.
    await run(lab, elected, "kill", "-STOP", *pids)
    successor = await wait_leader(lab, "managers", other_than=elected, asked="gw2")
    assert successor != elected
    await use_every_tool(lab)
    await run(lab, elected, "kill", "-CONT", *pids)
    await wait_healthy(lab)


async def test_scenarios_of_the_virtual_machines_run_here_too_and_find_what_is_promised(lab: Lab) -> None:
    await wait_healthy(lab)
    outcomes: list[Outcome] = []
    said: list[str] = []
    good = await series.run(NamespacePool(lab), series.chosen(["manager-cut"]), said.append, outcomes.extend)
    assert good, said
    assert [one.victim for one in outcomes] != [""]
    assert {check.name for one in outcomes for check in one.checks} > {"no job lost", "one MAC answers for the address"}

# ruff: noqa: ASYNC110 (what is waited for happens in other processes)
"""Tools on the pool's hosts reach the negotiator at the virtual address: on a real pool, with the managers fenced off.

Each test leaves a manager elected. A tool's limit is generous: in 20 s, HTCondor's own time-outs would show.
"""

import os
import time

import pytest
import trio

from gateway.lab.topology import Topology
from tests.support import labs

pytestmark = [
    pytest.mark.pool,
    pytest.mark.timeout(200),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

MANAGERS = {"cm1": "10.77.0.11", "cm2": "10.77.0.12"}
ENTITIES = ("submit1", "exec1")
TOOL_S_MAX = 8.0
STARTS = 3  # each is a failover; one start in four stood still where TCP_FORWARDING_HOST was set
USER = "physicist@lab.internal"

# Nothing that these hosts begin reaches a manager itself. What a manager begins is answered: the negotiator must reach
# the schedd, at whatever address its tools have.
FENCE = "table inet test { chain out { type filter hook output priority 0; ip daddr { %s } ct state new drop; }; }"


@pytest.fixture(scope="module")
def lab():
    topology = Topology(name=f"na{os.getpid()}", managers=2, gateways=1, execute=1, slots=2)
    with labs.running(topology) as made:

        async def fence():
            for host in ENTITIES:
                done = await made.exec(host, ["nft", FENCE % ", ".join(MANAGERS.values())])
                assert done.returncode == 0, done.stderr

        trio.run(fence)
        yield made


async def run(lab, host, *argv):
    done = await lab.exec(host, list(argv), timeout_s=TOOL_S_MAX)
    assert done.returncode == 0, f"{argv} on {host}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


async def leader(lab):
    """Return the manager that runs the negotiator, as a tool on a submit host finds it."""
    with trio.fail_after(60):
        while True:
            for name in MANAGERS:
                said = await lab.gateway_status(name)
                if said and said["matchmakers"]["managers"]["negotiator_running"]:
                    return name
            await trio.sleep(0.1)


async def factor(lab, host):
    """Return the factor of USER, asked of the negotiator itself."""
    said = await run(lab, host, "condor_userprio", "-negotiator", "-allusers", "-af", "Name", "PriorityFactor")
    return next((float(line.split()[1]) for line in said.splitlines() if line.startswith(USER)), None)


async def wait_located(lab, host):
    """Wait until the negotiator that has just started has told the collector of itself."""
    with trio.fail_after(15):
        while not (await run(lab, host, "condor_status", "-negotiator", "-af", "Name")).strip():
            await trio.sleep(0.1)


async def test_the_managers_own_addresses_are_out_of_reach(lab):
    """The ground of all that follows."""
    for host in ENTITIES:
        for address in MANAGERS.values():
            done = await lab.exec(host, ["nc", "-z", "-w", "1", address, "9618"])
            assert done.returncode != 0


async def test_a_priority_factor_set_on_any_host_of_the_pool_holds_after_failovers(lab):
    for number in range(STARTS):
        here = await leader(lab)
        for host in ENTITIES:
            wanted = 10.0 + 10 * number + ENTITIES.index(host)
            await run(lab, host, "condor_userprio", "-setfactor", USER, str(wanted))
            assert await factor(lab, host) == wanted
        await trio.sleep(1.5)  # the accounting of the last second is not promised to survive
        await lab.kill(here)
        other = next(name for name in MANAGERS if name != here)
        killed = time.monotonic()
        while await leader(lab) != other:
            await trio.sleep(0.1)
        await wait_located(lab, "submit1")
        assert await factor(lab, "submit1") == wanted
        assert time.monotonic() - killed < 15
        await lab.revive(here)
        await wait_candidate(lab, here)


async def wait_candidate(lab, name):
    with trio.fail_after(60):
        while True:
            said = await lab.gateway_status("gw1")
            candidate = said["elections"]["managers"]["candidates"].get(name) if said else None
            if candidate and candidate["fit"] and candidate["warm"] and candidate["heard_ms_ago"] < 300:
                return
            await trio.sleep(0.2)


async def test_python_bindings_reach_it_too(lab):
    script = "import htcondor; print([one['Name'] for one in htcondor.Negotiator().getPriorities()])"
    assert USER in await run(lab, "submit1", "python3", "-c", script)


async def test_tools_on_the_manager_itself_need_no_gateway(lab):
    here = await leader(lab)
    fence = "table inet test { chain out { type filter hook output priority 0; ip daddr 10.77.0.100 drop; }; }"
    await run(lab, here, "nft", fence)
    try:
        await run(lab, here, "condor_userprio", "-setfactor", USER, "99")
        assert await factor(lab, here) == 99.0
    finally:
        await run(lab, here, "nft", "delete table inet test")


async def test_no_collector_takes_itself_for_another_one(lab):
    """It would send its own ad to itself, and wait 20 s for its own answer: so it did with TCP_FORWARDING_HOST."""
    for name in MANAGERS:
        text = lab.file(name, "/var/log/condor/CollectorLog").read_text(errors="replace")
        assert "STARTING UP" in text
        assert "Unable to send UPDATE_COLLECTOR_AD" not in text

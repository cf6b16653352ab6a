# ruff: noqa: ASYNC110, ASYNC240 (what is waited for happens in other processes; their output is short)
"""A real pool on each way to forward, over IPv4 and IPv6: its hosts fail, its jobs run on.

One small lab for each, and the tests of a lab in the order of the file. Over IPv4 the execute host sends its ads by
UDP and the submit host by TCP; over IPv6 all send by TCP. In one the managers' collectors own their ports.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from gateway.config.settings import Forward
from gateway.lab.pool import Lab
from gateway.lab.rootfs import LIBRARY
from gateway.lab.topology import CONDOR_PORT, Topology, Updates
from tests.support import labs
from tests.support.declared import undeclared
from tests.support.pools import heard, leader, run, status, wait_done, wait_healthy, wait_leader

pytestmark = [
    pytest.mark.pool,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

MANAGERS = ("cm1", "cm2")
SECONDS_MAX = 30
TCP_AFTER_ALL = {"submit1": {"/etc/condor/config.d/60-tcp.config": "UPDATE_COLLECTOR_WITH_TCP = True\n"}}
JOBS = "executable = /usr/bin/sleep\narguments = {seconds}\nshould_transfer_files = NO\nqueue {count}\n"

OWN_PORT = "proxy-ipv4-udp-without-shared-port"  # as pools of UDP have been set up since long ago
# Without a shared port a daemon takes every other on an address of this host for one of its own condor_master, the
# relay to the other managers' collectors too, and offers it the session that only those know.
OWNING = """\
USE_SHARED_PORT = False
DAEMON_LIST = MASTER COLLECTOR
SEC_USE_FAMILY_SESSION = False
"""
WAYS = {
    OWN_PORT: Topology(forward=Forward.PROXY, updates=Updates.UDP),
    "proxy-ipv6-transparent": Topology(forward=Forward.PROXY, ip_version=6, transparent=True),
    "nat-ipv4-udp-transparent": Topology(forward=Forward.NAT, updates=Updates.UDP, transparent=True),
    "nat-ipv6": Topology(forward=Forward.NAT, ip_version=6),
    "direct-ipv4-udp": Topology(forward=Forward.DIRECT, updates=Updates.UDP),
    "direct-ipv6": Topology(forward=Forward.DIRECT, ip_version=6),
}

ON, AFTER = "/tmp/ways-go-on", 13  # bytes of the question's second message
DIVERTED = {
    Forward.NAT: {"tcp": "tcp_opened", "udp": "udp_opened"},
    Forward.DIRECT: {"tcp": "connections_total", "udp": "datagrams_total"},
}
# A question to the pool's collector in two halves: the second one, and the answer, need the connection to live.
IN_HALVES = f"""
import pathlib, socket, sys, time
sys.path.insert(0, {LIBRARY!r})
from gateway.wire.cedar import query_instance_request
question = query_instance_request()
asking = socket.create_connection((sys.argv[1], {CONDOR_PORT}), 5)
asking.sendall(question[:-{AFTER}])
print("open", flush=True)
while not pathlib.Path({ON!r}).exists():
    time.sleep(0.05)
try:
    asking.sendall(question[-{AFTER}:])
    print("answered" if len(asking.recv(100)) == 21 else "closed")
except OSError as error:
    print(error)
"""
HAZARDS = f"""
import sys
sys.path.insert(0, {LIBRARY!r})
import trio
from gateway.matchmaker.interfaces import interface_hazards
print(len(trio.run(interface_hazards, sys.argv[1], sys.argv[2:])))
"""


@pytest.fixture(scope="module", params=list(WAYS))
def lab(request):
    asked = WAYS[request.param]
    topology = msgspec.structs.replace(asked, name=f"ways{os.getpid()}", managers=2, execute=1, slots=4)
    files = dict(TCP_AFTER_ALL) if asked.updates is Updates.UDP else {}
    if request.param == OWN_PORT:
        files |= {manager: {"/etc/condor/config.d/60-own-port.config": OWNING} for manager in MANAGERS}
    with labs.running(topology, files=files) as made:
        yield made


@asynccontextmanager
async def question_in_halves(lab: Lab, output: Path) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Ask half a question from the submit host; call what is yielded for the other half, and how it ended."""
    argv = ["/usr/bin/python3", "-S", "-c", IN_HALVES, lab.topology.virtual_address]
    asking = await lab.spawn("submit1", argv, stdout=output)

    async def go_on() -> str:
        await run(lab, "submit1", "touch", ON)
        with trio.fail_after(SECONDS_MAX):
            await asking.wait()
        return output.read_text().splitlines()[-1]

    try:
        with trio.fail_after(SECONDS_MAX):
            while "open" not in output.read_text():
                await trio.sleep(0.05)
        yield go_on
    finally:
        with trio.CancelScope(shield=True):
            await asking.stop()


async def submit(lab: Lab, count: int, seconds: int) -> str:
    return (await lab.submit(JOBS.format(count=count, seconds=seconds))).split(".")[0]


async def wait_new_ads(lab: Lab, before: dict[str, str]) -> None:
    """Wait until the pool's collector has a younger ad of every slot."""
    with trio.fail_after(SECONDS_MAX):
        while True:
            now = await heard(lab)
            if all(now.get(slot, line) != line for slot, line in before.items()):
                return
            await trio.sleep(0.3)


async def carried(lab: Lab, way: Forward) -> dict[str, int]:
    """Return how many connections and datagrams went through the holder of the address in a way, by "tcp" and "udp"."""
    said = await status(lab, await leader(lab, "pool-vip", asked="gw1"))
    if way is Forward.PROXY:
        listeners = said["relay"]["listeners"]
        return {
            name.rpartition("/")[2]: counted["connections_total"] + counted["datagrams_to_server_total"]
            for name, counted in listeners.items()
        }
    (diversion,) = said["diversions"].values()
    assert (diversion["way"], diversion["state"]) == (way, "kernel")
    names = DIVERTED[way]
    return {protocol: diversion["counters"][name] for protocol, name in names.items()}


async def test_its_hosts_see_the_pool_and_tell_it_of_themselves_in_the_way_that_was_asked_for(lab: Lab) -> None:
    assert len(await heard(lab)) == 4
    asked = lab.topology
    found = await carried(lab, asked.forward)
    assert found["tcp"] > 0
    assert (found["udp"] > 0) is (asked.updates is Updates.UDP)
    if asked.forward is not Forward.PROXY:  # the relay has held who came before a manager was elected, no more
        assert (await carried(lab, Forward.PROXY))["tcp"] < found["tcp"]
    log = lab.file("exec1", "/var/log/condor/StartLog").read_text()
    protocol = "UDP" if asked.updates is Updates.UDP else "TCP"
    assert f"Attempting to send update via {protocol} to collector <{asked.condor_host}:{CONDOR_PORT}>" in log


async def test_managers_advertise_themselves_at_their_own_addresses(lab: Lab) -> None:
    """Whatever stands on their loopback devices. The negotiator alone is to be found at the virtual address."""
    for manager in MANAGERS:
        found = await run(lab, manager, "condor_status", "-pool", manager, "-any", "-af", "MyType", "MyAddress")
        ads = {line for line in found.splitlines() if line.split()[0] in ("Collector", "DaemonMaster")}
        assert len(ads) >= 2, found
        assert not [line for line in ads if lab.topology.condor_host in line]


async def test_managers_see_the_clients_own_addresses_where_that_was_asked_for_and_with_direct(lab: Lab) -> None:
    elected = await leader(lab, "managers", asked="gw1")
    established = ["ss", "-Htn", "state", "established", f"( sport = :{CONDOR_PORT} )"]
    peers = {
        line.split()[3].rpartition(":")[0].strip("[]") for line in (await run(lab, elected, *established)).splitlines()
    }
    transparent = lab.topology.transparent or lab.topology.forward is Forward.DIRECT
    assert (lab.topology.host("submit1").address in peers) is transparent, peers


async def test_a_manager_whose_htcondor_would_take_any_address_for_its_own_is_told_so(lab: Lab) -> None:
    argv = ["/usr/bin/python3", "-S", "-c", HAZARDS, lab.topology.host("cm1").address, lab.topology.virtual_address]
    assert (await lab.exec("cm1", argv)).stdout.split() == ["0"]
    for changed in ({"_CONDOR_NETWORK_INTERFACE": "*"}, {"_CONDOR_BIND_ALL_INTERFACES": "False"}):
        assert (await lab.exec("cm1", argv, environment=changed)).stdout.split() == ["1"]


async def test_status_of_every_node_is_what_is_published(lab: Lab) -> None:
    for host in ("gw1", "gw2", *MANAGERS):
        assert undeclared(await status(lab, host)) == [], "declare them in gateway/console/status_schema.py"


async def test_jobs_run_on_after_the_elected_manager_is_killed(lab: Lab) -> None:
    await wait_healthy(lab)
    elected = await leader(lab, "managers", asked="gw1")
    running = await submit(lab, 4, 2)
    before = await heard(lab)
    await lab.kill(elected)
    await wait_leader(lab, "managers", other_than=elected, asked="gw1")
    later = await submit(lab, 4, 1)
    assert await wait_done(lab, running) == ["4 1"] * 4
    assert await wait_done(lab, later) == ["4 1"] * 4
    await wait_new_ads(lab, before)
    await lab.revive(elected)
    await wait_healthy(lab)


async def test_jobs_run_on_after_the_gateway_is_killed_and_connections_live_on_where_it_only_forwards(
    lab: Lab, tmp_path: Path
) -> None:
    holder = await leader(lab, "pool-vip", asked="cm1")
    running = await submit(lab, 4, 2)
    async with question_in_halves(lab, tmp_path / "answer") as go_on:
        await lab.kill(holder)
        await wait_leader(lab, "pool-vip", other_than=holder, asked="cm1")
        ended = await go_on()
    asked = lab.topology
    # Who translates the address of the server alone can take over in the middle of a connection.
    lives_on = asked.forward is Forward.DIRECT or (asked.forward is Forward.NAT and asked.transparent)
    assert (ended == "answered") is lives_on, ended
    later = await submit(lab, 4, 1)
    assert await wait_done(lab, running) == ["4 1"] * 4
    assert await wait_done(lab, later) == ["4 1"] * 4

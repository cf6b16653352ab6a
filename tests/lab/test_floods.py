"""Promises under floods: the pool is served all the while, and the relay's memory is bounded.

One lab for each way to forward; each flood comes from a host of the pool that has nothing else to do. With `nat` and
`direct` the relay meets none of it: what the kernel does not drop HTCondor takes, as new connections above the rate of
their host are.
"""

import os

import pytest
import trio

from gateway.config.settings import Forward
from gateway.lab.measure import flood
from gateway.lab.measure.flood_command import MAXCONN_SOURCE
from gateway.lab.measure.floods import JOB_SECONDS, OPEN_MAX, RATES, FloodResult, Floods
from gateway.lab.measure.load import USERS_SUBMITTING, Load
from gateway.lab.pool import Lab
from gateway.lab.topology import Topology
from tests.support import labs

pytestmark = [
    pytest.mark.pool,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

SECONDS, BEFORE_S = 8, 1
RELAY_MIB_MAX = 64  # more than before: 4,000 flows, 2,000 silent connections and buffers of 3,000 others are some 10
RATE_SHARE_MIN = 0.5  # what a machine that is busy with the suite must manage of the flood, or it is none


@pytest.fixture(scope="module")
def lab(request):
    topology = Topology(
        name=f"waysf{os.getpid()}",
        managers=2,
        submit=2,
        execute=1,
        slots=4,
        forward=request.param,
        maxconn_source=MAXCONN_SOURCE,
    )
    with labs.running(topology) as made:
        yield made


async def flooded(lab: Lab, kind: str) -> FloodResult:
    load = Load(lab, f"{kind}-{os.getpid()}", users=USERS_SUBMITTING[:1], seconds=JOB_SECONDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.feed)
        found = await Floods(lab, load, print).measure(kind, SECONDS, BEFORE_S)
        nursery.cancel_scope.cancel()
    await load.remove()
    return found


def assert_served(found: FloodResult) -> None:
    assert found.flooder["attempted"] > RATE_SHARE_MIN * RATES[found.kind] * SECONDS, "it was no flood"
    assert (found.during.failed, found.elections) == (0, {})
    assert min(found.during.asked, found.during.ads, found.during.jobs) > 0
    assert found.during.relay.kib_max < found.before.relay.kib_max + RELAY_MIB_MAX * 1024


BY_PROXY = pytest.mark.parametrize("lab", [Forward.PROXY], indirect=True, scope="module")
EVERY_WAY = pytest.mark.parametrize("lab", [Forward.PROXY, Forward.NAT, Forward.DIRECT], indirect=True, scope="module")


@EVERY_WAY
async def test_a_pool_is_served_while_a_host_opens_connections_and_says_nothing(lab: Lab) -> None:
    found = await flooded(lab, flood.SILENT)
    assert_served(found)
    if lab.topology.forward is Forward.PROXY:
        assert found.counters["source_rate_refused_total"] > 0
    else:
        assert found.flooder["connected"] < found.flooder["attempted"] / 2, "most of them are dropped on the way"


@EVERY_WAY
async def test_a_pool_is_served_while_a_host_sends_datagrams_from_every_port(lab: Lab) -> None:
    assert_served(await flooded(lab, flood.DATAGRAMS))


@EVERY_WAY
async def test_a_pool_is_served_while_a_host_holds_more_connections_than_it_may(lab: Lab) -> None:
    found = await flooded(lab, flood.IDLE)
    assert_served(found)
    if lab.topology.forward is Forward.PROXY:
        # Its rate bounds it first: in a longer flood it is their number.
        assert found.counters["source_rate_refused_total"] + found.counters.get("source_refused_total", 0) > 0
        assert found.flooder["open_max"] < OPEN_MAX[flood.IDLE]
    else:
        assert found.flooder["connected"] < OPEN_MAX[flood.IDLE], "their number is nobody's, their rate is the kernel's"

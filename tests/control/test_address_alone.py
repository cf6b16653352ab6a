"""An address without a frontend: two gateways and a witness, as people use who need nothing but the address."""

import signal

import pytest

from tests.control.conftest import ADDRESS, NODES, Cluster
from tests.support.nodes import address_text, head_text

pytestmark = pytest.mark.kernel

VOTERS = {name: NODES[name] for name in ("gw1", "gw2", "w1")}


def test_an_address_alone_is_held_and_moves_by_the_vote_of_a_witness(cluster: Cluster) -> None:
    section = address_text("vip", f"{ADDRESS}/32", "gw1 gw2")
    for name in VOTERS:
        cluster.config(name).write_text(head_text("tests", VOTERS, cluster.folder, name) + section)
        cluster.start(name)
    holder = cluster.wait_holder("w1")
    client = cluster.segment.hosts["client"]
    assert client.ping(ADDRESS, 5)
    cluster.end(holder, signal.SIGKILL)
    successor = cluster.wait_holder("w1", other_than=holder)
    assert {holder, successor} == {"gw1", "gw2"}
    assert client.ping(ADDRESS, 5)
    assert not cluster.events("w1", "address.held")
    assert cluster.end("w1", signal.SIGTERM) == 0

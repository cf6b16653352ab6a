"""An address without a frontend: two gateways and a witness, as people use who need nothing but the address."""

import signal

import pytest

from tests.control.conftest import ADDRESS, Cluster

pytestmark = pytest.mark.kernel

CONFIG = """\
global
    cluster tests
    key-file {folder}/cluster.key
    state-dir {folder}/state-{me}
    log stdout format json
peers lan
    heartbeat 50ms
    lease 300ms
    peer gw1 10.77.9.1:9619 gateway
    peer gw2 10.77.9.2:9619 gateway
    peer w1 10.77.9.4:9619 witness
address vip
    ip 10.77.9.100/32 dev lan0
    holder gw1 gw2
"""


def test_an_address_alone_is_held_and_moves_by_the_vote_of_a_witness(cluster: Cluster) -> None:
    for name in ("gw1", "gw2", "w1"):
        cluster.config(name).write_text(CONFIG.format(folder=cluster.folder, me=name))
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

"""The address on real nodes: one holder, moved when it ends, announced, and given up in good order."""

import signal
import time
from typing import Any, cast

import pytest

from tests.control.conftest import ADDRESS, NODES, Cluster

pytestmark = pytest.mark.kernel


def _start_all(cluster: Cluster) -> str:
    for name in NODES:
        cluster.start(name)
    return cluster.wait_holder("w1")


def _last_change(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return the last change as a node has it, once its new leader has announced the address."""

    def changed() -> Any:
        change = cluster.status(name)["elections"]["vip"]["last_change"]
        return change if change["gap_ms"] is not None or change["to"] != name else None

    return cast("dict[str, Any]", cluster.wait(changed, "the change is whole", 10))


def _holds(cluster: Cluster, name: str) -> bool:
    return f"{ADDRESS}/32" in cluster.segment.hosts[name].ip("-o", "-4", "address", "show", "dev", "lan0").stdout


def test_exactly_one_gateway_holds_the_address_and_it_answers(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    client = cluster.segment.hosts["client"]
    assert client.ping(ADDRESS, 5)
    assert [name for name in ("gw1", "gw2", "gw3") if _holds(cluster, name)] == [holder]


def test_a_killed_holder_is_replaced_and_the_neighbours_learn_the_new_mac(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    client = cluster.segment.hosts["client"]
    assert client.ping(ADDRESS, 5)
    assert client.neighbour(ADDRESS) == cluster.segment.hosts[holder].mac
    cluster.end(holder, signal.SIGKILL)
    successor = cluster.wait_holder("w1", other_than=holder)
    assert _holds(cluster, successor)
    assert client.ping(ADDRESS, 5)
    assert client.neighbour(ADDRESS) == cluster.segment.hosts[successor].mac
    change = _last_change(cluster, successor)
    assert (change["from"], change["to"], change["cause"]) == (holder, successor, "lease-expired")
    assert 0 < change["phases"]["noticed_ms"] <= change["phases"]["elected_ms"] <= change["gap_ms"] < 5_000
    assert "announced_ms" not in _last_change(cluster, "w1")["phases"], "only the new holder knows that"


def test_a_stopped_holder_drops_the_address_before_another_takes_it(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    assert cluster.end(holder, signal.SIGTERM) == 0
    assert not _holds(cluster, holder)
    successor = cluster.wait_holder("w1", other_than=holder)
    (dropped,) = cluster.events(holder, "address.dropped")
    (held,) = cluster.events(successor, "address.held")
    assert dropped["at"] <= held["at"]
    for name in (successor, "w1"):
        change = _last_change(cluster, name)
        assert (change["from"], change["cause"], change["detail"]) == (holder, "requested", "the node is stopping")


def test_a_holder_that_was_killed_removes_its_stale_address_when_it_starts_again(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    cluster.end(holder, signal.SIGKILL)
    cluster.wait_holder("w1", other_than=holder)
    assert _holds(cluster, holder), "the kernel keeps the address of a killed process"
    cluster.start(holder)
    until = time.monotonic() + 15
    while _holds(cluster, holder) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _holds(cluster, holder)
    assert cluster.events(holder, "address.stale-removed")


def test_a_holder_whose_cable_is_pulled_gives_the_address_up(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    cluster.segment.hosts[holder].cut()
    successor = cluster.wait_holder("w1", other_than=holder)
    assert successor != holder
    until = time.monotonic() + 10
    while _holds(cluster, holder) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _holds(cluster, holder)


def test_an_address_that_another_tool_removes_is_put_back(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    cluster.segment.hosts[holder].ip("address", "del", f"{ADDRESS}/32", "dev", "lan0")
    until = time.monotonic() + 10
    while not _holds(cluster, holder) and time.monotonic() < until:
        time.sleep(0.02)
    assert _holds(cluster, holder)
    assert cluster.holder("w1") == holder


def test_a_killed_holder_stops_answering_by_itself(cluster: Cluster) -> None:
    """The kernel keeps the lease: nobody else need announce anything, and no line of the dead process runs."""
    holder = _start_all(cluster)
    client = cluster.segment.hosts["client"]
    client.ip("neighbour", "replace", ADDRESS, "lladdr", cluster.segment.hosts[holder].mac, "dev", "lan0")
    assert client.ping(ADDRESS, 5)
    for name in [name for name in cluster.running if name != holder]:
        cluster.end(name, signal.SIGKILL)
    cluster.end(holder, signal.SIGKILL)
    time.sleep(0.5)  # a lease is 300 ms
    client.ip("neighbour", "replace", ADDRESS, "lladdr", cluster.segment.hosts[holder].mac, "dev", "lan0")
    assert _holds(cluster, holder)
    assert not client.ping(ADDRESS, 1)


def test_a_frozen_holder_stops_answering_and_gives_the_address_up_when_it_wakes(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    client = cluster.segment.hosts["client"]
    assert client.ping(ADDRESS, 5)
    cluster.signal_all(holder, signal.SIGSTOP)
    successor = cluster.wait_holder("w1", other_than=holder)
    assert client.ping(ADDRESS, 5)
    assert client.neighbour(ADDRESS) == cluster.segment.hosts[successor].mac
    cluster.signal_all(holder, signal.SIGCONT)
    until = time.monotonic() + 10
    while _holds(cluster, holder) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _holds(cluster, holder)
    assert cluster.holder("w1") == successor


def test_a_clean_stop_leaves_no_rule_of_ours(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    host = cluster.segment.hosts[holder]
    assert "condor-gateway-tests-vip" in host.run("nft", "list", "tables").stdout
    cluster.end(holder, signal.SIGTERM)
    assert "condor-gateway" not in host.run("nft", "list", "tables").stdout

"""The guard of real nodes: the address leaves a host whose control has died, and peers need not wait for a lease."""

import os
import signal

import pytest
from guard_harness import alive, children, wait_until

from tests.control.conftest import ADDRESS, NODES, Cluster

pytestmark = pytest.mark.kernel

__all__ = ["cluster"]

from tests.control.conftest import cluster  # noqa: E402


def _start_all(cluster: Cluster) -> str:
    for name in NODES:
        cluster.start(name)
    return cluster.wait_holder("w1")


def _holds(cluster: Cluster, name: str) -> bool:
    return f"{ADDRESS}/32" in cluster.segment.hosts[name].ip("-o", "-4", "address", "show", "dev", "lan0").stdout


def _guard(cluster: Cluster, name: str) -> dict[str, object]:
    """Return what a node's status says of its guard, when its control answers."""
    assert wait_until(lambda: cluster.status(name).get("guard"))
    found: dict[str, object] = cluster.status(name)["guard"]
    return found


@pytest.mark.parametrize(("number", "frozen"), [(signal.SIGKILL, 0), (signal.SIGSTOP, 1)])
def test_address_of_a_dead_control_is_taken_away_and_its_successor_told(
    cluster: Cluster, number: signal.Signals, frozen: int
) -> None:
    holder = _start_all(cluster)
    first = cluster.control(holder)
    os.kill(first, number)
    assert wait_until(lambda: not _holds(cluster, holder), within_s=1)
    assert not alive(first)
    assert cluster.wait_holder("w1", other_than=holder) != holder
    guard = _guard(cluster, holder)
    assert guard["control_killed_total"] == {"frozen": frozen, "late": 0, "hung": 0}
    assert guard["control_restarts_total"] == 1
    # One to each peer of the file, those included that do not run.
    assert guard["letters_sent_total"] == 4
    assert cluster.status(holder)["pid"] == cluster.control(holder) != first


def test_node_whose_guard_is_killed_hands_over_and_ends(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    control = cluster.control(holder)
    os.kill(cluster.guard(holder), signal.SIGKILL)
    assert cluster.wait_holder("w1", other_than=holder) != holder
    assert wait_until(lambda: not alive(control))
    assert not _holds(cluster, holder)
    (lost,) = cluster.events(holder, "election.lost")
    assert lost["cause"] == "requested"


def test_clean_end_of_a_node_leaves_no_process(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    assert wait_until(lambda: cluster.status(holder).get("relay"))
    pids = children(cluster.guard(holder))
    workers = cluster.status(holder)["relay"]["workers"]
    assert len(pids) == 1 + len(workers) >= 2, "control and its relay, a process for each core"
    assert cluster.end(holder, signal.SIGTERM) == 0
    assert wait_until(lambda: not any(map(alive, pids)))

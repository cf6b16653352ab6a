"""Switchover from the command line, on real nodes: who leads then, and whether the printed gap is the one that is seen.

The nodes run once for the whole file.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.lab.measure import probe
from tests.control.conftest import ADDRESS, NODES, Cluster
from tests.support.netns import DEVICE
from tests.support.nodes import PYTHON, segment_for_nodes

pytestmark = pytest.mark.kernel

APART_MS_MAX = 40  # beside two periods of the probe, and what a busy machine adds; without load it is 10
GAP_MS_MAX = 1_000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("switchover")
    with segment_for_nodes("cgs", folder) as segment, Cluster(segment, folder) as cluster:
        for name in NODES:
            cluster.start(name)
        cluster.wait_holder("w1", within_s=60)
        yield cluster


def _run(cluster: Cluster, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a node."""
    command = ["ip", "netns", "exec", cluster.host(name).namespace, *PYTHON, *argv, "-f", str(cluster.config(name))]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _settled(cluster: Cluster) -> str:
    """Wait until every gateway could hold the address; return who does."""

    def fit() -> bool:
        candidates = cluster.status("w1")["elections"]["vip"]["candidates"].values()
        return all(one and one["fit"] for one in candidates)

    cluster.wait(fit, "every gateway is fit")
    return cluster.wait_holder("w1")


def test_a_handover_asked_for_on_a_witness_moves_the_address_and_prints_the_gap_that_a_client_sees(
    running: Cluster, tmp_path: Path
) -> None:
    holder = _settled(running)
    seen = tmp_path / "seen.txt"
    argv = [sys.executable, "-P", "-m", probe.__name__, ADDRESS, "9618", DEVICE, str(seen)]
    with subprocess.Popen(["ip", "netns", "exec", running.host("client").namespace, *argv]) as probing:
        time.sleep(1)
        since = time.time()
        done = _run(running, "w1", "switchover", "address", "--to", next(gw for gw in ("gw1", "gw2") if gw != holder))
        time.sleep(1)
        until = time.time()
        probing.send_signal(signal.SIGTERM)
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(
        r"address vip: (\w+) -> (\w+) in (\d+) ms \(term (\d+)\): resigned \d+, elected \d+, announced \d+\n",
        done.stdout,
    )
    assert said, done.stdout
    assert (said[1], said[2]) == (holder, running.holder("gw3"))
    seen_ms = probe.blackout_ms(seen.read_text(), since, until)
    assert seen_ms is not None
    assert int(said[3]) < GAP_MS_MAX
    assert abs(int(said[3]) - seen_ms) <= APART_MS_MAX


def test_the_successor_is_the_best_of_the_others_where_none_is_named(running: Cluster) -> None:
    holder = _settled(running)
    done = _run(running, holder, "switchover", "vip", "--json")
    answer = json.loads(done.stdout)
    assert answer["from"] == holder
    assert answer["to"] == answer["wanted"] == next(gw for gw in ("gw1", "gw2", "gw3") if gw != holder)
    assert 0 <= answer["gap_ms"] < GAP_MS_MAX
    assert running.wait_holder("w1", other_than=holder) == answer["to"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("switchover", "address", "--to", "w1"), "'w1' is no candidate of 'vip': those are gw1, gw2, gw3"),
        (("failover", "matchmaker", "--force"), "nobody leads 'managers': cm1 has not been heard"),
    ],
)
def test_what_can_not_be_done_is_refused_with_the_reason_and_moves_nothing(
    running: Cluster, argv: tuple[str, ...], said: str
) -> None:
    holder = _settled(running)
    done = _run(running, "w1", *argv)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""
    assert running.holder("w1") == holder


def test_a_failover_of_a_healthy_leader_loses_nothing_and_is_done(running: Cluster) -> None:
    holder = _settled(running)
    done = _run(running, "w1", "failover", "address")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"address vip: {holder} -> ")
    assert running.wait_holder("w1", other_than=holder)


def test_a_node_whose_process_was_replaced_is_asked_as_before(running: Cluster) -> None:
    """The old process closes the door, the new one opens it."""
    old = running.control("gw3")
    os.kill(running.guard("gw3"), signal.SIGHUP)
    running.wait(lambda: not Path(f"/proc/{old}").exists() and running.control("gw3"), "the new process")
    answers = _ask(running, "w1", {"command": "peers", "request": "status"})
    assert {name: one.get("node") for name, one in answers.items()} == {
        "gw1": "gw1",
        "gw2": "gw2",
        "gw3": "gw3",
        "cm1": None,
    }
    assert answers["cm1"]["reason"] == "unanswered"


def _ask(cluster: Cluster, name: str, request: dict) -> dict:
    from gateway.console.admin import ask_admin

    return ask_admin(cluster.folder / f"state-{name}" / "admin.sock", request, wait_s=20)

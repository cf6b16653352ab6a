"""Orders on real nodes: paused, a dead holder's address stays with nobody; drained, a holder hands it over in peace."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.control.conftest import ADDRESS, NODES, Cluster
from tests.control.test_reload import PINGER
from tests.support.nodes import PYTHON

pytestmark = pytest.mark.kernel

LEASE_S = 0.3


def order(cluster: Cluster, at: str, *words: str) -> dict[str, Any]:
    """Give an order by the command line of a node; return its answer."""
    command = [*PYTHON, *words, "--json", "-f", str(cluster.config(at))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def said(cluster: Cluster, at: str, *words: str) -> tuple[int, str]:
    command = [*PYTHON, *words, "-f", str(cluster.config(at))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def paused_at(cluster: Cluster, name: str) -> str | None:
    return (cluster.status(name).get("orders") or {}).get("paused")


def test_a_dead_holders_address_stays_with_nobody_until_resume_whoever_restarts_meanwhile(cluster: Cluster) -> None:
    for name in NODES:
        cluster.start(name)
    holder = cluster.wait_holder("w1", within_s=60)
    other = next(name for name in ("gw1", "gw2") if name != holder)
    answer = order(cluster, "w1", "pause", "new", "switch")
    assert set(answer["confirmed"]) == set(NODES) - {"w1"}
    assert answer["missing"] == ["cm1"], "which never runs here, and is named"
    assert f"{holder} leads 'vip': should it stop, nobody follows until 'resume'" in answer["notes"]
    assert said(cluster, other, "switchover", "vip")[0] == 1

    cluster.end(holder, signal.SIGKILL)  # guard and all: as the death of its host
    assert cluster.end("w1", signal.SIGTERM) == 0
    cluster.start("w1")
    os.kill(cluster.guard(other), signal.SIGHUP)
    cluster.wait(lambda: cluster.events(other, "node.taken-over"), "a new process")
    cluster.wait(lambda: cluster.status("w1") and cluster.status(other), "all answer again")
    time.sleep(5 * LEASE_S)
    assert cluster.holder("w1") is None
    assert cluster.holder(other) is None
    assert (paused_at(cluster, "w1"), paused_at(cluster, other)) == ("new switch", "new switch")
    assert "nobody leads 'vip': the cluster is paused" in said(cluster, "w1", "status")[1]
    assert "NOBODY leads: the cluster is paused" in said(cluster, "w1", "simulate", "cm1")[1]

    order(cluster, other, "resume")
    assert cluster.wait_holder("w1", other_than=holder)


def test_a_drained_holder_hands_the_address_over_and_takes_nothing_back(cluster: Cluster) -> None:
    for name in NODES:
        cluster.start(name)
    holder = cluster.wait_holder("w1", within_s=60)
    namespace = cluster.segment.hosts["client"].namespace
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", PINGER, ADDRESS, "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pinger:
        assert pinger.stdout is not None
        assert pinger.stdout.readline() == "ready\n"
        order(cluster, "w1", "drain", holder)
        follower = cluster.wait_holder("w1", other_than=holder)
        gap_ms = int(pinger.stdout.readline())
    assert gap_ms < 1_000  # it is some 30: stop, two writes, announcement
    (lost,) = cluster.events(holder, "election.lost")
    assert (lost["cause"], lost["detail"]) == ("requested", f"{holder} is drained")

    candidates = cluster.status(holder)["elections"]["vip"]["candidates"]
    assert (candidates[holder]["fit"], candidates[holder]["reason"]) == (False, "drained by w1")
    third = next(name for name in ("gw1", "gw2", "gw3") if name not in (holder, follower))
    assert order(cluster, holder, "drain", third)["changed"]
    assert any("stays" in note or "no candidate" in note for note in order(cluster, "w1", "drain", follower)["notes"])
    assert cluster.holder("w1") == follower, "the last one goes on"
    assert "though drained: no other candidate is fit" in said(cluster, follower, "status")[1]
    order(cluster, "w1", "undrain", third)
    assert cluster.wait_holder("w1", other_than=follower) == third
    code, text = said(cluster, "w1", "drain", "gw9")
    assert code == 1
    assert "no peer 'gw9'; peers: " in text

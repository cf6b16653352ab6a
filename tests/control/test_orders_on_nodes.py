"""Orders on real nodes: paused, a dead holder's address stays with nobody; drained, a holder hands it over in peace."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from gateway.console.admin import AdminUnreachable, ask_admin
from tests.control.conftest import ADDRESS, NODES, Cluster
from tests.control.test_reload import PINGER
from tests.support.nodes import PYTHON

pytestmark = pytest.mark.kernel

LEASE_S = 0.3


def ask(cluster: Cluster, at: str, command: str, **what: str) -> dict[str, Any]:
    """Ask a node, without a process of its own for each question."""
    found = ask_admin(cluster.folder / f"state-{at}" / "admin.sock", {"command": command, **what}, wait_s=30)
    assert isinstance(found, dict)
    assert "error" not in found, found
    return found


def status(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return what a node says of itself; empty while it does not answer."""
    try:
        return ask(cluster, name, "status")
    except AdminUnreachable:
        return {}


def holder_of(cluster: Cluster, asked: str) -> str | None:
    found = status(cluster, asked)
    return found["elections"]["vip"]["leader"] if found else None


def wait_holder(cluster: Cluster, asked: str, *, other_than: str | None = None) -> str:
    def held() -> str | None:
        found = holder_of(cluster, asked)
        return None if found == other_than else found

    return str(cluster.wait(held, "somebody holds the address", 60))


def start_all(cluster: Cluster) -> str:
    """Start every node; return who holds the address once all are heard: an order waits for nobody else."""
    for name in NODES:
        cluster.start(name)
    holder = wait_holder(cluster, "w1")

    def fit() -> bool:
        candidates = status(cluster, "w1")["elections"]["vip"]["candidates"].values()
        return all(one and one["fit"] for one in candidates)

    cluster.wait(fit, "every gateway could hold the address", 60)
    return holder


def said(cluster: Cluster, at: str, *words: str) -> tuple[int, str]:
    command = [*PYTHON, *words, "-f", str(cluster.config(at))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def paused_at(cluster: Cluster, name: str) -> str | None:
    return (status(cluster, name).get("orders") or {}).get("paused")


def test_a_dead_holders_address_stays_with_nobody_until_resume_whoever_restarts_meanwhile(cluster: Cluster) -> None:
    holder = start_all(cluster)
    other = next(name for name in ("gw1", "gw2") if name != holder)
    answer = ask(cluster, "w1", "pause", reason="new switch")
    assert set(answer["confirmed"]) == set(NODES) - {"w1"}
    assert answer["missing"] == ["cm1"], "which never runs here, and is named"
    assert f"{holder} leads 'vip': should it stop, nobody follows until 'resume'" in answer["notes"]
    assert said(cluster, other, "switchover", "vip")[0] == 1

    cluster.end(holder, signal.SIGKILL)  # guard and all: as the death of its host
    assert cluster.end("w1", signal.SIGTERM) == 0
    cluster.start("w1")
    os.kill(cluster.guard(other), signal.SIGHUP)
    cluster.wait(lambda: cluster.events(other, "node.taken-over"), "a new process")
    cluster.wait(lambda: status(cluster, "w1") and status(cluster, other), "all answer again")
    time.sleep(5 * LEASE_S)
    assert holder_of(cluster, "w1") is None
    assert holder_of(cluster, other) is None
    assert (paused_at(cluster, "w1"), paused_at(cluster, other)) == ("new switch", "new switch")
    assert "nobody leads 'vip': the cluster is paused" in said(cluster, "w1", "status")[1]
    assert "NOBODY leads: the cluster is paused" in said(cluster, "w1", "simulate", "cm1")[1]

    assert said(cluster, other, "resume")[1].startswith("the cluster is resumed\n")
    assert wait_holder(cluster, "w1", other_than=holder)


def test_a_drained_holder_hands_the_address_over_and_takes_nothing_back(cluster: Cluster) -> None:
    holder = start_all(cluster)
    namespace = cluster.segment.hosts["client"].namespace
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", PINGER, ADDRESS, "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pinger:
        assert pinger.stdout is not None
        assert pinger.stdout.readline() == "ready\n"
        ask(cluster, "w1", "drain", node=holder)
        follower = wait_holder(cluster, "w1", other_than=holder)
        gap_ms = int(pinger.stdout.readline())
    assert gap_ms < 1_000  # it is some 30: stop, two writes, announcement
    (lost,) = cluster.events(holder, "election.lost")
    assert (lost["cause"], lost["detail"]) == ("requested", f"{holder} is drained")

    candidates = status(cluster, holder)["elections"]["vip"]["candidates"]
    assert (candidates[holder]["fit"], candidates[holder]["reason"]) == (False, "drained by w1")
    third = next(name for name in ("gw1", "gw2", "gw3") if name not in (holder, follower))
    assert ask(cluster, holder, "drain", node=third)["changed"]
    assert any(
        "stays" in note or "no candidate" in note for note in ask(cluster, "w1", "drain", node=follower)["notes"]
    )
    assert holder_of(cluster, "w1") == follower, "the last one goes on"
    assert "though drained: no other candidate is fit" in said(cluster, follower, "status")[1]
    ask(cluster, "w1", "undrain", node=third)
    assert wait_holder(cluster, "w1", other_than=follower) == third
    code, text = said(cluster, "w1", "drain", "gw9")
    assert code == 1
    assert "no peer 'gw9'; peers: " in text

"""Reload: another control process takes over address, lease and connections; what does not fit changes nothing."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.control.conftest import ADDRESS, NODES, Cluster
from tests.support.nodes import children, command_line

pytestmark = pytest.mark.kernel

# A process in the client's namespace: asks the address every 5 ms, and prints the longest time without an answer.
PINGER = textwrap.dedent("""
    import socket, struct, sys, time
    address, seconds = sys.argv[1], float(sys.argv[2])
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.settimeout(0.005)
    end = time.monotonic() + seconds
    last, gap, macs = None, 0.0, 0
    number = 0
    print("ready", flush=True)
    while time.monotonic() < end:
        number = (number + 1) & 0xFFFF
        packet = struct.pack("!BBHHH", 8, 0, 0, 77, number)
        total = 8 << 8
        total = (8 << 8) + 77 + number
        total = (total & 0xFFFF) + (total >> 16)
        packet = struct.pack("!BBHHH", 8, 0, ~total & 0xFFFF, 77, number)
        raw.sendto(packet, (address, 0))
        try:
            raw.recv(100)
        except TimeoutError:
            continue
        now = time.monotonic()
        if last is not None:
            gap = max(gap, now - last)
        last = now
        time.sleep(0.003)
    print(f"{gap * 1000:.0f}")
""")


def _start_all(cluster: Cluster) -> str:
    for name in NODES:
        cluster.start(name)
    return cluster.wait_holder("w1")


def _until(condition: Callable[[], Any], what: str, within_s: float = 20) -> Any:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail(f"not within {within_s} s: {what}")


def _reload(cluster: Cluster, name: str) -> tuple[int, int]:
    """Have a node taken over by a new process; return the numbers of the old and the new one."""
    old = cluster.control(name)
    taken = len(cluster.events(name, "node.taken-over"))
    os.kill(cluster.guard(name), signal.SIGHUP)
    _until(lambda: len(cluster.events(name, "node.taken-over")) > taken, f"a new process on {name}")
    _until(lambda: not Path(f"/proc/{old}").exists(), "the end of the old process")
    return old, _until(lambda: cluster.control(name), "the new process")


def _ping_during(cluster: Cluster, act: Callable[[], None], seconds: float) -> int:
    """Return the longest time in ms without an answer while `act` is done."""
    namespace = cluster.segment.hosts["client"].namespace
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", PINGER, ADDRESS, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pinger:
        assert pinger.stdout is not None
        assert pinger.stdout.readline() == "ready\n"
        act()
        return int(pinger.stdout.readline())


def test_a_reloaded_holder_keeps_address_and_term_and_answers_all_the_time(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    before = cluster.status(holder)["elections"]["vip"]
    gap_ms = _ping_during(cluster, lambda: _pair_differs(*_reload(cluster, holder)), 4)
    after = cluster.status(holder)["elections"]["vip"]
    assert (after["leader"], after["term"]) == (holder, before["term"])
    assert gap_ms < 200  # it is 5 to 10: nothing is taken away
    assert all(not cluster.events(name, "election.lost") for name in NODES)


def _pair_differs(old: int, new: int) -> None:
    assert old != new


def test_the_guard_speaks_for_the_new_process_when_it_is_killed(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    _, new = _reload(cluster, holder)
    os.kill(new, signal.SIGKILL)
    successor = cluster.wait_holder("w1", other_than=holder)
    (held,) = cluster.events(successor, "address.held")
    assert held["term"] == 2


def test_reloads_in_a_row_change_no_leader_until_the_holder_is_stopped(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    for name in (holder, "w1", holder, "gw1", "gw2", "gw3", holder):
        _reload(cluster, name)
    time.sleep(1.5)  # five leases
    assert cluster.holder("w1") == holder
    assert all(not cluster.events(name, "election.lost") for name in NODES)
    assert cluster.end(holder, signal.SIGTERM) == 0
    assert cluster.wait_holder("w1", other_than=holder)


def _workers(cluster: Cluster, name: str, count: int) -> list[int]:
    """Wait until so many relay processes listen; return their numbers."""

    def found() -> list[int]:
        relay = (cluster.status(name) or {}).get("relay") or {"workers": []}
        return [worker["pid"] for worker in relay["workers"] if worker["listening"]]

    return list(_until(lambda: len(pids := found()) == count and pids, f"{count} relay processes"))


def test_all_relay_processes_and_their_connections_outlive_a_reload(cluster: Cluster) -> None:
    for name in NODES:
        path = cluster.config(name)
        path.write_text(path.read_text().replace("    cluster tests", "    cluster tests\n    relay-workers 3"))
    holder = _start_all(cluster)
    relays = _workers(cluster, holder, 3)
    _reload(cluster, holder)
    assert _workers(cluster, holder, 3) == relays
    assert not cluster.events(holder, "relay.died")
    path = cluster.config(holder)
    path.write_text(path.read_text().replace("relay-workers 3", "relay-workers 2"))
    _reload(cluster, holder)
    assert _workers(cluster, holder, 2) == relays[:2]
    _until(lambda: not Path(f"/proc/{relays[2]}").exists(), "the end of the one that is too many")
    assert not cluster.events(holder, "relay.died")


def test_an_invalid_file_changes_nothing(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    control = cluster.control(holder)
    path = cluster.config(holder)
    good = path.read_text()
    path.write_text(good.replace("heartbeat 50ms", "hartbeat 50ms"))
    os.kill(cluster.guard(holder), signal.SIGHUP)
    _until(lambda: cluster.events(holder, "reload.failed"), "the refusal")
    assert cluster.control(holder) == control
    assert cluster.holder("w1") == holder
    path.write_text(good)
    _reload(cluster, holder)
    assert cluster.holder("w1") == holder


def test_a_file_with_other_peers_is_refused_by_name(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    control = cluster.control(holder)
    path = cluster.config(holder)
    path.write_text(path.read_text().replace("    peer w1", "    peer w2 10.77.9.7:9619 witness\n    peer w1"))
    os.kill(cluster.guard(holder), signal.SIGHUP)
    (refused, *_) = _until(lambda: cluster.events(holder, "reload.refused"), "the refusal")
    assert "the peers have changed" in refused["reason"]
    assert cluster.control(holder) == control
    assert cluster.holder("w1") == holder


@pytest.mark.parametrize(
    ("written", "instead"),
    [(f"{ADDRESS}/32", "10.77.9.101/32"), (f"{ADDRESS}/32", f"{ADDRESS}/24"), ("cluster tests", "cluster others")],
)
def test_a_holder_does_not_leave_its_address_behind_for_another(cluster: Cluster, written: str, instead: str) -> None:
    """Nobody would know of it any more: it would answer without a lease, beside the next holder."""
    holder = _start_all(cluster)
    control = cluster.control(holder)
    path = cluster.config(holder)
    assert written in path.read_text()
    path.write_text(path.read_text().replace(written, instead))
    os.kill(cluster.guard(holder), signal.SIGHUP)
    _until(lambda: cluster.events(holder, "reload.refused"), "the refusal")
    assert cluster.control(holder) == control
    assert cluster.holder("w1") == holder


def test_a_reload_takes_new_periods_over(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    for name in NODES:
        path = cluster.config(name)
        path.write_text(path.read_text().replace("lease 300ms", "lease 600ms").replace("50ms", "100ms"))
        _reload(cluster, name)
    time.sleep(1.5)
    assert cluster.holder("w1") == holder
    assert all(not cluster.events(name, "election.lost") for name in NODES)


def _command(cluster: Cluster, name: str, *options: str, file: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "gateway", "reload", "-f", str(file or cluster.config(name)), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_says_who_took_over_and_what_it_goes_on_with(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    old = cluster.control(holder)
    done = _command(cluster, holder)
    assert done.returncode == 0, done.stderr
    new = cluster.control(holder)
    taken = f"process {new} has taken over from {old}; it goes on serving vip\n"
    assert done.stdout == f"the file changes nothing\n{taken}"


def test_the_command_shows_what_it_is_about_to_change(cluster: Cluster) -> None:
    _start_all(cluster)
    old = cluster.control("w1")
    path = cluster.config("w1")
    path.write_text(path.read_text().replace("lease 300ms", "lease 400ms"))
    assert _command(cluster, "w1", "--dry-run").stdout == "~ peers lan lease: 300ms -> 400ms\n"
    assert cluster.control("w1") == old
    assert _command(cluster, "w1").stdout.startswith("~ peers lan lease: 300ms -> 400ms\nprocess ")
    other = path.with_name("other.cfg")
    other.write_text(path.read_text())
    done = _command(cluster, "w1", file=other)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"condor-gateway: the node reads '{path}': change that file" in done.stderr


def test_the_command_says_why_nothing_was_changed(cluster: Cluster) -> None:
    _start_all(cluster)
    path = cluster.config("w1")
    good = path.read_text()
    path.write_text(good.replace("    peer w1", "    peer w2 10.77.9.7:9619 witness\n    peer w1"))
    done = _command(cluster, "w1")
    assert done.returncode == 1
    assert done.stdout == "+ peers lan peer w2: 10.77.9.7:9619 witness  [restart of every node]\n"
    assert "nothing was changed: the peers have changed" in done.stderr
    path.write_text(good.replace("heartbeat 50ms", "hartbeat 50ms"))
    done = _command(cluster, "w1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "did you mean 'heartbeat'" in done.stderr


def test_a_new_process_that_dies_before_it_is_ready_changes_nothing(cluster: Cluster) -> None:
    holder = _start_all(cluster)
    guard, control = cluster.guard(holder), cluster.control(holder)
    os.kill(guard, signal.SIGHUP)
    heir = _until(lambda: next((pid for pid in children(guard) if b"--adopt" in command_line(pid)), 0), "an heir")
    os.kill(heir, signal.SIGKILL)
    _until(lambda: cluster.events(holder, "reload.failed"), "the failure")
    assert cluster.control(holder) == control
    assert cluster.holder("w1") == holder
    assert all(not cluster.events(name, "election.lost") for name in NODES)

"""Whom the guard kills, whom it starts again, and with what it ends."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guard_harness import Guarded, Peer, alive, children, wait_until

Start = Callable[..., Guarded]


def test_frozen_control_is_killed_and_its_letter_arrives(guard: Start, peer: Peer) -> None:
    running = guard(wills={"vip": {"letters": [peer.letter()]}})
    control = running.ready()
    os.kill(control, signal.SIGSTOP)
    assert peer.receive() == b"resigned"
    assert not alive(control), "nobody who is declared dead may wake up"
    assert running.report()["kills"]["frozen"] == 1


def test_frozen_control_that_serves_nothing_is_left_alone_for_seconds(guard: Start) -> None:
    running = guard()
    control = running.ready()
    os.kill(control, signal.SIGSTOP)
    time.sleep(0.5)
    assert alive(control)


@contextlib.contextmanager
def _real_time():
    """On a busy machine this process would leave control stopped for longer than the guard may believe."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_node_that_was_frozen_as_a_whole_is_not_taken_for_dead(guard: Start, peer: Peer) -> None:
    """A suspended machine, or SIGSTOP to every process: the guard has seen nothing, so it judges nothing."""
    running = guard(wills={"vip": {"letters": [peer.letter()]}})
    control = running.ready()
    for _ in range(5):
        with _real_time():
            os.kill(running.process.pid, signal.SIGSTOP)
            os.kill(control, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(running.process.pid, signal.SIGCONT)  # the guard first: control is still stopped when it looks
            time.sleep(0.005)
            os.kill(control, signal.SIGCONT)
        assert peer.receive(within_s=0.1) is None
        assert alive(control)


def test_control_that_waits_in_its_event_loop_is_not_silent_to_the_guard(guard: Start, peer: Peer) -> None:
    """Its next timer is three dead times away."""
    running = guard(wills={"vip": {"letters": [peer.letter()]}}, heartbeat_ms=100)
    control = running.ready()
    assert peer.receive(within_s=1) is None
    assert alive(control)


def test_busy_control_is_late_and_killed_only_after_some_heartbeats(guard: Start, peer: Peer, tmp_path: Path) -> None:
    spec = {"wills": {"vip": {"letters": [peer.letter()]}}, "once": str(tmp_path / "first")}
    running = guard(**spec, busy_s=5)
    control = running.ready()
    assert peer.receive() == b"resigned"
    assert not alive(control)
    assert running.report()["kills"] == {"frozen": 0, "late": 1, "hung": 0}


@pytest.fixture
def fifo(guard: Start, tmp_path: Path) -> Iterator[Path]:
    """What a control can be blocked by. Its child, which holds the test's pipe too, is let go before the guards end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDWR))


def test_control_that_is_blocked_in_the_kernel_is_left_alone_and_counted_as_late(
    fifo: Path, guard: Start, peer: Peer
) -> None:
    running = guard(
        wills={"vip": {"letters": [peer.letter()]}},
        once=f"{fifo}.first",
        blocked_by=str(fifo),
        lease_ms=60_000,
    )
    control = running.ready()
    assert peer.receive(within_s=0.5) is None, "ten times the silence of the frozen, and more than the late may take"
    assert Path(f"/proc/{control}/stat").read_text().rpartition(")")[2].split()[0] == "D"
    os.kill(control, signal.SIGKILL)
    report = running.report()
    assert report["lates"] >= 1
    assert report["kills"] == {"frozen": 0, "late": 0, "hung": 0}


def test_control_that_is_blocked_for_half_a_lease_is_killed_and_its_letter_arrives(
    fifo: Path, guard: Start, peer: Peer
) -> None:
    will = {"letters": [peer.letter()]}
    running = guard(wills={"vip": will}, once=f"{fifo}.first", blocked_by=str(fifo), lease_ms=1_000)
    control = running.ready()
    assert peer.receive() == b"resigned"
    assert not alive(control)
    report = running.report()
    assert report["kills"] == {"frozen": 0, "late": 1, "hung": 0}
    (killed,) = [detail for _, event, detail in report["notes"] if event == "guard.killed-late"]
    assert int(killed.split()[-2]) >= 500, killed


@pytest.mark.kernel
@pytest.mark.skipif(shutil.which("nft") is None, reason="needs the `nft` command as the other program")
def test_control_that_waits_for_a_big_transaction_of_nftables_is_left_alone(guard: Start, peer: Peer) -> None:
    """`firewall-cmd --reload` and kube-proxy: control's renewal waits for the lock of the network namespace."""
    will = {"letters": [peer.letter()]}
    running = guard(wills={"vip": will}, prefix=["unshare", "--net"], renews=True, heartbeat_ms=10, lease_ms=60_000)
    control = running.ready()
    running.says("renewing")
    chains = "".join(
        f"add chain ip big c{n}\n" + f"add rule ip big c{n} tcp dport {n + 1} drop\n" * 4 for n in range(5000)
    )
    subprocess.run(
        ["nsenter", f"--net=/proc/{control}/ns/net", "nft", "-f", "-"],
        input="add table ip big\n" + chains,
        text=True,
        check=True,
    )
    assert int(running.says("blocked")) > 30, "milliseconds, after which a silent process is looked at"
    assert peer.receive(within_s=0.1) is None
    assert alive(control)


def test_control_that_dies_is_started_again_and_told_why(guard: Start) -> None:
    running = guard()
    first = running.ready()
    os.kill(first, signal.SIGKILL)
    report = running.report()
    assert report["restarts"] == 1
    assert [(event, detail) for _, event, detail in report["notes"]] == [
        ("guard.control-ended", f"pid {first}, status -9")
    ]
    assert running.ready() != first


TRACE = """\
import ctypes, sys, time
PTRACE_SEIZE = 0x4206
seized = ctypes.CDLL(None, use_errno=True).ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None)
print(seized, flush=True)
time.sleep(60)
"""


def test_control_that_dies_while_an_operator_traces_it_is_started_again(guard: Start) -> None:
    """Its status is the tracer's to take first: strace and gdb do so late, or never."""
    running = guard()
    first = running.ready()
    with subprocess.Popen([sys.executable, "-c", TRACE, str(first)], stdout=subprocess.PIPE) as tracer:
        try:
            assert tracer.stdout.readline() == b"0\n"
            os.kill(first, signal.SIGKILL)
            assert running.report()["restarts"] == 1
            assert running.ready() != first
        finally:
            tracer.kill()
    assert wait_until(lambda: not Path(f"/proc/{first}").exists()), "collected once it is let go"


def test_control_that_dies_young_again_and_again_is_started_ever_later(guard: Start) -> None:
    running = guard(end=3)
    times = []
    for _ in range(5):
        running.ready()
        times.append(time.monotonic())
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[3] - gaps[0] > 0.5, "100 ms, 200 ms, 400 ms, 800 ms and the start itself"


@pytest.mark.parametrize("status", [1, 2])
def test_control_that_refuses_to_start_ends_the_guard_with_its_status(guard: Start, status: int) -> None:
    assert guard(refuse=status).process.wait(20) == status


def test_control_that_ends_by_itself_ends_the_guard(guard: Start) -> None:
    assert guard(end=0).process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_end_is_handed_on_and_the_node_ends_in_order(guard: Start, number: signal.Signals) -> None:
    running = guard()
    control = running.ready()
    running.process.send_signal(number)
    assert running.process.wait(20) == 0
    assert int(running.says("term")) == control


def test_signals_that_whoever_started_it_had_blocked_are_heard(guard: Start) -> None:
    """As condor_master has, and its children keep."""
    running = guard(prefix=["env", "--block-signal=TERM,HUP,CHLD"])
    control = running.ready()
    running.process.terminate()
    assert running.process.wait(20) == 0
    assert int(running.says("term")) == control


def test_control_that_does_not_end_is_killed_and_its_letter_sent(guard: Start, peer: Peer) -> None:
    running = guard(wills={"vip": {"letters": [peer.letter()]}}, deaf=True)
    running.ready()
    running.process.terminate()
    assert peer.receive() == b"resigned"
    assert running.process.wait(20) == 128 + signal.SIGKILL


def test_control_that_loses_its_guard_learns_it(guard: Start) -> None:
    running = guard()
    control = running.ready()
    running.process.kill()
    assert int(running.says("lost")) == control


def test_relay_is_the_guards_child_and_ends_with_it(guard: Start) -> None:
    running = guard(relay=True)
    relay = int(running.says("relay"))
    running.ready()
    assert relay in children(running.process.pid)
    assert wait_until(lambda: b"gateway.relay" in Path(f"/proc/{relay}/cmdline").read_bytes())
    time.sleep(0.5)  # it asks for its end with the guard once it has started
    running.process.kill()
    assert wait_until(lambda: not alive(relay))


def test_guard_is_small(guard: Start) -> None:
    running = guard()
    running.ready()
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 12_000, "KiB; 9,200 here"
    assert int(status.split("Threads:")[1].split()[0]) == 1

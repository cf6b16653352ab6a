"""Promises of the lab itself, on the real kernel with a real HTCondor: it runs jobs, it breaks, it leaves nothing."""

import os
import sys
from pathlib import Path

import pytest
import trio

from gateway.lab import pool as pool_module
from gateway.lab import process, teardown
from gateway.lab.errors import LabError
from gateway.lab.pool import Lab
from gateway.lab.topology import System, Topology

pytestmark = [
    pytest.mark.pool,
    pytest.mark.timeout(280),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

# Named after this process: other runs of these tests may stand beside it.
NAME = f"t{os.getpid()}"
SMALL = Topology(name=NAME, system=System.PLAIN, managers=1, execute=1, slots=2)
JOBS = "universe = vanilla\nexecutable = /usr/bin/sleep\narguments = 0.2\nshould_transfer_files = NO\nqueue 4\n"
READY_S_MAX = 90


@pytest.fixture
async def lab():
    found = await Lab.up(SMALL)
    try:
        yield found
    finally:
        await found.down()


def leftovers(name):
    """Everything on this machine that belongs to the lab."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"-lab/{name}" in line]
    return (
        teardown.namespaces_of(name),
        mounts,
        teardown.processes_of(name),
        [path for folder in ("/run", "/run/lock", "/tmp") for path in Path(folder).glob(f"*lab*/{name}")],
    )


NOTHING = ([], [], [], [])


async def test_a_pool_runs_jobs_and_leaves_nothing_behind():
    lab = await Lab.up(SMALL)
    first = None
    try:
        first = lab._control("exec1").first_process()
        await lab.wait_ready(READY_S_MAX)
        await lab.submit(JOBS)
        await _until(lambda: _queue_is_empty(lab), READY_S_MAX)
        history = await lab.exec("submit1", ["condor_history", "-af", "JobStatus", "ExitCode"])
        assert history.stdout.splitlines() == ["4 0"] * 5  # four of ours, and the one that tried the pool
        assert "Matched" in lab.file("cm1", "/var/log/condor/NegotiatorLog").read_text()
    finally:
        await lab.down()
    assert leftovers(NAME) == NOTHING
    assert not process.is_alive(first)


async def test_a_killed_host_has_no_process_left_keeps_its_disk_and_boots_again(lab):
    await lab.exec("exec1", ["sh", "-c", "echo kept > /root/note; sync"])
    key = process.namespace_key(Path(f"/proc/{lab._control('exec1').first_process().pid}/ns/pid"))
    await lab.kill("exec1")
    assert list(process.in_namespaces("pid", {key})) == []
    assert not lab.is_up("exec1")
    assert lab.file("exec1", "/root/note").read_text() == "kept\n"
    with pytest.raises(LabError, match="host 'exec1' is down"):
        await lab.exec("exec1", ["true"])
    await lab.revive("exec1")
    done = await lab.exec("exec1", ["sh", "-c", "cat /root/note; hostname; ip -4 -br addr show dev eth0"])
    assert done.stdout.split()[:2] == ["kept", "exec1"]
    assert "10.77.0.31/24" in done.stdout


async def test_a_frozen_host_stands_still_until_it_is_thawed(lab, tmp_path):
    ticker = await lab.spawn(
        "exec1", ["sh", "-c", "while :; do echo tick; sleep 0.05; done"], stdout=tmp_path / "ticks"
    )
    await _until(lambda: _true((tmp_path / "ticks").stat().st_size > 0))
    await lab.freeze("exec1")
    before = (tmp_path / "ticks").stat().st_size
    await trio.sleep(0.5)
    assert (tmp_path / "ticks").stat().st_size == before
    await lab.thaw("exec1")
    await _until(lambda: _true((tmp_path / "ticks").stat().st_size > before))
    await ticker.stop()
    assert ticker.returncode is not None


async def test_a_cut_parts_two_hosts_and_a_partition_one_side_from_the_other(lab):
    await lab.cut("submit1", "cm1")
    assert not await _reaches(lab, "submit1", "cm1")
    assert not await _reaches(lab, "cm1", "submit1")
    assert await _reaches(lab, "submit1", "exec1")
    await lab.heal("submit1", "cm1")
    await lab.heal("submit1", "cm1")  # mending what is whole is no error
    await _until(lambda: _reaches(lab, "submit1", "cm1"))  # the next ARP request may be a second away
    await lab.partition(["submit1"])
    assert not await _reaches(lab, "submit1", "cm1")
    assert not await _reaches(lab, "exec1", "submit1")
    assert await _reaches(lab, "exec1", "cm1")
    await lab.mend()
    await _until(lambda: _reaches(lab, "exec1", "submit1"))


async def test_a_pulled_cable_takes_the_carrier_away(lab):
    await lab.link_down("exec1")
    assert (await lab.exec("exec1", ["cat", "/sys/class/net/eth0/carrier"])).stdout == "0\n"
    assert not await _reaches(lab, "submit1", "exec1")
    await lab.link_up("exec1")
    await _until(lambda: _reaches(lab, "submit1", "exec1"))


async def test_a_command_that_takes_too_long_is_ended_on_the_host(lab):
    with pytest.raises(LabError, match="'sleep' on 'submit1' took longer than 0\\.5 s"):
        await lab.exec("submit1", ["sleep", "4321"], timeout_s=0.5)
    running = await lab.exec("submit1", ["ps", "-eo", "args"])
    assert "4321" not in running.stdout


async def test_a_host_cannot_touch_the_machines_sysctls_or_see_its_processes(lab):
    done = await lab.exec("exec1", ["sh", "-c", "echo 1 > /proc/sys/vm/swappiness"])
    assert "Read-only file system" in done.stderr
    processes = (await lab.exec("exec1", ["ps", "-eo", "pid"])).stdout
    assert str(os.getpid()) not in processes.split()


async def test_what_a_lab_writes_stays_out_of_the_root_file_system_that_all_share(lab):
    await lab.exec("exec1", ["sh", "-c", "echo mine > /etc/mine"])
    assert not (lab.tree / "etc/mine").exists()
    assert (await lab.exec("submit1", ["cat", "/etc/mine"])).returncode == 1


async def test_a_second_lab_of_the_same_name_is_refused_and_another_name_is_not(lab):
    with pytest.raises(LabError, match=rf"lab '{NAME}' is up already, or left over: end it with"):
        await Lab.up(SMALL)
    assert lab.is_up("cm1")
    other = await Lab.up(Topology(name=f"{NAME}b", system=System.PLAIN, managers=1, execute=1, slots=1))
    await other.down()
    assert leftovers(f"{NAME}b") == NOTHING
    assert lab.is_up("cm1")


async def test_down_finds_what_a_crashed_lab_left():
    """The process that brought the lab up dies in the middle, and no file says what it had made."""
    script = (
        "import sys, trio\n"
        "from gateway.lab.pool import Lab\n"
        "from gateway.lab.topology import System, Topology\n"
        f"topology = Topology(name={NAME!r}, system=System.PLAIN, managers=1, execute=1, slots=1)\n"
        "trio.run(Lab.up, topology, lambda text: None)\n"
    )
    crashing = await trio.lowlevel.open_process([sys.executable, "-c", script])
    await _until(lambda: _true(teardown.processes_of(NAME)), 60)
    crashing.kill()
    await crashing.wait()
    assert leftovers(NAME) != NOTHING
    assert await teardown.remove(NAME)
    assert leftovers(NAME) == NOTHING
    assert not await teardown.remove(NAME)


async def test_a_lab_that_fails_to_come_up_leaves_nothing(monkeypatch):
    monkeypatch.setattr(pool_module.network, "cabling", lambda topology: "link add br0 type nonsense\n")
    with pytest.raises(LabError, match="making the lab's switch failed"):
        await Lab.up(SMALL)
    assert leftovers(NAME) == NOTHING


async def _until(condition, limit_s=20.0):
    """Wait until `condition`, an async function, says so."""
    ends = trio.current_time() + limit_s
    while not await condition():
        assert trio.current_time() < ends, f"not so within {limit_s} s"
        await trio.sleep(0.02)


async def _true(value):
    return bool(value)


async def _queue_is_empty(lab):
    done = await lab.exec("submit1", ["condor_q", "-allusers", "-af", "ClusterId"])
    return done.returncode == 0 and not done.stdout.strip()


async def _reaches(lab, one, other):
    return (await lab.exec(one, ["ping", "-c1", "-W1", other])).returncode == 0

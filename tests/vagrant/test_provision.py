"""Provisioning, really run: in the root file system of a box that is built here, booted by its own systemd.

It is one host that is everything at once; what it has in the end is a pool that runs jobs through the virtual address.
"""

import subprocess
import time
from collections.abc import Iterator

import pytest
import trio

from gateway.lab.machines import box, payload, plan
from gateway.lab.machines.inventory import ROOT, VIRTUAL_ADDRESS
from tests.debian.machine import Machine, running_machine

pytestmark = [pytest.mark.kernel, pytest.mark.pool, pytest.mark.timeout(1500)]  # a slow mirror is refused by name

SCRIPT = ROOT / "vagrant/provision.sh"
POOL_S_MAX = 90
IMPORT = "import sys; sys.path.insert(0, '/usr/lib/condor-gateway')"
TOLD = {
    "LAB_NODE": "cm1",
    "LAB_ADDRESS": "10.77.0.11",
    "LAB_ROLES": "gateway manager submit execute",
    "LAB_HOSTS": "cm1=10.77.0.11",
    "LAB_HEARTBEAT": "100ms",
    "LAB_LEASE": "1s",
    "LAB_CHECK": "500ms",
    "LAB_FALL": "5",
    "LAB_SLOTS": "2",
}


def provision(machine: Machine) -> str:
    return machine.run("env", *(f"{name}={value}" for name, value in TOLD.items()), "/bin/sh", "/root/provision.sh")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    tree = box.build_tree()
    folder = tmp_path_factory.mktemp("payload")
    file = trio.run(payload.make, plan.plan({"LAB_SMALL": "1"}), print, tree, folder)
    with running_machine(tree, tmp_path_factory.mktemp("vagrant")) as machine:
        machine.put(file, "/tmp/condor-gateway-payload.tar")
        machine.put(SCRIPT, "/root/provision.sh")
        provision(machine)
        yield machine


def until(machine: Machine, wanted: str, *argv: str) -> str:
    end = time.monotonic() + POOL_S_MAX
    while wanted not in (said := machine.run(*argv, check=False)):
        assert time.monotonic() < end, said + machine.run("journalctl", "--no-pager", "-n", "40", check=False)
        time.sleep(0.5)
    return said


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_the_script_is_plain_shell(shell: str):
    assert subprocess.run([shell, "-n", SCRIPT], capture_output=True, text=True, timeout=10).stderr == ""


def test_a_provisioned_host_runs_jobs_through_the_virtual_address(machine: Machine):
    until(machine, f" {VIRTUAL_ADDRESS}/32", "ip", "-4", "address", "show")
    until(machine, "slot2@cm1", "condor_status", "-pool", VIRTUAL_ADDRESS, "-af", "Name")
    machine.write("/home/physicist/job", "executable = /bin/true\nlog = log\nqueue\n")
    machine.run("su", "physicist", "-c", "cd && condor_submit job")
    until(machine, "005 (", "cat", "/home/physicist/log")


def test_the_gateways_file_is_the_example_fitted_to_the_lab(machine: Machine):
    text = machine.run("cat", "/etc/condor-gateway/gateway.cfg")
    said = {" ".join(line.split()) for line in text.splitlines()}
    assert {"heartbeat 100ms", "lease 1s", "holder cm1", "ip 10.77.0.100/32 dev port1"} <= said
    assert "default-server check inter 500ms fall 5 rise 2" in said
    assert not [line for line in said if line.startswith(("peer cm2", "peer w1", "server cm2"))], "who is not up"


def test_modules_that_came_compiled_are_left_alone_by_the_package(machine: Machine):
    """Compiled for another source they would be made anew by it, which takes a minute where a processor is imitated."""
    compiled = "/usr/lib/condor-gateway/trio/__pycache__/_path.cpython-313.pyc"
    made, installed = machine.run("stat", "-c", "%Y", compiled, "/var/lib/dpkg/info/condor-gateway.list").split()
    assert int(made) < int(installed)
    assert "stale" not in machine.run("python3", "-v", "-c", f"{IMPORT}; import trio")


def test_provisioning_again_changes_nothing_that_runs(machine: Machine):
    names = machine.run("ip", "-br", "-4", "address", "show", "dev", "port1")
    provision(machine)
    until(machine, f" {VIRTUAL_ADDRESS}/32", "ip", "-4", "address", "show")
    assert machine.run("ip", "-br", "-4", "address", "show", "dev", "port1") == names
    until(machine, "slot2@cm1", "condor_status", "-pool", VIRTUAL_ADDRESS, "-af", "Name")

"""The Debian package: installed, started, upgraded, removed and purged on a machine of its own, by Debian's tools."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.debian.build import FILES, PACKAGE, build
from tests.debian.machine import Machine, base_tree, running_machine

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

CONFIG = """\
global
    cluster alone
    key-file /etc/condor-gateway/cluster.key
    log stdout format json

peers lan
    heartbeat 50ms
    lease 300ms
    peer machine1 10.99.0.1:9619 gateway

address pool-vip
    ip 10.99.0.100/32 dev port0
    holder machine1
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("trixie", tmp_path_factory.mktemp("deb"), "gzip")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Iterator[Machine]:
    with running_machine(base_tree("trixie"), tmp_path_factory.mktemp("machine")) as machine:
        machine.put(package, "/root/condor-gateway.deb")
        yield machine


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Machine:
    machine.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "/root/condor-gateway.deb")
    return machine


@pytest.fixture(scope="module")
def serving(installed: Machine) -> Machine:
    installed.run("condor-gateway", "keygen", "/etc/condor-gateway/cluster.key")
    installed.write("/etc/condor-gateway/gateway.cfg", CONFIG)
    installed.run("systemctl", "start", PACKAGE)
    wait_until_held(installed)
    return installed


def wait_until_held(machine: Machine) -> None:
    until = time.monotonic() + 20
    while "10.99.0.100" not in machine.run("ip", "-4", "addr", "show", "dev", "port0"):
        assert time.monotonic() < until, machine.run("journalctl", "-u", PACKAGE, "--no-pager", check=False)
        time.sleep(0.1)


def prop(machine: Machine, name: str) -> str:
    return machine.run("systemctl", "show", "-P", name, PACKAGE).strip()


def test_the_package_is_whole_and_root_owns_all_of_it(package: Path):
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True).stdout.splitlines()
    assert listed
    assert all(" root/root " in line for line in listed)
    names = [line.split()[5] for line in listed]
    for wanted in (
        "./usr/bin/condor-gateway",
        "./usr/lib/systemd/system/condor-gateway.service",
        "./usr/lib/condor-gateway/gateway/daemon.py",
        "./usr/share/man/man1/condor-gateway.1.gz",
        "./usr/share/man/man5/gateway.cfg.5.gz",
        "./usr/share/bash-completion/completions/condor-gateway",
        "./usr/share/doc/condor-gateway/examples/minimal.cfg",
    ):
        assert wanted in names
    assert not [name for name in names if name.endswith(".pyc") or ("/tests/" in name and "gateway/" in name)]
    assert not re.search(r"^[^ ]*(w.. |.w. )", "\n".join(line[4:10] for line in listed)), "nobody but root may write"


def test_it_waits_to_be_configured(installed: Machine):
    """Installing it starts nothing that fails: the service's condition says why it does not run."""
    assert prop(installed, "ActiveState") == "inactive"
    assert prop(installed, "ConditionResult") == "no"
    assert installed.run("systemctl", "is-enabled", PACKAGE).strip() == "enabled"
    assert "minimal.cfg: valid" in installed.run(
        "condor-gateway", "check", "-f", "/usr/share/doc/condor-gateway/examples/minimal.cfg"
    )


def test_the_units_are_what_systemd_understands(installed: Machine):
    said = installed.run("systemd-analyze", "verify", "--man=no", f"{PACKAGE}.service", check=False)
    assert said.strip() == ""


def test_the_service_is_active_when_the_node_is_ready(serving: Machine):
    assert prop(serving, "ActiveState") == "active"
    assert prop(serving, "StatusText") != ""
    assert "address pool-vip: machine1" in serving.run("condor-gateway", "status")


def test_it_runs_with_the_capabilities_of_its_unit_alone(serving: Machine):
    pid = prop(serving, "MainPID")
    bounding = serving.run("grep", "CapBnd", f"/proc/{pid}/status").split()[1]
    sys_module, sys_admin = 1 << 16, 1 << 21
    assert int(bounding, 16) & (sys_module | sys_admin) == 0
    assert "warning" not in serving.run("condor-gateway", "status")


def test_a_drop_in_for_gateways_takes_more_away(serving: Machine):
    folder = f"/etc/systemd/system/{PACKAGE}.service.d"
    serving.run("mkdir", "-p", folder)
    serving.write(f"{folder}/gateway-only.conf", (FILES / "gateway-only.conf").read_text())
    serving.run("systemctl", "daemon-reload")
    serving.run("systemctl", "restart", PACKAGE)
    wait_until_held(serving)
    assert "warning" not in serving.run("condor-gateway", "status")
    serving.run("rm", "-r", folder)
    serving.run("systemctl", "daemon-reload")
    serving.run("systemctl", "restart", PACKAGE)
    wait_until_held(serving)


def test_an_upgrade_keeps_the_lease(serving: Machine):
    term, main = serving.run("condor-gateway", "status", "--json"), prop(serving, "MainPID")
    serving.run("dpkg", "-i", "/root/condor-gateway.deb")
    after = serving.run("condor-gateway", "status", "--json")
    assert field(after, "term") == field(term, "term"), "nobody was elected anew"
    assert field(after, "pid") != field(term, "pid"), "the new program runs"
    assert prop(serving, "MainPID") == main
    assert prop(serving, "ActiveState") == "active"


def test_a_broken_file_is_refused_by_reload_and_harms_nothing(serving: Machine):
    serving.write("/etc/condor-gateway/gateway.cfg", CONFIG.replace("lease 300ms", "leese 300ms"))
    said = serving.run("systemctl", "reload", PACKAGE, check=False)
    assert "failed" in said.lower()
    assert prop(serving, "ActiveState") == "active"
    assert "10.99.0.100" in serving.run("ip", "-4", "addr", "show", "dev", "port0")
    serving.write("/etc/condor-gateway/gateway.cfg", CONFIG)


def test_remove_stops_it_and_purge_leaves_nothing_but_the_administrators_own(serving: Machine):
    serving.run("apt-get", "remove", "-y", "-qq", PACKAGE)
    assert "10.99.0.100" not in serving.run("ip", "-4", "addr", "show", "dev", "port0")
    assert (
        serving.run("sh", "-c", "ls /usr/lib/condor-gateway /usr/bin/condor-gateway", check=False).count(
            "cannot access"
        )
        == 2
    )
    assert serving.run("ls", "/var/lib/condor-gateway") != "", "votes outlive a removal: a term must never be reused"
    serving.run("apt-get", "purge", "-y", "-qq", PACKAGE)
    assert "cannot access" in serving.run("ls", "/var/lib/condor-gateway", check=False)
    assert serving.run("ls", "/etc/condor-gateway").split() == ["cluster.key", "gateway.cfg"]
    assert serving.run("nft", "list", "tables").strip() == ""


def field(document: str, name: str) -> object:
    status = json.loads(document)
    return status["pid"] if name == "pid" else status["elections"]["pool-vip"][name]

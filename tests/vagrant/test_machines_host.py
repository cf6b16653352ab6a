"""What the lab of virtual machines does on the machine it runs on: commands, the trial of KVM, and the end of all."""

import os
import subprocess
import time
from pathlib import Path

import pytest
import trio

from gateway.lab import process
from gateway.lab.errors import LabError
from gateway.lab.machines import box, bringup, hypervisor, needs, running, trial
from gateway.lab.machines.running import run

PREFIX = "condor-gateway-vt"  # as the lab's own, which may be up beside the tests, and not it


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(running, "LOGS", tmp_path / "log")
    return tmp_path


async def test_command_that_takes_too_long_is_ended_with_what_it_started(folder: Path):
    script = f"sleep 300 & echo $! >{folder}/child; wait"
    with pytest.raises(LabError, match=r"bringing it up took longer than 1 s; .*/log/up\.log says how far it came"):
        await run(["sh", "-c", script], what="bringing it up", timeout_s=1, log="up")
    child = int((folder / "child").read_text())
    found = process.find(child)
    assert found is None or await process.wait_gone(found, 5)


async def test_failure_is_told_by_the_last_words_alone_of_that_command():
    assert await run(["echo", "earlier"], what="a step", timeout_s=10) == "earlier\n"
    with pytest.raises(LabError, match=r"the next step failed; .* its end: no room$") as failure:
        await run(["sh", "-c", "echo no room; exit 1"], what="the next step", timeout_s=10)
    assert "earlier" not in str(failure.value)


def test_what_lacks_is_named_by_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(needs, "NEEDS", {"no-such-command": "one", "/no/such/file": "other", "sh": "dash"})
    assert needs.missing(("no-such-command", "/no/such/file", "sh")) == ["one", "other"]


@pytest.mark.parametrize(
    ("guest", "chosen"),
    [
        (f"echo '{box.MARKER}' >$console; exec sleep 60", trial.KVM),
        ("echo 'Linux version' >$console; exit 134", trial.TCG),  # as where the device opens and guests die in it
        ("echo 'Linux version' >$console; exec sleep 60", trial.TCG),
    ],
    ids=["lives", "dies", "hangs"],
)
async def test_kvm_is_taken_where_a_guest_does_its_work_in_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, guest: str, chosen: str
):
    fake = folder / "qemu-system-x86_64"
    fake.write_text(f"#!/bin/sh\nfor word; do case $word in file:*) console=${{word#file:}} ;; esac; done\n{guest}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(trial, "usable_kvm", lambda: True)
    monkeypatch.setattr(trial, "BOOT_S_MAX", 2)
    built = box.Built(version="1", box=folder, image=folder, kernel=folder, initrd=folder, tree=folder)
    assert await trial.accelerator(built) == chosen


@pytest.mark.kernel
def test_end_finds_what_a_killed_bring_up_has_left(folder: Path, monkeypatch: pytest.MonkeyPatch):
    namespace = Path("/run/netns") / PREFIX
    monkeypatch.setattr(hypervisor, "PREFIX", PREFIX)
    monkeypatch.setattr(hypervisor, "NAMESPACE", namespace)
    monkeypatch.setattr(hypervisor, "STATE", folder / "libvirt")
    monkeypatch.setattr(hypervisor, "SOCKETS", folder / "run")
    subprocess.run(["ip", "netns", "add", PREFIX], check=True, timeout=10)
    left = subprocess.Popen(["nsenter", f"--net={namespace}", "--", "sleep", "300"])
    place = folder / "run-libvirt"
    place.mkdir()
    for made in (folder / "libvirt", folder / "run"):
        made.mkdir()
    (folder / "libvirt/made").write_text(str(place))
    until = time.monotonic() + 10
    while not hypervisor.running():
        assert time.monotonic() < until, "the process enters the namespace"
    assert trio.run(hypervisor.stop)
    assert left.wait(5) != 0
    assert not [path for path in (namespace, folder / "libvirt", folder / "run", place) if path.exists()]
    assert not trio.run(hypervisor.stop), "twice"


def test_two_commands_never_change_the_machines_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bringup, "PREFIX", PREFIX)
    with bringup.only_one(), pytest.raises(LabError, match="another process"), bringup.only_one():
        pass
    with bringup.only_one():
        pass  # it is free again

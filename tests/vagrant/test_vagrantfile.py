"""The Vagrantfile: Vagrant takes it, for every kind of guest, and it names the machines that the program knows."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.lab.errors import LabError
from gateway.lab.machines import plan, vagrant
from gateway.lab.machines.inventory import ROOT

# Whoever runs the tests may have asked for a lab of their own.
OTHERS = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}

# What the program tells of a box that it has built, for guests whose processor is imitated.
BUILT = {"LAB_ACCELERATOR": "tcg", "LAB_KERNEL": "/x/vmlinuz", "LAB_INITRD": "/x/initrd.img", "LAB_POOL": "pool"}
VARIANTS = {
    "downloaded box": {},
    "built box, small": {"LAB_SMALL": "1", **BUILT},
    "virtualbox": {"LAB_PROVIDER": "virtualbox", "LAB_SMALL": "1", "LAB_MANAGERS": "1"},
}

# All that Vagrant asks of VirtualBox to believe that it is there.
VIRTUALBOX = "#!/bin/sh\ncase $1 in --version) echo 7.0.20r163906 ;; esac\n"

# A Vagrantfile is Ruby: read without Vagrant it says what its machines are.
READER = """
require "json"
module Vagrant
  def self.configure(_version) = nil
end
load ARGV[0]
puts JSON.generate(MACHINES)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What must be there before machines are brought up."""
    (tmp_path / "payload.tar").touch()
    (tmp_path / "ssh_key").write_text("a key\n")
    (tmp_path / "ssh_key.pub").write_text("ssh-ed25519 AAAA lab\n")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/VBoxManage"
    fake.write_text(VIRTUALBOX)
    fake.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("told", VARIANTS.values(), ids=VARIANTS.keys())
def test_vagrant_takes_the_vagrantfile(folder: Path, told: Mapping[str, str]):
    assert shutil.which("vagrant"), "'make test' installs vagrant and vagrant-libvirt"
    environment = {
        **OTHERS,
        **vagrant.environment(plan.plan(told), told),
        "LAB_FOLDER": str(folder),
        "VAGRANT_HOME": str(folder / "home"),
        "VAGRANT_DOTFILE_PATH": str(folder / "dotfiles"),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
    }
    done = subprocess.run(["vagrant", "validate"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout


@pytest.mark.parametrize(
    "told", [{}, {"LAB_MANAGERS": "1"}, {"LAB_SMALL": "1"}, {"LAB_SMALL": "1", "LAB_MANAGERS": "1"}]
)
def test_vagrantfile_and_program_name_the_same_machines(tmp_path: Path, told: Mapping[str, str]):
    reader = tmp_path / "reader.rb"
    reader.write_text(READER)
    argv = ["ruby", str(reader), str(ROOT / "vagrant/Vagrantfile")]
    done = subprocess.run(argv, env={**OTHERS, **told}, capture_output=True, text=True, timeout=60, check=True)
    theirs = [(name, f"10.77.0.{number}", tuple(roles.split())) for name, number, roles in json.loads(done.stdout)]
    assert theirs == [(one.name, one.address, one.roles) for one in plan.plan(told).machines]


def test_machines_for_another_file_or_size_are_not_those_that_are_asked_for():
    small = plan.plan({"LAB_SMALL": "1"})
    asked = plan.digest(small, {}, b"a file")
    assert plan.digest(small, {"HOME": "/elsewhere"}, b"a file") == asked
    others = {
        plan.digest(small, {}, b"another file"),
        plan.digest(small, {"LAB_LEASE": "1s"}, b"a file"),
        plan.digest(plan.plan({}), {}, b"a file"),
    }
    assert len(others | {asked}) == 4


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"LAB_MANAGERS": "4"}, "LAB_MANAGERS=4: write a number from 1 to 3"),
        ({"LAB_MANAGERS": "3", "LAB_SMALL": "1"}, "from 1 to 2"),
        ({"LAB_MEMORY": "much"}, "LAB_MEMORY=much"),
        ({"LAB_PROVIDER": "xen"}, "libvirt or virtualbox"),
        ({"LAB_ACCELERATOR": "hvf"}, "kvm or tcg"),
    ],
)
def test_what_cannot_be_is_said_by_the_name_of_the_variable(told: Mapping[str, str], said: str):
    with pytest.raises(LabError, match=said):
        plan.plan(told)

"""What is up: the virtual machines of the lab, how to get into each, and where their networks are.

Written once by who brings them up, below `build/vagrant`; whoever breaks, measures or removes them only reads it.
"""

import os
from pathlib import Path

import msgspec

from gateway.lab.errors import LabError

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "build/vagrant"
FILE = FOLDER / "inventory.json"

PREFIX = "condor-gateway-vm"  # of everything of ours that libvirt or the kernel lists by name
BRIDGE = "cgvm0"  # of the private network; an interface's name has at most 15 characters
SUBNET = "10.77.0"
VIRTUAL_ADDRESS = f"{SUBNET}.100"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual machine."""

    name: str  # of the host, "cm1"
    domain: str  # libvirt's name of it
    address: str  # on the private network, which is the machine's eth1
    ssh_address: str  # on the management network, eth0
    ssh_port: int
    ssh_user: str
    ssh_key: str  # a file
    roles: tuple[str, ...]  # of "gateway", "manager", "witness", "submit", "execute"


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is up."""

    machines: tuple[Machine, ...]
    entering: tuple[str, ...]  # what runs a command where libvirt's networks are: nothing, or nsenter with arguments
    environment: dict[str, str]  # for virsh
    bridge: str  # of the private network
    accelerator: str  # "kvm", "tcg"
    provider: str  # "libvirt", "virtualbox"
    asked: str  # what they were brought up for, as `plan.digest` writes it


def read(file: Path = FILE) -> Inventory:
    """Return what is up.

    Raises:
        LabError: nothing is, or the file is of another version of this program.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Inventory)
    except FileNotFoundError as error:
        raise LabError("no virtual machines of the lab are up: 'make vagrant-up' brings them up") from error
    except msgspec.MsgspecError as error:
        raise LabError(
            f"{file} can't be read ({error}): 'make vagrant-down' and 'make vagrant-up' make it anew"
        ) from error


def write(inventory: Inventory, file: Path = FILE) -> None:
    """Keep what is up; whoever reads sees all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(inventory), indent=2) + b"\n")
    os.replace(beside, file)

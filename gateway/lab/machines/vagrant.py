"""Vagrant, told where everything of this lab is, and run where libvirt's networks are.

People get the same by `build/vagrant/vagrant`, a script that says all of it: `build/vagrant/vagrant ssh cm1`.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path

from gateway.lab.errors import LabError
from gateway.lab.machines.hypervisor import Hypervisor, virsh
from gateway.lab.machines.inventory import FOLDER, PREFIX, ROOT, Inventory, Machine
from gateway.lab.machines.payload import SSH_KEY
from gateway.lab.machines.plan import Plan
from gateway.lab.machines.running import run

SCRIPT = FOLDER / "vagrant"
HOME = FOLDER / "home"
DOTFILES = FOLDER / "dotfiles"
POOL = PREFIX

UP_S_MAX = 900  # seven machines on two cores without hardware virtualisation took six minutes
DESTROY_S_MAX = 180
COMMAND_S_MAX = 120
SSH_PORT = 22


def environment(plan: Plan, told: Mapping[str, str]) -> dict[str, str]:
    """What Vagrant and the Vagrantfile must find in their environment; `told` is what only this lab knows."""
    return {
        "VAGRANT_CWD": str(ROOT / "vagrant"),
        "VAGRANT_DOTFILE_PATH": str(DOTFILES),
        "VAGRANT_DEFAULT_PROVIDER": plan.provider,
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_BOX_UPDATE_CHECK_DISABLE": "1",
        "VAGRANT_NO_COLOR": "1",
        "LAB_FOLDER": str(FOLDER),
        "LAB_SMALL": "1" if plan.small else "",
        "LAB_MANAGERS": str(plan.managers),
        "LAB_MEMORY": str(plan.memory_mb),
        **told,
    }


def write_script(entering: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Write the script that people and this program run Vagrant by."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    FOLDER.mkdir(parents=True, exist_ok=True)
    SCRIPT.write_text("\n".join(["#!/bin/sh", *lines, f'exec {shlex.join([*entering, "vagrant"])} "$@"', ""]))
    SCRIPT.chmod(0o755)


async def vagrant(*argv: str, timeout_s: float = COMMAND_S_MAX, check: bool = True) -> str:
    """Run Vagrant; return what it says.

    Raises:
        LabError: it failed or took too long.
    """
    return await run(
        [str(SCRIPT), *argv], what=f"'vagrant {' '.join(argv)}'", timeout_s=timeout_s, log="vagrant", check=check
    )


async def inventory(plan: Plan, hypervisor: Hypervisor, accelerator: str, asked: str) -> Inventory:
    """Return what is up, as libvirt says. `asked`: `plan.digest` of it.

    Raises:
        LabError: a machine has no address on the management network.
    """
    leases = await _leases(hypervisor)
    machines = []
    for planned in plan.machines:
        domain = f"{PREFIX}_{planned.name}"
        macs = await _macs(hypervisor, domain)
        address = next((leases[mac] for mac in macs if mac in leases), None)
        if address is None:
            raise LabError(f"{planned.name} has no address to log in by: {FOLDER}/log/console-{planned.name}.log")
        machines.append(
            Machine(
                name=planned.name,
                domain=domain,
                address=planned.address,
                roles=planned.roles,
                ssh_address=address,
                ssh_port=SSH_PORT,
                ssh_user="root",
                ssh_key=str(SSH_KEY),
            )
        )
    return Inventory(
        machines=tuple(machines), entering=hypervisor.entering, environment=hypervisor.environment,
        bridge=await _bridge(hypervisor), accelerator=accelerator, provider=plan.provider, asked=asked,
    )  # fmt: skip


async def _bridge(hypervisor: Hypervisor) -> str:
    for line in (await virsh(hypervisor, "net-info", PREFIX)).splitlines():
        if line.startswith("Bridge:"):
            return line.split()[1]
    raise LabError(f"libvirt's network {PREFIX} has no bridge: is it active? 'virsh net-list' says")


async def _leases(hypervisor: Hypervisor) -> dict[str, str]:
    """Return Ethernet address -> IP address on the management network."""
    said = await virsh(hypervisor, "net-dhcp-leases", f"{PREFIX}-ssh")
    rows = [line.split() for line in said.splitlines()]
    return {row[2]: row[4].partition("/")[0] for row in rows if len(row) > 4 and row[3] == "ipv4"}


async def _macs(hypervisor: Hypervisor, domain: str) -> list[str]:
    rows = [line.split() for line in (await virsh(hypervisor, "domiflist", domain)).splitlines()]
    return [row[4] for row in rows if len(row) > 4 and row[1] == "network"]


def leftovers() -> list[Path]:
    """What Vagrant keeps of a lab, which ends with it."""
    return [path for path in (HOME, DOTFILES, SCRIPT) if path.exists()]

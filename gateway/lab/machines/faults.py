"""What is done to virtual machines from outside: power, suspension, cables, and frames that the switch drops.

Cables and machines by virsh; partitions by one nftables table of family bridge where the switch is, gone when mended.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from gateway.lab import process
from gateway.lab.errors import LabError
from gateway.lab.machines.contract import Port
from gateway.lab.machines.inventory import PREFIX, Inventory, Machine

TABLE = f"{PREFIX}-cut"
COMMAND_S_MAX = 60.0


class Hands:
    """The hypervisor and the switch of one inventory."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._machines = {machine.name: machine for machine in inventory.machines}

    async def virsh(self, *argv: str) -> str:
        """Ask libvirtd for something.

        Raises:
            LabError: it refuses.
        """
        return await self._run(["virsh", "-q", *argv], f"'virsh {' '.join(argv)}'")

    async def ports(self) -> tuple[Port, ...]:
        """Return the ports of the machines that are on."""
        plugged = bridged(await self._switch("ip", "-j", "link", "show", "master", self._inventory.bridge))
        found: list[Port] = []

        async def look(machine: Machine) -> None:
            listed = interfaces(await self.virsh("domiflist", machine.domain))
            found.extend(Port(node=machine.name, name=tap, mac=mac) for tap, mac in listed if tap in plugged)

        async with trio.open_nursery() as nursery:
            for machine in self._inventory.machines:
                nursery.start_soon(look, machine)
        order = list(self._machines)
        return tuple(sorted(found, key=lambda port: order.index(port.node)))

    async def cable(self, host: str, *, plugged: bool) -> float:
        """Plug or pull the cable of a host's interface on the private network; return the time just before that.

        Raises:
            LabError: it has none there, for it is off.
        """
        macs = [port.mac for port in await self.ports() if port.node == host]
        if not macs:
            raise LabError(f"{host!r} is off: it has no cable")
        moment = time.time()
        await self.virsh("domif-setlink", self.domain(host), macs[0], "up" if plugged else "down")
        return moment

    async def cut(self, half: Sequence[str]) -> float:
        """Drop every frame between `half` and all others; return the time just before that."""
        ports = await self.ports()
        inside = [port.name for port in ports if port.node in half]
        outside = [port.name for port in ports if port.node not in half]
        moment = time.time()
        await self._filter(cutting(inside, outside))
        return moment

    async def mend(self) -> None:
        """Carry every frame again."""
        await self._filter(mending())

    def signal(self, host: str, number: int) -> None:
        """Send a signal to the QEMU of a host.

        Raises:
            LabError: the host is off.
        """
        domain = self.domain(host)
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and runs(process.command_line(int(folder.name)), domain):
                found = process.find(int(folder.name))
                if found is not None and runs(process.command_line(found.pid), domain) and process.send(found, number):
                    return
        raise LabError(f"{host!r} is off: no QEMU runs it")

    def domain(self, host: str) -> str:
        """Return libvirt's name of a host.

        Raises:
            LabError: no such host.
        """
        if host not in self._machines:
            raise LabError(f"no virtual machine {host!r}: there are {', '.join(self._machines)}")
        return self._machines[host].domain

    async def _switch(self, *argv: str, input_text: str = "") -> str:
        return await self._run([*self._inventory.entering, *argv], f"'{' '.join(argv)}' at the switch", input_text)

    async def _filter(self, rules: str) -> None:
        await self._switch("nft", "-f", "-", input_text=rules)

    async def _run(self, argv: list[str], what: str, input_text: str = "") -> str:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", **self._inventory.environment}
        try:
            with trio.fail_after(COMMAND_S_MAX):
                done = await trio.run_process(
                    argv,
                    stdin=input_text.encode(),
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    env=environment,
                )
        except FileNotFoundError as error:
            raise LabError(f"{what} needs the command {argv[0]!r}, which this machine lacks") from error
        except trio.TooSlowError as error:
            raise LabError(f"{what} took longer than {COMMAND_S_MAX:g} s") from error
        if done.returncode != 0:
            raise LabError(f"{what} failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
        return done.stdout.decode(errors="replace")


def runs(command_line: str, domain: str) -> bool:
    """Whether this is the command line of a QEMU that runs a machine, and not of somebody who speaks of one."""
    program, _, arguments = command_line.partition(" ")
    return Path(program).name.startswith("qemu") and f" guest={domain}," in f" {arguments}"


def interfaces(listed: str) -> list[tuple[str, str]]:
    """Return (tap, MAC) of each interface in what `virsh domiflist` prints; the tap of a machine that is off is "-"."""
    fields = (line.split() for line in listed.splitlines())
    return [(one[0], one[4].lower()) for one in fields if len(one) == 5 and one[4].count(":") == 5]


def bridged(listed: str) -> set[str]:
    """Return the interfaces that `ip -j link show master BRIDGE` prints."""
    return {one["ifname"] for one in json.loads(listed or "[]") if "ifname" in one}


def cutting(inside: Iterable[str], outside: Iterable[str]) -> str:
    """Return the rules that part some ports from others.

    Raises:
        LabError: one side is empty.
    """
    ones, others = list(inside), list(outside)
    if not ones or not others:
        raise LabError("a partition has two sides: name some of the hosts, not all")
    pairs = ", ".join(f'"{one}" . "{other}", "{other}" . "{one}"' for one in ones for other in others)
    return f"""\
{mending()}table bridge {TABLE} {{
    set cut {{
        type ifname . ifname
        elements = {{ {pairs} }}
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname . oifname @cut drop
    }}
}}
"""


def mending() -> str:
    """Return the rules that take ours away, whether they are there or not."""
    return f"table bridge {TABLE}\ndelete table bridge {TABLE}\n"

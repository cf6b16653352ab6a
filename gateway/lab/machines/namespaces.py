"""The lab in network namespaces as a pool for the scenarios: the same code runs on it in a minute, without a machine.

It shows that the scenarios work. What one kernel can't show (a host that is suspended with its clocks, a power failure)
is what the virtual machines are for.
"""

import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from gateway.lab.machines.contract import EXECUTE, GATEWAY, MANAGER, SUBMIT, Limits, Node, Port
from gateway.lab.pool import EXEC_S_MAX, Lab
from gateway.lab.topology import SWITCH, USERS, Kind

LIMITS = Limits(flow_s_max=15.0, healthy_s_max=120.0, lease_s=0.3, feeder_slots=3, look_s=1.0)
STOPPED_S_MAX = 10.0

_ROLES = {Kind.MANAGER: MANAGER, Kind.GATEWAY: GATEWAY, Kind.SUBMIT: SUBMIT, Kind.EXECUTE: EXECUTE}


class NamespacePool:
    """One lab that is up."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.nodes = tuple(
            Node(name=host.name, address=host.address, roles=frozenset({_ROLES[host.kind]}))
            for host in lab.topology.hosts
        )
        self.limits = LIMITS
        self.users = tuple(USERS)
        self.virtual_address = lab.topology.virtual_address
        self.entering: tuple[str, ...] = ("ip", "netns", "exec", lab.topology.namespace(SWITCH))
        self.wire = "br0"
        self.folder = lab.folder

    async def ports(self) -> tuple[Port, ...]:
        """Return every host's port."""
        return tuple(Port(node=host.name, name=host.name, mac=host.mac) for host in self._lab.topology.hosts)

    async def exec(
        self,
        host: str,
        argv: Sequence[str],
        *,
        timeout_s: float = EXEC_S_MAX,
        user: str | None = None,
        input: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host."""
        return await self._lab.exec(host, argv, timeout_s=timeout_s, user=user, input=input, environment=environment)

    def file(self, host: str, path: str) -> Path:
        """Return where a host's file is: on this machine."""
        return self._lab.file(host, path)

    @contextlib.asynccontextmanager
    async def following(self, host: str, path: str) -> AsyncIterator[None]:
        """Do nothing: the hosts' disks are on this machine."""
        yield

    async def gateway_status(self, host: str) -> dict[str, Any] | None:
        """Return a node's status document."""
        return await self._lab.gateway_status(host)

    async def kill(self, host: str) -> float:
        """SIGKILL every process of the host."""
        return await self._lab.kill(host)

    async def revive(self, host: str) -> float:
        """Boot the host."""
        return await self._lab.revive(host)

    async def reachable(self, host: str) -> float:
        """Return at once: the host was booted by `revive`."""
        return time.time()

    async def freeze(self, host: str) -> float:
        """SIGSTOP every process of the host. Its kernel, which is this machine's, goes on."""
        return await self._lab.freeze(host)

    async def thaw(self, host: str) -> float:
        """SIGCONT."""
        return await self._lab.thaw(host)

    async def suspend(self, host: str) -> float:
        """Do what `freeze` does: the host's clock is this machine's."""
        return await self.freeze(host)

    async def resume(self, host: str) -> float:
        """Do what `thaw` does."""
        return await self.thaw(host)

    async def link_down(self, host: str) -> float:
        """Pull the cable."""
        return await self._lab.link_down(host)

    async def link_up(self, host: str) -> float:
        """Plug it in."""
        return await self._lab.link_up(host)

    async def partition(self, half: Sequence[str] = ()) -> float:
        """Drop all frames between some hosts and the others."""
        return await self._lab.partition(half)

    async def mend(self) -> float:
        """Carry all frames again."""
        return await self._lab.mend()

    async def reboot(self, host: str) -> float:
        """Stop condor-gateway in good order, then everything, and boot."""
        await self._lab.exec(host, ["pkill", "-TERM", "-o", "-f", "gateway run"])
        with trio.move_on_after(STOPPED_S_MAX):
            while self._lab.processes(host, "gateway run"):  # noqa: ASYNC110 (the kernel tells nobody)
                await trio.sleep(0.1)
        await self._lab.kill(host)
        return await self._lab.revive(host)

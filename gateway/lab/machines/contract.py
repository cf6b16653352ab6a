"""What a pool must be able to do so that the scenarios can be run on it: hosts of roles, faults, and questions.

Virtual machines and network namespaces can; a scenario knows neither.
"""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec

GATEWAY, MANAGER, WITNESS, SUBMIT, EXECUTE = "gateway", "manager", "witness", "submit", "execute"
VOTING = frozenset({GATEWAY, MANAGER, WITNESS})


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One host of the pool. A small pool's hosts have several roles each."""

    name: str
    address: str
    roles: frozenset[str]

    @property
    def votes(self) -> bool:
        """Whether condor-gateway runs there."""
        return bool(self.roles & VOTING)


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """Where a host is plugged into the switch now."""

    node: str
    name: str  # of the interface, on the machine
    mac: str  # of the host's own interface


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long things may take on a pool of this kind, in seconds."""

    flow_s_max: float  # from a fault until a job that was submitted after it runs
    healthy_s_max: float  # until a pool that was mended is well
    lease_s: float  # at the end of which a leader that hears nobody has stopped
    feeder_slots: int  # of each execute host, that jobs are running on all the time
    look_s: float  # between two looks at the pool: a question costs a slow guest a second of its processor


class Pool(Protocol):
    """A pool that is up. Faults return when they are in effect."""

    nodes: tuple[Node, ...]
    limits: Limits
    users: tuple[str, ...]  # who may submit jobs
    virtual_address: str
    entering: tuple[str, ...]  # what runs a command where the switch is
    wire: str  # the switch's own interface, there
    folder: Path  # for what is recorded

    async def ports(self) -> tuple[Port, ...]:
        """Return the ports of all hosts that are up."""

    async def exec(
        self,
        host: str,
        argv: Sequence[str],
        *,
        timeout_s: float = ...,
        user: str | None = ...,
        input: str | None = ...,
        environment: Mapping[str, str] | None = ...,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host."""

    def file(self, host: str, path: str) -> Path:
        """Return where a host's file can be read on the machine while it is followed."""

    def following(self, host: str, path: str) -> AbstractAsyncContextManager[None]:
        """Have what is appended to a host's file on the machine while the block runs."""

    async def gateway_status(self, host: str) -> dict[str, Any] | None:
        """Return a node's status document; None: it does not answer."""

    async def kill(self, host: str) -> float:
        """Take the power away."""

    async def revive(self, host: str) -> float:
        """Give it back; the host begins to boot."""

    async def reachable(self, host: str) -> float:
        """Wait until a host that boots lets us in."""

    async def freeze(self, host: str) -> float:
        """Stop a host where it stands, while its clock goes on."""

    async def thaw(self, host: str) -> float:
        """Let it go on; the time returned is that *before* its first instruction."""

    async def suspend(self, host: str) -> float:
        """Stop a host with its clocks, where it has its own."""

    async def resume(self, host: str) -> float:
        """Let a suspended host go on; the time returned is that *before* its first instruction."""

    async def link_down(self, host: str) -> float:
        """Pull the cable."""

    async def link_up(self, host: str) -> float:
        """Plug it in."""

    async def partition(self, half: Sequence[str] = ()) -> float:
        """Drop all frames between some hosts and the others."""

    async def mend(self) -> float:
        """Carry all frames again."""

    async def reboot(self, host: str) -> float:
        """Reboot in good order; return when it is back up."""


def names_of(pool: Pool, role: str) -> tuple[str, ...]:
    """Return the hosts of a role, in order."""
    return tuple(node.name for node in pool.nodes if role in node.roles)

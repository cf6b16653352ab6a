"""The pool on virtual machines: the same faults and questions as `gateway.lab.pool.Lab` has, one kernel to each host.

What is up is asked of libvirt and of the machines each time; nothing is remembered but the inventory.
"""

import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from gateway.lab import cluster
from gateway.lab.errors import LabError
from gateway.lab.machines.contract import Limits, Node, Port
from gateway.lab.machines.faults import Hands
from gateway.lab.machines.inventory import FOLDER, VIRTUAL_ADDRESS, Inventory
from gateway.lab.machines.shell import Shell
from gateway.lab.pool import ADMIN_SOCKET
from gateway.lab.rootfs import USER

Progress = Callable[[str], None]

# Without KVM a guest stands still for a quarter of a second at any time, and starts a program in seconds.
LIMITS = {
    "tcg": Limits(flow_s_max=15.0, healthy_s_max=240.0, lease_s=3.0, feeder_slots=1, look_s=3.0),
    "kvm": Limits(flow_s_max=4.0, healthy_s_max=120.0, lease_s=0.3, feeder_slots=3, look_s=1.0),
}
EXEC_S_MAX = 60.0
STATUS_S_MAX = 15.0
BOOT_S_MAX = 240.0
DOWN_S_MAX = 90.0
LOOK_S = 1.0
FOLLOWED_S_MAX = 3600

# A Python takes seconds to start in a guest without KVM; this asks the node's socket in a tenth of that.
_ASK = """\
alarm 10; use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit 3;
print $s "status\\n"; print scalar <$s>;"""
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class MachinePool:
    """The virtual machines that are up. Use `opened`."""

    def __init__(self, inventory: Inventory, shell: Shell, folder: Path) -> None:
        self.inventory = inventory
        self.nodes = tuple(
            Node(name=machine.name, address=machine.address, roles=frozenset(machine.roles))
            for machine in inventory.machines
        )
        self.limits = LIMITS[inventory.accelerator]
        self.users: tuple[str, ...] = (USER,)
        self.virtual_address = VIRTUAL_ADDRESS
        self.entering = inventory.entering
        self.wire = inventory.bridge
        self.folder = folder
        self._hands = Hands(inventory)
        self._shell = shell

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, inventory: Inventory) -> AsyncIterator["MachinePool"]:
        """Have the pool while the block runs; leave no connection, no rule and no suspended machine behind.

        Raises:
            LabError: the machines are another hypervisor's, which can't be used so.
        """
        if inventory.provider != "libvirt":
            raise LabError(f"scenarios need libvirt, not {inventory.provider}: LAB_PROVIDER=libvirt")
        folder = FOLDER / "run"
        folder.mkdir(parents=True, exist_ok=True)
        shell = Shell(inventory)
        pool = cls(inventory, shell, folder)
        try:
            yield pool
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
                with contextlib.suppress(LabError):
                    await pool.mend()
                await shell.close()

    # ---- commands and files

    async def ports(self) -> tuple[Port, ...]:
        """Return the ports of all machines that are on."""
        return await self._hands.ports()

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
        """Run a command on a host as root, or `user`.

        Raises:
            LabError: no such host, it can't be reached, or the command took longer than `timeout_s`.
        """
        return await self._shell.exec(host, argv, timeout_s=timeout_s, user=user, input=input, environment=environment)

    def file(self, host: str, path: str) -> Path:
        """Return where a file of a host is on this machine while it is followed."""
        return self.folder / f"{host}-{Path(path).name}"

    @contextlib.asynccontextmanager
    async def following(self, host: str, path: str) -> AsyncIterator[None]:
        """Copy a file of a host here as it grows; it need not exist yet."""
        # It ends by itself: sshd does not end what a client that is gone has started.
        argv = ["timeout", str(FOLLOWED_S_MAX), "tail", "-c", "+1", "-F", path]
        running = await self._shell.spawn(host, argv, self.file(host, path))
        try:
            yield
        finally:
            running.terminate()
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await running.wait()

    # ---- faults

    async def kill(self, host: str) -> float:
        """Take a machine's power away."""
        moment = time.time()
        await self._hands.virsh("destroy", self._hands.domain(host))
        await self._shell.leave(host)
        return moment

    async def revive(self, host: str) -> float:
        """Switch a machine on; return when it is plugged in, and before it has sent anything."""
        await self._hands.virsh("start", self._hands.domain(host))
        return time.time()

    async def reachable(self, host: str) -> float:
        """Wait until a machine lets us in.

        Raises:
            LabError: it does not.
        """
        limit = time.time() + BOOT_S_MAX
        last = ""
        while time.time() < limit:
            try:
                if (await self.exec(host, ["true"], timeout_s=20.0)).returncode == 0:
                    return time.time()
            except LabError as error:
                last = str(error)
            await trio.sleep(LOOK_S)
        raise LabError(f"{host!r} does not let us in after {BOOT_S_MAX:g} s: {last}")

    async def freeze(self, host: str) -> float:
        """Stop a machine's QEMU where it stands. What is sent to the machine waits, and its clock goes on."""
        moment = time.time()
        self._hands.signal(host, signal.SIGSTOP)
        return moment

    async def thaw(self, host: str) -> float:
        """Let its QEMU go on; return the time before that."""
        moment = time.time()
        self._hands.signal(host, signal.SIGCONT)
        return moment

    async def suspend(self, host: str) -> float:
        """Suspend a machine: its processors and its clocks stand still, what is sent to it waits."""
        moment = time.time()
        await self._hands.virsh("suspend", self._hands.domain(host))
        return moment

    async def resume(self, host: str) -> float:
        """Let a machine go on; return the time before that."""
        moment = time.time()
        await self._hands.virsh("resume", self._hands.domain(host))
        return moment

    async def link_down(self, host: str) -> float:
        """Pull a machine's cable: its interface loses carrier."""
        return await self._hands.cable(host, plugged=False)

    async def link_up(self, host: str) -> float:
        """Plug it in."""
        await self._hands.cable(host, plugged=True)
        return time.time()

    async def partition(self, half: Sequence[str] = ()) -> float:
        """Drop every frame between some machines and the others, on the private network."""
        return await self._hands.cut(half)

    async def mend(self) -> float:
        """Carry every frame again."""
        await self._hands.mend()
        return time.time()

    async def reboot(self, host: str) -> float:
        """Reboot a machine in good order; return when it lets us in again.

        Raises:
            LabError: it does not go down, or does not come back.
        """
        before = await self._boot_id(host)
        with contextlib.suppress(LabError):  # the connection may end before the answer
            await self.exec(host, ["systemctl", "--no-block", "reboot"], timeout_s=20.0)
        limit = time.time() + DOWN_S_MAX + BOOT_S_MAX
        while time.time() < limit:
            await trio.sleep(2 * LOOK_S)
            await self._shell.leave(host)
            with contextlib.suppress(LabError):
                if await self._boot_id(host) not in ("", before):
                    return time.time()
        raise LabError(f"{host!r} did not come back within {DOWN_S_MAX + BOOT_S_MAX:g} s of its reboot")

    # ---- questions

    async def running(self, program: str) -> list[str]:
        """Return the hosts on which a program of this name runs."""
        found: list[str] = []

        async def look(host: str) -> None:
            with contextlib.suppress(LabError):
                done = await self.exec(host, ["pgrep", "-x", program[:15]], timeout_s=STATUS_S_MAX)
                if done.returncode == 0:
                    found.append(host)

        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(look, node.name)
        return [node.name for node in self.nodes if node.name in found]

    async def gateway_status(self, host: str) -> dict[str, Any] | None:
        """Return what `condor-gateway status --json` says on a host; None: it does not answer."""
        path = f"{cluster.STATE_DIR}/{ADMIN_SOCKET}"
        try:
            done = await self.exec(host, ["perl", "-e", _ASK, path], timeout_s=STATUS_S_MAX)
            said = msgspec.json.decode(done.stdout) if done.returncode == 0 else None
        except (LabError, msgspec.DecodeError):
            return None
        return said if isinstance(said, dict) and "elections" in said else None

    async def power(self, host: str) -> str:
        """Return what libvirt says of a machine: "running", "paused", "shut off"."""
        return (await self._hands.virsh("domstate", self._hands.domain(host))).strip()

    async def _boot_id(self, host: str) -> str:
        return (await self.exec(host, ["cat", _BOOT_ID], timeout_s=20.0)).stdout.strip()

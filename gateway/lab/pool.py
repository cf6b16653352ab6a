"""A lab: a whole HTCondor pool on one machine, for trio. Every method may be called from any task.

A `Lab` remembers nothing but its name and topology; what is up, frozen or cut is asked of the kernel each time.
"""

import errno
import functools
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from gateway.console.admin import AdminUnreachable, ask_admin
from gateway.lab import cluster, disks, network, process, readiness, rootfs, teardown
from gateway.lab.disks import Files
from gateway.lab.errors import LabError
from gateway.lab.host import HostControl, HostDisk, Service, Spawned
from gateway.lab.packages import Progress
from gateway.lab.topology import VIRTUAL_ADDRESS, Host, Kind, Topology

STATE_FILE = "state.json"
DISK_MEMORY_MAX = "75%"  # of the machine's memory, at most, for what all hosts write
ADMIN_SOCKET = "admin.sock"
STATUS_S_MAX = 2.0
EXEC_S_MAX = 30.0

CONDOR_MASTER = Service(("/usr/sbin/condor_master", "-f"), "/var/log/condor-master.log")
GATEWAY = Service(("/usr/bin/condor-gateway", "run", "-f", cluster.CONFIG_FILE), cluster.LOG_FILE)


class State(msgspec.Struct, frozen=True):
    """What `attach` must know of a lab that another process brought up."""

    topology: Topology
    tree: str


class HostStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One host as it is now. `gateway` is what `condor-gateway status --json` says there; None: nothing."""

    name: str
    kind: Kind
    address: str
    up: bool
    gateway: dict[str, Any] | None = None

    @property
    def leads(self) -> tuple[str, ...]:
        """The elections that this host says it leads, with a lease that runs."""
        elections = self.gateway.get("elections", {}) if self.gateway else {}
        return tuple(
            name
            for name, election in elections.items()
            if election.get("leader") == self.name and election.get("lease_left_ms")
        )


class Lab:
    """One lab that is up. Made by `Lab.up` or `Lab.attach`."""

    def __init__(self, state: State) -> None:
        self.topology = state.topology
        self.tree = Path(state.tree)
        self.folder = teardown.lab_folder(state.topology.name)

    # ---- beginning and end

    @classmethod
    async def up(
        cls, topology: Topology, progress: Progress = lambda text: None, *, files: Files | None = None
    ) -> "Lab":
        """Bring a lab up: every host is booted and its services started; `wait_ready` waits for the pool.

        `files` are written to the hosts' disks last, before they boot: host name -> path -> text.
        When it fails or is cancelled, nothing is left behind.

        Raises:
            LabError: not root, such a lab is up, no HTCondor to be had, or this kernel may not.
        """
        topology = topology.checked()
        if os.geteuid() != 0:
            raise LabError("the lab needs root, for network namespaces and mounts: run this as root")
        tree = await trio.to_thread.run_sync(rootfs.build, topology.suite, progress, abandon_on_cancel=True)
        with _only_maker(topology.name):
            if teardown.exists(topology.name):
                raise LabError(
                    f"lab {topology.name!r} is up already, or left over: "
                    f"end it with 'condor-gateway lab down --name {topology.name}'"
                )
            lab = cls(State(topology, str(tree)))
            try:
                await lab._make(progress, files or {})
            except BaseException:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
                    await teardown.remove(topology.name)
                raise
        return lab

    @classmethod
    def attach(cls, name: str = "lab") -> "Lab":
        """Find a lab that is up.

        Raises:
            LabError: there is none of that name.
        """
        try:
            data = (teardown.lab_folder(name) / STATE_FILE).read_bytes()
        except FileNotFoundError:
            raise LabError(f"no lab {name!r} is up: bring it up with 'condor-gateway lab up --name {name}'") from None
        return cls(msgspec.json.decode(data, type=State))

    async def down(self) -> None:
        """End the lab: nothing of it is left on the machine."""
        await teardown.remove(self.topology.name)

    async def _make(self, progress: Progress, files: Files) -> None:
        topology = self.topology
        self.folder.mkdir(parents=True)
        await network.command(
            ["mount", "-t", "tmpfs", "-o", f"mode=755,size={DISK_MEMORY_MAX}", "condor-gateway-lab", str(self.folder)],
            what="mounting the lab's disks",
        )
        progress(f"cabling {len(topology.hosts)} hosts")
        await network.build(topology)
        (self.folder / "hosts").mkdir()
        await trio.to_thread.run_sync(disks.copy_gateway, self._gateway_folder)
        await disks.compile_gateway(self._gateway_folder, self.tree)
        await trio.to_thread.run_sync(disks.write, topology, lambda name: self._control(name).disk, files)
        progress("booting the central managers and gateways")
        await self._boot(Kind.MANAGER, Kind.GATEWAY)
        await readiness.wait_for_matchmaker(self, progress)
        progress("booting the submit and execute hosts")
        await self._boot(Kind.SUBMIT, Kind.EXECUTE)
        # Written last: a lab that can be attached to is whole.
        (self.folder / STATE_FILE).write_bytes(msgspec.json.encode(State(topology, str(self.tree))))

    async def _boot(self, *kinds: Kind) -> None:
        async with trio.open_nursery() as nursery:
            for host in self.topology.hosts:
                if host.kind in kinds:
                    nursery.start_soon(self.revive, host.name)

    @property
    def _gateway_folder(self) -> Path:
        return self.folder / "gateway"

    def _services(self, host: Host) -> list[Service]:
        condor_master = [CONDOR_MASTER] if host.kind is not Kind.GATEWAY else []
        return condor_master + ([GATEWAY] if disks.runs_gateway(self.topology, host) else [])

    def _control(self, name: str) -> HostControl:
        host = self.topology.host(name)
        return HostControl(
            name=host.name,
            namespace=network.namespace_path(self.topology, host.name),
            disk=HostDisk(self.folder / "disk" / host.name, self.tree),
            record=self.folder / "hosts" / f"{host.name}.json",
            gateway=self._gateway_folder,
        )

    # ---- commands and files

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
        """Run a command on `host` as root, or `user` of `topology.USERS`; return its exit code and output as they are.

        Raises:
            LabError: no such host, it is down, or the command took longer than `timeout_s` (it is ended then).
        """
        return await self._control(host).exec(
            argv, timeout_s=timeout_s, user=user, input_text=input, environment=environment
        )

    async def spawn(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdout: Path,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Spawned:
        """Start a command on `host` in the background, output and errors into the machine's file `stdout`.

        Raises:
            LabError: no such host, or it is down.
        """
        return await self._control(host).spawn(argv, stdout=stdout, user=user, environment=environment)

    def file(self, host: str, path: str) -> Path:
        """Where a host's file is on the machine, for reading, whether the host is up or not. It need not exist.

        What a host keeps in /run, /proc, /sys or /dev is not on its disk and cannot be had this way.
        """
        return self._control(host).disk.path(path)

    def enter_argv(self, host: str, argv: Sequence[str], *, user: str | None = None) -> list[str]:
        """The command line that runs `argv` on `host` with this terminal as its own."""
        return self._control(host).entering(argv, user, {"TERM": os.environ.get("TERM", "dumb")})

    # ---- faults. Each returns the unix time at which it was in effect, in seconds.

    async def kill(self, host: str) -> float:
        """SIGKILL every process of the host at once. Its disk and its network interfaces stay as they are."""
        control = self._control(host)
        moment = time.time()
        await control.kill()
        return moment

    async def revive(self, host: str) -> float:
        """Boot a killed host on its disk as it is: HTCondor first, then the gateway's daemon, where it has them."""
        await self._control(host).boot(self._services(self.topology.host(host)))
        return time.time()

    async def freeze(self, host: str) -> float:
        """Stop every process of the host (SIGSTOP)."""
        await self._control(host).set_frozen(frozen=True)
        return time.time()

    async def thaw(self, host: str) -> float:
        """Let a frozen host go on."""
        await self._control(host).set_frozen(frozen=False)
        return time.time()

    async def link_down(self, host: str) -> float:
        """Pull the host's cable out of the switch: its interface loses carrier."""
        await network.set_link(self.topology, host, up=False)
        return time.time()

    async def link_up(self, host: str) -> float:
        """Plug the host's cable in again."""
        await network.set_link(self.topology, host, up=True)
        return time.time()

    async def cut(self, one: str, other: str) -> float:
        """Drop every frame between two hosts, both ways; each still reaches all others."""
        await network.set_cut(self.topology, one, other, cut=True)
        return time.time()

    async def heal(self, one: str, other: str) -> float:
        """Carry frames between two hosts again."""
        await network.set_cut(self.topology, one, other, cut=False)
        return time.time()

    async def partition(self, half: Sequence[str] = ()) -> float:
        """Drop every frame between some hosts and all others (the first of `Topology.halves` where none is named)."""
        await network.set_partition(self.topology, half or self.topology.halves[0], cut=True)
        return time.time()

    async def mend(self) -> float:
        """Carry frames between all hosts again, whatever was cut or partitioned."""
        moment = time.time()
        await network.mend(self.topology)
        return moment

    # ---- the pool

    def is_up(self, host: str) -> bool:
        """Whether the host is booted (frozen or cut off, it still is)."""
        return self._control(host).first_process() is not None

    async def running(self, program: str) -> list[str]:
        """The hosts on which a program of this name runs now. Looked up on the machine: it starts nothing."""
        keys = set(await trio.to_thread.run_sync(lambda: list(process.named(program))))
        firsts = {host.name: self._control(host.name).first_process() for host in self.topology.hosts}
        return [
            name
            for name, first in firsts.items()
            if first and process.namespace_key(Path(f"/proc/{first.pid}/ns/pid")) in keys
        ]

    def processes(self, host: str, mark: str) -> list[int]:
        """The ids on the machine of those processes of a host whose command line has `mark` in it; [] while it is down.

        They may end at any moment: for reading what /proc says of them, and nothing else.
        """
        first = self._control(host).first_process()
        key = process.namespace_key(Path(f"/proc/{first.pid}/ns/pid")) if first else None
        found = process.in_namespaces("pid", {key}) if key else ()
        return [one.pid for one, _ in found if mark in process.command_line(one.pid)]

    async def status(self) -> list[HostStatus]:
        """Every host as it is now, in the order of the topology. Takes up to `STATUS_S_MAX`."""
        found: dict[str, HostStatus] = {}

        async def ask(host: Host) -> None:
            said = await self.gateway_status(host.name)
            found[host.name] = HostStatus(
                name=host.name, kind=host.kind, address=host.address, up=self.is_up(host.name), gateway=said
            )

        async with trio.open_nursery() as nursery:
            for host in self.topology.hosts:
                nursery.start_soon(ask, host)
        return [found[host.name] for host in self.topology.hosts]

    async def gateway_status(self, host: str) -> dict[str, Any] | None:
        """What `condor-gateway status --json` says on a host; None: it runs no gateway, or does not answer.

        Asked at the node's own socket, from the machine: it takes milliseconds and starts nothing on the host.
        """
        control = self._control(host)
        first = control.first_process()
        if first is None or not disks.runs_gateway(self.topology, self.topology.host(host)):
            return None
        path = Path(f"/proc/{first.pid}/root{cluster.STATE_DIR}/{ADMIN_SOCKET}")
        try:
            ask = functools.partial(ask_admin, path, "status", wait_s=STATUS_S_MAX)
            said = await trio.to_thread.run_sync(ask, abandon_on_cancel=True)
        except (AdminUnreachable, OSError):
            return None
        return said if isinstance(said, dict) else None

    async def submit(self, description: str) -> str:
        """Submit jobs from the submit host as its user; return what `condor_submit -terse` says ("1.0 - 1.9").

        Raises:
            LabError: condor_submit refused, with its reason.
        """
        done = await self.exec("submit1", ["condor_submit", "-terse", "-"], user=rootfs.USER, input=description)
        if done.returncode != 0:
            raise LabError(f"condor_submit failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    async def wait_ready(self, timeout_s: float = 60.0, progress: Progress = lambda text: None) -> None:
        """Wait until the pool runs jobs: through CONDOR_HOST every slot and the schedd are seen, and one job has run.

        Raises:
            LabError: not within `timeout_s`; it says what was missing.
        """
        await readiness.wait_for_pool(self, timeout_s, progress)


@contextmanager
def _only_maker(name: str) -> Iterator[None]:
    """One `up` of a lab at a time. The lock is a name in the kernel: it ends with this process and leaves no file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind(f"\0condor-gateway-lab-{name}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise LabError(f"lab {name!r} is being brought up by another process: wait for it") from None
        yield


__all__ = ["VIRTUAL_ADDRESS", "Files", "HostStatus", "Lab", "Spawned", "State"]

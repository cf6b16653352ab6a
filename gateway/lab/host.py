"""One host of a lab: its disk, its boot, its death, and commands on it.

Its first process is known by id and start time, kept in a file, so that every command of the lab finds it again.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import trio

from gateway.lab import process
from gateway.lab.errors import LabError
from gateway.lab.process import Process
from gateway.lab.rootfs import FOLDERS, LIBRARY
from gateway.lab.topology import USERS

BOOT = Path(__file__).with_name("boot.py")
BOOT_S_MAX = 40  # boot.py gives up after 30
DEATH_S_MAX = 20  # the kernel kills every process of the host; a busy disk may hold one for seconds
STOP_S_MAX = 5
OUTPUT_AFTER_S = 5  # how much longer than the command's own limit its last output may take

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOMES = {"root": "/root"} | {user: f"/home/{user}" for user in USERS}


class Service(msgspec.Struct, frozen=True):
    """A program that a host starts when it boots, with its output appended to `log`."""

    argv: tuple[str, ...]
    log: str


class Spawned:
    """A command that runs on a host in the background. `pid` is its id on the machine."""

    def __init__(self, outer: trio.Process) -> None:
        self._outer = outer  # nsenter; the command is its child, in the host's namespaces

    @property
    def pid(self) -> int | None:
        """The command's process id on the machine; None: it has ended, or has not begun."""
        try:
            children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        except FileNotFoundError:
            return None
        return int(children[0]) if children else None

    @property
    def returncode(self) -> int | None:
        """The command's exit code; None while it runs."""
        return self._outer.poll()

    async def wait(self) -> int:
        """Wait for the end of the command and return its exit code."""
        return await self._outer.wait()

    async def stop(self) -> int:
        """End the command (SIGTERM, and SIGKILL after 5 s) and return its exit code."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._outer.poll() is None:
                if (pid := self.pid) is not None and (command := process.find(pid)):
                    process.send(command, number)
                self._outer.send_signal(signal.SIGCONT)  # nsenter stops with a frozen command
            with trio.move_on_after(STOP_S_MAX):
                return await self._outer.wait()
        self._outer.kill()
        return await self._outer.wait()


class HostDisk:
    """The file system of a host as the machine sees it: a read-only tree, and what the host wrote above it."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.folder = folder
        self.tree = tree
        self.upper = folder / "upper"

    def path(self, path: str) -> Path:
        """Where a file of the host is on the machine, for reading only; it need not exist."""
        relative = path.lstrip("/")
        above = self.upper / relative
        below = self.tree / relative
        return below if below.exists() and not os.path.lexists(above) else above

    def home(self, user: str, number: int) -> None:
        """Make the home of a user whom the tree does not have, before the host boots."""
        self.place(f"home/{user}/.profile", b"")
        os.chown(self.upper / "home" / user, number, number)

    def place(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file before the host boots. Never while it is up: the kernel keeps its own view of the disk."""
        relative = Path(path.lstrip("/"))
        folder = self.upper
        folder.mkdir(parents=True, exist_ok=True)
        for depth, part in enumerate(relative.parts[:-1], start=1):
            folder /= part
            if not folder.exists():
                folder.mkdir()
                below = self.tree.joinpath(*relative.parts[:depth])
                if below.exists():  # a folder of the disk hides the attributes of the tree's
                    shutil.copystat(below, folder)
                    os.chown(folder, below.stat().st_uid, below.stat().st_gid)
        target = self.upper / relative
        target.write_bytes(data)
        target.chmod(mode)


class HostControl:
    """What can be done to one host. `record` is the file that holds its first process while it is up."""

    def __init__(self, *, name: str, namespace: Path, disk: HostDisk, record: Path, gateway: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.disk = disk
        self.record = record
        self.gateway = gateway

    def first_process(self) -> Process | None:
        """The host's process number 1, or None while the host is down."""
        try:
            found = msgspec.json.decode(self.record.read_bytes(), type=Process)
        except FileNotFoundError:
            return None
        return found if process.is_alive(found) else None

    def _up(self) -> Process:
        found = self.first_process()
        if found is None:
            raise LabError(f"host {self.name!r} is down: boot it with 'fault revive {self.name}'")
        return found

    async def boot(self, services: Sequence[Service]) -> None:
        """Boot the host on its disk as it is and start `services`, in that order.

        Raises:
            LabError: it is up already, or its namespaces or mounts cannot be made.
        """
        if self.first_process() is not None:
            raise LabError(f"host {self.name!r} is up already")
        environment = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"}
        spec = {
            "namespace": str(self.namespace),
            "tree": str(self.disk.tree),
            "disk": str(self.disk.folder),
            "hostname": self.name,
            "binds": [(str(self.gateway), f"{LIBRARY}/gateway")],
            # What lies in /run is made anew at every boot, and so is what belongs into it.
            "folders": [
                (f"/{path.replace('var/lock/', 'run/lock/')}", owner, mode)
                for path, owner, mode in FOLDERS
                if path.startswith(("var/lock/", "run/"))
            ],
            "services": [
                {"argv": list(service.argv), "log": service.log, "environment": environment} for service in services
            ],
        }
        self.disk.folder.mkdir(parents=True, exist_ok=True)
        try:
            with trio.fail_after(BOOT_S_MAX):
                done = await trio.run_process(
                    [sys.executable, "-I", "-S", str(BOOT)],
                    stdin=json.dumps(spec).encode(),
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
        except trio.TooSlowError as error:
            raise LabError(f"host {self.name!r} did not boot within {BOOT_S_MAX} s") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise LabError(f"host {self.name!r} did not boot: {said[-1] if said else 'no reason given'}")
        self.record.write_bytes(done.stdout)

    async def kill(self) -> None:
        """SIGKILL every process of the host at once. Its disk and its network, addresses included, stay.

        Raises:
            LabError: it is down, or the kernel could not end it within `DEATH_S_MAX`.
        """
        first = self._up()
        process.send(first, signal.SIGKILL)
        if not await process.wait_gone(first, DEATH_S_MAX):
            raise LabError(f"host {self.name!r} did not die within {DEATH_S_MAX} s of SIGKILL")

    async def set_frozen(self, *, frozen: bool) -> None:
        """Stop every process of the host but its first, or let them go on; return when it is so.

        Raises:
            LabError: it is down, or not all obeyed within `STOP_S_MAX`.
        """
        first = self._up()
        process.send(first, signal.SIGUSR1 if frozen else signal.SIGUSR2)
        key = process.namespace_key(Path(f"/proc/{first.pid}/ns/pid"))
        with trio.move_on_after(STOP_S_MAX):
            while key is not None:
                others = [state for found, state in process.in_namespaces("pid", {key}) if found != first]
                if all((state in process.STOPPED_STATES) is frozen for state in others):
                    return
                await trio.sleep(0.005)
        raise LabError(f"not every process of host {self.name!r} {'stopped' if frozen else 'went on'}")

    def entering(self, argv: Sequence[str], user: str | None, environment: Mapping[str, str]) -> list[str]:
        """The command line on the machine that runs `argv` on the host, as `user` (None: root)."""
        first = self._up()
        name = user or "root"
        if name not in HOMES:
            raise LabError(f"no user {name!r} on the lab's hosts: use one of {', '.join(HOMES)}")
        enter = ["nsenter", f"--target={first.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
        if name in USERS:
            enter += ["/usr/bin/setpriv", f"--reuid={USERS[name]}", f"--regid={USERS[name]}", "--init-groups"]
        variables = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": HOMES[name], "USER": name, "LOGNAME": name}
        variables |= environment
        enter += ["/usr/bin/env", "-i", "-C", HOMES[name]]
        return [*enter, *(f"{key}={value}" for key, value in variables.items()), *argv]

    async def exec(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        user: str | None = None,
        input_text: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host and return its exit code and output, whatever they are.

        Raises:
            LabError: the host is down, or the command took longer than `timeout_s` (it is ended).
        """
        # The limit is kept on the host itself: whatever happens to this process, nothing stays behind.
        limited = ["/usr/bin/timeout", "--kill-after=2", f"{timeout_s:.3f}", *argv]
        late = LabError(f"{argv[0]!r} on {self.name!r} took longer than {timeout_s:g} s")
        try:
            with trio.fail_after(timeout_s + OUTPUT_AFTER_S):
                done = await trio.run_process(
                    self.entering(limited, user, environment or {}),
                    stdin=(input_text or "").encode(),
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
        except trio.TooSlowError:
            raise late from None
        if done.returncode in (124, 137):  # timeout(1): it ended the command
            raise late
        output, errors = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(list(argv), done.returncode, output, errors)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdout: Path,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Spawned:
        """Start a command on the host with its output and errors in the machine's file `stdout`.

        Raises:
            LabError: the host is down.
        """
        entering = self.entering(argv, user, environment or {})
        with stdout.open("wb") as output:
            outer = await trio.lowlevel.open_process(
                entering, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        return Spawned(outer)

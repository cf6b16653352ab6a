"""Commands on a virtual machine, by ssh: one connection a machine, which all commands share.

A guest without KVM takes a second for what a machine does in milliseconds: a new connection is dear, a session is not.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from gateway.lab.errors import LabError
from gateway.lab.machines.inventory import Inventory, Machine

CONNECT_S_MAX = 20  # a guest under load answers late
PERSIST_S = 120  # a connection that nobody uses ends by itself, whatever became of this program
LATER_S = 10.0  # how much longer than the command's own limit its answer may take
LEAVE_S_MAX = 5.0
UNREACHABLE = 255  # ssh(1)
ENDED = (124, 137)  # timeout(1): it ended the command


class Shell:
    """The machines of one inventory, for commands. Used as a context: at its end no connection is left."""

    def __init__(self, inventory: Inventory) -> None:
        self._machines = {machine.name: machine for machine in inventory.machines}
        self._entering = inventory.entering
        # Short, for a socket's path has at most 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="cgvm-"))

    async def close(self) -> None:
        """End every connection."""
        async with trio.open_nursery() as nursery:
            for name in self._machines:
                nursery.start_soon(self.leave, name)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def leave(self, host: str) -> None:
        """End the connection to a host, which may be dead: the next command makes a new one."""
        if not self._socket(host).exists():
            return
        with contextlib.suppress(OSError), trio.move_on_after(LEAVE_S_MAX):
            await trio.run_process([*self._ssh(host), "-O", "exit"], capture_stderr=True, check=False)
        self._socket(host).unlink(missing_ok=True)

    async def exec(
        self,
        host: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        user: str | None = None,
        input: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command as root, or as `user`; return its exit code and output, whatever they are.

        Raises:
            LabError: no such host, it can't be reached, or the command took longer than `timeout_s` (it is ended).
        """
        line = self.line(host, ["timeout", "--kill-after=2", f"{timeout_s:.3f}", *argv], user, environment)
        late = LabError(f"{argv[0]!r} on {host!r} took longer than {timeout_s:g} s")
        try:
            with trio.fail_after(timeout_s + LATER_S):
                done = await trio.run_process(
                    line, stdin=(input or "").encode(), capture_stdout=True, capture_stderr=True, check=False
                )
        except trio.TooSlowError:
            raise late from None
        output, errors = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        if done.returncode in ENDED:
            raise late
        if done.returncode == UNREACHABLE:
            raise LabError(f"{host!r} can't be reached: {errors.strip()[-200:] or 'ssh says nothing'}")
        return subprocess.CompletedProcess(list(argv), done.returncode, output, errors)

    async def spawn(self, host: str, argv: Sequence[str], stdout: Path) -> trio.Process:
        """Start a command as root with its output in a file of this machine. It ends with its connection."""
        with stdout.open("wb") as output:
            return await trio.lowlevel.open_process(
                self.line(host, argv), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL
            )

    def line(
        self,
        host: str,
        argv: Sequence[str],
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Return the command line on this machine that runs `argv` on a host.

        Raises:
            LabError: no such host.
        """
        return [*self._ssh(host), "--", remote(self._machine(host).ssh_user, argv, user, environment)]

    def _machine(self, host: str) -> Machine:
        if host not in self._machines:
            raise LabError(f"no virtual machine {host!r}: there are {', '.join(self._machines)}")
        return self._machines[host]

    def _socket(self, host: str) -> Path:
        return self._folder / host

    def _ssh(self, host: str) -> list[str]:
        shared = {"ControlMaster": "auto", "ControlPath": self._socket(host), "ControlPersist": PERSIST_S}
        return ssh(self._entering, self._machine(host), BatchMode="yes", **shared)


def ssh(prefix: Sequence[str], machine: Machine, **more: object) -> list[str]:
    """Return the ssh command line to a machine, options included, without a command. `prefix`: of the inventory."""
    options = {
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
        "IdentitiesOnly": "yes",
        "IdentityFile": machine.ssh_key,
        "ConnectTimeout": CONNECT_S_MAX,
        **more,
    }
    settings = [text for name, value in options.items() for text in ("-o", f"{name}={value}")]
    there = f"{machine.ssh_user}@{machine.ssh_address}"
    return [*prefix, "ssh", "-F", os.devnull, *settings, "-p", str(machine.ssh_port), there]


def entering(inventory: Inventory, host: str, argv: Sequence[str]) -> list[str]:
    """Return the command line that logs in as root with this terminal, or runs a command.

    Raises:
        LabError: no such host.
    """
    machine = next((one for one in inventory.machines if one.name == host), None)
    if machine is None:
        raise LabError(f"no virtual machine {host!r}: there are {', '.join(one.name for one in inventory.machines)}")
    if argv:
        return [*ssh(inventory.entering, machine), "--", remote(machine.ssh_user, argv)]
    return [*ssh(inventory.entering, machine, RequestTTY="yes"), "--", "sudo -n -i"]


def remote(
    login: str, argv: Sequence[str], user: str | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Return what the login shell of `login` is to run so that `argv` runs as `user` (None: root), in /tmp."""
    wanted = user or "root"
    become = [] if wanted == login else ["sudo", "-n", "-H", "-u", wanted, "--"]
    variables = [f"{name}={value}" for name, value in (environment or {}).items()]
    setting = ["env", *variables] if variables else []
    return f"cd /tmp && exec {shlex.join([*become, *setting, *argv])}"

"""Hosts on one switch, made of network namespaces: client, servers, and a gateway for each contender.

Rule: nothing outside of these namespaces is touched. Their names hold our process number and its start, so that what a
crashed run has left is known, and removed by the next.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

PREFIX = "cgbench"
NAMESPACES = Path("/run/netns")
NETWORK = "10.77.0"
DEVICE = "lan0"
SWITCH = "switch"
COMMAND_S_MAX = 30

# A load generator makes more connections in a second than a pool in a day. Of these namespaces alone.
SYSCTLS = {
    "net/ipv4/ip_local_port_range": "1024 65535",
    "net/ipv4/tcp_tw_reuse": "1",
    "net/core/somaxconn": "16384",
    "net/ipv4/tcp_max_syn_backlog": "16384",
}


def end_by_signals() -> None:
    """Let SIGTERM and SIGHUP end us as an error does: what stands is taken down."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


class SegmentError(Exception):
    """The segment cannot be made here."""


class Segment:
    """Hosts by name, with the last number of each one's address."""

    def __init__(self, hosts: Mapping[str, int]) -> None:
        self.addresses = {name: f"{NETWORK}.{number}" for name, number in hosts.items()}
        self._stem = f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}"
        self._children: list[subprocess.Popen[str]] = []
        self.folder = Path(tempfile.gettempdir()) / self._stem  # for files of what runs here

    def __enter__(self) -> Self:
        remove_leftovers()
        try:
            self.folder.mkdir(mode=0o755)
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        names = [self.namespace(host) for host in (*self.addresses, SWITCH)]
        _remove(names)
        for child in self._children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def namespace(self, host: str) -> str:
        return f"{self._stem}-{host}"

    def _build(self) -> None:
        hosts = list(self.addresses)
        _ip_batch([f"netns add {self.namespace(host)}" for host in (SWITCH, *hosts)])
        cabling = ["link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set br0 up"]
        for port, host in enumerate(hosts):
            cabling.append(f"link add port{port} type veth peer name {DEVICE} netns {self.namespace(host)}")
            cabling.append(f"link set port{port} master br0 up")
        _ip_batch(cabling, "-n", self.namespace(SWITCH))
        for host, address in self.addresses.items():
            setting = ["link set lo up", f"addr add {address}/24 dev {DEVICE}", f"link set {DEVICE} up"]
            _ip_batch(setting, "-n", self.namespace(host))
            self.set_sysctls(host, SYSCTLS)

    def mac(self, host: str) -> str:
        """Return the hardware address of a host."""
        return json.loads(self.run(host, ["ip", "-j", "link", "show", DEVICE]))[0]["address"]

    def set_sysctls(self, host: str, values: Mapping[str, str]) -> None:
        script = "".join(
            f"[ ! -e /proc/sys/{name} ] || echo '{value}' >/proc/sys/{name}\n" for name, value in values.items()
        )
        self.run(host, ["sh", "-ec", script])

    def argv(self, host: str, command: Sequence[str]) -> list[str]:
        """Return `command` as it runs on a host. It ends when we do."""
        enter = ["nsenter", f"--net={NAMESPACES / self.namespace(host)}"]
        return ["setpriv", "--pdeathsig", "KILL", *enter, *command]

    def run(self, host: str, command: Sequence[str], *, input_text: str = "") -> str:
        """Run a short command; return its output. Raises `SegmentError` with its words."""
        argv = self.argv(host, command)
        done = subprocess.run(
            argv, input=input_text, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
        )
        if done.returncode:
            raise SegmentError(f"{' '.join(command)[:200]}: {done.stderr.strip()}")
        return done.stdout

    def spawn(
        self, host: str, command: Sequence[str], *, log: IO[Any] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a process that is killed with us, with pipes to its input and output."""
        child = subprocess.Popen(
            self.argv(host, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, **options
        )
        self._children.append(child)
        return child

    def pids(self, host: str) -> list[int]:
        """Return the processes of a host."""
        return _pids(self.namespace(host))

    def pin(self, cpus: set[int]) -> None:
        """Let all processes of all hosts run on these CPUs only, and what they start from now on."""
        for host in self.addresses:
            for pid in self.pids(host):
                with contextlib.suppress(OSError):
                    for task in os.listdir(f"/proc/{pid}/task"):
                        os.sched_setaffinity(int(task), cpus)

    def clear(self, host: str) -> None:
        """End whatever runs on a host."""
        _kill(_pids(self.namespace(host)), lambda: _pids(self.namespace(host)))


def remove_leftovers() -> None:
    """Remove what runs of ours that are no more have left behind."""
    _remove([path.name for path in NAMESPACES.glob(f"{PREFIX}-*") if _is_leftover(path.name)])
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*"):
        if _is_leftover(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _is_leftover(name: str) -> bool:
    named = re.fullmatch(rf"{PREFIX}-(\d+)-(\d+)(-.+)?", name)
    return named is not None and _started(int(named[1])) != int(named[2])


def _remove(names: Iterable[str]) -> None:
    present = [name for name in names if (NAMESPACES / name).exists()]

    def inside() -> list[int]:
        return [pid for name in present for pid in _pids(name)]

    _kill(inside(), inside)
    for name in present:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=COMMAND_S_MAX, check=False)


def _kill(pids: list[int], look_again: Callable[[], list[int]]) -> None:
    for _ in range(200):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pids = [pid for pid in look_again() if not is_gone(pid)]
        if not pids:
            return
        time.sleep(0.02)


def _pids(namespace: str) -> list[int]:
    done = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
    )
    return [int(pid) for pid in done.stdout.split() if int(pid) != os.getpid()]


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, also one that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _started(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None where there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


def _ip_batch(lines: Iterable[str], *options: str) -> None:
    text = "\n".join(lines) + "\n"
    try:
        done = subprocess.run(
            ["ip", *options, "-batch", "-"],
            input=text,
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
    except FileNotFoundError as error:
        raise SegmentError("network namespaces need the Debian package iproute2") from error
    if done.returncode:
        raise SegmentError(f"making network namespaces (root?): {done.stderr.strip()}")

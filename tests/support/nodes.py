"""Real `condor-gateway run` processes on the hosts of a segment, and the configuration files that they read.

A file is a head that all clusters share, then sections: what a test is not about stands here once.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from gateway.keyfiles import create_key_file
from tests.support import netns

PYTHON = [sys.executable, "-P", "-m", "gateway"]
# For what takes a second: five nodes of four processes each may start at once, on a machine that does more than it can.
WAIT_S_MAX = 60
ROLES = {"gw": "gateway", "w": "witness", "cm": "manager"}  # by the letters of a node's name
Found = TypeVar("Found")


def head_text(cluster: str, peers: Mapping[str, str], folder: Path, me: str) -> str:
    """Return the sections `global` and `peers` of the node `me`; `peers` maps the names of all nodes to their IPs."""
    lines = "".join(f"    peer {name} {ip}:9619 {ROLES[name.rstrip('0123456789')]}\n" for name, ip in peers.items())
    return f"""\
global
    cluster {cluster}
    key-file {folder}/cluster.key
    state-dir {folder}/state-{me}
    log stdout format json
peers lan
    heartbeat 50ms
    lease 300ms
{lines}"""


def address_text(name: str, ip: str, holders: str, device: str = netns.DEVICE) -> str:
    """Return a section `address`; `ip` has its prefix length, `holders` are names with spaces between."""
    return f"address {name}\n    ip {ip} dev {device}\n    holder {holders}\n"


def frontend_text(name: str, address: str) -> str:
    """Return a section `frontend` that serves the matchmaker's port at an address."""
    return f"frontend {name}\n    bind {address}:9618 proto tcp,udp\n    default_backend managers\n"


def backend_text(manager_ip: str, *, elected_negotiator: bool = False) -> str:
    """Return the section `backend` of one manager `cm1`, perhaps one that the election gives its negotiator."""
    check = "    option condor-check\n    default-server check inter 100ms fall 3 rise 2\n"
    negotiator = "    negotiator on-elected\n    warm-standby on\n    replicate accounting\n"
    return (
        "backend managers\n    balance elected\n    forward proxy\n"
        + (check if elected_negotiator else "")
        + f"    server cm1 {manager_ip}:9618\n"
        + (negotiator if elected_negotiator else "")
    )


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@contextlib.contextmanager
def segment_for_nodes(prefix: str, folder: Path) -> Iterator[netns.Segment]:
    """A segment for nodes that keep their files in `folder`; skips the test where there can be none."""
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)
    os.chmod(folder, 0o755)  # the relay reads its part as another user
    with netns.Segment(prefix) as segment:
        yield segment


class Nodes:
    """The nodes that run on a segment's hosts, each host named as its node. Leaving the context ends them."""

    def __init__(self, segment: netns.Segment, folder: Path) -> None:
        self.segment = segment
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        create_key_file(folder / "cluster.key")

    def host(self, name: str) -> netns.Host:
        return self.segment.hosts[name]

    def config(self, name: str) -> Path:
        return self.folder / f"{name}.cfg"

    def start(self, name: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            run = [*PYTHON, "run", "--node", name, "-f", str(self.config(name))]
            self.running[name] = subprocess.Popen(
                ["ip", "netns", "exec", self.host(name).namespace, *run],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def end(self, name: str, number: signal.Signals) -> int:
        """End a node: SIGTERM by its guard, SIGKILL as the death of its host does, all processes at once."""
        if number == signal.SIGKILL:
            # Nobody speaks for the dead: the guard is stopped before it can see what happens.
            self.signal_all(name, signal.SIGSTOP)
            self.signal_all(name, signal.SIGKILL)
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(10)

    def guard(self, name: str) -> int:
        return self.running[name].pid

    def control(self, name: str) -> int:
        """Return the pid of the control process; 0: there is none now."""
        return next((pid for pid in children(self.guard(name)) if b"--guarded" in command_line(pid)), 0)

    def signal_all(self, name: str, number: signal.Signals) -> None:
        """Signal the guard, then its children."""
        for pid in (self.guard(name), *children(self.guard(name))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def status(self, name: str) -> dict[str, Any]:
        """Return what a node says of itself; empty while it does not answer."""
        asking = [*PYTHON, "status", "--json", "-f", str(self.config(name))]
        done = subprocess.run(asking, capture_output=True, text=True, timeout=10)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def wait(
        self, until: Callable[[], Found], what: str = "what was waited for", within_s: float = WAIT_S_MAX
    ) -> Found:
        """Return what `until` returns as soon as that is true; fail with all logs when it is not in time."""
        end = time.monotonic() + within_s
        while not (found := until()):
            if time.monotonic() > end:
                logs = "\n".join(f"--- {path.stem}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))
                pytest.fail(f"{what}: not after {within_s} s\n{logs}")
            time.sleep(0.05)
        return found

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def events(self, name: str, event: str) -> list[dict[str, Any]]:
        found = []
        for line in self.log(name).splitlines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if record.get("event") == event:
                    found.append(record)
        return found

    def close(self) -> None:
        for name in list(self.running):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                self.end(name, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

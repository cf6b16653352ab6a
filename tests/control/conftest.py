"""A small cluster of real `condor-gateway run` processes on a switch of network namespaces."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.keyfiles import create_key_file
from tests.support import netns

ADDRESS = "10.77.9.100"
PYTHON = [sys.executable, "-P", "-m", "gateway"]

# Three gateways and a witness are a majority of five, also when one of them dies. The manager never starts: what is
# tried here needs no HTCondor.
CONFIG = """\
global
    cluster tests
    key-file {folder}/cluster.key
    state-dir {folder}/state-{me}
    log stdout format json
peers lan
    heartbeat 50ms
    lease 300ms
    peer gw1 10.77.9.1:9619 gateway
    peer gw2 10.77.9.2:9619 gateway
    peer gw3 10.77.9.3:9619 gateway
    peer w1 10.77.9.4:9619 witness
    peer cm1 10.77.9.5:9619 manager
address vip
    ip 10.77.9.100/32 dev lan0
    holder gw1 gw2 gw3
frontend matchmaker
    bind vip:9618 proto tcp,udp
    default_backend managers
backend managers
    balance elected
    forward proxy
    option condor-check
    default-server check inter 100ms fall 3 rise 2
    server cm1 10.77.9.5:9618
    negotiator on-elected
    warm-standby on
    replicate accounting
"""
NODES = {"gw1": "10.77.9.1", "gw2": "10.77.9.2", "gw3": "10.77.9.3", "w1": "10.77.9.4"}


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


class Cluster:
    """Hosts, and the nodes that run on them."""

    def __init__(self, segment: netns.Segment, folder: Path) -> None:
        self.segment = segment
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        create_key_file(folder / "cluster.key")
        for name, address in NODES.items():
            segment.host(name, f"{address}/24")
            self.config(name).write_text(CONFIG.format(folder=folder, me=name))
        segment.host("client", "10.77.9.50/24")

    def config(self, name: str) -> Path:
        return self.folder / f"{name}.cfg"

    def start(self, name: str) -> None:
        namespace = self.segment.hosts[name].namespace
        with open(self.folder / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *PYTHON, "run", "--node", name, "-f", str(self.config(name))],
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
        done = subprocess.run(
            [*PYTHON, "status", "--json", "-f", str(self.config(name))], capture_output=True, text=True, timeout=10
        )
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def holder(self, asked: str) -> str | None:
        status = self.status(asked)
        return status["elections"]["vip"]["leader"] if status else None

    def wait_holder(self, asked: str, *, other_than: str | None = None, within_s: float = 20) -> str:
        """Return who holds the address, as `asked` sees it; fail when nobody does in time."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            holder = self.holder(asked)
            if holder not in (None, other_than):
                return str(holder)
            time.sleep(0.05)
        logs = "\n".join(f"--- {name}\n{self.log(name)}" for name in NODES)
        pytest.fail(f"nobody holds the address after {within_s} s\n{logs}")

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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster of four hosts, nothing started yet."""
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)
    os.chmod(tmp_path, 0o755)
    with netns.Segment("cgc") as segment:
        made = Cluster(segment, tmp_path)
        try:
            yield made
        finally:
            made.close()

"""A real guard of a stand-in of control, and a peer's socket."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GUARD = ROOT / "gateway" / "guard" / "__main__.py"
STAND_IN = Path(__file__).with_name("stand_in.py")
DEADLINE_S = 20  # for everything that should take milliseconds, on a machine that is busy with other things


class Guarded:
    """A guard, and what its controls say."""

    def __init__(self, **spec: Any) -> None:
        prefix = spec.pop("prefix", [])
        program = spec.pop("program", sys.executable)  # which runs control
        command = [*prefix, sys.executable, "-I", "-S", str(GUARD), program, "-P", str(STAND_IN)]
        self.process = subprocess.Popen(
            [*command, json.dumps(spec)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def says(self, word: str) -> str:
        """Return what follows the next `word` that a control says."""
        while True:
            said, _, rest = self._lines.get(timeout=DEADLINE_S).partition(" ")
            if said == word:
                return rest

    def ready(self) -> int:
        """Return the pid of the next control that is ready."""
        return int(self.says("ready"))

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.says("report"))
        return report

    def end(self) -> None:
        """End what is left of it, also where a test has stopped it."""
        for pid in (*children(self.process.pid), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)


class Peer:
    """Where letters go to."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))

    def letter(self, data: bytes = b"resigned") -> list[object]:
        return ["127.0.0.1", self.socket.getsockname()[1], data.hex()]

    def receive(self, within_s: float = DEADLINE_S) -> bytes | None:
        self.socket.settimeout(within_s)
        try:
            return self.socket.recv(65_536)
        except TimeoutError:
            return None


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(pid: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Any, within_s: float = DEADLINE_S) -> bool:
    until = time.monotonic() + within_s
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.005)
    return bool(found)

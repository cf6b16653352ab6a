"""Open connections that say nothing: what they cost who forwards, and when their clients hear of a switch."""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.plane.contenders import PORT, Contender
from tests.bench.plane.loadgen import binary
from tests.bench.plane.segment import Segment

SETTLE_S = 0.5  # memory is freed and taken late
NOTICE_S_MAX = 3.0  # beyond this nobody has noticed
BEFORE_S = 0.3  # of probing, before the switch
PAUSE_US = 200  # between two probes: new connections, one after another
KERNEL_FIELDS = ("Slab", "KernelStack", "PageTables")


class Idle:
    """The client's process with its open connections."""

    def __init__(self, segment: Segment, contender: Contender, count: int) -> None:
        argv = [str(binary()), "idle", contender.address, str(PORT), str(count)]
        self._process = segment.spawn("client", argv)
        self.opened = self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or '{"open": 0, "failed": -1}')

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def report(self) -> dict[str, Any]:
        """Return who has noticed its end since the last report, and when."""
        self.tell("report")
        return self._line()

    def close(self) -> None:
        """Reset what is open."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=20)


@contextlib.contextmanager
def idle(segment: Segment, contender: Contender, count: int) -> Iterator[Idle]:
    """Hold so many connections open during the block."""
    clients = Idle(segment, contender, count)
    try:
        yield clients
    finally:
        clients.close()


def memory_kb(pids: list[int], field: str = "Pss") -> float:
    """Return what the processes have of the machine's memory, shared pages in parts."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    total += int(line.split()[1])
    return total


def kernel_kb() -> float:
    """Return what the kernel has taken for sockets, stacks and tables, of the whole machine."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(words[1]) for words in lines if words[0].rstrip(":") in KERNEL_FIELDS)


def measure_memory(segment: Segment, contender: Contender, counts: list[int]) -> dict[int, dict[str, Any]]:
    """Return, by the number of idle connections, KB a connection. The contender must have been started just now."""
    found: dict[int, dict[str, Any]] = {}
    time.sleep(SETTLE_S)
    for count in sorted(counts):
        if count > contender.idle_max:
            found[count] = {"skipped": "a process each connection"}
            continue
        # Those of the smaller number are gone, their memory perhaps not: each number is counted from its own start.
        contender.stop()
        contender.start()
        time.sleep(SETTLE_S)
        before, before_rss, kernel = memory_kb(contender.pids()), memory_kb(contender.pids(), "Rss"), kernel_kb()
        with idle(segment, contender, count) as clients:
            time.sleep(SETTLE_S)
            pids = contender.pids()
            opened = max(clients.opened["open"], 1)
            found[count] = {
                "opened": clients.opened["open"],
                "own_kb": (memory_kb(pids) - before) / opened,
                "rss_kb": (memory_kb(pids, "Rss") - before_rss) / opened,
                "kernel_kb": (kernel_kb() - kernel) / opened,
                "base_mb": before / 1024,
            }
        time.sleep(SETTLE_S)  # for the sockets to go
    return found


class Probe:
    """New connections, one after another, and which server answered each."""

    def __init__(self, segment: Segment, contender: Contender, seconds: float) -> None:
        argv = [str(binary()), "probe", contender.address, str(PORT), str(seconds), str(PAUSE_US)]
        self._process = segment.spawn("client", argv)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has begun
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, lines: Iterator[str]) -> None:
        self._lines.extend(lines)

    def results(self) -> list[tuple[int, int, int]]:
        """Return when each began and ended, and who answered, as soon as all are over."""
        self._reader.join(30)
        self._process.wait(10)
        return [(begun, ended, server) for begun, ended, server in map(json.loads, self._lines)]


def measure_switch(segment: Segment, contender: Contender, count: int, to: int, *, seconds: float) -> dict[str, Any]:
    """Switch with so many connections open; return what their clients and new ones have seen, in ms after the decision.

    `served_ms`: from the decision until the first connection that began after it was answered by the new server.
    """
    with idle(segment, contender, min(count, contender.idle_max)) as clients:
        probe = Probe(segment, contender, BEFORE_S + seconds)
        time.sleep(BEFORE_S)
        clients.report()
        decided_ns = contender.switch(to)
        deadline = time.monotonic() + seconds
        reset = finished = 0
        last_ns, left = 0, clients.opened["open"]
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            seen = clients.report()
            reset, finished, left = reset + seen["reset"], finished + seen["finished"], seen["open"]
            last_ns = max(last_ns, seen["last_ns"])
        after = [one for one in probe.results() if one[0] >= decided_ns]
    served = [ended for _begun, ended, server in after if server == to]
    late = [one for one in after if one[2] not in (to, -1)]
    return {
        "open": clients.opened["open"],
        "reset": reset,
        "finished": finished,
        "last_notice_ms": (last_ns - decided_ns) / 1e6 if last_ns else None,
        "served_ms": (min(served) - decided_ns) / 1e6 if served else None,
        "new_failed": sum(one[2] < 0 for one in after),
        "new_at_old": len(late),
    }

"""What a benchmark of the data plane leaves behind when it is killed, the next one removes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.plane.segment import NAMESPACES, Segment, is_gone, remove_leftovers
from tests.support import netns

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(netns.usable() is not None, reason="needs root and network namespaces"),
]

# A process that outlives the one that started it, as a worker of nginx does.
KILLED = """
import os, signal
from tests.bench.plane.segment import Segment
segment = Segment({"client": 1})
segment.__enter__()
segment.run("client", ["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 &"])
print(segment.namespace("client"), *segment.pids("client"), segment.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_nothing_after_the_next_one():
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    namespace, pid, folder = done.stdout.split()
    assert (NAMESPACES / namespace).exists()
    assert not is_gone(int(pid))
    remove_leftovers()
    assert not (NAMESPACES / namespace).exists()
    assert not Path(folder).exists()
    assert is_gone(int(pid))


def test_a_run_that_goes_on_keeps_what_is_its_own():
    with Segment({"client": 1}) as segment:
        remove_leftovers()
        assert segment.run("client", ["cat", "/proc/sys/net/ipv4/tcp_tw_reuse"]) == "1\n"
    assert not (NAMESPACES / segment.namespace("client")).exists()
    assert not segment.folder.exists()

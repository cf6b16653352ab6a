"""Huge pages for a process that is often asleep: taken where the kernel gives them, and nothing else changes."""

import subprocess
import sys

import pytest

from gateway.kernel import hugepages

ASK = """
from gateway.kernel.hugepages import gather_memory
kept = [bytes([number % 251]) * 1000 for number in range(20_000)]  # 20 MiB in pieces
taken = gather_memory()
rollup = dict(line.split()[:2] for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
intact = all(piece == bytes([number % 251]) * 1000 for number, piece in enumerate(kept))
print(taken, int(rollup["AnonHugePages:"]), intact)
"""


def test_own_memory_is_gathered_and_keeps_what_it_holds() -> None:
    said = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout.split()
    taken, huge_kib, intact = int(said[0]), int(said[1]), said[2]
    assert intact == "True"
    assert huge_kib >= 2048 * taken  # what the kernel says, beside what it was asked for


def test_a_kernel_that_can_not_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugepages, "_madvise", lambda at, length, advice: -1)
    assert hugepages.gather_memory() == 0


def test_files_and_stacks_are_no_memory_to_gather() -> None:
    mappings = [
        "00400000-00c00000 rw-p 00000000 fe:00 123 /usr/bin/python3.11",
        "7f0000000000-7f0000800000 rw-p 00000000 00:00 0",
        "7f0000800000-7f0000c00000 r--p 00000000 00:00 0",
        "01000000-01800000 rw-p 00000000 00:00 0                          [heap]",
        "7ffc00000000-7ffc00800000 rw-p 00000000 00:00 0                  [stack]",
    ]
    assert hugepages._private(mappings) == [(0x7F0000000000, 0x7F0000800000), (0x01000000, 0x01800000)]

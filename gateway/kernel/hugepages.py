"""Huge pages: this process' own memory in pages of 2 MiB, so that the first touch of it after a sleep costs less.

Rule: a wish. A kernel that can't (before Linux 6.1, or with huge pages switched off) changes nothing.

A process that wakes up every 20 ms finds the processor's caches of addresses empty, and under a hypervisor each of them
takes two walks to fill: it was a tenth to a fifth of what the control process cost.
"""

import ctypes

_MADV_COLLAPSE = 25  # asm-generic/mman-common.h
_HUGE_BYTES = 2 * 1024 * 1024

_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def gather_memory() -> int:
    """Gather what this process has of private memory now; return how many huge pages it has taken. Takes milliseconds.

    Call it before the process is in a hurry: the kernel copies the pages. Nothing is allocated that was not there, but
    for the rest of each huge page.
    """
    with open("/proc/self/maps") as maps:
        mappings = maps.read().splitlines()
    gathered = 0
    for begin, end in _private(mappings):
        first = -(-begin // _HUGE_BYTES) * _HUGE_BYTES
        for at in range(first, end - _HUGE_BYTES + 1, _HUGE_BYTES):
            gathered += _madvise(at, _HUGE_BYTES, _MADV_COLLAPSE) == 0
    return gathered


def _private(mappings: list[str]) -> list[tuple[int, int]]:
    """Return begin and end of the mappings that are written to and belong to no file (proc_pid_maps(5))."""
    found = []
    for line in mappings:
        span, rights, _, _, _, *path = line.split(maxsplit=5)
        if rights.startswith("rw") and path in ([], ["[heap]"]):
            begin, end = span.split("-")
            found.append((int(begin, 16), int(end, 16)))
    return found

"""Vitals: what this process uses of descriptors, memory and CPU, for the report once a second.

Rule: it costs microseconds: a relay with ten thousand connections must not list their descriptors every second.
"""

import os
import resource
import time

from gateway.relay.messages import Vitals

_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


def vitals(log_dropped_total: int = 0) -> Vitals:
    """Return the figures of this moment, with the one that the caller has counted."""
    return Vitals(
        descriptors=_descriptors(),
        descriptors_max=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        cpu_ms=time.process_time_ns() // 1_000_000,
        resident_kib=_resident_kib(),
        log_dropped_total=log_dropped_total,
    )


def _descriptors() -> int:
    # The size of this directory is the number of open files since Linux 6.2; 0 before that: then they are counted.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


def _resident_kib() -> int:
    with open("/proc/self/statm", "rb", buffering=0) as statm:  # proc_pid_statm(5): total, resident, ...; in pages
        return int(statm.read(256).split()[1]) * _PAGE_KIB

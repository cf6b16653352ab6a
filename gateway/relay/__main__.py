"""`python -m gateway.relay FD`: the relay process. FD is its end of the control process's socket pair.

Rule: it lives only as long as control does: the end of FD, SIGTERM and the parent's death end it at once.
"""

import ctypes
import gc
import os
import resource
import signal
import socket
import sys

import trio

from gateway.relay.engine import Engine
from gateway.relay.worker import Worker

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>

# Connections are freed by reference counting; the cycle collector would only stop us, longest when we hold most.
GC_THRESHOLD = 50_000
LINGER_MS = 20  # the engine is our only task: it may keep trio waiting for what comes next


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when our parent's thread ends, should we be too stuck to see the end of FD.

    A parent that died before this call has closed its end of FD already, and we end by that.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def raise_file_limit() -> None:
    """Allow ourselves as many file descriptors as the administrator allows us: two a connection."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(control: socket.socket) -> None:
    """Run the relay until control's end of the pair is closed."""
    engine = Engine()
    Worker(control, engine)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    await engine.run(linger_ms=LINGER_MS)


def main(arguments: list[str]) -> int:
    """Run as a process; return the exit status."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        sys.stderr.write("usage: python -m gateway.relay FD (started by condor-gateway, not by hand)\n")
        return 2
    die_with_parent()
    # The default action, also where the parent ignored them. SIGINT goes to a terminal's whole group: control decides.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_file_limit()
    with socket.socket(fileno=int(arguments[0])) as control:
        trio.run(serve, control)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

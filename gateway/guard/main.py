"""The guard as a process: real time, locked memory, then the loop. Its one argument list is control's command line.

Rule: it says nothing itself. What it has to say is said by control, to which it tells it: a guard that waits for a full
pipe or a hung disk guards nobody.
"""

import _signal
import gc
import sys

from gateway.guard.watch import Guard
from gateway.kernel.realtime import CONTROL_PRIORITY, prefer_realtime


def main(command: list[str]) -> None:
    """Guard `command`; leave with the exit status of the node."""
    # Whoever started us may have blocked the signals that we are told by: condor_master does so, and a child keeps it.
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    warning = prefer_realtime(CONTROL_PRIORITY + 1)
    guard = Guard(command, [f"guard: {warning}"] if warning else [])
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and nothing here may pause
    sys.exit(guard.run())

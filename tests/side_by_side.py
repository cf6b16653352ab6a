"""Every test, in two runs side by side: what only computes, behind what waits for kernels, pools and a browser.

`python -m tests.side_by_side [PYTEST-OPTION...]`. The computing ones take whatever the others leave of the processors
(nice 19), so that they cost almost no time and disturb nobody; what they say is printed when both have ended.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPUTING = ("tests/core", "tests/wire", "tests/config", "tests/sim")
BEHIND_ALL = 19
NOTHING_COLLECTED = 5  # of pytest: options such as -k may leave one of the two without a test
STOP_S_MAX = 30


def main(options: list[str]) -> int:
    """Run both; return the worse exit status."""
    pytest = [sys.executable, "-m", "pytest", *options]
    with tempfile.TemporaryFile() as said:
        computing = subprocess.Popen(
            [*pytest, *COMPUTING], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        )
        os.setpriority(os.PRIO_PROCESS, computing.pid, BEHIND_ALL)  # inherited by the simulator's processes
        acting = subprocess.Popen([*pytest, "tests", *(f"--ignore={folder}" for folder in COMPUTING)], cwd=ROOT)
        try:
            statuses = [acting.wait(), computing.wait()]
        except KeyboardInterrupt:
            statuses = [_stopped(one) for one in (acting, computing)]
        said.seek(0)
        print(
            f"\nof {', '.join(COMPUTING)}, which ran beside them:\n{said.read().decode(errors='replace')}", flush=True
        )
    return max(0 if status == NOTHING_COLLECTED else abs(status) for status in statuses)


def _stopped(run: "subprocess.Popen[bytes]") -> int:
    """Let a run end in good order: its labs come down."""
    run.send_signal(signal.SIGINT)
    try:
        return run.wait(STOP_S_MAX) or 1
    except subprocess.TimeoutExpired:
        run.kill()
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

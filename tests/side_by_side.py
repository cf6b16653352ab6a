"""Every test, in three runs side by side: what computes and what installs, behind what waits for kernels and pools.

`python -m tests.side_by_side [PYTEST-OPTION...]`. The tests that act leave most of the processors alone, for they wait;
the other runs take that (nice), so that they cost almost no time and disturb nobody. What they say is printed when all
have ended.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).parents[1]
# What runs beside the others -> how far behind them. Installing is fetching, unpacking and systemd's patience.
BESIDE = {("tests/core", "tests/wire", "tests/config", "tests/sim"): 19, ("tests/debian", "tests/vagrant"): 10}
NOTHING_COLLECTED = 5  # of pytest: options such as -k may leave one of the runs without a test
STOP_S_MAX = 30


def main(options: list[str]) -> int:
    """Run all; return the worst exit status."""
    pytest = [sys.executable, "-m", "pytest", *options]
    beside = [Beside(pytest, folders, nice) for folders, nice in BESIDE.items()]
    ignored = [f"--ignore={folder}" for folders in BESIDE for folder in folders]
    acting = subprocess.Popen([*pytest, "tests", *ignored], cwd=ROOT)
    running = [acting, *(one.running for one in beside)]
    try:
        statuses = [one.wait() for one in running]
    except KeyboardInterrupt:
        statuses = [_stopped(one) for one in running]
    for one in beside:
        one.tell()
    return max(0 if status == NOTHING_COLLECTED else abs(status) for status in statuses)


class Beside:
    """A run that says nothing before the end."""

    def __init__(self, pytest: Sequence[str], folders: Sequence[str], nice: int) -> None:
        self._folders = folders
        self._said: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (as long as this object)
        self.running = subprocess.Popen(
            [*pytest, *folders], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self._said, stderr=subprocess.STDOUT
        )
        os.setpriority(os.PRIO_PROCESS, self.running.pid, nice)  # inherited by what it starts

    def tell(self) -> None:
        """Print what it said."""
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")
        print(f"\nof {', '.join(self._folders)}, which ran beside them:\n{said}", flush=True)


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

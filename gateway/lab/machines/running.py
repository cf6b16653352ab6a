"""Commands of the machine that runs the lab: each with a deadline, its words kept in a file, its end awaited.

A command that is cancelled is ended with what it has started: it gets a session of its own.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import trio

from gateway.lab.errors import LabError
from gateway.lab.machines.inventory import FOLDER

Progress = Callable[[str], None]

LOGS = FOLDER / "log"
SAID_MAX = 600  # characters of a failed command's last words
END_S_MAX = 10  # from SIGTERM to SIGKILL


async def run(
    argv: Sequence[str],
    *,
    what: str,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    log: str = "",
    check: bool = True,
    input_text: str = "",
) -> str:
    """Run a command and return its output, both streams.

    `environment` is added to this process's own. `log` names a file of `LOGS` that keeps the output; it grows while the
    command runs, and what was said before stays in it.

    Raises:
        LabError: it is not there, it took too long, or (with `check`) it failed.
    """
    file = LOGS / f"{log or 'commands'}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as sink:
        begin = sink.tell()
        sink.write(f"$ {' '.join(argv)}\n".encode())
        sink.flush()
        start = file.stat().st_size
        try:
            with trio.fail_after(timeout_s):
                done = await trio.run_process(
                    list(argv), stdin=input_text.encode(), stdout=sink, stderr=subprocess.STDOUT, check=False,
                    env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}, start_new_session=True,
                    deliver_cancel=_end_session,
                )  # fmt: skip
        except FileNotFoundError as error:
            raise LabError(f"{what} needs the command {argv[0]!r}, which this machine lacks") from error
        except trio.TooSlowError as error:
            raise LabError(f"{what} took longer than {timeout_s:.0f} s; {file} says how far it came") from error
    said = _read(file, start if begin <= start else 0)
    if check and done.returncode != 0:
        raise LabError(f"{what} failed; {file} has all that was said, its end: {said.strip()[-SAID_MAX:]}")
    return said if check or done.returncode == 0 else ""


async def _end_session(process: trio.Process) -> None:
    """End a command and what it started; the command itself has not been collected yet, so its id is its own."""
    for number, wait_s in ((signal.SIGTERM, END_S_MAX), (signal.SIGKILL, 1)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        with trio.move_on_after(wait_s):
            await process.wait()
            return


def _read(file: Path, start: int) -> str:
    with file.open("rb") as source:
        source.seek(start)
        return source.read().decode(errors="replace")

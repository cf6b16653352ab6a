"""One command of the herald, from its start to its end. Rule: nothing that it does holds the next one up for ever.

It is the leader of a session of its own; at its deadline the whole group is killed.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

SAID_BYTES_MAX: Final = 4_096  # kept of what it prints, for the log; the rest is read and forgotten


class Outcome(msgspec.Struct, frozen=True):
    """How it ended: `failure` "" for exit status 0; `said` is the beginning of what it printed."""

    failure: str
    said: str
    took_ms: int = 0


def run_command(argv: Sequence[str], environment: Mapping[str, str], text: str, timeout_ms: int) -> Outcome:
    """Run `argv` with `text` on its standard input; return when it has ended or been killed.

    What it leaves running in the background is not waited for.
    """
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            argv,
            env=dict(environment),
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        return Outcome(f"could not be started: {error.strerror or error}", "")
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as given, process.stdout as printed:
        os.set_blocking(given.fileno(), False)
        with contextlib.suppress(OSError):  # an event is smaller than a pipe; who does not want it has closed it
            given.write(text.encode() + b"\n")
        given.close()
        os.set_blocking(printed.fileno(), False)
        try:
            said, ended = _await_end(process.pid, printed.fileno(), timeout_ms)
        finally:  # also where this process is told to end
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    return Outcome(
        _failure(status, timeout_ms, ended=ended),
        said.decode(errors="replace").strip(),
        round((time.monotonic() - began) * 1000),
    )


def _failure(status: int, timeout_ms: int, *, ended: bool) -> str:
    if not ended:
        return f"killed after {timeout_ms} ms"
    if status < 0:
        return f"killed by signal {-status}"
    return f"exit status {status}" if status else ""


def _await_end(pid: int, printed: int, timeout_ms: int) -> tuple[bytes, bool]:
    """Return the beginning of what was printed, and whether the process has ended by itself."""
    said = b""
    deadline = time.monotonic() + timeout_ms / 1000
    pidfd = os.pidfd_open(pid)
    try:
        awaited = select.poll()
        awaited.register(pidfd, select.POLLIN)
        awaited.register(printed, select.POLLIN)
        while (left_s := deadline - time.monotonic()) > 0:
            ready = dict(awaited.poll(left_s * 1000))
            if printed in ready:
                piece = _read(printed)
                said += piece[: SAID_BYTES_MAX - len(said)]
                if not piece:
                    awaited.unregister(printed)  # closed; it may go on in silence
            if pidfd in ready and not ready.get(printed, 0) & select.POLLIN:
                return said, True
        return said, False
    finally:
        os.close(pidfd)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except BlockingIOError:
        return b""

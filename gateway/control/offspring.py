"""Offspring: child processes that may die without consequence (status page, herald), each on one end of a socket pair.

Rule: nothing here blocks control, which does not need them: they are started by a thread, replaced when they die, and
end when their socket does.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
import trio

from gateway.kernel.clock import boot_ms

BACK_OFF_MS_MIN = 200
BACK_OFF_MS_MAX = 30_000  # what can't start (a port that is taken) is tried twice a minute, and costs nothing else
STEADY_MS = 60_000  # one that lived this long begins the back-off anew
END_MS = 1_000  # from the end of its socket to SIGKILL, where it goes on by itself
NICE = 5  # the relay, and whatever else the host is for, come first

Serve = Callable[[trio.SocketStream], Awaitable[None]]


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line that runs a module of this program with this interpreter."""
    # -P: never import from the directory in which root happened to start us.
    return (sys.executable, "-P", "-m", module, *arguments)


class Offspring:
    """One child process and its successors. The number of its end of the socket is added to `argv`.

    It has the ordinary scheduler, no descriptor of ours but that one, and our standard output and error: a log line in
    one write is whole. It ends when its socket reaches the end.

    Args:
        name: for the log and the status.
        argv: the command, as `python_module` makes it.
        serve: answers on our end for as long as it lives.
        charge: what it finds on its standard input. Every user of a host sees command lines; nobody sees this.
        end_ms: what lives so long after it has closed its socket is killed, and at control's end it is killed at once;
            None: it is left to end by itself, as one that has something to finish does.
    """

    def __init__(
        self, name: str, argv: Sequence[str], serve: Serve, *, charge: bytes = b"", end_ms: int | None = END_MS
    ) -> None:
        self.name = name
        self.pid: int | None = None
        self.starts_total = 0
        self.failure = ""  # how the last one ended, "" as long as none has
        self._argv = tuple(argv)
        self._serve = serve
        self._charge = charge
        self._end_ms = end_ms
        self._began_ms = 0
        self._log = structlog.get_logger().bind(child=name)

    def status(self) -> dict[str, Any]:
        """Return what an operator sees of it."""
        return {"pid": self.pid, "starts_total": self.starts_total, "failure": self.failure}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a child running until cancelled. Started at once: the node does not wait for it."""
        task_status.started()
        back_off_ms = BACK_OFF_MS_MIN
        while True:  # ends by cancellation
            self._began_ms = boot_ms()
            try:
                self.failure = await self._run_once()
            except OSError as error:  # no descriptor is left for its socket, or to watch it by
                self.failure = f"could not be started: {error.strerror or error}"
            if boot_ms() - self._began_ms >= STEADY_MS:
                back_off_ms = BACK_OFF_MS_MIN
            self._log.warning("child.ended", reason=self.failure, restart_ms=back_off_ms)
            await trio.sleep(back_off_ms / 1000)
            back_off_ms = min(2 * back_off_ms, BACK_OFF_MS_MAX)

    async def _run_once(self) -> str:
        """Run one child to its end; return how it ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with stream:
            try:
                # Not abandoned when cancelled: a child that nobody knows would be left. To start one takes 2 ms.
                process = await trio.to_thread.run_sync(_spawn, self._argv, self._charge, theirs)
            except OSError as error:  # EAGAIN, ENOMEM, or no such program
                return f"could not be started: {error.strerror or error}"
            self.pid = process.pid
            self.starts_total += 1
            self._log.info("child.started", pid=process.pid)
            try:
                pidfd = os.pidfd_open(process.pid)  # not waited for yet: the number is its own
                try:
                    return await self._live(process, pidfd, stream)
                finally:
                    os.close(pidfd)
            finally:
                self.pid = None

    async def _live(self, process: "subprocess.Popen[bytes]", pidfd: int, stream: trio.SocketStream) -> str:
        try:
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    await self._serve(stream)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(serve)
                await trio.lowlevel.wait_readable(pidfd)
                nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(stream)
            if self._end_ms is not None:
                with trio.move_on_after(self._end_ms / 1000):
                    await trio.lowlevel.wait_readable(pidfd)
        finally:
            # At control's own end without a look back: where another process takes over, its lease waits for this one.
            if self._end_ms is not None and process.poll() is None:
                # Without CAP_KILL another user's child ends by its socket alone.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return _said(process.poll())


def _spawn(argv: tuple[str, ...], charge: bytes, end: socket.socket) -> "subprocess.Popen[bytes]":
    """Start `argv` with `charge` to read and with `end`, which is closed here. In a thread.

    Raises:
        OSError: it could not be started.
    """
    # A file in memory takes a charge of any size at once; a pipe would have to be written by whoever waits for it.
    with end, open(os.memfd_create("charge"), "r+b", buffering=0) as given:
        given.write(charge)
        given.seek(0)
        process = subprocess.Popen([*argv, str(end.fileno())], pass_fds=(end.fileno(),), stdin=given)
    with contextlib.suppress(OSError):  # it may have ended already
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
    return process


def _said(status: int | None) -> str:
    if status is None:
        return "its socket has ended"
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"

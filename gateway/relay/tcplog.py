"""Tcplog: a line on standard output for each connection that has ended (`option tcplog`).

Rule: it never holds a byte up. Lines wait in a bounded queue for a thread of their own, which alone may block; what is
too much is dropped and counted. Where no listener wants lines there is no thread.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from gateway.relay import ending
from gateway.relay.ending import By, Course, Ending
from gateway.relay.messages import Tcplog as Settings

if TYPE_CHECKING:
    from gateway.relay.connection import Connection
    from gateway.relay.tcp import TcpListener

LINES_PER_S_MAX = 1_000  # of one process: some 150 kB a second, and 1 % of a core; a flood is told by its counters
LINES_WAITING_MAX = 2_000  # two seconds of them, 400 kB
WRITE_BYTES_MAX = 4_096  # PIPE_BUF: lines of other processes on the same pipe do not come in between (pipe(7))
PAUSE_S = 0.1  # between two writes: many lines cost as little as one
NO_SERVER = "<NOSRV>"  # HAProxy's word


class Lines:
    """Lines of this process on their way out.

    Args:
        write: takes some bytes, says how many, and may block; to standard output where none is given.
    """

    def __init__(self, write: Callable[[bytes], int] | None = None) -> None:
        self.dropped_total = 0
        self._write = write or partial(os.write, 1)
        self._waiting: deque[bytes] = deque()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._second = 0
        self._of_second = 0

    def may_put(self, now: float) -> bool:
        """Whether one more line would be taken at `now` of the monotonic clock; a line that would not is dropped."""
        if int(now) != self._second:
            self._second, self._of_second = int(now), 0
        if self._of_second >= LINES_PER_S_MAX or len(self._waiting) >= LINES_WAITING_MAX:
            self.dropped_total += 1
            return False
        self._of_second += 1
        return True

    def put(self, line: bytes) -> None:
        """Write `line` soon; ask `may_put` before making it."""
        self._waiting.append(line)
        if self._thread is None:
            # A daemon: a reader that takes nothing must not keep this process from its end.
            self._thread = threading.Thread(target=self._run, name="tcplog", daemon=True)
            self._thread.start()
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while True:  # ends with the process
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                self._write_some()
            time.sleep(PAUSE_S)

    def _write_some(self) -> None:
        some = [self._waiting.popleft()]
        size = len(some[0]) + 1
        while self._waiting and size + len(self._waiting[0]) < WRITE_BYTES_MAX:
            some.append(self._waiting.popleft())
            size += len(some[-1]) + 1
        data = b"\n".join(some) + b"\n"
        try:
            while data:
                data = data[self._write(data) :]
        except OSError:  # nobody reads any more (EPIPE), the disk is full, somebody has made it non-blocking
            self.dropped_total += len(some)


class Tcplog:
    """The lines of one listener; `everybody` gives all TCP listeners of this process."""

    def __init__(
        self, settings: Settings, lines: Lines, listener: "TcpListener", everybody: Callable[[], list["TcpListener"]]
    ) -> None:
        self._settings = settings
        self._names = dict(listener.settings.servers)
        self._lines = lines
        self._listener = listener
        self._everybody = everybody

    def write(self, connection: "Connection", course: Course, by: By) -> None:
        """Tell of `connection`, which ends now."""
        now = time.monotonic()
        if not self._lines.may_put(now):
            return
        said = self._ending(connection, course, by, now)
        if self._settings.json:
            self._lines.put(ending.event(said, self._settings.node))
        else:
            self._lines.put(ending.text(said).encode())

    def _ending(self, connection: "Connection", course: Course, by: By, now: float) -> Ending:
        listener, target, server = self._listener, connection.target, connection.server
        everybody = self._everybody()
        waited_ms, connect_ms, total_ms = ending.times(course, now)
        address = connection.address or ("?", 0)
        of_route = sum(each.open_now for each in everybody if each.route is listener.route)
        return Ending(
            client=(str(address[0]), int(address[1])),
            ended_s=time.time(),
            frontend=self._settings.frontend,
            backend=listener.route.name,
            server=NO_SERVER if target is None else self._names.get(ending.place(*target), ending.place(*target)),
            waited_ms=waited_ms,
            connect_ms=connect_ms,
            total_ms=total_ms,
            bytes_to_client=0 if server is None else server.moved,
            bytes_to_server=connection.client.moved,
            by=by,
            state=connection.state,
            connections=(
                sum(len(each.connections) for each in everybody),
                len(listener.connections),
                of_route,
                0 if target is None else of_route,
                max(0, course.connects - 1),
            ),
            held=len(listener.route.held),
        )

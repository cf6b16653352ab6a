"""Logs: one event a line, written by a thread of its own. A full pipe never holds the control process up.

Names and fields, not sentences: `{"at": 1763851200.123, "level": "info", "event": "election.won", "node": "cm1", ...}`.
"""

import logging
import queue
import sys
import threading
import time
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from gateway.config.settings import LogFormat

LINES_WAITING_MAX = 10_000  # some 2 MB: a log that is not read for minutes costs lines, never a lease


class _Writer:
    """Hands lines to a thread; counts what it had to drop."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(LINES_WAITING_MAX)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    debug = info = warning = error = critical = msg

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._dropped:
                line, self._dropped = f"{line}\n({self._dropped} log lines dropped before this one)", 0
            try:
                # The line and its end in one write: two processes of a node share the log while one takes over.
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
            except (OSError, ValueError):
                return  # nobody reads any more

    def close(self) -> None:
        """Write what is waiting, for a second at most."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(1.0)


_writer: _Writer | None = None


def _add_wall_clock(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return {"at": round(time.time(), 6), **event}


def start_log(form: LogFormat, node: str) -> None:
    """Send every log event of this process to standard output in `form`."""
    global _writer
    _writer = _Writer()
    render: Any = structlog.processors.JSONRenderer(default=str)
    if form is LogFormat.CONSOLE:
        render = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), timestamp_key="at")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _add_wall_clock,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _writer,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(node=node)


def stop_log() -> None:
    """Write the last lines before the process ends."""
    if _writer is not None:
        _writer.close()

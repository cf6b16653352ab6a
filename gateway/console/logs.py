"""Logs: one event a line, written by a thread of its own. A full pipe never holds the control process up.

Names and fields, not sentences: `{"at": 1763851200.123, "level": "info", "event": "election.won", "node": "cm1", ...}`;
`gateway.console.log_events` says what each means. Rule: what is left out (too many of one event, a pipe that nobody
reads) is counted, and told.
"""

import contextlib
import json
import logging
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

from gateway.config.settings import LogFormat

LINES_WAITING_MAX: Final = 10_000  # some 2 MB: a log that is not read for minutes costs lines, never a lease
CLOSE_S_MAX: Final = 1.0  # what nobody has read by then is lost
EVENTS_PER_S_MAX: Final = 100  # of one name; more than this nobody reads, and one fault must not fill the disk
NAMES_MAX: Final = 1_000  # that are counted apart; names are this program's own, some 150
# syslog's numbers, as journald takes them from the beginning of a line (sd-daemon(3))
_PRIORITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:/_-+@%,")

Render = Callable[[EventDict], str]


class _Writer:
    """Hands lines to a thread; counts what it had to drop. `say_dropped` makes the line that tells of it."""

    def __init__(self, say_dropped: Callable[[int], str]) -> None:
        self.dropped_total = 0
        self._lines: queue.Queue[str | None] = queue.Queue(LINES_WAITING_MAX)
        self._told = 0
        self._say_dropped = say_dropped
        self._thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped_total += 1

    debug = info = warning = error = critical = msg

    def _write(self) -> None:
        line: str | None = ""
        while line is not None:
            line = self._lines.get()
            dropped = self.dropped_total
            lines = [self._say_dropped(dropped - self._told)] if dropped > self._told else []
            self._told = dropped
            lines += [line] if line is not None else []
            try:
                # A line and its end in one write: two processes of a node share the log while one takes over.
                sys.stdout.write("".join(f"{one}\n" for one in lines))
                sys.stdout.flush()
            except (OSError, ValueError):
                return  # nobody reads any more

    def close(self) -> None:
        """Write what is waiting, for a second at most."""
        until_s = time.monotonic() + CLOSE_S_MAX
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=CLOSE_S_MAX)
            self._thread.join(max(0.0, until_s - time.monotonic()))


class RateLimit:
    """Lets `lines_max` events of one name through in each second. What it left out it tells in the next one.

    Args:
        tell: called with a name and how many of its events were left out.
        lines_max: of one name in one second.
        clock: seconds; which second it is decides.
    """

    def __init__(
        self,
        tell: Callable[[str, int], None],
        lines_max: int = EVENTS_PER_S_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.suppressed_total = 0
        self._tell = tell
        self._lines_max = lines_max
        self._clock = clock
        self._second = 0
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()  # threads log too; held for a microsecond

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Return the event, or raise `structlog.DropEvent`. A processor of structlog."""
        name = str(event.get("event", ""))
        if name == "log.suppressed":
            return event
        second = int(self._clock())
        with self._lock:
            told = self._turn() if second != self._second else {}
            self._second = second
            known = name if name in self._seen or len(self._seen) < NAMES_MAX else "*"
            self._seen[known] += 1
            admitted = self._seen[known] <= self._lines_max
            self.suppressed_total += not admitted
        for one, lines in told.items():
            self._tell(one, lines)
        if not admitted:
            raise structlog.DropEvent
        return event

    def close(self) -> None:
        """Tell what has not been told yet."""
        with self._lock:
            told = self._turn()
        for one, lines in told.items():
            self._tell(one, lines)

    def _turn(self) -> dict[str, int]:
        told = {name: seen - self._lines_max for name, seen in self._seen.items() if seen > self._lines_max}
        self._seen.clear()
        return told


_writer: _Writer | None = None
_limit: RateLimit | None = None


def _add_wall_clock(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return {"at": round(time.time(), 6), **event}


def render_short(event: EventDict, *, timed: bool = True) -> str:
    """Return `2026-11-23T16:20:01.123Z warning  relay.died pid=7 reason="it was killed"`: a person's line."""
    fields = {name: value for name, value in event.items() if name not in ("at", "level", "event", "node")}
    words = [f"{event.get('level', ''):<8} {event.get('event', '')}"]
    words += [f"{name}={_word(value)}" for name, value in fields.items()]
    if timed:
        at = float(event.get("at", 0))
        words.insert(0, f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03}Z")
    return " ".join(words)


def _word(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    plain = isinstance(value, str) and value and _PLAIN.issuperset(value)
    return str(value) if plain else json.dumps(value, default=str)


def in_journal() -> bool:
    """Tell whether standard output is the journal's own stream: the service manager says which one it is."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def _renderer(form: LogFormat, *, journal: bool) -> Render:
    """Return what makes a line of an event; the journal gets the priority, and has its own clock."""
    to_json = structlog.processors.JSONRenderer(default=str)
    to_console = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), timestamp_key="at")

    def render(event: EventDict) -> str:
        priority = f"<{_PRIORITIES.get(str(event.get('level')), 6)}>" if journal else ""
        match form:
            case LogFormat.JSON:
                line = str(to_json(None, "", event))
            case LogFormat.SHORT:
                line = render_short(event, timed=not journal)
            case LogFormat.CONSOLE:
                line = to_console(None, "", event)
        return priority + line.replace("\n", f"\n{priority}") if journal else line

    return render


def start_log(form: LogFormat, node: str) -> None:
    """Send every log event of this process to standard output in `form`."""
    global _writer, _limit
    render = _renderer(form, journal=in_journal())

    def say_dropped(lines: int) -> str:
        said = {"at": round(time.time(), 6), "node": node, "lines": lines, "event": "log.dropped", "level": "warning"}
        return render(said)

    def tell_suppressed(name: str, lines: int) -> None:
        structlog.get_logger().warning("log.suppressed", name=name, lines=lines)

    _writer = _Writer(say_dropped)
    _limit = RateLimit(tell_suppressed)
    structlog.configure(
        processors=[
            _limit,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _add_wall_clock,
            lambda logger, name, event: render(event),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _writer,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(node=node)


def log_counts() -> dict[str, int]:
    """Return how many lines of this process were lost or left out; the `log` part of the status document."""
    return {
        "dropped_total": 0 if _writer is None else _writer.dropped_total,
        "suppressed_total": 0 if _limit is None else _limit.suppressed_total,
    }


def stop_log() -> None:
    """Write the last lines before the process ends."""
    if _limit is not None:
        _limit.close()
    if _writer is not None:
        _writer.close()

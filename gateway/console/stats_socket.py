"""Stats sockets: HAProxy's commands on unix sockets of the node's own, for HAProxy's tools and whoever knows them.

One line is one answer, and the connection closes; after `prompt` it stays. Rule: a socket appears complete: with its
owner, group and mode before it has its name, in the place of whatever socket was there.
"""

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog
import trio

from gateway.config.settings import StatsSocket
from gateway.console.stats.answers import Ask, StatsAnswers
from gateway.console.stats.language import Session
from gateway.control.commands import Level

CLIENTS_MAX = 64
LINE_BYTES_MAX = 16_384  # HAProxy's tune.bufsize
IDLE_S = 10.0  # HAProxy's `stats timeout`
PROMPT_IDLE_S = 600.0  # a person reads and thinks
SEND_S_MAX = 30.0  # a client that takes nothing is left
OBSERVE_S = 5.0  # between looks for the maxima: 1 ms of control each
_SPACE = b" \t\r"


class OpenSocket:
    """A stats socket that listens. Made while the process may still give files away."""

    def __init__(self, settings: StatsSocket, listening: socket.socket, inode: int) -> None:
        self.settings = settings
        self.listening = listening
        self._inode = inode

    def close(self) -> None:
        """Close it, and remove its name where that is still its own: a successor may have it by now."""
        self.listening.close()
        with contextlib.suppress(OSError):  # it may be removed by root only
            if os.stat(self.settings.path).st_ino == self._inode:
                os.unlink(self.settings.path)


def open_stats(sockets: Sequence[StatsSocket]) -> tuple[OpenSocket, ...]:
    """Open the stats sockets, as root. One that can't be opened is said in the log, and the others are not held up."""
    found = []
    for one in sockets:
        try:
            found.append(_open(one))
        except (OSError, KeyError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            structlog.get_logger().error("stats.unavailable", path=one.path, reason=reason)
    return tuple(found)


def _open(settings: StatsSocket) -> OpenSocket:
    """Bind under another name, give it its owner and mode, and put it where it belongs.

    Raises:
        KeyError: the user or group does not exist on this host.
        OSError: the operating system refuses, or something else than a socket is at the path.
    """
    owner = pwd.getpwnam(settings.user).pw_uid if settings.user else -1
    group = grp.getgrnam(settings.group).gr_gid if settings.group else -1
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(settings.path).st_mode):
            raise OSError(errno.EEXIST, "what is there is not a socket, and stays")
    early = Path(settings.path).parent / f".{os.getpid()}.new"
    with contextlib.suppress(FileNotFoundError):
        early.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        before = os.umask(0o177)
        try:
            listening.bind(str(early))
        finally:
            os.umask(before)
        try:
            os.chown(early, owner, group)
            os.chmod(early, settings.mode)
            listening.listen(CLIENTS_MAX)
            inode = os.stat(early).st_ino
            os.rename(early, settings.path)
        except BaseException:
            early.unlink()
            raise
    except BaseException:
        listening.close()
        raise
    return OpenSocket(settings, listening, inode)


async def serve_stats(
    sockets: Iterable[StatsSocket | OpenSocket],
    ask: Ask,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on the stats sockets until cancelled.

    Args:
        sockets: from `open_stats`; those that are only written down are opened here.
        ask: asks control a request (`{"command": ...}`) at a level; see `StatsAnswers`.
        task_status: told once all listen.
    """
    given = list(sockets)
    opened = [one for one in given if isinstance(one, OpenSocket)]
    opened += open_stats([one for one in given if isinstance(one, StatsSocket)])
    answers = StatsAnswers(ask, [one.settings for one in opened])
    limit = trio.CapacityLimiter(CLIENTS_MAX)
    try:
        async with trio.open_nursery() as nursery:
            for one in opened:
                nursery.start_soon(_serve_one, one, answers, limit)
            if opened:
                nursery.start_soon(_observe, answers)
            task_status.started()
            await trio.sleep_forever()
    finally:
        for one in opened:
            one.close()


async def _observe(answers: StatsAnswers) -> None:
    while True:
        await answers.observe()
        await trio.sleep(OBSERVE_S)


async def _serve_one(opened: OpenSocket, answers: StatsAnswers, limit: trio.CapacityLimiter) -> None:
    level = Level.of(opened.settings.level)

    async def serve(stream: trio.SocketStream) -> None:
        try:
            limit.acquire_nowait()
        except trio.WouldBlock:  # one more would keep its descriptor from others
            await trio.aclose_forcefully(stream)
            return
        try:
            await serve_stats_client(stream, answers, level)
        finally:
            limit.release()

    await trio.serve_listeners(serve, [trio.SocketListener(trio.socket.from_stdlib_socket(opened.listening))])


async def serve_stats_client(stream: trio.SocketStream, answers: StatsAnswers, level: Level) -> None:
    """Answer one client until it goes away, has had its answer, or is silent for too long."""
    session = Session(level)
    waiting = b""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async with stream:
            while not session.quit:
                line, waiting, more = await _next_line(stream, waiting, session)
                if line is None:
                    return
                said = await answers.line(line, session)
                if session.prompt and not session.quit:
                    said += "> "
                with trio.move_on_after(SEND_S_MAX) as sending:
                    await stream.send_all(said.encode())
                if sending.cancelled_caught or not (session.interactive and more):
                    return


async def _next_line(stream: trio.SocketStream, waiting: bytes, session: Session) -> tuple[str | None, bytes, bool]:
    """Return the next line (None: there is none), what came after it, and whether more may come."""
    idle_s = session.idle_s or (PROMPT_IDLE_S if session.interactive else IDLE_S)
    while b"\n" not in waiting:
        if len(waiting) > LINE_BYTES_MAX:
            return None, b"", False
        with trio.move_on_after(idle_s) as idle:
            data = await stream.receive_some(LINE_BYTES_MAX)
        if idle.cancelled_caught:
            return None, b"", False
        if not data:  # the last line needs no end
            return (waiting.decode("utf-8", "replace") if waiting.strip(_SPACE) else None), b"", False
        waiting += data
    line, _, rest = waiting.partition(b"\n")
    return line.decode("utf-8", "replace"), rest, True

"""Fetches: histories that a standby has and no leader, brought to the leader; the stream goes on meanwhile.

Rule: one at a time, into a file, proven whole before anybody is told.
"""

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import structlog
import trio

from gateway.core.timeline import Position, Relation, Timeline, meet
from gateway.matchmaker.feed import Feed
from gateway.matchmaker.stream import Session
from gateway.wire import stream as wire
from gateway.wire.errors import Malformed, Reason
from gateway.wire.stream import Transfer

AGAIN_MS: Final = 1_000  # whether it is wanted now
PIECE_MS: Final = 30_000  # between two chunks: the standby reads it from a busy disk
CHUNKS_WAITING: Final = 8  # for this side's disk; the connection waits for it then

log = structlog.get_logger()


class Keeper(Protocol):
    """What shipping asks of the leader's own store."""

    def path_of(self, position: Position) -> Path | None:
        """Return a journal with the content at `position`; None where there is none."""


class Histories(Protocol):
    """What becomes of histories that no leader has yet."""

    def wanted(self, standby: str, pending: Timeline) -> bool:
        """Tell whether the leader wants this pending history: it does not hold it, and nobody fetched it already."""

    def room(self, standby: str, name: str) -> Path:
        """Return where to put a fetched journal; what is there is replaced."""

    async def fetched(self, standby: str, pending: Timeline, path: Path, base: Path | None) -> None:
        """Take a journal.

        Args:
            standby: who had it.
            pending: the history that is in `path`.
            path: the journal's file, in the room that was given.
            base: the journal with the content at `meet(feed.timeline, pending).base`, where the standby has one and
                this node has not. It is asked for in any case: the standby may have it in another file.
        """


Arrival = wire.Blob | wire.Missing | wire.Chunk | wire.Done


class Fetches:
    """The fetches of one connection. `count` is told of each (`fetched_total=1`)."""

    def __init__(
        self,
        session: Session,
        standby: str,
        feed: Feed,
        store: Keeper,
        histories: Histories,
        welcome: wire.Welcome,
        count: Callable[..., None],
    ) -> None:
        self._session = session
        self._standby = standby
        self._feed = feed
        self._store = store
        self._histories = histories
        self._pending = list(welcome.pending)
        self._forks = frozenset(welcome.forks)
        self._count = count
        self._open = False  # something was asked for, and has not come whole
        self._arrivals_in, self._arrivals = trio.open_memory_channel[Arrival](CHUNKS_WAITING)

    async def arrived(self, message: Arrival) -> None:
        """Take a piece of what was asked for. Raises `Malformed` where nothing was."""
        if not self._open or getattr(message, "of", Transfer.BLOB) is not Transfer.BLOB:
            raise Malformed(Reason.BAD_SEQUENCE, f"{type(message).__name__} of what nobody fetches")
        await self._arrivals_in.send(message)

    async def run(self) -> None:
        """Fetch what is wanted, as soon as it is, for ever."""
        while self._pending:  # ends when all were fetched; more are told on the next connection
            for pending in [*self._pending]:
                if self._histories.wanted(self._standby, pending):
                    self._pending.remove(pending)
                    await self._fetch(pending)
            await trio.sleep(AGAIN_MS / 1000)
        await trio.sleep_forever()

    async def _fetch(self, pending: Timeline) -> None:
        path = await self._bring(pending.head)
        if path is None:
            log.warning("stream.history-missing", standby=self._standby, head=str(pending.head))
            return
        base = None
        met = meet(self._feed.timeline, pending)
        if met.relation is Relation.DIVERGED and self._store.path_of(met.base) is None:
            base = await self._bring(met.base)
        self._count(fetched_total=1)
        log.info("stream.history-fetched", standby=self._standby, head=str(pending.head), base=base is not None)
        await self._histories.fetched(self._standby, pending, path, base)

    async def _bring(self, position: Position) -> Path | None:
        """Bring one journal here; return where it is, None where the standby has it not."""
        self._open = True
        await self._session.send(wire.Fetch(position))
        first = await self._next()
        if isinstance(first, wire.Missing):
            self._open = False
            return None
        if not isinstance(first, wire.Blob):
            raise Malformed(Reason.BAD_SEQUENCE, f"{type(first).__name__} instead of a Blob")
        path = self._histories.room(self._standby, str(position))
        file = await trio.to_thread.run_sync(_create, path)
        try:
            await self._fill(file, first.length)
        finally:
            file.close()
            self._open = False
        return path

    async def _fill(self, file: BinaryIO, length: int) -> None:
        digest, left = hashlib.sha256(), length
        while True:  # ends with Done, or an exception
            match await self._next():
                case wire.Chunk(data=data) if len(data) <= left:
                    left -= len(data)
                    digest.update(data)
                    await trio.to_thread.run_sync(file.write, data)
                case wire.Chunk():
                    raise Malformed(Reason.TOO_LONG, f"more than the {length} bytes announced")
                case wire.Done(sha256=sha256):
                    if left:
                        raise Malformed(Reason.TOO_SHORT, f"{length - left} of {length} bytes")
                    if not hmac.compare_digest(digest.digest(), sha256):
                        raise Malformed(Reason.BAD_CHECKSUM, "a fetched history")
                    await trio.to_thread.run_sync(file.flush)
                    return
                case other:
                    raise Malformed(Reason.BAD_SEQUENCE, f"{type(other).__name__} instead of a Chunk")

    async def _next(self) -> Arrival:
        with trio.fail_after(PIECE_MS / 1000):
            return await self._arrivals.receive()


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return open(path, "xb")

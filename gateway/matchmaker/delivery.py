"""Delivery: the accounting state on its way over one connection, and what the standby says of it.

Rule: nothing is kept to be sent. What is next is read from the file when the window has room for it.
"""

import hashlib
from collections import deque
from types import TracebackType
from typing import Final, Protocol, Self

import structlog
import trio

from gateway.core.timeline import Fork, Position, Timeline, same_file
from gateway.matchmaker.feed import Feed, Source
from gateway.matchmaker.fetches import Fetches
from gateway.matchmaker.offers import Offers
from gateway.matchmaker.stream import Lost, Session
from gateway.wire import stream as wire
from gateway.wire.errors import Malformed, Reason
from gateway.wire.stream import CHUNK_BYTES, Message, Transfer

STORE_MS: Final = 30_000  # fsync of 64 MiB on a busy disk
WINDOW_BYTES: Final = 1024 * 1024  # sent and not acknowledged: 16 s of 1,000 records/s
# A transaction is kept whole or not at all, and a standby holds it in memory until it is whole: what is longer goes in
# a snapshot. The Accountant's longest is one cycle's, of all customers: some 300 bytes each.
TRANSACTION_BYTES_MAX: Final = 4 * 1024 * 1024
REPORT_MS: Final = 1_000  # a lag that grows is told of so often, without anything else happening

log = structlog.get_logger()


class Tally(Protocol):
    """Who is told how it goes."""

    accepted: int

    def took(self, position: Position, records: int) -> None:
        """All that is on the standby's disk."""

    def knows(self, timeline: Timeline) -> None:
        """The history that the standby has on its disk with the state."""

    def count(self, **added: int) -> None:
        """Add to counters."""

    def tell(self, reason: str) -> None:
        """Report; `reason` is empty."""


class Delivery:
    """The state of one connection: what was sent, and what was acknowledged of it."""

    def __init__(
        self,
        session: Session,
        standby: str,
        feed: Feed,
        welcome: wire.Welcome,
        offers: Offers,
        fetches: Fetches,
        tally: Tally,
    ) -> None:
        self._session = session
        self._standby = standby
        self._feed = feed
        self._welcome = welcome
        self._offers = offers
        self._fetches = fetches
        self._tally = tally
        self._source: Source | None = None
        self._told = feed.timeline
        self._telling: deque[Timeline] = deque()  # asked to be taken, in this order
        self._sent = 0  # offset in the source
        self._accepted = 0
        self._snapshot_end = 0  # what came with it does not count for the window
        self._progress_s = trio.current_time()
        self._room = trio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._source is not None:
            self._source.drop()
            self._source = None

    async def supply(self) -> None:
        """Send the state as it grows, for ever."""
        while True:  # ends with the connection
            news, source = self._feed.news, self._feed.source
            if source is not None and source is not self._source and source.closed:
                await self._begin(source)
            elif self._source is None:
                await news.wait()
            elif self._sent - max(self._accepted, self._snapshot_end) >= WINDOW_BYTES:
                self._room = trio.Event()
                await self._room.wait()
            elif (end := self._source.cut(self._sent)) is not None:
                await self._send_up_to(self._source, end)
            elif self._source is source and _past(source.timeline) != _past(self._told):
                await self._retell(source)
            else:
                await news.wait()

    async def _begin(self, source: Source) -> None:
        """Go on where the standby is, if it holds a part of this very file; else send it whole."""
        held, head = self._welcome.held, source.timeline.head
        first = self._source is None
        source.take()
        self._let_go()
        self._source = source
        if first and held.head.term == head.term and held.head > head:
            # Only this leader can have written that: it has yet to read its own file, or has lost it.
            raise Lost(f"it holds {held.head}, which is not in the file here")
        if first and same_file(held.head, head):
            self._sent = self._accepted = self._snapshot_end = held.head.offset
            self._told = held
            self._tally.knows(held)
            self._accept(held.head)
        else:
            await self._send_snapshot(source)

    async def _send_snapshot(self, source: Source) -> None:
        timeline = self._told = source.timeline
        length = timeline.head.offset
        log.info("stream.snapshot", standby=self._standby, position=str(timeline.head))
        self._tally.count(snapshots_total=1)
        self._accepted, self._sent, self._snapshot_end = 0, length, length
        await self._session.send(wire.Snapshot(timeline, self._feed.origin, length))
        digest = hashlib.sha256()
        for start in range(0, length, CHUNK_BYTES):
            # In a thread: an old part of the file may have to come from the disk.
            data = await trio.to_thread.run_sync(source.read, start, min(start + CHUNK_BYTES, length))
            if len(data) < min(CHUNK_BYTES, length - start):
                raise Lost("the file shrank")
            digest.update(data)
            await self._session.send(wire.Chunk(Transfer.SNAPSHOT, data))
            self._progress_s = trio.current_time()
        await self._session.send(wire.Done(Transfer.SNAPSHOT, digest.digest()))
        self._tally.count(bytes_total=length)

    async def _send_up_to(self, source: Source, end: int) -> None:
        """Send the bytes up to `end`, where transactions are closed: in one message as a rule."""
        if end - self._sent > TRANSACTION_BYTES_MAX:
            await self._send_snapshot(source)
            return
        if self._sent == self._accepted:
            self._progress_s = trio.current_time()
        while self._sent < end:  # one turn, but for a transaction above 64 KiB
            # Not in a thread: it was written just now, and is in memory.
            data = source.read(self._sent, min(self._sent + CHUNK_BYTES, end))
            if not data:
                raise Lost("the file shrank")
            head = source.timeline.head
            start = Position(head.term, head.generation, self._sent)
            self._sent += len(data)
            await self._session.send(wire.Append(start, data, closed=self._sent == end))
            self._tally.count(appends_total=1, bytes_total=len(data))

    async def _retell(self, source: Source) -> None:
        self._told = source.timeline
        self._telling.append(source.timeline)
        await self._session.send(wire.Retell(source.timeline))

    def _retold(self) -> None:
        if not self._telling:
            raise Malformed(Reason.BAD_SEQUENCE, "took a history that was not told")
        self._tally.knows(self._telling.popleft())

    async def listen(self) -> None:
        """Take what the standby says, for ever."""
        while True:  # ends with the connection
            for message in await self._session.receive():
                await self._take(message)

    async def _take(self, message: Message) -> None:
        match message:
            case wire.Accepted(position=position):
                self._accept(position)
                self._tally.accepted += 1
            case wire.Keepalive():
                pass
            case wire.Retold():
                self._retold()
            case wire.Proceed() | wire.Declined() | wire.ForkAccepted() | wire.FileAccepted():
                self._offers.answered(message)
            case wire.Blob() | wire.Missing() | wire.Chunk() | wire.Done():
                await self._fetches.arrived(message)
            case wire.Refused(reason=reason, held=held):
                raise Lost(f"refused: {reason} (it holds {held})")
            case other:
                raise Malformed(Reason.BAD_SEQUENCE, f"a standby does not say {type(other).__name__}")

    def _accept(self, position: Position) -> None:
        source = self._source
        if source is None:
            raise Malformed(Reason.BAD_SEQUENCE, f"acknowledges {position} before anything was sent")
        head = source.timeline.head
        if (position.term, position.generation) < (head.term, head.generation):
            return  # of the generation before: the snapshot of this one is on its way
        if not same_file(position, head) or not self._accepted <= position.offset <= self._sent:
            raise Malformed(Reason.BAD_SEQUENCE, f"acknowledges {position}, sent up to {self._sent}")
        if not self._accepted and not self._telling:
            self._tally.knows(self._told)  # the whole file, with its history; or that was there already
        self._accepted = position.offset
        self._progress_s = trio.current_time()
        self._room.set()
        if self._sent - position.offset <= CHUNK_BYTES:
            self._offers.may_begin.set()
        self._tally.took(position, source.records_at(position.offset))

    async def watch(self) -> None:
        """Report a lag once a second; end a connection on which nothing is acknowledged any more."""
        while True:  # ends with the connection
            await trio.sleep(REPORT_MS / 1000)
            is_waiting = self._source is not None and self._accepted < self._sent
            if is_waiting and trio.current_time() - self._progress_s > STORE_MS / 1000:
                raise Lost(f"nothing was acknowledged for {STORE_MS / 1000:g} s")
            self._tally.tell("")


def _past(timeline: Timeline) -> tuple[tuple[Fork, ...], tuple[Position, ...]]:
    return timeline.forks, timeline.included

"""Intake: the accounting state as it comes to a standby: appends in groups, snapshots, shortened histories.

Rule: what is believed of a message is what fits what is held. All that came at once is one append and one fsync.
"""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
import trio

from gateway.core.timeline import NOWHERE, Position, same_file
from gateway.matchmaker.journal import JournalRefused, SnapshotWriter, Store
from gateway.matchmaker.stream import Lost, Session
from gateway.wire import stream as wire
from gateway.wire.stream import Refusal

TRANSACTION_BYTES_MAX: Final = 4 * 1024 * 1024  # not closed yet, in memory; as the leader has it
DISCARD_MS: Final = 5_000  # to remove a file

log = structlog.get_logger()

T = TypeVar("T")


class Refusing(Lost):
    """The sender is told `reason`, and the connection ends."""

    def __init__(self, reason: str, detail: str = "", *, counted: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.counted = counted  # by the store


class Intake:
    """What one connection does to the store.

    Args:
        session: for acknowledgements.
        store: loaded.
        changing: held by who changes the store: one connection at a time.
        term: that the sender leads.
        is_leader: whether it still does, as far as this node knows.
        changed: called when the store holds more.
    """

    def __init__(
        self,
        session: Session,
        store: Store,
        changing: trio.Lock,
        *,
        term: int,
        is_leader: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        self._session = session
        self._store = store
        self._changing = changing
        self._term = term
        self._is_leader = is_leader
        self._changed = changed
        self._next = store.held.timeline.head  # where the next append begins
        self._pieces: list[bytes] = []
        self._size = 0  # of the pieces
        self._closed = 0  # of them, closed
        self._snapshot: wire.Snapshot | None = None
        self._writer: SnapshotWriter | None = None

    async def close(self) -> None:
        """Leave nothing half done behind."""
        if self._writer is not None:
            with trio.move_on_after(DISCARD_MS / 1000) as scope, contextlib.suppress(JournalRefused):
                scope.shield = True
                await self._writer.discard()
            self._writer = None

    async def take(self, message: wire.Append | wire.Snapshot | wire.Chunk | wire.Done | wire.Retell) -> None:
        """Take one message. Raises `Refusing`."""
        if isinstance(message, wire.Append):
            self._queue(message)
            return
        await self.flush()
        if self._size:
            raise Refusing(Refusal.OUT_OF_ORDER, f"{type(message).__name__} amid a transaction")
        match message:
            case wire.Snapshot():
                await self._begin(message)
            case wire.Chunk():
                await self._write(message.data)
            case wire.Done():
                await self._finish(message.sha256)
            case wire.Retell():
                await self._retell(message)

    def _queue(self, append: wire.Append) -> None:
        expected = Position(self._next.term, self._next.generation, self._next.offset + self._size)
        if self._snapshot is not None:
            raise Refusing(Refusal.OUT_OF_ORDER, "an append amid a snapshot")
        if append.start != expected or append.start.term != self._term:
            raise Refusing(Refusal.OUT_OF_ORDER, f"{append.start} instead of {expected}")
        self._pieces.append(append.data)
        self._size += len(append.data)
        if append.closed:
            self._closed = self._size
        elif self._size - self._closed > TRANSACTION_BYTES_MAX:
            raise Refusing(Refusal.TOO_LONG, f"a transaction of more than {TRANSACTION_BYTES_MAX} bytes")

    async def flush(self) -> None:
        """Put on the disk what is closed of what has come, and acknowledge it. Raises `Refusing`."""
        if not self._closed:
            return
        data = b"".join(self._pieces)
        closed, rest = data[: self._closed], data[self._closed :]
        async with self._changing:
            self._check_leader()
            self._next = await stored(lambda: self._store.append(self._next, closed))
        self._pieces, self._size, self._closed = [rest] if rest else [], len(rest), 0
        self._changed()
        await self._session.send(wire.Accepted(self._next))

    async def _begin(self, snapshot: wire.Snapshot) -> None:
        head = snapshot.timeline.head
        if self._snapshot is not None or head.term != self._term:
            raise Refusing(Refusal.OUT_OF_ORDER, f"a snapshot of {head}")
        async with self._changing:
            self._check_leader()
            held = self._store.held.timeline.head
            if any(fork.position == held for fork in snapshot.timeline.forks):
                await stored(self._store.keep_fork)  # somebody took over there: a merge may need it
            self._writer = await stored(
                lambda: self._store.open_snapshot(snapshot.timeline, snapshot.origin, snapshot.length)
            )
        self._snapshot = snapshot

    async def _write(self, data: bytes) -> None:
        writer = self._writer
        if writer is None:
            raise Refusing(Refusal.OUT_OF_ORDER, "a chunk of no snapshot")
        await stored(lambda: writer.write(data))

    async def _finish(self, sha256: bytes) -> None:
        snapshot, writer = self._snapshot, self._writer
        if snapshot is None or writer is None:
            raise Refusing(Refusal.OUT_OF_ORDER, "the end of no snapshot")
        timeline = snapshot.timeline
        async with self._changing:
            self._check_leader()  # an election may have passed meanwhile
            await stored(lambda: self._store.make_way(timeline))
            self._next = await stored(lambda: writer.commit(sha256))
            self._snapshot = self._writer = None
            await stored(lambda: self._store.make_way(timeline))  # pending histories that are in it now
            await stored(lambda: self._store.prune_forks(timeline))
        self._changed()
        log.info("stream.snapshot-kept", origin=snapshot.origin, position=str(self._next))
        await self._session.send(wire.Accepted(self._next))

    async def _retell(self, retell: wire.Retell) -> None:
        head = retell.timeline.head
        async with self._changing:
            self._check_leader()
            held = self._store.held.timeline.head
            if held == NOWHERE or not same_file(head, held):
                raise Refusing(Refusal.OUT_OF_ORDER, f"the history of {head}; {held} is held")
            await stored(lambda: self._store.retell(retell.timeline.at(held)))
            await stored(lambda: self._store.prune_forks(retell.timeline.at(held)))
        self._changed()
        await self._session.send(wire.Retold())

    def _check_leader(self) -> None:
        if not self._is_leader():
            raise Refusing(Refusal.NOT_LEADER)


async def stored(work: Callable[[], Awaitable[T]]) -> T:
    """Do something to the store; turn what it refuses into an answer."""
    try:
        return await work()
    except JournalRefused as refused:
        raise Refusing(str(refused.reason), str(refused), counted=True) from None
    except OSError as error:
        log.error("stream.not-stored", reason=str(error))
        raise Refusing(Refusal.NOT_STORED, str(error)) from None

"""Sendings: journals of pending histories and of forks, sent to the leader that asks for them.

Rule: the file is read where it is, piece by piece; records are taken meanwhile.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

import structlog
import trio

from gateway.core.timeline import Position
from gateway.matchmaker.journal import Store
from gateway.matchmaker.stream import Lost, Session
from gateway.wire import stream as wire
from gateway.wire.errors import Malformed, Reason
from gateway.wire.stream import BLOB_BYTES_MAX, CHUNK_BYTES, Transfer

WAITING_MAX: Final = 2  # a leader asks for one at a time

log = structlog.get_logger()


class Sendings:
    """What one connection asked for."""

    def __init__(self, session: Session, store: Store) -> None:
        self._session = session
        self._store = store
        self._asked_in, self._asked = trio.open_memory_channel[Position](WAITING_MAX)

    def asked(self, fetch: wire.Fetch) -> None:
        """Take a request. Raises `Malformed` where too many wait."""
        try:
            self._asked_in.send_nowait(fetch.position)
        except trio.WouldBlock:
            raise Malformed(Reason.BAD_SEQUENCE, "too many fetches at once") from None

    async def run(self) -> None:
        """Send what is asked for, for ever."""
        async for position in self._asked:
            path = self._path_of(position)
            try:
                found = None if path is None else await trio.to_thread.run_sync(_open, path)
            except OSError as error:  # taken over by the archive just now
                log.info("stream.fetch-unreadable", position=str(position), reason=str(error))
                found = None
            if found is None or found[1] > BLOB_BYTES_MAX:
                if found is not None:
                    os.close(found[0])
                await self._session.send(wire.Missing())
                continue
            try:
                await self._send(*found)
            finally:
                os.close(found[0])

    def _path_of(self, position: Position) -> Path | None:
        for pending in self._store.pending:
            if pending.timeline.head == position:
                return pending.path
        return self._store.path_of(position)

    async def _send(self, descriptor: int, length: int) -> None:
        digest = hashlib.sha256()
        await self._session.send(wire.Blob(length))
        for start in range(0, length, CHUNK_BYTES):
            expected = min(CHUNK_BYTES, length - start)
            data = await trio.to_thread.run_sync(os.pread, descriptor, expected, start)
            if len(data) < expected:
                raise Lost("a journal to send shrank")
            digest.update(data)
            await self._session.send(wire.Chunk(Transfer.BLOB, data))
        await self._session.send(wire.Done(Transfer.BLOB, digest.digest()))


def _open(path: Path) -> tuple[int, int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return descriptor, os.fstat(descriptor).st_size

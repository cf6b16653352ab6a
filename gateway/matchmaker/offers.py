"""Offers: what a standby is given besides the stream: contents at forks that it lacks, and replicated files.

Rule: one offer at a time, in chunks between which records pass; what is declined does not end the stream.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

import structlog
import trio

from gateway.core.timeline import Position
from gateway.matchmaker.feed import Feed, Shared, Version
from gateway.matchmaker.fetches import Keeper
from gateway.matchmaker.stream import Lost, Session
from gateway.wire import stream as wire
from gateway.wire.errors import Malformed, Reason
from gateway.wire.stream import BLOB_BYTES_MAX, CHUNK_BYTES, Transfer

ANSWER_MS: Final = 60_000  # a file of 64 MiB is read for its checksum, or put on a busy disk
AGAIN_MS: Final = 10_000  # what was declined is offered again: its folder may exist now

log = structlog.get_logger()

Answer = wire.Proceed | wire.Declined | wire.ForkAccepted | wire.FileAccepted


class Offers:
    """The offers of one connection.

    Args:
        session: the connection.
        standby: its name, for the log.
        feed: for the replicated files.
        store: the leader's own, for contents at forks.
        welcome: says which forks the standby has.
        files: checksums of what the standby has, by name; changed here.
    """

    def __init__(
        self, session: Session, standby: str, feed: Feed, store: Keeper, welcome: wire.Welcome, files: dict[str, bytes]
    ) -> None:
        self._session = session
        self._standby = standby
        self._feed = feed
        self._store = store
        self._has = set(welcome.forks)
        self._files = files
        self._asked = False
        self._answers_in, self._answers = trio.open_memory_channel[Answer](1)
        self.may_begin = trio.Event()  # once the standby has caught up: records come first

    def answered(self, answer: Answer) -> None:
        """Take an answer of the standby. Raises `Malformed` where nothing was asked."""
        if not self._asked:
            raise Malformed(Reason.BAD_SEQUENCE, f"{type(answer).__name__} to no offer")
        self._asked = False
        self._answers_in.send_nowait(answer)

    async def run(self) -> None:
        """Offer what there is, and what there will be, for ever."""
        await self.may_begin.wait()
        for fork in self._feed.timeline.forks[-wire.FORKS_TOLD_MAX :]:
            if fork.position not in self._has:
                await self._offer_fork(fork.position)
        taken: dict[str, bytes] = {}  # on this connection
        while True:  # ends with the connection
            news = self._feed.file_news
            declined = False
            for version in [*self._feed.files.values()]:
                if taken.get(version.name) != version.sha256:
                    if await self._offer_file(version):
                        taken[version.name] = self._files[version.name] = version.sha256
                    else:
                        declined = True
            with trio.move_on_after(AGAIN_MS / 1000 if declined else float("inf")):
                await news.wait()

    async def _offer_fork(self, position: Position) -> None:
        path = self._store.path_of(position)
        if path is None:
            return
        try:
            journal, length = await trio.to_thread.run_sync(_open, path)
        except OSError as error:  # pruned just now
            log.warning("stream.fork-unreadable", position=str(position), reason=str(error))
            return
        try:
            if length > BLOB_BYTES_MAX:
                log.warning("stream.fork-too-long", position=str(position), bytes=length)
                return
            answer = await self._ask(wire.ForkOffer(position, length))
            if isinstance(answer, wire.Proceed):
                answer = await self._send(journal, length)
        finally:
            journal.drop()
        if answer != wire.ForkAccepted(position):
            self._log_declined(f"fork {position}", answer)

    async def _offer_file(self, version: Version) -> bool:
        """Bring `version` to the standby; return whether it is there."""
        version.take()
        try:
            answer = await self._ask(wire.File(version.name, version.length, version.sha256, version.mode))
            if isinstance(answer, wire.Proceed):
                answer = await self._send(version, version.length)
        finally:
            version.drop()
        if answer == wire.FileAccepted(version.name, version.sha256):
            return True
        self._log_declined(version.name, answer)
        return False

    async def _ask(self, question: wire.ForkOffer | wire.File | wire.Done) -> Answer:
        self._asked = True
        await self._session.send(question)
        with trio.fail_after(ANSWER_MS / 1000):
            return await self._answers.receive()

    async def _send(self, source: Shared, length: int) -> Answer:
        digest = hashlib.sha256()
        for start in range(0, length, CHUNK_BYTES):
            end = min(start + CHUNK_BYTES, length)
            data = await trio.to_thread.run_sync(source.read, start, end)
            if len(data) < end - start:
                raise Lost("a file to send shrank")
            digest.update(data)
            await self._session.send(wire.Chunk(Transfer.OFFER, data))
        return await self._ask(wire.Done(Transfer.OFFER, digest.digest()))

    def _log_declined(self, what: str, answer: Answer) -> None:
        if not isinstance(answer, wire.Declined):
            raise Malformed(Reason.BAD_SEQUENCE, f"{type(answer).__name__} for {what}")
        log.warning("stream.declined", standby=self._standby, what=what, reason=answer.reason)


def _open(path: Path) -> tuple[Shared, int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return Shared(descriptor), os.fstat(descriptor).st_size

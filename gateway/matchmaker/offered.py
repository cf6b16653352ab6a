"""Offered: what the leader gives a standby besides the stream: contents at forks, and replicated files.

Rule: nothing is taken that this node does not want by itself; nothing is put in its place before it is proven whole.
"""

import hashlib
import hmac
import itertools
import os
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Final

import structlog
import trio

from gateway.matchmaker import disk
from gateway.matchmaker.intake import Refusing
from gateway.matchmaker.journal import JournalRefused, Store
from gateway.matchmaker.stream import Session
from gateway.wire import stream as wire
from gateway.wire.errors import Malformed, Reason
from gateway.wire.stream import Refusal, Transfer

CHUNKS_WAITING: Final = 8  # for this side's disk; the connection waits for it then

log = structlog.get_logger()

Arrival = wire.ForkOffer | wire.File | wire.Chunk | wire.Done
InstallFile = Callable[[str, Path], Awaitable[None]]

_numbers = itertools.count(1)  # of what is on its way: two connections may overlap


class Offered:
    """The offers of one connection."""

    def __init__(
        self,
        session: Session,
        store: Store,
        install_file: InstallFile,
        files: frozenset[str],
        scratch: Path | None,
        is_leader: Callable[[], bool],
    ) -> None:
        self._session = session
        self._store = store
        self._is_leader = is_leader
        self._install_file = install_file
        self._files = files
        self._scratch = scratch
        self._arrivals_in, self._arrivals = trio.open_memory_channel[Arrival](CHUNKS_WAITING)

    @staticmethod
    def settings(
        store: Store, install_file: InstallFile, files: Collection[str], scratch: Path | None
    ) -> "Callable[[Session, Callable[[], bool]], Offered]":
        """Return what makes the offers of a connection, given whether its sender still leads."""
        names = frozenset(files)
        return lambda session, is_leader: Offered(session, store, install_file, names, scratch, is_leader)

    async def arrived(self, message: Arrival) -> None:
        """Take a message, once there is room for it."""
        await self._arrivals_in.send(message)

    async def run(self) -> None:
        """Answer offers, for ever."""
        async for message in self._arrivals:
            match message:
                case wire.ForkOffer():
                    await self._session.send(await self._take_fork(message))
                case wire.File():
                    await self._session.send(await self._take_file(message))
                case other:
                    raise Malformed(Reason.BAD_SEQUENCE, f"{type(other).__name__} of no offer")

    async def _take_fork(self, offer: wire.ForkOffer) -> wire.ForkAccepted | wire.Declined:
        if offer.position in self._store.forks:
            return wire.ForkAccepted(offer.position)
        if self._scratch is None:
            return wire.Declined("no room for forks here")
        staged = self._scratch / f"fork-{next(_numbers)}.coming"
        try:
            await self._stage(staged, offer.length, None)
            await self._store.add_fork(offer.position, staged)
        except (JournalRefused, OSError) as error:
            log.warning("stream.fork-not-kept", position=str(offer.position), reason=str(error))
            return wire.Declined(_short(error))
        finally:
            await trio.to_thread.run_sync(disk.remove, staged)
        return wire.ForkAccepted(offer.position)

    async def _take_file(self, offer: wire.File) -> wire.FileAccepted | wire.Declined:
        accepted = wire.FileAccepted(offer.name, offer.sha256)
        if offer.name not in self._files:
            log.warning("stream.file-unwanted", name=offer.name)
            return wire.Declined("this file is not replicated here: 'replicate file' names it on every node or none")
        if self._scratch is None:
            return wire.Declined("no room for files here")
        if await trio.to_thread.run_sync(_holds, offer):
            return accepted
        staged = self._scratch / f"file-{next(_numbers)}.coming"
        try:
            await self._stage(staged, offer.length, offer.sha256)
            await trio.to_thread.run_sync(os.chmod, staged, offer.mode)
            await self._install_file(offer.name, staged)
        except OSError as error:
            log.warning("stream.file-not-installed", name=offer.name, reason=str(error))
            return wire.Declined(_short(error))
        finally:
            await trio.to_thread.run_sync(disk.remove, staged)
        log.info("stream.file-installed", name=offer.name, bytes=offer.length)
        return accepted

    async def _stage(self, staged: Path, length: int, expected: bytes | None) -> None:
        """Bring what was offered to `staged`.

        Raises:
            Refusing: it is not what was announced.
            OSError: the disk would not.
        """
        digest, left = hashlib.sha256(), length
        descriptor = await trio.to_thread.run_sync(disk.create, staged)
        try:
            await self._session.send(wire.Proceed())
            while True:  # ends with Done, or an exception
                match await self._arrivals.receive():
                    case wire.Chunk(of=Transfer.OFFER, data=data) if len(data) <= left:
                        left -= len(data)
                        digest.update(data)
                        await trio.to_thread.run_sync(disk.write_all, descriptor, data)
                    case wire.Chunk():
                        raise Refusing(Refusal.TOO_LONG, f"more than the {length} bytes announced")
                    case wire.Done(sha256=sha256):
                        break
                    case other:
                        raise Malformed(Reason.BAD_SEQUENCE, f"{type(other).__name__} instead of a Chunk")
        finally:
            os.close(descriptor)
        if left:
            raise Refusing(Refusal.TOO_SHORT, f"{length - left} of {length} bytes")
        if not hmac.compare_digest(digest.digest(), expected or sha256) or digest.digest() != sha256:
            raise Refusing(Refusal.BAD_CHECKSUM, "an offer")
        if not self._is_leader():  # the next leader may be this node: its files are its own
            raise Refusing(Refusal.NOT_LEADER)


def _holds(offer: wire.File) -> bool:
    """Whether the file with that content is in its place already."""
    try:
        with disk.opened(Path(offer.name)) as descriptor:
            if os.fstat(descriptor).st_size != offer.length:
                return False
            digest = hashlib.sha256()
            for piece in disk.pieces(descriptor):
                digest.update(piece)
            return digest.digest() == offer.sha256
    except OSError:
        return False


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[: wire.REASON_BYTES_MAX // 4]

"""Clients that go on for as long as they can, and tell what they have seen. Each says only bytes that no other says."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import trio

from tests.ways.composed import Pool

BLOCK_BYTES = 64
EVERY_S = 0.01


class Talk:
    """One client's connection to an echo server: who served it, whether every byte was its own, and how it ended."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.server = ""
        self.rounds = 0
        self.wrong = b""  # the first bytes that were not its own
        self.ended: str | None = None
        self.ended_s = 0.0
        self.met = trio.Event()

    def block(self) -> bytes:
        return b"".join(
            self.number.to_bytes(2, "big") + self.rounds.to_bytes(2, "big") for _ in range(BLOCK_BYTES // 4)
        )

    async def run(self, pool: Pool, *, silent: bool = False) -> None:
        """Talk until it ends; a silent one says one thing, and listens."""
        async with await pool.connect() as stream:
            try:
                await self._meet(stream)
                while not silent:
                    await self._exchange(stream)
                    await trio.sleep(EVERY_S)
                self._ends("end", self.wrong or await stream.receive_some())
            except trio.BrokenResourceError:
                self._ends("reset", b"")
            except EOFError:
                self._ends("end", b"")

    def _ends(self, how: str, heard: bytes) -> None:
        self.ended, self.ended_s = how, time.monotonic()
        self.wrong = self.wrong or heard

    async def _meet(self, stream: trio.SocketStream) -> None:
        said = self.block()
        await stream.send_all(said)
        greeting = b""
        while not greeting.endswith(b"\n"):
            greeting += await _exactly(stream, 1)
        self.server = greeting.decode().split()[0]
        await self._hear(stream, said)
        self.met.set()

    async def _exchange(self, stream: trio.SocketStream) -> None:
        self.rounds += 1
        said = self.block()
        await stream.send_all(said)
        await self._hear(stream, said)

    async def _hear(self, stream: trio.SocketStream, said: bytes) -> None:
        heard = await _exactly(stream, len(said))
        if heard != said:
            self.wrong = self.wrong or heard

    async def has_ended(self) -> None:
        """Return when it is over."""
        while self.ended is None:  # noqa: ASYNC110 (polled, as the others)
            await trio.sleep(EVERY_S)


async def all_go_on(talks: Sequence[Talk]) -> None:
    """Return when each of them has asked and been answered once more."""
    last = [talk.rounds for talk in talks]
    for talk, before in zip(talks, last, strict=True):
        while talk.rounds < before + 2:
            assert talk.ended is None, f"ended by {talk.ended}"
            await trio.sleep(EVERY_S)


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    heard = b""
    while len(heard) < count:
        chunk = await stream.receive_some(count - len(heard))
        if not chunk:
            raise EOFError
        heard += chunk
    return heard


async def ask(pool: Pool) -> str:
    """Ask once on a connection of its own: who answers?"""
    async with await pool.connect() as stream:
        await stream.send_all(b"?")
        return (await stream.receive_some()).decode().split()[0]


async def who_hears(sock: Any, said: bytes, every_s: float = 0.1) -> str:
    """Say something by datagrams until somebody answers exactly that."""
    while True:
        await sock.send(said)
        with trio.move_on_after(every_s):
            while True:
                greeting, _, heard = (await sock.recv(65_536)).partition(b"\n")
                if heard == said:
                    return greeting.decode().split()[0]


async def served_by(pool: Pool, name: str) -> float:
    """Ask on new connections until that server answers; return when."""
    while True:
        with contextlib.suppress(trio.BrokenResourceError, ConnectionError, IndexError):
            if await ask(pool) == name:
                return time.monotonic()
        await trio.sleep(0.001)

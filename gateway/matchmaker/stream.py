"""Stream: one sealed connection between a leader and a standby, as both ends use it.

Rule: each wait for the other side has a deadline, and silence ends the connection: who lives says so once a second.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from gateway.wire import channel as sealed
from gateway.wire.channel import Channel, Side
from gateway.wire.errors import Malformed
from gateway.wire.seal import Keyring
from gateway.wire.stream import Keepalive, Message
from gateway.wire.stream_codec import stream_channel

HANDSHAKE_MS: Final = 2_000  # a hung receiver's kernel accepts; nothing answers
KEEPALIVE_MS: Final = 1_000
SILENCE_MS: Final = 3_000  # three times nothing, not even that: the other side is dead, hung or cut off
STALL_MS: Final = 3_000  # one frame, 64 KiB at most, into the socket
RECEIVE_BYTES: Final = 256 * 1024  # what has come meanwhile is taken at once: one fsync for many records

_GOODBYE_MS: Final = 500  # for the last frame of a connection

# Serves a connection, given what has been read of it already. Must let no trouble of the connection out.
Handler = Callable[[trio.SocketStream, bytes], Awaitable[None]]


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is sealed with, and who may speak. `nonce_source` gives 32 random bytes a call."""

    cluster: str
    keyring: Keyring
    me: str
    peers: frozenset[str]
    nonce_source: Callable[[], bytes] = lambda: os.urandom(sealed.NONCE_BYTES)


class Lost(Exception):  # noqa: N818
    """The connection is of no more use; says why."""


# What a connection may end with, and neither side's other work may notice.
ENDINGS: Final = (Lost, Malformed, OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


def reason_of(ending: BaseException) -> str:
    """Say why a connection ended."""
    return "no answer in time" if isinstance(ending, trio.TooSlowError) else str(ending) or type(ending).__name__


class Session:
    """One connection with its channel: whole messages out, whole messages in."""

    def __init__(self, stream: trio.SocketStream, channel: Channel[Message]) -> None:
        self._stream = stream
        self._channel = channel
        self._sending = trio.Lock()  # fair: a record passes between two chunks of a file
        self._spoke_s = trio.current_time()

    async def send(self, message: Message, stall_ms: int = STALL_MS) -> None:
        """Send one message. A send that is cancelled is the last one of a connection."""
        async with self._sending:
            with trio.fail_after(stall_ms / 1000):
                await self._stream.send_all(self._channel.seal(message))
            self._spoke_s = trio.current_time()

    async def receive(self) -> list[Message]:
        """Return what has come, at least one message, at most `RECEIVE_BYTES` of them.

        Raises:
            Lost: closed by the other side, or silent for three seconds.
            Malformed: what came is not to be believed.
        """
        while True:  # ends with a message, or an exception
            with trio.move_on_after(SILENCE_MS / 1000) as silence:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            if silence.cancelled_caught:
                raise Lost(f"silent for {SILENCE_MS / 1000:g} s")
            if not data:
                raise Lost("closed by the other side")
            if messages := list(self._channel.receive_untrusted(data)):
                return messages

    async def keep_alive(self) -> None:
        """Say that this side lives, whenever it has said nothing else for a second; until the connection fails."""
        while True:  # ends with the connection
            quiet_s = trio.current_time() - self._spoke_s
            if quiet_s >= KEEPALIVE_MS / 1000:
                await self.send(Keepalive())
            else:
                await trio.sleep(KEEPALIVE_MS / 1000 - quiet_s)

    async def say_goodbye(self, message: Message) -> None:
        """Send a last message, if the other side still takes it."""
        with trio.move_on_after(_GOODBYE_MS / 1000):
            await self.send(message)


async def together(*works: Callable[[], Awaitable[None]]) -> None:
    """Run the works of one connection until the first of them ends; raise what it ended with.

    Raises:
        Lost, Malformed, ...: one of `ENDINGS`; what else escapes is a fault of ours, and escapes.
    """
    endings: list[BaseException] = []

    async def run(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except ENDINGS as ending:
            endings.append(ending)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(run, work)
    raise endings[0] if endings else Lost("ended")


async def call(stream: trio.SocketStream, material: Material) -> Session:
    """Open a session as its sender."""
    opened = sealed.opening(material.keyring, material.cluster, material.nonce_source())
    await stream.send_all(opened)
    answered = await receive_exactly(stream, sealed.ANSWERING_BYTES)
    return Session(stream, stream_channel(material.keyring, material.cluster, Side.SENDER, opened, answered))


async def answer(stream: trio.SocketStream, material: Material, began: bytes = b"") -> Session:
    """Open a session as its receiver. `began`: the first bytes of the connection, where they have been read already."""
    opened = await receive_exactly(stream, sealed.OPENING_BYTES, began)
    answered = sealed.answering(material.nonce_source())
    channel = stream_channel(material.keyring, material.cluster, Side.RECEIVER, opened, answered)
    await stream.send_all(answered)
    return Session(stream, channel)


async def receive_exactly(stream: trio.SocketStream, count: int, began: bytes = b"") -> bytes:
    """Return the first `count` bytes of a connection, of which `began` have been read already.

    Raises:
        Lost: closed by the other side before.
    """
    data = began
    while len(data) < count:  # ends with enough, or the connection
        more = await stream.receive_some(count - len(data))
        if not more:
            raise Lost("closed by the other side")
        data += more
    return data

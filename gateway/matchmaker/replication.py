"""Replication: the leader ships each change of the accounting file to every standby, which keeps it on its disk.

Rule: a standby that is dead, hung or cut off costs the others nothing: one task and one connection each, a deadline on
each wait for the network, and no queue: what is sent is always the newest.
"""

import os
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import structlog
import trio

from gateway.config.settings import Endpoint, Peer
from gateway.matchmaker.spool import ReplicaCorrupt, ReplicaStale, ReplicaStore
from gateway.wire import replica as wire
from gateway.wire.errors import Malformed, Reason
from gateway.wire.replica import Channel, Frame, Refusal, Replica, Side
from gateway.wire.seal import Keyring

CONNECT_MS: Final = 1_000  # one lost SYN is sent again within it
HANDSHAKE_MS: Final = 2_000  # a hung receiver's kernel accepts; nothing answers
STALL_MS: Final = 3_000  # one frame, 64 KiB at most, in either direction
TRANSFER_MS: Final = 60_000  # a whole file of 64 MiB at 10 Mbit/s
STORE_MS: Final = 10_000  # fsync of a whole file on a busy disk
BACKOFF_MS_MIN: Final = 50
BACKOFF_MS_MAX: Final = 500  # a standby that is back has the newest replica within a second
CONNECTIONS_MAX: Final = 64  # at once, strangers included; each of those is closed after HANDSHAKE_MS
RECEIVE_BYTES: Final = 64 * 1024

log = structlog.get_logger()


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is sealed with, and who may speak. `nonce_source` gives 32 random bytes a call."""

    cluster: str
    keyring: Keyring
    me: str
    peers: frozenset[str]
    nonce_source: Callable[[], bytes] = lambda: os.urandom(wire.NONCE_BYTES)


class Shipped(msgspec.Struct, frozen=True, kw_only=True):
    """A replica is on a standby's disk. `lag_ms`: since it was published here, or the standby came within reach."""

    standby: str
    term: int
    generation: int
    lag_ms: int


class Newest:
    """The newest replica of the leader, for any number of `ship` tasks. What nobody fetched in time is skipped."""

    def __init__(self) -> None:
        self.replica: Replica | None = None
        self._published_s = 0.0
        self._event = trio.Event()

    def publish(self, replica: Replica) -> None:
        """Replace the newest; its version must be greater."""
        assert self.replica is None or self.replica.version < replica.version, "a replica may not go back"
        self.replica = replica
        self._published_s = trio.current_time()
        event, self._event = self._event, trio.Event()
        event.set()

    async def after(self, version: tuple[int, int]) -> tuple[Replica, float]:
        """Wait for a replica newer than `version`; return it, and when it was published (trio's clock)."""
        while self.replica is None or self.replica.version <= version:  # ends with a publication
            await self._event.wait()
        return self.replica, self._published_s


class _Lost(Exception):  # noqa: N818
    """The connection is of no more use; says why."""


# What a connection may end with, and neither side's other work may notice.
_ENDINGS: Final = (_Lost, Malformed, OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


class _Session:
    """One connection with its channel: whole messages out, whole messages in."""

    def __init__(self, stream: trio.SocketStream, channel: Channel) -> None:
        self._stream = stream
        self._channel = channel
        self._ready: Iterator[Frame] = iter(())

    async def send(self, message: Frame) -> None:
        with trio.fail_after(STALL_MS / 1000):
            await self._stream.send_all(self._channel.seal(message))

    async def receive(self) -> Frame:
        """Return the next message. Without a deadline of its own: the caller knows what it waits for."""
        while True:  # ends with a message, or an exception
            for message in self._ready:
                return message
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                raise _Lost("closed by the other side")
            self._ready = self._channel.receive_untrusted(data)


async def serve(
    endpoint: Endpoint,
    material: Material,
    store: ReplicaStore,
    *,
    accept: Callable[[str, int], bool],
    on_stored: Callable[[Replica], None],
    task_status: trio.TaskStatus[Endpoint] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Take replicas from the leader at `endpoint` (TCP), for ever. `store` must be loaded.

    Args:
        endpoint: where to listen: the node's own peer endpoint; port 0 chooses one.
        material: keys and names.
        store: where replicas are kept.
        accept: whether that node is the leader of that term, as far as this node knows. Must not block.
        on_stored: told of each replica once it is on the disk. Must not block.
        task_status: started with the endpoint once it listens.

    Raises:
        OSError: the endpoint can't be listened on.
    """
    receiver = _Receiver(material, store, accept, on_stored)
    listeners = await trio.open_tcp_listeners(endpoint.port, host=endpoint.host)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, receiver.handle, listeners)
        task_status.started(Endpoint(endpoint.host, port))


class _Receiver:
    """The standby's end: one session for each sender."""

    def __init__(
        self,
        material: Material,
        store: ReplicaStore,
        accept: Callable[[str, int], bool],
        on_stored: Callable[[Replica], None],
    ) -> None:
        self._material = material
        self._store = store
        self._accept = accept
        self._on_stored = on_stored
        self._connections = 0
        self._sessions: dict[str, trio.CancelScope] = {}

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection, and never let its troubles out."""
        if self._connections >= CONNECTIONS_MAX:
            log.warning("replication.full", connections=self._connections)
            await trio.aclose_forcefully(stream)
            return
        self._connections += 1
        sender = ""
        try:
            with trio.fail_after(HANDSHAKE_MS / 1000):
                sender, session = await self._greet(stream)
            await self._run(sender, session)
        except _ENDINGS as ending:
            log.info("replication.ended", sender=sender, reason=str(ending) or type(ending).__name__)
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _greet(self, stream: trio.SocketStream) -> tuple[str, _Session]:
        opened = await _receive_exactly(stream, wire.OPENING_BYTES)
        answered = wire.answering(self._material.nonce_source())
        channel = Channel(self._material.keyring, self._material.cluster, Side.RECEIVER, opened, answered)
        await stream.send_all(answered)
        session = _Session(stream, channel)
        match await session.receive():
            case wire.Hello(sender=sender, receiver=receiver) if receiver == self._material.me:
                if sender not in self._material.peers or sender == self._material.me:
                    raise Malformed(Reason.UNKNOWN_PEER, repr(sender))
            case other:
                raise Malformed(Reason.BAD_SEQUENCE, f"{type(other).__name__} before a Hello to me")
        await session.send(wire.Welcome(*self._held_version()))
        return sender, session

    async def _run(self, sender: str, session: _Session) -> None:
        # A sender that connects again has given up its former connection, whatever that looks like from here.
        if (former := self._sessions.get(sender)) is not None:
            former.cancel()
        with trio.CancelScope() as scope:
            self._sessions[sender] = scope
            try:
                while True:  # ends with the connection, or a refusal
                    # No deadline: nothing may change for hours. It costs one idle connection a sender.
                    await self._take(sender, session, await session.receive())
            finally:
                if self._sessions.get(sender) is scope:
                    del self._sessions[sender]

    async def _take(self, sender: str, session: _Session, snapshot: Frame) -> None:
        """Take one offer and answer it. Raises `_Lost` after a refusal."""
        if not isinstance(snapshot, wire.Snapshot):
            raise Malformed(Reason.BAD_SEQUENCE, f"{type(snapshot).__name__} instead of a Snapshot")
        version = (snapshot.term, snapshot.generation)
        held = self._store.held
        if held is not None and held.version == version and held.sha256 == snapshot.sha256:
            await session.send(wire.Accepted(*version))
            return
        if held is not None and held.version >= version:
            await self._refuse(session, Refusal.STALE)
        if not self._accept(sender, snapshot.term):
            await self._refuse(session, Refusal.NOT_LEADER)
        await session.send(wire.Proceed())
        with trio.fail_after(TRANSFER_MS / 1000):
            replica = await _assemble(session, snapshot)
        if not self._accept(sender, snapshot.term):  # an election may have passed meanwhile
            await self._refuse(session, Refusal.NOT_LEADER)
        await self._keep(session, replica)

    async def _keep(self, session: _Session, replica: Replica) -> None:
        try:
            await self._store.put(replica)
        except ReplicaStale:
            await self._refuse(session, Refusal.STALE)
        except (ReplicaCorrupt, OSError) as error:
            log.error("replication.not-stored", term=replica.term, generation=replica.generation, reason=str(error))
            await self._refuse(session, Refusal.NOT_STORED)
        self._on_stored(replica)
        await session.send(wire.Accepted(replica.term, replica.generation))

    async def _refuse(self, session: _Session, reason: Refusal) -> None:
        await session.send(wire.Refused(reason, *self._held_version()))
        raise _Lost(f"refused: {reason}")

    def _held_version(self) -> tuple[int, int]:
        return (0, 0) if self._store.held is None else self._store.held.version


async def _assemble(session: _Session, snapshot: wire.Snapshot) -> Replica:
    assembly = wire.Assembly(snapshot)
    while True:  # ends with Done, or an exception
        with trio.fail_after(STALL_MS / 1000):
            message = await session.receive()
        match message:
            case wire.Chunk():
                assembly.add_untrusted(message)
            case wire.Done():
                return assembly.finish_untrusted()
            case _:
                raise Malformed(Reason.BAD_SEQUENCE, f"{type(message).__name__} instead of a Chunk")


async def ship(standby: Peer, material: Material, newest: Newest, *, report: Callable[[Shipped], None]) -> None:
    """Keep `standby` supplied with the newest replica, for ever.

    Connects again whenever the connection fails, after 50 ms and up to 500 ms; a refusal counts as a failure, for a
    standby that has not heard of the election yet will soon. `report` is told of each replica on the standby's disk,
    and must not block.
    """
    backoff_ms = BACKOFF_MS_MIN
    complaint = ""
    while True:  # ends with the leadership: its nursery is cancelled
        supplier = _Supplier(standby, material, newest, report)
        try:
            await supplier.run()
        except _ENDINGS as ending:
            reason = str(ending) or "no answer in time"
        if supplier.shipped:
            backoff_ms, complaint = BACKOFF_MS_MIN, ""
        if reason != complaint:  # once, not twice a second
            log.warning("replication.lost", standby=standby.name, reason=reason)
            complaint = reason
        await trio.sleep(backoff_ms / 1000)
        backoff_ms = min(2 * backoff_ms, BACKOFF_MS_MAX)


class _Supplier:
    """The leader's end of one connection."""

    def __init__(self, standby: Peer, material: Material, newest: Newest, report: Callable[[Shipped], None]) -> None:
        self._standby = standby
        self._material = material
        self._newest = newest
        self._report = report
        self.shipped = False  # anything on this connection

    async def run(self) -> None:
        """Supply over one connection until it fails. Always ends with one of `_ENDINGS`."""
        endpoint = self._standby.endpoint
        with trio.fail_after(CONNECT_MS / 1000):
            stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        try:
            with trio.fail_after(HANDSHAKE_MS / 1000):
                session = await self._greet(stream)
            greeted_s = trio.current_time()
            version = (0, 0)
            while True:  # ends with the connection
                replica, published_s = await self._newest.after(version)
                await self._supply(session, replica)
                version = replica.version
                self.shipped = True
                lag_ms = round((trio.current_time() - max(published_s, greeted_s)) * 1000)
                name = self._standby.name
                self._report(Shipped(standby=name, term=version[0], generation=version[1], lag_ms=lag_ms))
        finally:
            await trio.aclose_forcefully(stream)

    async def _greet(self, stream: trio.SocketStream) -> _Session:
        material = self._material
        opened = wire.opening(material.keyring, material.cluster, material.nonce_source())
        await stream.send_all(opened)
        answered = await _receive_exactly(stream, wire.ANSWERING_BYTES)
        session = _Session(stream, Channel(material.keyring, material.cluster, Side.SENDER, opened, answered))
        await session.send(wire.Hello(material.me, self._standby.name))
        match await session.receive():
            case wire.Welcome():
                return session
            case other:
                raise Malformed(Reason.BAD_SEQUENCE, f"{type(other).__name__} instead of a Welcome")

    async def _supply(self, session: _Session, replica: Replica) -> None:
        """Ship one replica; return once it is on the standby's disk."""
        await session.send(wire.offer(replica))
        with trio.fail_after(STALL_MS / 1000):
            answer = await session.receive()
        if isinstance(answer, wire.Proceed):
            for message in wire.body(replica):
                await session.send(message)
            with trio.fail_after(STORE_MS / 1000):
                answer = await session.receive()
        match answer:
            case wire.Accepted(term=term, generation=generation) if (term, generation) == replica.version:
                return
            case wire.Refused(reason=reason, held_term=held_term):
                raise _Lost(f"refused: {reason} (it holds term {held_term}, ours is {replica.term})")
            case other:
                raise Malformed(Reason.BAD_SEQUENCE, f"{type(other).__name__} instead of an answer to a Snapshot")


async def _receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:  # ends with enough, or the connection
        more = await stream.receive_some(count - len(data))
        if not more:
            raise _Lost("closed by the other side")
        data += more
    return data

"""Receive: the standby's end of the stream.

Rule: nobody but the leader of now changes what is held; what is acknowledged is on the disk. A peer that lies is
refused by name, is counted, and has changed nothing.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import structlog
import trio

from gateway.core.timeline import Timeline
from gateway.matchmaker.intake import Intake, Refusing, stored
from gateway.matchmaker.journal import Store
from gateway.matchmaker.offered import Offered
from gateway.matchmaker.sendings import Sendings
from gateway.matchmaker.stream import ENDINGS, HANDSHAKE_MS, Handler, Material, Session, answer, reason_of, together
from gateway.wire import stream as wire
from gateway.wire.errors import Malformed, Reason
from gateway.wire.stream import Refusal, Transfer

log = structlog.get_logger()


def receiver(
    material: Material,
    store: Store,
    *,
    accept: Callable[[str, int], bool],
    changed: Callable[[], None],
    install_file: Callable[[str, Path], Awaitable[None]],
    files: Collection[str] = (),
    scratch: Path | None = None,
    refused: Counter[str] | None = None,
    changing: trio.Lock | None = None,
) -> Handler:
    """Return what takes the leader's stream from a connection until it ends. `store` must be loaded.

    Args:
        material: keys and names.
        store: where the state is kept.
        accept: whether that node is the leader of that term, as far as this node knows. Must not block.
        changed: called when the store holds more, after it is on the disk. Must not block.
        install_file: puts a replicated file (its absolute path, as configured) in its place from a whole copy in
            `scratch`, whose permission bits are the leader's. An `OSError` of it is told to the leader.
        files: absolute paths that are replicated; no other is ever taken.
        scratch: a folder for what is on its way; without it no file or fork is taken.
        refused: counts refusals by name.
        changing: held while the store is changed by more than one step; whoever takes over waits for it.
    """
    taker = Offered.settings(store, install_file, files, scratch)
    return _Receiver(
        material,
        store,
        accept,
        changed,
        taker,
        Counter() if refused is None else refused,
        trio.Lock() if changing is None else changing,
    ).handle


class _Receiver:
    """All connections to one standby."""

    def __init__(
        self,
        material: Material,
        store: Store,
        accept: Callable[[str, int], bool],
        changed: Callable[[], None],
        offered: Callable[[Session, Callable[[], bool]], Offered],
        refused: Counter[str],
        changing: trio.Lock,
    ) -> None:
        self._material = material
        self._store = store
        self._accept = accept
        self._changed = changed
        self._offered = offered
        self._refused = refused
        self._served: trio.CancelScope | None = None  # there is one leader
        self._changing = changing

    async def handle(self, stream: trio.SocketStream, began: bytes) -> None:
        """Serve one connection, and never let its troubles out. `began`: what has been read of it."""
        visitor = _Visitor()
        try:
            await self._serve(stream, began, visitor)
        except ENDINGS as ending:
            await self._end(visitor, ending)

    async def _end(self, visitor: "_Visitor", ending: BaseException) -> None:
        if isinstance(ending, Refusing):
            if not ending.counted:
                self._refused[ending.reason] += 1
            if visitor.session is not None:
                await visitor.session.say_goodbye(wire.Refused(ending.reason, self._store.held.timeline.head))
        elif isinstance(ending, Malformed):
            self._refused[str(ending.reason)] += 1
        log.info("stream.ended", sender=visitor.name, reason=reason_of(ending))

    async def _serve(self, stream: trio.SocketStream, began: bytes, visitor: "_Visitor") -> None:
        with trio.fail_after(HANDSHAKE_MS / 1000):
            session = await answer(stream, self._material, began)
            hello, more = await self._hear(session)
        visitor.session, visitor.name = session, hello.sender
        term = hello.timeline.head.term
        if not self._accept(hello.sender, term):
            raise Refusing(Refusal.NOT_LEADER)
        # Who leads and connects again has given up its former connection, and who led before has nothing to say.
        if self._served is not None:
            self._served.cancel()
        with trio.CancelScope() as self._served:
            await session.send(await self._make_way(hello.timeline))

            def is_leader() -> bool:
                return self._accept(hello.sender, term)

            intake = Intake(session, self._store, self._changing, term=term, is_leader=is_leader, changed=self._changed)
            offered, sendings = self._offered(session, is_leader), Sendings(session, self._store)
            try:
                await _Visit(session, intake, offered, sendings).run(more)
            finally:
                await intake.close()

    async def _hear(self, session: Session) -> tuple[wire.Hello, list[wire.Message]]:
        first, *more = await session.receive()
        if not isinstance(first, wire.Hello) or first.receiver != self._material.me:
            raise Malformed(Reason.BAD_SEQUENCE, f"{type(first).__name__} before a Hello to me")
        if first.sender not in self._material.peers or first.sender == self._material.me:
            raise Malformed(Reason.UNKNOWN_PEER, repr(first.sender))
        return first, more

    async def _make_way(self, leaders: Timeline) -> wire.Welcome:
        """Keep apart what is not in the leader's history; return what is held then."""
        async with self._changing:
            held = self._store.held.timeline
            if leaders.head.term == held.head.term and leaders.head < held.head:
                leaders = leaders.at(held.head)  # it has not read its own file yet; what it wrote is its own
            await stored(lambda: self._store.make_way(leaders))
            await stored(lambda: self._store.prune_forks(leaders))
        held_now = self._store.held
        return wire.Welcome(
            held_now.timeline,
            held_now.records,
            tuple(pending.timeline for pending in self._store.pending[: -wire.PENDING_MAX - 1 : -1]),  # newest first
            self._store.forks[-wire.FORKS_TOLD_MAX :],
        )


class _Visitor:
    """Who is at the other end, as far as it is known."""

    name = ""
    session: Session | None = None


class _Visit:
    """One connection of the leader, once it is welcome."""

    def __init__(self, session: Session, intake: Intake, offered: Offered, sendings: Sendings) -> None:
        self._session = session
        self._intake = intake
        self._offered = offered
        self._sendings = sendings

    async def run(self, first: list[wire.Message]) -> None:
        """Serve until the connection ends. Always raises one of `ENDINGS`."""
        await self._take(first)
        await together(self._listen, self._offered.run, self._sendings.run, self._session.keep_alive)

    async def _listen(self) -> None:
        while True:  # ends with the connection
            await self._take(await self._session.receive())

    async def _take(self, messages: list[wire.Message]) -> None:
        for message in messages:
            match message:
                case wire.Append() | wire.Snapshot() | wire.Retell():
                    await self._intake.take(message)
                case wire.Chunk(of=Transfer.SNAPSHOT) | wire.Done(of=Transfer.SNAPSHOT):
                    await self._intake.take(message)
                case wire.ForkOffer() | wire.File():
                    await self._offered.arrived(message)
                case wire.Chunk(of=Transfer.OFFER) | wire.Done(of=Transfer.OFFER):
                    await self._offered.arrived(message)
                case wire.Fetch():
                    self._sendings.asked(message)
                case wire.Keepalive():
                    pass
                case other:
                    raise Malformed(Reason.BAD_SEQUENCE, f"a leader does not say {type(other).__name__}")
        await self._intake.flush()

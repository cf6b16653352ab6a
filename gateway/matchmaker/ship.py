"""Ship: the leader's end of the stream to one standby.

Rule: a standby that is dead, hung, slow or cut off costs the others nothing: one task and one connection each, a bound
on what is under way, no queue: what is sent next is read from the file when there is room for it.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import structlog
import trio

from gateway.config.settings import Peer
from gateway.core.timeline import NOWHERE, Position, Timeline, same_file
from gateway.matchmaker.delivery import Delivery
from gateway.matchmaker.feed import Feed
from gateway.matchmaker.fetches import Fetches, Histories, Keeper
from gateway.matchmaker.offers import Offers
from gateway.matchmaker.stream import ENDINGS, HANDSHAKE_MS, Lost, Material, Session, call, reason_of, together
from gateway.wire import stream as wire
from gateway.wire.errors import Malformed, Reason

CONNECT_MS: Final = 1_000  # one lost SYN is sent again within it
BACKOFF_MS_MIN: Final = 50
BACKOFF_MS_MAX: Final = 500  # a standby that is back is supplied within a second
log = structlog.get_logger()


class Shipped(msgspec.Struct, frozen=True, kw_only=True):
    """How far one standby is. Counters are of this leadership.

    Attributes:
        position: on its disk.
        timeline: the history that was told with it, or after it; of the head only the file counts.
        records: how many records those are.
        lag_ms: age of the oldest byte that is not on its disk; 0 when all are.
        lag_records: how many records are not on its disk.
        connected: it is being supplied.
        reason: why it is not.
        files_behind: replicated files of which it has not the newest version.
    """

    standby: str
    position: Position = NOWHERE
    timeline: Timeline = Timeline()
    records: int = 0
    lag_ms: int = 0
    lag_records: int = 0
    connected: bool = False
    reason: str = ""
    files_behind: int = 0
    connections_total: int = 0
    snapshots_total: int = 0
    appends_total: int = 0
    bytes_total: int = 0
    fetched_total: int = 0


async def ship(
    standby: Peer,
    material: Material,
    feed: Feed,
    store: Keeper,
    *,
    report: Callable[[Shipped], None],
    histories: Histories,
) -> None:
    """Keep `standby` supplied with all that `feed` has, for ever.

    Connects again whenever the connection fails, after 50 ms and up to 500 ms; a refusal counts as a failure, for a
    standby that has not heard of the election yet will soon.

    Args:
        standby: where it is.
        material: keys and names.
        feed: shared by the tasks of all standbys.
        store: the leader's own; for the contents at forks.
        report: told of each acknowledgement, of each change of the connection, and once a second of a lag. Must not
            block.
        histories: what becomes of histories that the standby has and no leader.
    """
    supplier = _Supplier(standby, material, feed, store, report, histories)
    backoff_ms, complaint = BACKOFF_MS_MIN, ""
    while True:  # ends with the leadership: its nursery is cancelled
        accepted = supplier.accepted
        try:
            await supplier.run()
        except ENDINGS as ending:
            reason = reason_of(ending)
        if supplier.accepted > accepted:
            backoff_ms, complaint = BACKOFF_MS_MIN, ""
        if reason != complaint:  # once, not twice a second
            log.warning("stream.lost", standby=standby.name, reason=reason)
            complaint = reason
        supplier.tell(reason)
        await trio.sleep(backoff_ms / 1000)
        backoff_ms = min(2 * backoff_ms, BACKOFF_MS_MAX)


class _Supplier:
    """All connections to one standby, one after the other: what outlives them is what is known of it."""

    def __init__(
        self,
        standby: Peer,
        material: Material,
        feed: Feed,
        store: Keeper,
        report: Callable[[Shipped], None],
        histories: Histories,
    ) -> None:
        self._standby = standby
        self._material = material
        self._feed = feed
        self._store = store
        self._report = report
        self._histories = histories
        self._shipped = Shipped(standby=standby.name)
        self._files: dict[str, bytes] = {}  # checksums of what the standby is known to have
        self._behind_since_s: float | None = None
        self.accepted = 0  # acknowledgements, ever

    async def run(self) -> None:
        """Supply over one connection until it fails. Always ends with one of `ENDINGS`."""
        endpoint, name = self._standby.endpoint, self._standby.name
        with trio.fail_after(CONNECT_MS / 1000):
            stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        try:
            with trio.fail_after(HANDSHAKE_MS / 1000):
                session = await call(stream, self._material)
                welcome = await self._greet(session)
            self.count(connections_total=1)
            self.took(welcome.held.head, welcome.records)
            offers = Offers(session, name, self._feed, self._store, welcome, self._files)
            fetches = Fetches(session, name, self._feed, self._store, self._histories, welcome, self.count)
            with Delivery(session, name, self._feed, welcome, offers, fetches, self) as delivery:
                await together(
                    delivery.supply, delivery.listen, delivery.watch, session.keep_alive, offers.run, fetches.run
                )
        finally:
            await trio.aclose_forcefully(stream)

    async def _greet(self, session: Session) -> wire.Welcome:
        await session.send(wire.Hello(self._material.me, self._standby.name, self._feed.timeline))
        match (await session.receive())[0]:
            case wire.Welcome() as welcome:
                return welcome
            case wire.Refused(reason=reason, held=held):
                raise Lost(f"refused: {reason} (it holds {held})")
            case other:
                raise Malformed(Reason.BAD_SEQUENCE, f"{type(other).__name__} instead of a Welcome")

    def took(self, position: Position, records: int) -> None:
        """Take what is on the standby's disk now, and report."""
        self._shipped = msgspec.structs.replace(self._shipped, position=position, records=records)
        self.tell("")

    def knows(self, timeline: Timeline) -> None:
        """Take which history the standby has on its disk; the next report tells."""
        self._shipped = msgspec.structs.replace(self._shipped, timeline=timeline)

    def count(self, **added: int) -> None:
        """Add to counters; the next report tells them."""
        totals = {name: getattr(self._shipped, name) + more for name, more in added.items()}
        self._shipped = msgspec.structs.replace(self._shipped, **totals)

    def tell(self, reason: str) -> None:
        """Report. `reason`: why the connection is lost; "" where it is not."""
        position, feed = self._shipped.position, self._feed
        lag_ms = 0
        if position == feed.timeline.head:
            self._behind_since_s = None
        else:
            self._behind_since_s = self._since_s(position)
            lag_ms = max(0, round((trio.current_time() - self._behind_since_s) * 1000))
        behind = sum(self._files.get(name) != version.sha256 for name, version in feed.files.items())
        known = self._shipped.records if same_file(position, feed.timeline.head) else 0
        self._shipped = msgspec.structs.replace(
            self._shipped,
            lag_ms=lag_ms,
            lag_records=max(0, feed.records - known),
            connected=not reason,
            reason=reason,
            files_behind=behind,
        )
        self._report(self._shipped)

    def _since_s(self, position: Position) -> float:
        """Return since when the standby lacks something."""
        source = self._feed.source
        if source is not None and same_file(position, source.timeline.head):
            return source.seen_s(position.offset)
        if self._behind_since_s is not None:
            return self._behind_since_s
        return trio.current_time() if source is None else source.opened_s

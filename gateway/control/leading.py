"""What an elected manager does with its accounting: stream it to the standbys, and merge the histories that come back.

Rule: nobody hears of a generation, or of a merged history, before it is on this host's disk that it is so.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog
import trio

from gateway.config.settings import Peer
from gateway.control.reconciliation import Own, Reconciler
from gateway.control.swaps import SwapUnsafe, Work
from gateway.core.timeline import Position, Timeline, same_file
from gateway.kernel.inotify import FileWatch
from gateway.matchmaker.condor import CondorHost
from gateway.matchmaker.disk import digest_of
from gateway.matchmaker.feed import Feed
from gateway.matchmaker.files import follow_files
from gateway.matchmaker.follow import follow
from gateway.matchmaker.journal import JournalRefused, Lead, Store
from gateway.matchmaker.ship import Shipped, ship
from gateway.matchmaker.stream import Material
from gateway.wire.charges import TAIL_BYTES, is_announcement

DRAIN_MS_MAX = 250  # for the last records of a leader that gives up; a standby has them within 10 ms
DRAIN_LOOK_MS = 2


class Leading:
    """One leadership's accounting. `run` ends by `end` alone.

    Args:
        lead: as it was made durable before the negotiator was started.
        swap: stop the negotiator, do that, start it; returns for how many ms none ran.
        failed: called where this can't go on; says why.
        changed: called when there is more than before.
    """

    def __init__(
        self,
        *,
        me: str,
        host: CondorHost,
        store: Store,
        lead: Lead,
        standbys: tuple[Peer, ...],
        material: Material,
        files: tuple[str, ...],
        scratch: Path,
        reconciler: Reconciler,
        swap: Callable[[Work], Awaitable[int]],
        changed: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self.lead = lead  # as it is on the disk
        self.feed = Feed(me, _before(lead.timeline))
        self.shipped: dict[str, Shipped] = {}
        self._me = me
        self._host = host
        self._path = Path(host.accountant_log)
        self._store = store
        self._standbys = standbys
        self._material = material
        self._files = files
        self._scratch = scratch
        self._reconciler = reconciler
        self._swap = swap
        self._changed = changed
        self._failed = failed
        self._changing = trio.Lock()  # of the lead: each change is on the disk before the next one begins
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._forget = trio.Event()
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Ship every record as it is written, until `end`."""
        try:
            with self._scope:
                await self._run_all()
        except* (JournalRefused, OSError) as group:
            self._failed(f"the accounting can't be kept: {group.exceptions[0]}")
        finally:
            self._ended.set()

    async def end(self, *, at_once: bool) -> None:
        """End it; the negotiator has ended. What it wrote last goes out first, unless there is no time for that."""
        if not at_once:
            with trio.move_on_after(DRAIN_MS_MAX / 1000):
                await self._drained()
        self._scope.cancel()
        await self._ended.wait()

    async def _run_all(self) -> None:
        own = Own(
            me=self._me,
            host=self._host,
            timeline=self._present,
            swap=self._swap,
            exchange=self._exchange,
            include=self._include,
        )
        async with trio.open_nursery() as nursery:
            for standby in self._standbys:
                nursery.start_soon(self._ship_to, standby)
            nursery.start_soon(self._reconciler.run, own)
            nursery.start_soon(self._run_forgetting)
            nursery.start_soon(self._follow_files)
            nursery.start_soon(self._tell_growth)
            lead = self.lead
            await follow(
                self._path,
                self.feed,
                timeline=lead.timeline,
                resume=(lead.inode, lead.timeline.head.generation) if lead.inode else None,
                resume_sequence=lead.sequence if lead.inode else None,
                opened=self._opened,
                watch_writes=FileWatch,
            )

    async def _follow_files(self) -> None:
        await follow_files(self._files, self.feed, scratch=self._scratch, watch_writes=FileWatch)

    async def _tell_growth(self) -> None:
        """Say that there is more than before, whenever there is."""
        while True:
            news = self.feed.news
            self._changed()
            await news.wait()

    async def _ship_to(self, standby: Peer) -> None:
        await ship(standby, self._material, self.feed, self._store, report=self._report, histories=self._reconciler)

    async def _opened(self, told: Timeline, inode: int, sequence: int) -> Timeline:
        """Make a new generation durable before anybody hears of it; return the history that it goes on with."""
        async with self._changing:
            lead = Lead(timeline=self.lead.timeline.at(told.head), inode=inode, sequence=sequence)
            await self._store.put_lead(lead)
            self.lead = lead
            return lead.timeline

    def _present(self) -> Timeline:
        """Return the history as long as it is now: the lead has it as it was at the beginning of the file."""
        timeline, head = self.lead.timeline, self.feed.timeline.head
        return timeline.at(head) if same_file(head, timeline.head) else timeline

    # -- what everybody holds ------------------------------------------------------------------------------------

    def _report(self, shipped: Shipped) -> None:
        self.shipped[shipped.standby] = shipped
        timeline = self.lead.timeline
        if (timeline.forks or timeline.included) and self._everybody_has(timeline) and not self._reconciler.open:
            self._forget.set()

    def _everybody_has(self, timeline: Timeline) -> bool:
        """Tell whether every standby holds this very file, and knows what is in it."""
        head = timeline.head
        return all(
            (one := self.shipped.get(standby.name)) is not None
            and one.connected
            and same_file(one.position, head)
            and (one.timeline.forks, one.timeline.included) == (timeline.forks, timeline.included)
            for standby in self._standbys
        )

    async def _run_forgetting(self) -> None:
        """Forget what came before a file that everybody holds: it is nobody's base any more."""
        while True:
            await self._forget.wait()
            self._forget = trio.Event()
            async with self._changing:
                timeline = self.lead.timeline
                if not self._everybody_has(timeline) or self._reconciler.open:
                    continue  # another file has been begun meanwhile
                start = Position(timeline.head.term, timeline.head.generation, 0)
                self._reconciler.forget()
                await self._put(timeline.forgotten(start))
            await self._store.prune_forks(self.lead.timeline)

    async def _put(self, timeline: Timeline) -> None:
        """Make another history of the same file durable, then tell the standbys. With the lock held."""
        lead = msgspec.structs.replace(self.lead, timeline=timeline)
        await self._store.put_lead(lead)
        self.lead = lead
        # Before the file is known nobody has it; a newer one is told of with its history.
        if self.feed.source is not None and same_file(timeline.head, self.feed.timeline.head):
            self.feed.retell(timeline)

    # -- merging -------------------------------------------------------------------------------------------------

    async def _include(self, merged: Timeline) -> None:
        """Take note that a history has nothing that ours lacks."""
        async with self._changing:
            await self._put(self.lead.timeline.merged_with(merged))

    async def _exchange(self, merged: Path, digest: bytes, other: Timeline) -> None:
        """Put a merged file in the place of HTCondor's. No negotiator runs; a crash is found out at the start."""
        with trio.CancelScope(shield=True):
            async with self._changing:  # whoever follows the file does not see it before its history is known
                before = self.lead
                timeline = before.timeline.merged_with(other)
                await self._store.put_lead(msgspec.structs.replace(before, merging=digest, merging_timeline=timeline))
                try:
                    await self._store.replace(self._path, merged, self._host.uid, self._host.gid)
                except JournalRefused:
                    if await trio.to_thread.run_sync(digest_of, self._path) != digest:
                        raise  # nothing has changed, and the note of what was intended says so
                self.lead = msgspec.structs.replace(before, timeline=timeline)
                try:
                    await self._store.put_lead(self.lead)
                except JournalRefused as refusal:
                    # A negotiator would compact the file; then nobody could tell any more what is in it.
                    raise SwapUnsafe(f"what the merged file holds can't be kept: {refusal}") from refusal

    async def _drained(self) -> None:
        """Return when every standby that is connected has all that the negotiator wrote."""
        while True:
            head = self.feed.timeline.head
            rest = await trio.to_thread.run_sync(_rest, self._path, head.offset)
            # What is only announced is not waited for: the next negotiator makes that charge.
            if (not rest or is_announcement(rest)) and all(
                one.position >= head for one in self.shipped.values() if one.connected
            ):
                return
            await trio.sleep(DRAIN_LOOK_MS / 1000)


def _before(timeline: Timeline) -> Timeline:
    """Return the history before the leader has any file of its term."""
    return timeline.at(Position(timeline.head.term, 0, 0))


def _rest(path: Path, offset: int) -> bytes:
    """Return the first bytes behind `offset`: enough to see whether they are more than an announcement."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(2 * TAIL_BYTES)
    except FileNotFoundError:
        return b""

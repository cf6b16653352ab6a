"""The pool's accounting on one manager: streamed while it leads, kept while it does not, merged when histories meet.

What a manager holds is a history (`gateway.core.timeline`), in a journal of its own on its disk; HTCondor's file in the
spool is where a leader's negotiator writes, and nothing else. Rule: what HTCondor's file gets is only what the journal
has, with no negotiator running; and what a leader wrote into HTCondor's file goes back into the journal when it stops.

    stand by    receive ──▶ journal                    every closed transaction, on the disk before it is acknowledged
    take over   journal ──▶ HTCondor's file            and kept, as the base of what may have gone on elsewhere
    lead        HTCondor's file ──follow──▶ ship       to every standby; histories that return are merged
    give up     the last of it ──▶ ship; HTCondor's file ──▶ journal
"""

import functools
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from gateway.config.settings import Backend, Peer, Settings
from gateway.control.door import Door
from gateway.control.leading import Leading
from gateway.control.own_file import as_it_is, as_it_was, written_s
from gateway.control.reconciliation import Reconciler
from gateway.control.swaps import Work
from gateway.core.reconcile import Pool
from gateway.core.timeline import NOWHERE, Position, Timeline
from gateway.matchmaker.accounting_file import updated_s
from gateway.matchmaker.condor import CondorHost
from gateway.matchmaker.files import install_file
from gateway.matchmaker.journal import JournalRefused, Lead, Refusal, Store
from gateway.matchmaker.merger import pool_of
from gateway.matchmaker.receive import receiver
from gateway.matchmaker.ship import Shipped
from gateway.matchmaker.stream import Handler, Material
from gateway.wire.channel import STREAM_MAGIC
from gateway.wire.messages import Standing
from gateway.wire.seal import Keyring

OWED_S = 5.0  # between two tries to bring a file back that a full disk has kept out
TOLD_MS = 200  # freshness alone is told no more often: a beat more of every standby for each record would be dear


class Freshness(msgspec.Struct, frozen=True, order=True):
    """How much of the pool's accounting a manager holds; the greater is the fresher."""

    term: int
    generation: int
    records: int

    def __str__(self) -> str:
        return f"{self.term}.{self.generation}.{self.records}"


class Missing(msgspec.Struct, frozen=True):
    """What a manager that had to lead may not have: by the last word of who had more."""

    held: Freshness
    newest: Freshness

    @property
    def records_min(self) -> int:
        """Return how many records are missing at least; files of different generations can't be counted against."""
        same = (self.held.term, self.held.generation) == (self.newest.term, self.newest.generation)
        return self.newest.records - self.held.records if same else 1


class Accounting:
    """The accounting file of one backend's pool, on one of its managers."""

    def __init__(
        self,
        *,
        settings: Settings,
        backend: Backend,
        me: Peer,
        keyring: Keyring,
        host: CondorHost,
        door: Door,
        pool_of: Callable[[CondorHost], Awaitable[Pool]] = pool_of,
    ) -> None:
        self._me = me
        self._host = host
        self._door = door
        self._log_path = Path(host.accountant_log)
        self._on = backend.replicate_accounting
        self._files = backend.replicate_files
        self._standbys = tuple(settings.peer(server.name) for server in backend.servers if server.name != me.name)
        self._material = Material(
            cluster=settings.cluster,
            keyring=keyring,
            me=me.name,
            peers=frozenset(server.name for server in backend.servers),
        )
        folder = Path(settings.state_dir) / "replica" / backend.name
        self._store = Store(folder)
        self._room = folder / "room"
        self._refused: Counter[str] = Counter()
        self._reconciler = Reconciler(self._store, self._room, backend.name, pool_of)
        self._leader: tuple[str | None, int] = (None, 0)
        self._own = False  # HTCondor's file has, or may have, what the journal has not: this node leads, or did
        self._leading: Leading | None = None
        self._nursery: trio.Nursery | None = None
        self._lead = Lead(timeline=Timeline(), inode=0, sequence=0)
        self._newest = Freshness(0, 0, 0)
        self._missing: Missing | None = None
        self._missing_merges = 0  # how many merges there had been by then
        self._ended_s = 0  # when this host's negotiator ended, as far as that is known
        self._owed = trio.Event()  # it could not be brought back
        self._changing = trio.Lock()  # of what is held and led, where that takes more than one step
        self._changed: Callable[[], None] = _nothing
        self._log = structlog.get_logger().bind(matchmaker=backend.name)

    # -- views ---------------------------------------------------------------------------------------------------

    @property
    def freshness(self) -> Freshness:
        """How much this host holds."""
        if self._leading is not None:
            head = self._leading.feed.timeline.head
            return Freshness(head.term, head.generation, self._leading.feed.records)
        held = self._store.held
        return Freshness(held.timeline.head.term, held.timeline.head.generation, held.records)

    @property
    def history(self) -> Timeline:
        """Which history this host holds."""
        return self._store.held.timeline if self._leading is None else self._leading.lead.timeline

    @property
    def position(self) -> Position:
        """How far what this host leads is written, as far as it has been read; nowhere where it does not lead."""
        return NOWHERE if self._leading is None else self._leading.feed.timeline.head

    def lacking(self, standby: str, position: Position) -> str:
        """Say what a standby lacks of the accounting up to `position`; "" for nothing."""
        if not self._on or self._leading is None:
            return ""
        shipped = self._leading.shipped.get(standby)
        if shipped is None or not shipped.connected:
            return f"it is not supplied with the accounting ({'no contact yet' if shipped is None else shipped.reason})"
        if shipped.position < position:
            records = max(shipped.lag_records, 1)
            return f"it lacks {records} record{'s' * (records != 1)} of the accounting"
        behind = shipped.files_behind
        return f"it has not the newest of {behind} replicated file{'s' * (behind != 1)}" if behind else ""

    @property
    def known_file(self) -> tuple[int, Position]:
        """Inode and first position of HTCondor's file, as it was last made durable; 0 where there is none."""
        lead = self._store.lead
        return (0, NOWHERE) if lead is None else (lead.inode, lead.timeline.head)

    def status(self) -> dict[str, Any]:
        """Return the accounting part of the status document; nothing where it is not replicated."""
        if not self._on:
            return {}
        mine = self.freshness
        merged = self._reconciler.merges_total > self._missing_merges
        missing = None if merged else self._missing  # who had it has come back
        return {
            "term": mine.term,
            "generation": mine.generation,
            "records": mine.records,
            "standbys": {name: _shipped(one) for name, one in self._leading.shipped.items()} if self._leading else {},
            "pending": [f"{pending.origin} {pending.timeline.head}" for pending in self._store.pending],
            "refused_total": dict(self._store.refused + self._refused),
            "missing_at_takeover": None
            if missing is None
            else {"records_min": missing.records_min, "held": str(missing.held), "newest": str(missing.newest)},
            **self._reconciler.status(),
        }

    def follow(self, leader: str | None, term: int) -> None:
        """Take who leads: from nobody else is anything accepted."""
        self._leader = (leader, term)

    def heard(self, standing: Standing) -> None:
        """Take what another manager says of its accounting."""
        heard = Freshness(standing.term, standing.generation, standing.records)
        self._newest = max(self._newest, heard)

    # -- changes of role, one at a time --------------------------------------------------------------------------

    async def recover(self) -> None:
        """Find what this host holds; no negotiator runs.

        Raises:
            OSError: the node's folder can't be read.
        """
        if not self._on:
            # Whatever is held belongs to another time: it must never replace a file that has gone on meanwhile.
            await trio.to_thread.run_sync(_put_aside, self._store.directory)
            return
        await self._load()
        lead, held = self._store.lead, self._store.held
        if lead is not None and lead.timeline.head.term >= held.timeline.head.term:
            # It led last, and may have been killed; or somebody has run a negotiator by hand meanwhile.
            self._lead, self._own = await trio.to_thread.run_sync(as_it_was, lead, self._log_path), True
            self._ended_s = await trio.to_thread.run_sync(written_s, self._log_path)
            if not await self._bring_back():
                self._owed.set()

    async def resume(self, term: int | None) -> None:
        """Go on where the process before this one stopped, which served `term`; None: it did not.

        Raises:
            OSError, JournalRefused: the node's folder can't be read, or written.
        """
        if not self._on or term is None:
            await self.recover()
            return
        await self._load()
        if self._store.lead is not None and self.took_over(term):
            self._lead, self._own = await trio.to_thread.run_sync(as_it_was, self._store.lead, self._log_path), True
            await self._store.put_lead(self._lead)

    def took_over(self, term: int) -> bool:
        """Tell whether HTCondor's file is that of `term` already: it is never replaced within a term."""
        lead = self._store.lead
        return not self._on or (lead is not None and lead.timeline.head.term == term)

    async def _load(self) -> None:
        await trio.to_thread.run_sync(_emptied, self._room)
        await self._store.load()

    async def take_over(self, term: int, *, running: bool) -> None:
        """Bring HTCondor's file to the newest state known here, and keep that as a base.

        `running`: a negotiator of this leadership runs on the file already, which then is what there is.

        Raises:
            JournalRefused, OSError: the file can't be replaced, or the disk would not; this node can't lead.
        """
        if self.took_over(term):
            return
        if running:
            self._own = True
            self._lead = Lead(timeline=Timeline().taken_over(term, int(time.time())), inode=0, sequence=0)
            await self._store.put_lead(self._lead)
            return
        if self._own and not await self._bring_back():
            raise JournalRefused(Refusal.DISK, "what this host's negotiator wrote last can't be kept")
        self._own = True  # nothing is accepted from now on; what is under way is waited for
        try:
            async with self._changing:
                self._note_missing()
                before_s = await trio.to_thread.run_sync(updated_s, self._log_path)
                held, installed = await self._store.take_over(self._log_path, self._host.uid, self._host.gid)
                self._lead = Lead(timeline=held.timeline.taken_over(term, int(time.time())), inode=0, sequence=0)
                await self._store.put_lead(self._lead)
        except BaseException:
            self._own = False
            raise
        if installed is not None:
            self._log.info("accounting.installed", origin=held.origin, position=str(installed))
            if before_s > await trio.to_thread.run_sync(updated_s, self._log_path):
                self._log.error("accounting.newer-file-replaced", kept_in=str(self._store.directory))

    def _note_missing(self) -> None:
        mine = self.freshness
        self._missing = Missing(mine, self._newest) if mine < self._newest else None
        self._missing_merges = self._reconciler.merges_total
        if self._missing is not None:
            self._log.warning(
                "accounting.may-be-missing",
                records_min=self._missing.records_min,
                held=str(mine),
                newest=str(self._newest),
            )

    def lead(self, swap: Callable[[Work], Awaitable[int]], failed: Callable[[str], None]) -> None:
        """Ship every record to the standbys from now on, and merge what comes back. Arguments as in `Leading`."""
        if not self._on or self._nursery is None:
            return
        assert self._leading is None, "one leadership ends before the next begins"
        self._leading = Leading(
            me=self._me.name,
            host=self._host,
            store=self._store,
            lead=self._lead,
            standbys=self._standbys,
            material=self._material,
            files=self._files,
            scratch=self._room,
            reconciler=self._reconciler,
            swap=swap,
            changed=self._changed,
            failed=failed,
        )
        self._nursery.start_soon(self._leading.run)

    async def finish(self, *, at_once: bool) -> None:
        """End the shipping; the negotiator has ended. See `Leading.end`."""
        if self._leading is not None:
            await self._leading.end(at_once=at_once)
            self._lead = self._leading.lead
            self._leading = None

    async def bring_back(self) -> None:
        """Take what this host's negotiator wrote into the journal: it is a history like any other now."""
        if self._own:
            self._ended_s = int(time.time())
            if not await self._bring_back():
                self._owed.set()

    async def _bring_back(self) -> bool:
        """Return whether it is done; a full disk is tried again, and nothing is accepted until then."""
        async with self._changing:
            try:
                self._lead = await trio.to_thread.run_sync(as_it_is, self._lead, self._log_path)
                await self._store.put_lead(self._lead)
                head = await self._store.adopt(self._log_path, self._lead.timeline, self._me.name, self._ended_s)
            except FileNotFoundError as error:
                # What was received before stands, and is installed again by whoever takes over.
                self._log.error("accounting.not-brought-back", path=str(self._log_path), reason=str(error))
            except (OSError, JournalRefused) as error:
                self._log.error("accounting.not-brought-back", path=str(self._log_path), reason=str(error))
                if isinstance(error, OSError) or error.reason in (Refusal.NO_SPACE, Refusal.DISK):
                    return False
                await self._archive_own()
            else:
                self._log.info("accounting.brought-back", head=str(head))
            self._own, self._owed = False, trio.Event()
        self._changed()
        return True

    async def _archive_own(self) -> None:
        """Keep a file that is no history of ours, before a newer state takes its place."""
        name = f"not-brought-back-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        try:
            await self._store.archive(name, {"Accountantnew.log": self._log_path})
        except JournalRefused as refusal:
            self._log.error("accounting.not-archived", archive=name, reason=str(refusal))

    async def _bring_back_later(self) -> None:
        """Try again what a full disk has prevented, for ever."""
        while True:
            await self._owed.wait()
            await trio.sleep(OWED_S)
            if self._owed.is_set():  # else a takeover has seen to it meanwhile
                await self._bring_back()

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def run(
        self, changed: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Take records from whoever leads, until cancelled; `changed` is called when some have been kept."""
        if not self._on:
            task_status.started()
            return
        self._changed = changed
        async with trio.open_nursery() as self._nursery:
            self._door.open_to(STREAM_MAGIC, self._receiver())
            self._nursery.start_soon(self._bring_back_later)
            task_status.started()

    def _receiver(self) -> Handler:
        return receiver(
            self._material,
            self._store,
            accept=lambda sender, term: (sender, term) == self._leader and not self._own,
            changed=self._changed,
            install_file=functools.partial(install_file, uid=self._host.uid, gid=self._host.gid),
            files=self._files,
            scratch=self._room,
            refused=self._refused,
            changing=self._changing,
        )


def _shipped(shipped: Shipped) -> dict[str, Any]:
    return {
        "connected": shipped.connected,
        "term": shipped.position.term,
        "generation": shipped.position.generation,
        "offset": shipped.position.offset,
        "records": shipped.records,
        "lag_ms": shipped.lag_ms,
        "lag_records": shipped.lag_records,
        "bytes_total": shipped.bytes_total,
        "snapshots_total": shipped.snapshots_total,
    }


def _nothing() -> None:
    """Nobody wants to know yet."""


def _emptied(folder: Path) -> None:
    """Make the folder for what is on its way; what a crash has left there is worth nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)


def _put_aside(folder: Path) -> None:
    """Give the folder another name, if it holds anything; the one that had the name before goes."""
    if (folder / "lead").exists() or (folder / "accounting.journal").exists():
        former = folder.with_name(f"{folder.name}.before")
        shutil.rmtree(former, ignore_errors=True)
        folder.rename(former)

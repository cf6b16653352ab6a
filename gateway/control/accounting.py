"""The pool's accounting on one manager: streamed while it leads, kept while it does not, merged when histories meet.

What a manager holds is a history (`gateway.core.timeline`), in a journal of its own on its disk; HTCondor's file in the
spool is where a leader's negotiator writes, and nothing else. Rule: what HTCondor's file gets is only what the journal
has, with no negotiator running; and what a leader wrote into HTCondor's file goes back into the journal when it stops.

    stand by    receive ──▶ journal                    every closed transaction, on the disk before it is acknowledged
    take over   journal ──▶ HTCondor's file            and kept, as the base of what may have gone on elsewhere
    lead        HTCondor's file ──follow──▶ ship       to every standby; histories that return are merged
    give up     the last of it ──▶ ship; HTCondor's file ──▶ journal
"""

import errno
import functools
import hashlib
import os
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
from gateway.control.leading import Leading
from gateway.control.reconciliation import Reconciler
from gateway.control.swaps import Work
from gateway.core.reconcile import Pool
from gateway.core.timeline import Position, Timeline
from gateway.matchmaker.condor import CondorHost
from gateway.matchmaker.files import install_file
from gateway.matchmaker.journal import JournalRefused, Lead, Store
from gateway.matchmaker.merger import pool_of
from gateway.matchmaker.receive import serve
from gateway.matchmaker.ship import Shipped
from gateway.matchmaker.stream import Material
from gateway.wire.messages import Standing
from gateway.wire.seal import Keyring

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
        pool_of: Callable[[CondorHost], Awaitable[Pool]] = pool_of,
    ) -> None:
        self._me = me
        self._host = host
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
    def known_file(self) -> tuple[int, int]:
        """Inode and generation of HTCondor's file, as it was last made durable; (0, 0) where there is none."""
        lead = self._store.lead
        return (0, 0) if lead is None else (lead.inode, lead.timeline.head.generation)

    def status(self) -> dict[str, Any]:
        """Return the accounting part of the status document; nothing where it is not replicated."""
        if not self._on:
            return {}
        mine = self.freshness
        missing = self._missing
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
            return
        await self._load()
        lead, held = self._store.lead, self._store.held
        if lead is not None and lead.timeline.head.term >= held.timeline.head.term:
            # It led last, and may have been killed; or somebody has run a negotiator by hand meanwhile.
            self._lead, self._own = await self._as_it_was(lead), True
            await self._bring_back(ended_s=await trio.to_thread.run_sync(_written_s, self._log_path))

    async def resume(self) -> None:
        """Find what the process before this one kept; its negotiator runs on, where it leads."""
        if not self._on:
            return
        await self._load()
        lead, held = self._store.lead, self._store.held
        if lead is not None and lead.timeline.head.term > held.timeline.head.term:
            self._lead, self._own = lead, True

    async def _load(self) -> None:
        await trio.to_thread.run_sync(_emptied, self._room)
        await self._store.load()

    async def take_over(self, term: int) -> None:
        """Bring HTCondor's file to the newest state known here, and keep that as a base. No negotiator runs.

        Raises:
            JournalRefused, OSError: the file can't be replaced, or the disk would not.
        """
        if not self._on:
            return
        mine = self.freshness
        self._missing = Missing(mine, self._newest) if mine < self._newest else None
        if self._missing is not None:
            self._log.warning(
                "accounting.may-be-missing",
                records_min=self._missing.records_min,
                held=str(mine),
                newest=str(self._newest),
            )
        held = self._store.held
        await self._store.keep_fork()
        try:
            installed = await self._store.install(self._log_path, self._host.uid, self._host.gid)
        except JournalRefused as refusal:
            # Better the older file of this host than no matchmaker: a negotiator never starts on a corrupt one.
            self._log.error("accounting.replica-corrupt", reason=str(refusal))
            installed = None
        if installed is not None:
            self._log.info("accounting.installed", origin=held.origin, position=str(installed))
        self._lead = Lead(timeline=held.timeline.taken_over(term, int(time.time())), inode=0, sequence=0)
        await self._store.put_lead(self._lead)
        self._own = True

    def lead(self, swap: Callable[[Work], Awaitable[int]]) -> None:
        """Ship every record to the standbys from now on, and merge what comes back. `swap` as in `Leading`."""
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
            await self._bring_back(ended_s=int(time.time()))

    async def _bring_back(self, ended_s: int) -> None:
        try:
            lead = await self._as_it_is()
            if not await trio.to_thread.run_sync(_size, self._log_path):
                raise FileNotFoundError(errno.ENOENT, "it is empty")
            head = await self._store.adopt(self._log_path, lead.timeline, self._me.name, ended_s)
        except (OSError, JournalRefused) as error:
            # What was received before stands; the file itself is where it was, and goes nowhere.
            self._log.error("accounting.not-brought-back", path=str(self._log_path), reason=str(error))
        else:
            self._log.info("accounting.brought-back", head=str(head))
        self._own = False
        self._changed()

    async def _as_it_was(self, lead: Lead) -> Lead:
        """Return the lead as it is after a crash in the middle of a merge: before or after the exchange of files."""
        if not lead.merging or lead.merging_timeline is None:
            return lead
        if await trio.to_thread.run_sync(_digest, self._log_path) == lead.merging:
            return Lead(timeline=lead.merging_timeline, inode=lead.inode, sequence=lead.sequence)
        return Lead(timeline=lead.timeline, inode=lead.inode, sequence=lead.sequence)

    async def _as_it_is(self) -> Lead:
        """Return the lead with the generation that HTCondor's file has now."""
        lead = self._lead
        inode = await trio.to_thread.run_sync(_inode, self._log_path)
        head = lead.timeline.head
        if inode == lead.inode:
            return msgspec.structs.replace(lead, timeline=lead.timeline.at(Position(head.term, head.generation, 0)))
        timeline = lead.timeline.at(Position(head.term, head.generation + 1, 0))
        return msgspec.structs.replace(lead, timeline=timeline, inode=inode)

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def run(
        self, changed: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Take records from whoever leads, until cancelled; `changed` is called when some have been kept.

        Raises:
            OSError: the node's own port can't be listened on.
        """
        if not self._on:
            task_status.started()
            return
        self._changed = changed
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self._serve)
            task_status.started()

    async def _serve(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        await serve(
            self._me.endpoint,
            self._material,
            self._store,
            accept=lambda sender, term: (sender, term) == self._leader and not self._own,
            changed=self._changed,
            install_file=functools.partial(install_file, uid=self._host.uid, gid=self._host.gid),
            files=self._files,
            scratch=self._room,
            refused=self._refused,
            task_status=task_status,
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


def _inode(path: Path) -> int:
    return os.stat(path).st_ino


def _size(path: Path) -> int:
    return os.stat(path).st_size


def _written_s(path: Path) -> int:
    """Return when the file was last written to: its negotiator lived until then at least; 0 where there is none."""
    try:
        return int(os.stat(path).st_mtime)
    except FileNotFoundError:
        return 0


def _digest(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        return b""

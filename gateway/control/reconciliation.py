"""Reconciliation: histories that went on elsewhere are fetched, merged, and put in the place of this leader's own.

A manager that was cut off, or died before its last records were received, comes back with a history that is not in the
leader's (`gateway.core.timeline`). It keeps that aside until it holds a state of which it is a part. Rule: a history is
merged once, from the state at which the two went apart, or not at all; whatever happens, the files are in the archive.

The merge itself is made by another process; here is the order of things. The negotiator is stopped for the last of it
alone, and only where the other history has something that ours has not.
"""

import contextlib
import enum
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from gateway.control.swaps import SwapAbandoned, SwapUnsafe, Work
from gateway.core.reconcile import Pool
from gateway.core.timeline import Meeting, Position, Relation, Timeline, is_base_of, meet, same_file, taken_over_s
from gateway.matchmaker.condor import CondorHost, ToolFailed
from gateway.matchmaker.disk import digest_of
from gateway.matchmaker.journal import JournalRefused, Store
from gateway.matchmaker.merger import MergeFailed, Merger, Outcome, Story, open_merger

WAIT_MS = 300  # for more histories of the same heal, so that one stop of the negotiator serves one after the other
HISTORIES_MAX = 16  # waiting at once: as many as a pool may have managers
AGAIN_MS = 10_000  # after a merge that failed: a busy machine, a full disk; twice as long each time
TRIES_MAX = 6  # five minutes of that in all
GIVEN_UP_MAX = 64  # remembered, so that they are not fetched again and again


class Unmerged(enum.StrEnum):
    """Why a history was not merged. Stable names: they are metric labels. Its files are in the archive."""

    UNRELATED = "unrelated"  # nothing that both hold is known
    NO_BASE = "no-base"  # nobody has kept the state at which the two went apart
    ENTANGLED = "entangled"  # merged crosswise before: a merge would count something twice
    DAMAGED = "damaged"  # a file of it, or the disk
    FAILED = "failed"  # the merge itself; the log says why


class GaveUp(Exception):  # noqa: N818 (an answer)
    """A history can't be merged by a program."""

    def __init__(self, reason: Unmerged, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A history that is not in this leader's: a journal on this disk, and its base if who had it kept that."""

    origin: str
    timeline: Timeline
    path: Path
    base: Path | None


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader gives: how it stands, and how that is changed."""

    me: str
    host: CondorHost
    timeline: Callable[[], Timeline]
    swap: Callable[[Work], Awaitable[int]]  # stop the negotiator, do that, start it; returns for how many ms none ran
    exchange: Callable[[Path, bytes, Timeline], Awaitable[None]]  # a merged file for our own; none runs
    include: Callable[[Timeline], Awaitable[None]]  # nothing of the file changes, only what it is known to hold


class Reconciler:
    """Merges what others, or an earlier life of this node, wrote apart. One at a time, oldest first."""

    def __init__(self, store: Store, room: Path, name: str, pool_of: Callable[[CondorHost], Awaitable[Pool]]) -> None:
        self._store = store
        self._pool_of = pool_of
        self._room = room
        self._own: Own | None = None
        self._waiting: list[Found] = []
        self._known: set[Position] = set()  # heads that are here already, or were given up
        self._wanted = trio.Event()
        self._log = structlog.get_logger().bind(matchmaker=name)
        self.merges_total = 0
        self.unmerged: Counter[str] = Counter()
        self._last: dict[str, Any] | None = None
        self._given_up: dict[Position, dict[str, str]] = {}
        self._rooms = 0
        self._seen: set[Position] = set()  # heads that standbys keep aside

    @property
    def open(self) -> bool:
        """Whether a history that is not merged is known of: nothing that may be its base is forgotten then.

        Nor where one waits that has come with another meanwhile: that it is part of ours shows only as long as ours
        knows of what came before.
        """
        own = self._own
        return own is None or bool(self._waiting) or any(not own.timeline().holds(head) for head in self._seen)

    def forget(self) -> None:
        """Forget the histories that were seen: all of them are in the one that everybody holds now."""
        self._seen.clear()

    def status(self) -> dict[str, Any]:
        """Return the merging part of the status document."""
        return {
            "merges_total": self.merges_total,
            "waiting": [f"{found.origin} {found.timeline.head}" for found in self._waiting],
            "unmerged_total": dict(self.unmerged),
            "unmerged": list(self._given_up.values()),
            "last_merge": self._last,
        }

    # -- Histories, for `gateway.matchmaker.stream.ship` ---------------------------------------------------------

    def wanted(self, standby: str, pending: Timeline) -> bool:
        """Tell whether a standby's history is to be fetched."""
        own = self._own
        self._seen.add(pending.head)
        if own is None or pending.head in self._known or len(self._waiting) >= HISTORIES_MAX:
            return False
        return not own.timeline().holds(pending.head)

    def room(self, standby: str, name: str) -> Path:
        """Return where a fetched journal belongs."""
        self._rooms += 1  # one base may be fetched for two histories, and goes with the first
        return self._room / f"{standby}.{name}.{self._rooms}"

    async def fetched(self, standby: str, pending: Timeline, path: Path, base: Path | None) -> None:
        """Take a history that has come."""
        self._log.info("accounting.apart", standby=standby, head=str(pending.head), base_sent=base is not None)
        self._take(Found(origin=standby, timeline=pending, path=path, base=base))

    def _take(self, found: Found) -> None:
        self._known.add(found.timeline.head)
        self._seen.add(found.timeline.head)
        self._waiting.append(found)
        self._wanted.set()

    # -- the work ------------------------------------------------------------------------------------------------

    async def run(self, own: Own) -> None:
        """Merge whatever is there, or comes, until cancelled: with the leadership."""
        self._own = own
        self._known.clear()
        self._seen.clear()
        self._given_up.clear()
        self._waiting.clear()
        try:
            for pending in self._store.pending:  # of a time when another one led
                if not own.timeline().holds(pending.timeline.head):
                    self._take(Found(origin=own.me, timeline=pending.timeline, path=pending.path, base=None))
            while True:
                while not self._waiting:
                    await self._wanted.wait()
                    self._wanted = trio.Event()
                    await trio.sleep(WAIT_MS / 1000)
                # Of one term the longest first: the others are in it.
                self._waiting.sort(key=lambda one: one.timeline.head, reverse=True)
                self._waiting.sort(key=lambda one: one.timeline.head.term)
                found = self._waiting[0]
                await self._merge_with_patience(own, found)
                self._waiting.remove(found)
        finally:
            self._own = None
            self._waiting.clear()

    async def _merge_with_patience(self, own: Own, found: Found) -> None:
        """Merge; what may go better at another time is tried again."""
        delay_ms = AGAIN_MS
        try:
            for tries in range(1, TRIES_MAX + 1):
                if await self._merge_or_give_up(own, found, last=tries == TRIES_MAX):
                    return
                await trio.sleep(delay_ms / 1000)
                delay_ms *= 2
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove_fetched, self._room, found)

    async def _merge_or_give_up(self, own: Own, found: Found, *, last: bool) -> bool:
        """Merge; return whether that is settled, one way or the other."""
        started = trio.current_time()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        work = self._room / f"merge-{stamp}-term{found.timeline.head.term}-{found.origin}"
        try:
            with contextlib.closing(_Merge(own, self._store, found, work, self._pool_of)) as merge:
                answer: tuple[Outcome, int] | GaveUp
                try:
                    await trio.Path(work).mkdir(mode=0o700, parents=True, exist_ok=True)
                    answer = await merge.run()
                except GaveUp as reason:
                    answer = reason
                except (MergeFailed, ToolFailed) as failure:
                    answer = GaveUp(Unmerged.FAILED, str(failure))
                except (JournalRefused, OSError) as error:
                    answer = GaveUp(Unmerged.DAMAGED, str(error))
                if isinstance(answer, GaveUp) and answer.reason in (Unmerged.FAILED, Unmerged.DAMAGED) and not last:
                    self._log.warning("accounting.merge-failed", origin=found.origin, reason=str(answer))
                    return False
                await self._archive(work.name, merge.files)
                await self._keep_as_base(found)
                if isinstance(answer, GaveUp):
                    self._give_up(found, answer, work.name)
                else:
                    self._note(found, *answer, work.name, started)
        except (SwapAbandoned, SwapUnsafe):
            self._known.discard(found.timeline.head)  # the leadership ends: the next one sees to it
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_clear, work)
        return True

    async def _keep_as_base(self, found: Found) -> None:
        """Keep the history as it ended: somebody may have gone on from there, and be merged later."""
        with contextlib.suppress(JournalRefused):
            await self._store.add_fork(found.timeline.head, found.path)

    def _note(self, found: Found, outcome: Outcome, gap_ms: int, archive: str, started: float) -> None:
        self.merges_total += 1
        self._last = {
            "archive": archive,
            "origin": found.origin,
            "head": str(found.timeline.head),
            "swapped": outcome.changes_ours,
            "conflicts": outcome.conflicts,
            "edits": outcome.edits,
            "usage_added": outcome.usage_added,
            "negotiator_gap_ms": gap_ms,
            "took_ms": round((trio.current_time() - started) * 1000),
        }
        self._log.info("accounting.merged", summary=outcome.summary, **self._last)

    def _give_up(self, found: Found, reason: GaveUp, archive: str) -> None:
        self.unmerged[reason.reason] += 1
        if len(self._given_up) < GIVEN_UP_MAX:
            self._given_up[found.timeline.head] = {
                "origin": found.origin,
                "head": str(found.timeline.head),
                "reason": reason.reason,
                "archive": archive,
            }
        self._log.error("accounting.unmerged", origin=found.origin, archive=archive, reason=str(reason))

    async def _archive(self, name: str, files: dict[str, Path]) -> None:
        try:
            await self._store.archive(name, files)
        except JournalRefused as refusal:
            self._log.error("accounting.not-archived", archive=name, reason=str(refusal))


class _Merge:
    """One merge: what it needs, on this disk, in one folder.

    Attributes:
        files: what belongs into the archive, by the name that it has there.
    """

    def __init__(
        self,
        own: Own,
        store: Store,
        found: Found,
        work: Path,
        pool_of: Callable[[CondorHost], Awaitable[Pool]],
    ) -> None:
        self._own = own
        self._store = store
        self._found = found
        self._pool_of = pool_of
        self._base, self._theirs, self._out = (work / name for name in ("base.log", "theirs.log", "merged.log"))
        self._before: int | None = None  # our own file, which has no name any more once it was exchanged
        self.files: dict[str, Path] = {"theirs.journal": found.path}

    def close(self) -> None:
        """Let go of the file that was exchanged: it is in the archive now."""
        if self._before is not None:
            os.close(self._before)
            self._before = None

    async def run(self) -> tuple[Outcome, int]:
        """Merge; return what came of it, and for how many ms no negotiator ran."""
        own, found = self._own, self._found
        timeline = own.timeline()
        met = meet(timeline, found.timeline)
        if met.relation is Relation.BEHIND:
            return Outcome(
                changes_ours=False,
                conflicts=0,
                edits=0,
                usage_added=0.0,
                customers=0,
                took_ms=0,
                summary="it is part of this history already",
            ), 0
        theirs = await self._store.export(found.path, None, self._theirs)
        self.files["theirs.log"] = self._theirs
        await self._export_base(met, timeline)
        log = own.host.accountant_log
        ours = Story(name=own.me, path=log, term=timeline.head.term, took_over_s=taken_over_s(timeline, met.base))
        other = Story(
            # Of this node too, where it is what an earlier life of it wrote.
            name=found.origin if found.origin != own.me else f"{own.me} before",
            path=str(self._theirs),
            term=found.timeline.head.term,
            ended_s=theirs.ended_s or None,
            took_over_s=taken_over_s(found.timeline, met.base),
        )
        pool = await self._pool_of(own.host)
        async with open_merger(self._base, ours, [other], self._out, pool) as merger:
            outcome = await merger.rehearse()
            await self._note_reports()
            if not outcome.changes_ours:
                await own.include(found.timeline)
                return outcome, 0
            outcomes: list[Outcome] = []
            # In a thread, as all that looks at a file: HTCondor's folder may be on a disk that hangs.
            self._before = await trio.to_thread.run_sync(os.open, log, os.O_RDONLY | os.O_CLOEXEC)
            gap_ms = await own.swap(lambda: self._finish(merger, outcomes))
        await self._note_reports()
        return outcomes[0], gap_ms

    async def _export_base(self, met: Meeting, timeline: Timeline) -> None:
        """Put the state at which the two went apart on the disk. Raises `GaveUp` where there is none."""
        if met.relation is not Relation.DIVERGED:
            raise GaveUp(Unmerged.UNRELATED, f"{self._found.timeline.head} and {timeline.head} have nothing in common")
        journal = self._store.path_of(met.base) or self._found.base
        if journal is None and same_file(met.base, self._found.timeline.head):
            journal = self._found.path  # the other history went on in the same file
        if journal is None:
            raise GaveUp(Unmerged.NO_BASE, f"the state at {met.base} is not kept anywhere")
        base = await self._store.export(journal, met.base.offset, self._base)
        self.files["base.log"] = self._base
        if base.timeline.head != met.base or not is_base_of(base.timeline, timeline, self._found.timeline):
            raise GaveUp(Unmerged.ENTANGLED, f"the state at {met.base} does not hold all that both hold")

    async def _finish(self, merger: Merger, outcomes: list[Outcome]) -> None:
        """Merge the last of it and exchange the files: no negotiator runs."""
        outcome = await merger.finish()
        digest = await trio.to_thread.run_sync(digest_of, self._out)
        await self._own.exchange(self._out, digest, self._found.timeline)
        self.files["ours.log"] = Path(f"/proc/self/fd/{self._before}")
        self.files["merged.log"] = self._out
        outcomes.append(outcome)

    async def _note_reports(self) -> None:
        for suffix in ("report.json", "report.txt"):
            report = self._out.with_name(f"{self._out.name}.{suffix}")
            if await trio.Path(report).exists():
                self.files[suffix] = report


def _remove_fetched(room: Path, found: Found) -> None:
    """Remove what was fetched; what is in the store's own folder is the store's."""
    for path in (found.path, found.base):
        if path is not None and path.parent == room:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove the folder of one merge; what is worth keeping is in the archive."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()

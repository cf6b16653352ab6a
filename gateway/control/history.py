"""History: every change of a leader as this node saw it, and the stream of what happens here; kept on the disk.

Rule: it only watches. Nothing of it holds control up, and a disk that is full costs entries, which are counted.

An event is a dict: its number `seq`, which grows over restarts and reloads, `at` (unix time, for people), its name
`event`, and the facts. A change is the event `leader-changed`, whose phases are added as they come to be known.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio

from gateway.control.commands import CommandRefused, Request
from gateway.control.history_file import HistoryFile, Line
from gateway.core.actions import Action, FollowLeader, StartServing, StopServing
from gateway.core.changes import Change, Course, Fact
from gateway.core.events import Event, MessageReceived, ServingStopped, StandingChanged
from gateway.kernel.clock import boot_ms
from gateway.wire.messages import Resignation

CHANGES_AT_HAND: Final = 200  # in memory, and at most so many in one answer; the file has more
EVENTS_AT_HAND: Final = 1_000  # for a reader that was away, or is slow
UNWRITTEN_MAX: Final = 5_000  # as many as the file keeps
WRITE_EVERY_S: Final = 0.5  # what comes to be known of a change in that time is written with one line
TAKE_UP_S_MAX: Final = 0.2  # for those lines to be read by the next process: nobody acts meanwhile
WRITE_S_MAX: Final = 0.1  # for the last lines of a process that ends: a lease may wait for that


class History:
    """What has happened, as this node saw it.

    Args:
        path: the file, in the node's own folder.
        me: this node's name.
        kinds: election -> "address" or "matchmaker".
        heard_ms: returns when a peer was last heard; None: never.
    """

    def __init__(self, path: Path, me: str, kinds: Mapping[str, str], heard_ms: Callable[[str], int | None]) -> None:
        self._file = HistoryFile(path)
        self._me = me
        self._heard_ms = heard_ms
        self._courses = {name: Course(name, kind, me) for name, kind in kinds.items()}
        self._changes: dict[int, Change] = {}  # by number, in order
        self._last: dict[str, Change] = {}
        self._events: deque[Fact] = deque()
        self._forgotten_seq = 0  # events up to this one are not at hand any more
        self._fit: dict[str, bool] = {}
        self._unwritten: dict[int, Fact | Change] = {}  # by number; a change replaces what was to be written of it
        self._news = trio.Event()  # replaced by another whenever it is set
        self._log = structlog.get_logger()
        self._complained = False
        self.seq = 1  # of the newest event; begins above 0, for events after 0 are the new ones alone
        self.unwritten_total = 0

    # -- what was -------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take what the file has; again: what has been added by whoever ran this node until now."""
        try:
            for line in await trio.to_thread.run_sync(self._file.read, abandon_on_cancel=True):
                self._take_line(line)
        except OSError as error:
            self._log.error("history.unread", reason=error.strerror or str(error))
        for name, change in self._last.items():
            if name in self._courses and (course := self._courses[name]).change is None:
                self._courses[name] = Course(name, course.kind, self._me, change.to, change.term)

    async def take_up(self, seq: int) -> None:
        """Take what the process before this one has added at its end, as far as the disk gives it in time.

        Numbers go on after `seq`, the last that it gave: its readers are this one's, and know no number twice.
        """
        with trio.move_on_after(TAKE_UP_S_MAX) as late:
            await self.load()
        if late.cancelled_caught:
            self._log.error("history.unread", reason=f"the disk has not answered within {TAKE_UP_S_MAX:g} s")
        elif self.seq < seq:
            self._log.error("history.unread", reason=f"the last {seq - self.seq} events were not written in time")
        self.seq = max(self.seq, seq)

    def _take_line(self, line: Line) -> None:
        self.seq = max(self.seq, line["seq"], line.pop("through", 0))
        if line.get("event") == "leader-changed":
            try:
                change = msgspec.convert({name: value for name, value in line.items() if name != "event"}, Change)
            except msgspec.ValidationError:
                return  # of another version
            self._keep_change(change)
        if self._events and self._events[-1]["seq"] >= line["seq"]:
            return  # told already; more has come to be known of it
        self._keep({"node": self._me, **line})

    def last(self, election: str) -> dict[str, Any] | None:
        """Return the last change of an election; None: there never was any."""
        change = self._last.get(election)
        return None if change is None else msgspec.to_builtins(change)

    def lost(self, election: str) -> dict[str, Any] | None:
        """Return whose leadership ended, how long ago and why, as long as nobody leads; None: somebody does."""
        course = self._courses[election]
        if (end := course.lost) is None:
            return None
        ago_ms = boot_ms() - end.at_ms
        return {"from": course.leader, "ms_ago": ago_ms, "cause": end.cause, "detail": end.detail}

    def changes(self, limit: int = CHANGES_AT_HAND, election: str | None = None) -> list[dict[str, Any]]:
        """Return the newest changes, the newest last; never more than `CHANGES_AT_HAND`."""
        chosen = [change for change in self._changes.values() if election in (None, change.election)]
        return [msgspec.to_builtins(change) for change in chosen[max(len(chosen) - limit, 0) :]]

    def status(self) -> dict[str, Any]:
        """Return what an operator sees of it."""
        return {"seq": self.seq, "unwritten_total": self.unwritten_total}

    def answer_history(self, request: Request) -> dict[str, Any]:
        """Answer the command `history`: {"limit": 20, "election": "pool"}, both optional."""
        election = request.get("election")
        if election is not None and not (isinstance(election, str) and election in self._courses):
            known = ", ".join(sorted(self._courses))
            raise CommandRefused(f"there is no election {election!r} in this cluster: {known}", "unknown-election")
        return {"changes": self.changes(_count(request, "limit", CHANGES_AT_HAND), election)}

    def answer_events(self, request: Request) -> AsyncIterator[Fact]:
        """Answer the command `events`: {"after": 0}."""
        return self.events(_count(request, "after", 0))

    # -- what is --------------------------------------------------------------------------------------------------

    def took(self, event: Event) -> None:
        """An event is about to be taken by the core."""
        if type(event) is MessageReceived and type(event.message) is not Resignation:
            return  # a heartbeat or an answer, as nearly all are
        match event:
            case MessageReceived(sender, Resignation(election, term, reason)) if election in self._courses:
                self._courses[election].resigned(boot_ms(), sender, term, reason)
            case ServingStopped(election, term):
                self._courses[election].stopped(boot_ms(), term)
            case StandingChanged(standing, reason) if self._fit.get(standing.election) is not standing.fit:
                first = standing.election not in self._fit
                self._fit[standing.election] = standing.fit
                if standing.fit or not first:  # a node that has just started is not fit yet: nothing has happened
                    self.tell("fit" if standing.fit else "unfit", election=standing.election, reason=reason)

    def did(self, action: Action) -> None:
        """The core has asked for an action."""
        match action:
            case StartServing(election, term, _):
                self.phase(election, term, "serving_ms")
            case StopServing(election, term, cause, detail, _):
                self._courses[election].stopping(boot_ms(), term, cause, detail)

    def followed(self, change: FollowLeader) -> None:
        """Somebody leads, or nobody does."""
        course = self._courses[change.election]
        heard_ms = None if course.present in (None, self._me) else self._heard_ms(course.present)
        self._take_facts(course, course.followed(boot_ms(), change.leader, change.term, heard_ms))

    def phase(self, election: str, term: int | None, name: str) -> None:
        """What this node leads has come so far."""
        course = self._courses[election]
        if term is not None:
            self._take_facts(course, course.phase(boot_ms(), term, name))

    def _take_facts(self, course: Course, facts: list[Fact]) -> None:
        for fact in facts:
            self._put(fact)
            if fact["event"] == "leader-changed":
                assert course.change is not None, "what has changed is a change"
                course.change.seq, course.change.at = fact["seq"], fact["at"]
                self._keep_change(course.change)
        if facts and (change := course.change) is not None and facts[-1]["event"] != "leader-lost":
            self._unwritten[change.seq] = change

    def tell(self, event: str, **facts: Any) -> None:
        """Tell of anything else that has happened."""
        self._put({"event": event, **facts})

    def _put(self, fact: Fact) -> None:
        self.seq += 1
        fact |= {"seq": self.seq, "at": round(time.time(), 3), "node": self._me}
        self._keep(fact)
        if fact["event"] not in ("phase", "leader-changed"):  # these are written with their change
            self._unwritten[self.seq] = fact
        if len(self._unwritten) > UNWRITTEN_MAX:  # a disk that hangs
            del self._unwritten[next(iter(self._unwritten))]
            self.unwritten_total += 1
        news, self._news = self._news, trio.Event()
        news.set()

    def _keep_change(self, change: Change) -> None:
        self._changes[change.seq] = self._last[change.election] = change
        if len(self._changes) > CHANGES_AT_HAND:
            del self._changes[next(iter(self._changes))]

    def _keep(self, fact: Fact) -> None:
        self._events.append(fact)
        if len(self._events) > EVENTS_AT_HAND:
            self._forgotten_seq = self._events.popleft()["seq"]

    async def events(self, after: int = 0) -> AsyncIterator[Fact]:
        """Yield the events with numbers above `after` (0: new ones only), for ever.

        Who reads slower than it goes on is told how many were dropped: `{"event": "dropped", "count": 12}`.
        """
        at = min(after, self.seq) or self.seq  # a number from the future: the disk has lost what gave it
        while True:  # ends with its reader
            if at < self._forgotten_seq:
                yield {"event": "dropped", "count": self._forgotten_seq - at, "seq": self._forgotten_seq}
                at = max(at, self._forgotten_seq)
                continue
            if at >= self.seq:
                await self._news.wait()
                continue
            newest = self.seq
            for fact in [fact for fact in self._events if fact["seq"] > at]:
                if fact["seq"] <= self._forgotten_seq:
                    break  # forgotten while an earlier one was on its way to a slow reader
                at = fact["seq"]
                yield fact
            else:
                at = max(at, newest)

    # -- the file -------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what happens until cancelled; what is left then is written at once."""
        task_status.started()
        try:
            while True:
                if not self._unwritten:
                    await self._news.wait()
                await self._write()
                await trio.sleep(WRITE_EVERY_S)
        finally:
            with trio.move_on_after(WRITE_S_MAX, shield=True):
                await self._write()

    async def _write(self) -> None:
        if not self._unwritten:
            return
        taken, self._unwritten = self._unwritten, {}
        lines = [_line(fact, self.seq) for _, fact in sorted(taken.items())]
        try:
            await trio.to_thread.run_sync(self._write_in_thread, lines, abandon_on_cancel=True)
        except OSError as error:
            self.unwritten_total += len(lines)
            if not self._complained:
                self._log.error("history.unwritten", path=str(self._file.path), reason=error.strerror or str(error))
            self._complained = True
        except trio.Cancelled:
            self._unwritten = taken | self._unwritten  # written twice is read once
            raise
        else:
            self._complained = False

    def _write_in_thread(self, lines: list[bytes]) -> None:
        self._file.append(lines)
        self._file.trim()


def _count(request: Request, name: str, default: int) -> int:
    value = request.get(name, default)
    if not isinstance(value, int) or value < 0:
        raise CommandRefused(f"'{name}' is a number, 0 or more, and not {value!r}", "malformed")
    return value


def _line(fact: Fact | Change, through: int) -> bytes:
    """Return the line of an event. `through`: the newest number that was given by then; its event may have no line."""
    if isinstance(fact, Change):
        fact = {"seq": fact.seq, "at": fact.at, "event": "leader-changed", **fact.fields()}
    else:
        fact = {"seq": fact["seq"], **fact}
    return msgspec.json.encode({**fact, "through": through})

"""Merge work: what the merging process does: rehearse a merge, then finish it with what was written meanwhile.

Rule: finishing is merging anew; where only a few records have changed since the rehearsal, only these are merged, and
appended to a draft of the result that is on the disk already. The result holds the same either way. A rehearsal goes
on until little is left to be merged: a negotiator writes on meanwhile, and is waited for by all when it is stopped.
"""

import contextlib
import gc
import json
import os
import queue
import threading
import time
from collections.abc import Iterator, Set
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from gateway.core.reconcile import Gains, Merged, NotContinued, Reconciliation, Report, Side
from gateway.core.reconcile.sides import CUSTOMER
from gateway.matchmaker.histories import Draft, History
from gateway.matchmaker.merge_letters import (
    Answer,
    Begin,
    Done,
    Failed,
    Finish,
    MergeFailed,
    MergeReason,
    Order,
    Outcome,
    Rehearse,
)
from gateway.matchmaker.merge_text import render_report
from gateway.wire.accountant import Records, State

PARENT_GONE: Final = 3  # exit status
HOUR_S: Final = 3600
# A rehearsal of 100,000 customers takes as long as some negotiation cycles, each of which changes every priority above
# the lowest; to catch up with these takes less than one.
CATCH_UPS_MAX: Final = 3
LITTLE: Final = 1_000  # records; some 50 ms

_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)


def serve(orders: BinaryIO, answers: BinaryIO) -> None:
    """Carry out orders until there are no more."""
    gc.disable()  # millions of small strings and no cycles
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # A thread of its own: the parent's end must be heard in the midst of a merge.
    threading.Thread(target=_listen, args=(orders, lines), daemon=True).start()
    work: Work | None = None
    while True:  # ends with the parent
        order = _decoder.decode(lines.get())
        if isinstance(order, Begin):
            work = Work(order)
            continue
        assert work is not None, "an order before the first line"
        answer = _carry_out(work, order)
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()
        if isinstance(order, Finish) and isinstance(answer, Done):
            work.write_reports()  # nobody waits for these
            return


def _listen(orders: BinaryIO, lines: "queue.SimpleQueue[bytes]") -> None:
    for line in orders:
        lines.put(line)
    os._exit(PARENT_GONE)


def _carry_out(work: "Work", order: Rehearse | Finish) -> Answer:
    begun = time.monotonic()
    if isinstance(order, Finish):
        with contextlib.suppress(PermissionError):  # not root
            os.setpriority(os.PRIO_PROCESS, 0, 0)  # the whole pool waits for this
    try:
        outcome = work.finish() if isinstance(order, Finish) else work.rehearse()
    except MergeFailed as failure:
        work.forget()
        return Failed(failure.reason, failure.detail.encode("utf-8", "backslashreplace").decode())
    return Done(msgspec.structs.replace(outcome, took_ms=round((time.monotonic() - begun) * 1000)))


class Work:
    """One merge."""

    def __init__(self, order: Begin) -> None:
        self._order = order
        self._out = Path(order.out)
        taken = {story.name for story in (order.ours, *order.theirs)}
        self._base_name = next(name for name in ("base", "the base", "the common base") if name not in taken)
        self._read: _Read | None = None
        self._merge: Reconciliation | None = None
        self._gains: Gains | None = None
        self._draft: Draft | None = None
        self._drafted: State = {}  # what the draft holds

    def rehearse(self) -> Outcome:
        """Read everything and merge it; write a draft beside the result's place, and the reports.

        Raises:
            MergeFailed: as `gateway.matchmaker.histories` says, and NOT_CONTINUED.
        """
        self.forget()
        self._read = _Read(self._order)
        self._merge_anew()
        if self._outcome().changes_ours:
            self._write_draft()
        for _ in range(CATCH_UPS_MAX):
            fresh = self._catch_up()
            if self._draft is not None or self._outcome().changes_ours:
                self._bring_draft_to(fresh)
            if fresh is not None and len(fresh) <= LITTLE:
                break
        self.write_reports()
        return self._outcome()

    def finish(self) -> Outcome:
        """Merge with ours as it is now, and write the result; `write_reports` is due. Errors as of `rehearse`."""
        self._bring_draft_to(self._catch_up())
        assert self._draft is not None, "written above"
        self._draft.commit()
        self._draft = None
        if self._read is not None:
            self._read.close()
        self._read = None
        return self._outcome()

    def forget(self) -> None:
        """Let go of everything; the next order begins anew."""
        self._drop_draft()
        if self._read is not None:
            self._read.close()
        self._read = self._merge = self._gains = None
        self._drafted = {}

    @property
    def _merged(self) -> Merged:
        assert self._merge is not None, "merged by whoever asks"
        return self._merge.merged

    def _catch_up(self) -> set[str] | None:
        """Merge with ours as it is now; return the keys that may have changed since the rehearsal, None for all."""
        read, merge, gains = self._read, self._merge, self._gains
        tail = read.ours.appended() if read is not None and read.others_are_unchanged() else None
        if read is None or merge is None or gains is None or tail is None:
            self.forget()
            self._read = _Read(self._order)
            self._merge_anew()
            return None
        if not tail.changes:
            return set()
        if not tail.drops.isdisjoint(read.base_keys()):
            self._merge_anew()  # until when such a match was charged is known now
            return None
        with _continued():
            fresh = merge.follow(self._order.ours.name, tail.changes)
        if fresh is None:
            self._merge_anew()
            return None
        gains.again(fresh | tail.changes.keys())
        return fresh

    def _merge_anew(self) -> None:
        assert self._read is not None, "read before it is merged"
        self._merge = self._gains = None  # before the next one takes its memory
        with _continued():
            self._merge = Reconciliation(*self._read.sides(self._base_name), self._order.pool)
        self._gains = Gains(self._merge, self._order.ours.name, self._order.pool)

    def _bring_draft_to(self, fresh: set[str] | None) -> None:
        """Let the draft hold what is merged; it differs at most at `fresh`, None: anywhere."""
        if fresh is None:
            self._drop_draft()
        if self._draft is None:
            self._write_draft()
        elif fresh:
            self._draft.bring_to(self._merged.state, self._drafted, fresh)
            self._drafted = dict(self._merged.state)

    def _write_draft(self) -> None:
        self._draft = Draft(self._merged, self._out)
        self._drafted = dict(self._merged.state)

    def _drop_draft(self) -> None:
        if self._draft is not None:
            self._draft.discard()
        self._draft = None

    def _outcome(self) -> Outcome:
        gains, report = self._gains, self._merged.report
        assert gains is not None, "counted by whoever merged"
        added = gains.usage / 1e6
        return Outcome(
            changes_ours=gains.is_change,
            conflicts=len(report.conflicts),
            edits=len(report.edits),
            usage_added=added,
            customers=sum(key.startswith(CUSTOMER) for key in self._merged.state),
            took_ms=0,
            summary=_summary(report, self._order.ours.name, gains.is_change, added),
        )

    def write_reports(self) -> None:
        """Write both reports, in the place of those of the rehearsal.

        A crash of the host may cost them: they can be made again from the originals.

        Raises:
            MergeFailed: NOT_WRITTEN.
        """
        report = self._merged.report
        try:
            document = msgspec.json.encode(report)
        except UnicodeEncodeError:  # names are bytes to HTCondor, and need not be UTF-8
            document = json.dumps(msgspec.to_builtins(report)).encode()
        text = render_report(report).encode("utf-8", "backslashreplace") + b"\n"
        for suffix, data in (("report.json", document), ("report.txt", text)):
            path = self._out.with_name(f"{self._out.name}.{suffix}")
            fresh = path.with_name(f".{path.name}.writing")
            try:
                fresh.unlink(missing_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(fresh, flags, 0o600), "wb") as file:
                    file.write(data)
                os.replace(fresh, path)
            except OSError as error:
                fresh.unlink(missing_ok=True)
                raise MergeFailed(MergeReason.NOT_WRITTEN, f"'{path}' cannot be written: {error.strerror}") from error


class _Read:
    """The files of a merge, read and held open."""

    def __init__(self, order: Begin) -> None:
        self._order = order
        self._open: list[History] = []
        alike: Records = {}
        try:
            self._base = None if order.base is None else self._opened(order.base, alike)
            self.ours = self._opened(order.ours.path, alike)
            self._theirs = [self._opened(story.path, alike) for story in order.theirs]
        except BaseException:
            self.close()
            raise

    def sides(self, base_name: str) -> tuple[Side, list[Side]]:
        """Return base and sides; without a base the sides went on from nothing."""
        order = self._order
        base = Side(name=base_name, state={}) if self._base is None else self._base.side(base_name)
        since_s = base.updated_s
        stories = (order.ours, *order.theirs)
        pairs = zip((self.ours, *self._theirs), stories, strict=True)
        return base, [history.side(story.name, story, since_s) for history, story in pairs]

    def base_keys(self) -> Set[str]:
        """Return the keys of the base's records."""
        return set() if self._base is None else self._base.state.keys()

    def others_are_unchanged(self) -> bool:
        """Whether all files but ours are what was read."""
        return all(history.is_unchanged() for history in self._open if history is not self.ours)

    def close(self) -> None:
        """Let the files go."""
        for history in self._open:
            history.close()
        self._open.clear()

    def _opened(self, path: str, alike: Records) -> History:
        self._open.append(History(Path(path), alike))
        return self._open[-1]


@contextlib.contextmanager
def _continued() -> Iterator[None]:
    try:
        yield
    except (NotContinued, ValueError) as error:
        raise MergeFailed(MergeReason.NOT_CONTINUED, str(error)) from error


def _summary(report: Report, ours: str, changes: bool, added: float) -> str:
    if report.fast_forward:
        what = report.notes[0]
    else:
        names = " and ".join(side.name for side in report.sides if not side.same_as)
        conflicts = len(report.conflicts)
        what = (
            f"{names} merged, {report.survivor} survives: {len(report.customers)} customers touched, "
            f"{len(report.edits)} edits, {conflicts} of them in conflict"
        )
    return f"{what}; " + (f"{ours} gains {added / HOUR_S:.2f} slot-hours" if changes else f"nothing is new to {ours}")

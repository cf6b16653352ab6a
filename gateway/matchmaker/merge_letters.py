"""Merge letters: what a merge is asked, what it answers, and how it may fail: one JSON document a line.

Rule: values only. The process that merges (`gateway.matchmaker.merging`) and the one that asks both import this.
"""

import enum
from typing import Final

import msgspec

from gateway.core.reconcile import Pool

LINE_BYTES_MAX: Final = 64 * 1024  # of an answer; a summary has some 200 bytes


class MergeReason(enum.StrEnum):
    """Why histories were not merged. Stable names: they are metric labels."""

    NOT_CONTINUED = "not-continued"  # a side does not go on from the base
    UNREADABLE = "unreadable"  # not there, no file, empty, or nobody ever charged on it
    CORRUPT = "corrupt"
    TOO_LONG = "too-long"  # longer than any accounting file is
    NOT_WRITTEN = "not-written"  # the result has no place on the disk, or is not what was written
    CHILD_DIED = "child-died"
    TOO_SLOW = "too-slow"


class MergeFailed(Exception):  # noqa: N818 (an outcome, not an error of this program)
    """Histories were not merged: nothing was written, the inputs are as they were. `detail` is for the operator."""

    def __init__(self, reason: MergeReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One side: its file, and what is known of it besides; see `gateway.core.reconcile.Side`.

    Attributes:
        name: of its manager; unique among the sides.
        path: its accounting file.
        term: of the leader that wrote it.
        ended_s: when its negotiator was stopped; None: not known, or it still runs.
        took_over_s: when its negotiator started on a copy of the base; None where it ran all along.
        dropped_s: Resource key -> until when it charged that match of the base, where it was watched.
    """

    name: str
    path: str
    term: int = 0
    ended_s: int | None = None
    took_over_s: int | None = None
    dropped_s: dict[str, int] = {}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a merge came to, for the first side.

    Attributes:
        changes_ours: False: the merged state is ours, but for what time does to it: nothing need be exchanged.
        conflicts: settings that several sides changed differently.
        edits: changes of settings on any side, the conflicts included.
        usage_added: weighted slot-seconds that the users of our side gain; less than 0 where some were counted twice.
        customers: how many the merged state has.
        took_ms: from the question to the answer.
        summary: one sentence for the log.
    """

    changes_ours: bool
    conflicts: int
    edits: int
    usage_added: float
    customers: int
    took_ms: int
    summary: str


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Names what is to be merged; the first line."""

    base: str | None
    ours: Story
    theirs: list[Story]
    out: str
    pool: Pool


class Rehearse(msgspec.Struct, frozen=True, tag=True):
    """Asks what would come out. Answered by `Done` or `Failed`."""


class Finish(msgspec.Struct, frozen=True, tag=True):
    """Orders the merged file: our negotiator is stopped. Answered by `Done` or `Failed`."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """It is done."""

    outcome: Outcome


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It is not."""

    reason: MergeReason
    detail: str


Order = Begin | Rehearse | Finish
Answer = Done | Failed

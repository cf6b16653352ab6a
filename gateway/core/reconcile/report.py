"""Report: what a merge did, in full: enough for an administrator to judge it, and to prove that nothing was lost.

Amounts are millionths of a slot-second (`amounts.MICRO`), whole numbers, so that the equations below hold exactly.
"""

import enum

import msgspec


class Fate(enum.StrEnum):
    """What became of a customer's record."""

    KEPT = "kept"
    ADDED = "added"  # the base did not know it
    DELETED = "deleted"
    RECREATED = "recreated"  # deleted on one side, used on another: what was used there remains


class Tally(msgspec.Struct):
    """One accumulator, of one customer or of all. All in millionths of a slot-second.

    Always: merged = base - forgotten + sum(charged) - phantom - stale - shared.
    """

    base: int = 0
    charged: dict[str, int] = {}  # side -> what it added since the base
    phantom: int = 0  # trap (a): a gap that another side charged, or charged again at take-over
    stale: int = 0  # trap (b): claims that a side could no longer see
    shared: int = 0  # trap (c): claims that several sides charged at once
    forgotten: int = 0  # an administrator's reset, deletion or setting
    merged: int = 0

    @property
    def balance(self) -> int:
        """What the equation lacks: always 0."""
        out = self.forgotten + self.phantom + self.stale + self.shared + self.merged
        return self.base + sum(self.charged.values()) - out

    def add(self, other: "Tally") -> None:
        """Add another tally to this one."""
        self.base += other.base
        self.merged += other.merged
        if not other.charged and not other.forgotten:
            return  # at rest: nearly all of a large pool
        for side, amount in other.charged.items():
            self.charged[side] = self.charged.get(side, 0) + amount
        self.phantom += other.phantom
        self.stale += other.stale
        self.shared += other.shared
        self.forgotten += other.forgotten

    def take(self, other: "Tally") -> None:
        """Take another tally off this one again."""
        self.base -= other.base
        self.merged -= other.merged
        for side, amount in other.charged.items():
            self.charged[side] -= amount
        self.phantom -= other.phantom
        self.stale -= other.stale
        self.shared -= other.shared
        self.forgotten -= other.forgotten


class CustomerReport(msgspec.Struct, frozen=True):
    """What became of one customer. Priorities as HTCondor's real priority, each at its own side's time."""

    customer: str
    fate: Fate
    usage: Tally
    weighted: Tally
    priority_base: float
    priority: dict[str, float]  # side -> its value
    priority_merged: float


class Edit(msgspec.Struct, frozen=True):
    """An administrator's change, or what can't be told from one."""

    key: str
    attribute: str  # "" where the whole record was deleted
    base: str | None
    values: dict[str, str | None]  # the sides that changed it
    kept: str | None
    kept_from: str  # side
    conflict: bool


class SideReport(msgspec.Struct, frozen=True):
    """One history that took part."""

    name: str
    term: int
    updated_s: int  # LastUpdateTime in the file
    settled_s: int  # until when its matches were charged
    claims: int
    same_as: str = ""  # the side, or the base, that it equals


class View(msgspec.Struct, frozen=True):
    """How far two sides saw the same claims."""

    sides: tuple[str, str]
    common: int
    all: int
    same_pool: bool  # so far that all usage was counted on both: the greater counts, not the sum


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a merge did.

    Attributes:
        survivor: the side whose matches go on and which wins conflicts.
        base_s: the base's settled time; merged_s: the merged state's LastUpdateTime; seconds since 1970.
        fast_forward: only one history went on, or none: its state was taken as it is.
        sides: all that were given, best first.
        customers: those for whom anything happened, by name.
        edits: one-sided and conflicting changes, by key.
        usage, weighted: the totals of all users, also of those without change. Groups are left out: their records
            count what their users used again.
        notes: what else should be known, in sentences.
    """

    survivor: str
    base_s: int
    merged_s: int
    fast_forward: bool
    sides: list[SideReport]
    views: list[View]
    customers: list[CustomerReport]
    edits: list[Edit]
    usage: Tally
    weighted: Tally
    notes: list[str]

    @property
    def conflicts(self) -> list[Edit]:
        """The edits of which one lost."""
        return [edit for edit in self.edits if edit.conflict]

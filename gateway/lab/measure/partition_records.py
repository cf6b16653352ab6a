"""One partition as a value, as a JSON line, and in a table. Every key is always present; null: no such figure."""

from collections.abc import Sequence

import msgspec

from gateway.lab.measure.audit import Used
from gateway.lab.measure.records import rounded
from gateway.lab.measure.table import cell

SCENARIO = "partition"


class SideFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One side of the cut: who led it, how long after the cut it had a leader, and what it did until the heal."""

    leader: str | None
    led_s: float | None  # None: nobody did
    matches: int  # of its own slots, by its own negotiator
    starts: int  # jobs that began on its slots
    charged_s: float | None  # slot-seconds, by its own accounts
    stood_still: tuple[str, ...] = ()  # which of its daemons waited for the other side in vain, until when


class PartitionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one repeat showed. Times in seconds; `_s` of the three after the heal are counted from it.

    `refused` says why nothing was measured: the pool was not healthy before, or did not serve on both sides.
    """

    scenario: str = SCENARIO
    system: str
    repeat: int
    healthy_before: bool
    on_partition: str | None = None
    at: float | None = None  # the cut, in unix seconds
    cut_s: float | None = None
    sides: tuple[SideFigures, ...] = ()
    one_leader_s: float | None = None  # one leader, one holder of the address, one negotiator
    merged_s: float | None = None  # every one-sided edit shows through the address
    status_merge: dict[str, object] | None = None  # what the leader's status says of its last merge
    negotiator_gap_s: float | None = None  # longest time without a cycle since the heal
    negotiators_after: int | None = None
    usage_error_s: float | None = None  # of the user for whom it is greatest (`audit`)
    usage_bound_s: float | None = None  # one negotiation cycle's charge of every slot
    usage: dict[str, Used] | None = None
    edits_made: int | None = None
    edits_lost: tuple[str, ...] | None = None
    conflict_value: int | None = None  # which of the two values stands
    conflict_reported: bool | None = None  # whether a node's log or report names the user of the conflict
    jobs_lost: int | None = None
    refused: tuple[str, ...] | None = None

    @property
    def usage_lost_s(self) -> float | None:
        """Return the slot-seconds that users had and were not charged, beyond what the bound allows for."""
        if self.usage is None:
            return None
        return sum(max(0.0, -used.error_s) for used in self.usage.values())


_COLUMNS = (
    ("cut s", 6), ("led s", 13), ("matches", 9), ("starts", 9), ("one s", 6), ("merged s", 8), ("gap s", 6),
    ("negot.", 6), ("charged", 8), ("to charge", 9), ("error", 7), ("bound", 6), ("edits", 7), ("conflict", 13),
    ("lost", 4),
)  # fmt: skip


def table(results: Sequence[PartitionResult]) -> str:
    """Return a line for each repeat, and what was lost beneath those that lost something."""
    lines = [_line(("system", "repeat"), [heading for heading, _ in _COLUMNS])]
    lines.append("-" * len(lines[0]))
    for one in results:
        lines.append(_line((one.system, str(one.repeat)), _cells(one)))
        if one.refused:
            lines.append(f"    not measured: {'; '.join(one.refused)}")
        lines += [f"    stood still: {text}" for side in one.sides for text in side.stood_still]
        lines += [f"    lost: condor_userprio {text}" for text in one.edits_lost or ()]
        lines += [
            f"    {user}: charged {used.charged_s:.0f} s of {used.seen_s:.0f} s; claimed {used.claimed_s:.0f} s"
            for user, used in (one.usage or {}).items()
        ]
    return "\n".join(lines)


def _cells(one: PartitionResult) -> list[str]:
    usage = one.usage
    made = one.edits_made
    kept = "-" if made is None or one.edits_lost is None else f"{made - len(one.edits_lost)}/{made}"
    reported = {True: " reported", False: " silent", None: ""}[one.conflict_reported]
    return [
        cell(one.cut_s, 0),
        "/".join(cell(side.led_s, 1) for side in one.sides) or "-",
        "/".join(str(side.matches) for side in one.sides) or "-",
        "/".join(str(side.starts) for side in one.sides) or "-",
        cell(one.one_leader_s, 1),
        cell(one.merged_s, 1),
        cell(one.negotiator_gap_s, 1),
        cell(one.negotiators_after, 0),
        cell(None if usage is None else sum(used.charged_s for used in usage.values()), 0),
        cell(None if usage is None else sum(used.seen_s for used in usage.values()), 0),
        cell(one.usage_error_s, 1),
        cell(one.usage_bound_s, 1),
        kept,
        f"{cell(one.conflict_value, 0)}{reported}",
        cell(one.jobs_lost, 0),
    ]


def _line(labels: tuple[str, str], cells: Sequence[str]) -> str:
    widths = [width for _, width in _COLUMNS]
    right = "  ".join(f"{text:>{width}}" for text, width in zip(cells, widths, strict=True))
    return f"{labels[0]:<6}  {labels[1]:>6}  {right}"


def verdict(results: Sequence[PartitionResult]) -> str:
    """Return a line for each thing that is asked of our own system; "" where it was not measured."""
    group = [one for one in results if one.system == "ours" and one.healthy_before and one.usage is not None]
    if not group:
        return ""
    asked = (
        ("both sides matched while cut", [all(s.matches and s.starts for s in one.sides) for one in group]),
        ("one leader and one negotiator afterwards", [one.negotiators_after == 1 for one in group]),
        ("histories merged within 60 s", [one.merged_s is not None for one in group]),
        ("usage = base + both sides, to a cycle of each slot",
         [abs(one.usage_error_s or 0.0) <= (one.usage_bound_s or 0.0) for one in group]),
        ("every one-sided edit is there", [not one.edits_lost for one in group]),
        ("the two-sided edit has one of its values", [one.conflict_value is not None for one in group]),
        ("the two-sided edit is reported", [bool(one.conflict_reported) for one in group]),
        ("no job lost", [one.jobs_lost == 0 for one in group]),
    )  # fmt: skip
    lines = [f"asked of {SCENARIO}, {len(group)} repeat{'s' if len(group) > 1 else ''}:"]
    lines += [f"  {'yes' if all(held) else 'NO':<4} {what}  ({sum(held)} of {len(held)})" for what, held in asked]
    return "\n".join(lines)


def json_line(result: PartitionResult) -> str:
    """Return the result as one line of JSON, figures to the millisecond."""
    return msgspec.json.encode(rounded(result)).decode()

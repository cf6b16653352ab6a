"""The timeline of failovers: each change of a leader as positions on one scale, for the template to draw.

Rule: pure. What is not known is not drawn; a picture never says more than the history does.

A change is what `history` answers (`phases` count in milliseconds from the last moment at which the old leader is
known to have served). Positions are per cent of the width, so that the picture fits a phone and a wall alike.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, Final, NamedTuple

from gateway.console.page.words import ago, duration, machine_moment, moment

ROWS_MAX: Final = 8  # a screen; the history itself is kept and answered in full by the API
TORN_AT: Final = 6  # so many times the median: a longer row is cut off, lest it make all the others dots
TICKS: Final = 4
LEFT, RIGHT = 1.0, 97.0  # per cent of the width; markers at the ends need room
ROOM: Final = 3.2  # between two markers: nine pixels on the narrowest phone

# Name in the document -> word, shape. The shapes differ as much as the colours do.
PHASES: Final[Mapping[str, tuple[str, str]]] = {
    "lost_ms": ("lost", "cross"),
    "noticed_ms": ("noticed", "ring"),
    "elected_ms": ("elected", "diamond"),
    "serving_ms": ("serving", "square"),
    "announced_ms": ("announced", "triangle"),
    "negotiator_ms": ("negotiator up", "frame"),
    "first_cycle_ms": ("first cycle", "triangle"),
    "first_match_ms": ("first match", "star"),
}
LAST: Final = "first_match_ms"
LEGEND: Final = (
    ("cross", "old leader lost"),
    ("ring", "noticed"),
    ("diamond", "elected"),
    ("square", "serving"),
    ("frame", "negotiator up"),
    ("triangle", "announced, first cycle"),
    ("star", "first match"),
)
CAUSES: Final[Mapping[str, str]] = {
    "lease-expired": "lease expired",
    "requested": "planned switchover",
    "unfit": "could not serve",
    "died": "process died",
    "link-down": "link down",
    "suspended": "host was suspended",
    "superseded": "superseded",
    "first": "first leader",
    "unseen": "not seen here",
}
UNDER_WAY_S: Final = 5.0
UNKNOWN_GAP: Final = frozenset({"first", "unseen"})
PLANNED: Final = frozenset({"requested", "first"})
_SERVED: Final = {"address": ("announced_ms", "serving_ms"), "matchmaker": ("first_cycle_ms", "negotiator_ms")}


class Marker(NamedTuple):
    """One phase on the line: its word, when, its shape, and where it stands."""

    word: str
    time: str
    shape: str
    at: float
    seat: float  # where its shape is drawn: beside its neighbours, joined to `at` by a line


class Row(NamedTuple):
    """One change as a line of the picture. `gap` is (left, width) of the time without service; None: not known."""

    key: str
    election: str
    kind: str
    term: int
    old: str | None
    new: str
    cause: str
    detail: str
    planned: bool
    when: str
    when_machine: str
    ago: str
    gap_time: str
    under_way: bool  # it may well be that more comes to be known
    gap: tuple[float, float] | None
    after: tuple[float, float] | None  # from the service's return to the last phase
    torn: bool  # it goes on beyond the right edge
    markers: tuple[Marker, ...]
    times: Mapping[str, str]  # word of a phase -> when
    sentence: str  # all of it, for who can't see the picture


class Tick(NamedTuple):
    """A mark of the scale."""

    at: float
    label: str


class Timeline(NamedTuple):
    """The rows, newest first, and their common scale."""

    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    phases: tuple[str, ...]  # the words of those phases that occur, in order: columns of the table
    more: int  # changes that are known and not shown


def timeline(changes: Sequence[Mapping[str, Any]], now_s: float) -> Timeline:
    """Return the picture of the newest changes.

    Args:
        changes: in any order.
        now_s: unix time.
    """
    newest = sorted(changes, key=lambda change: (change["at"], change["seq"]), reverse=True)
    shown = newest[:ROWS_MAX]
    scale_ms = _scale([_end_ms(change) for change in shown])
    rows = tuple(_row(change, scale_ms, now_s) for change in shown)
    occurring = {word for row in rows for word in row.times}
    return Timeline(
        rows=rows,
        ticks=tuple(
            Tick(_at(scale_ms * part / TICKS, scale_ms), duration(scale_ms * part / TICKS).replace(".00", ""))
            for part in range(TICKS + 1)
        ),
        phases=tuple(word for word, _ in PHASES.values() if word in occurring),
        more=len(newest) - len(shown),
    )


def _phases(change: Mapping[str, Any]) -> dict[str, float]:
    """Return the known phases in their order."""
    said = change.get("phases") or {}
    return {name: max(said[name], 0) for name in PHASES if said.get(name) is not None}


def _end_ms(change: Mapping[str, Any]) -> float:
    """Return the end of what the failover itself took: when a job is matched next is a matter of the jobs."""
    phases = _phases(change)
    return max((*(ms for name, ms in phases.items() if name != LAST), change.get("gap_ms") or 0))


def _scale(ends_ms: Sequence[float]) -> float:
    """Return the time of the right edge: a round number that shows all but the exceptionally long ones."""
    known = [end_ms for end_ms in ends_ms if end_ms > 0]
    if not known:
        return 400.0
    longest = max(end_ms for end_ms in known if end_ms <= TORN_AT * median(known))
    unit = 10.0
    while True:  # ends where the number fits
        for factor in (1, 2, 4, 6, 8):
            if longest <= unit * factor:
                return unit * factor
        unit *= 10


def _at(ms: float, scale_ms: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * min(ms / scale_ms, 1.02), 2)


def _span(begin_ms: float, end_ms: float, scale_ms: float) -> tuple[float, float]:
    left = _at(begin_ms, scale_ms)
    return left, round(max(_at(end_ms, scale_ms) - left, 0.4), 2)


def _row(change: Mapping[str, Any], scale_ms: float, now_s: float) -> Row:
    phases = _phases(change)
    gap_ms = change.get("gap_ms")
    served = [phases[name] for name in _SERVED.get(change["kind"], ()) if name in phases]
    back_ms = served[0] if served else gap_ms
    end_ms = max(_end_ms(change), phases.get(LAST, 0))
    gap = None if gap_ms is None or back_ms is None else _span(max(back_ms - gap_ms, 0), back_ms, scale_ms)
    cause = str(change.get("cause") or "")
    return Row(
        key=f"{change['election']}-{change['term']}-{change['seq']}",
        election=change["election"],
        kind=change["kind"],
        term=change["term"],
        old=change.get("from"),
        new=change["to"],
        cause=CAUSES.get(cause, cause.replace("-", " ")),
        detail=str(change.get("detail") or ""),
        planned=cause in PLANNED,
        when=moment(change["at"]),
        when_machine=machine_moment(change["at"]),
        ago=ago(change["at"], now_s),
        gap_time=duration(gap_ms),
        under_way=gap_ms is None and cause not in UNKNOWN_GAP and now_s - change["at"] < UNDER_WAY_S,
        gap=gap,
        after=_span(back_ms, end_ms, scale_ms) if back_ms is not None and end_ms > back_ms else None,
        torn=any(ms > scale_ms for ms in phases.values()),
        markers=_markers(phases, scale_ms),
        times={PHASES[name][0]: duration(ms) for name, ms in phases.items()},
        sentence=_sentence(change, phases),
    )


def _markers(phases: Mapping[str, float], scale_ms: float) -> tuple[Marker, ...]:
    shown = {name: ms for name, ms in phases.items() if ms <= scale_ms}
    places = [_at(ms, scale_ms) for ms in shown.values()]
    return tuple(
        Marker(PHASES[name][0], duration(ms), PHASES[name][1], at, seat)
        for (name, ms), at, seat in zip(shown.items(), places, _seats(places), strict=True)
    )


def _seats(places: Sequence[float]) -> list[float]:
    """Move what would overlap apart: to the right, and back where the edge comes."""
    order = sorted(range(len(places)), key=places.__getitem__)
    seats = list(places)
    for before, one in pairwise(order):
        seats[one] = max(seats[one], seats[before] + ROOM)
    limit = RIGHT + 1
    for one in reversed(order):
        seats[one] = round(min(seats[one], limit), 2)
        limit = seats[one] - ROOM
    return seats


def _sentence(change: Mapping[str, Any], phases: Mapping[str, float]) -> str:
    taken = f"{change['to']} took {change['election']}" + (f" from {change['from']}" if change.get("from") else "")
    told = ", ".join(f"{PHASES[name][0]} after {duration(ms)}" for name, ms in phases.items() if name != "lost_ms")
    gap = "" if change.get("gap_ms") is None else f"; not served for {duration(change['gap_ms'])}"
    return f"{taken}{gap}" + (f": {told}" if told else "")

"""Metrics: what one is, and how its samples are read from the node's documents.

Rule: what a node cannot know it does not expose: a sample without a value is left out, a metric without one is absent.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

HEARD_MS: Final = 1_000  # a peer that said nothing for so long is not heard

Sample = tuple[tuple[str, ...], float | None]  # values of the labels, value; None: not known, so not exposed


class Facts(NamedTuple):
    """What metrics are read from."""

    status: Mapping[str, Any]
    changes: Mapping[tuple[str, str], int]  # (election, cause) -> how many
    last_changes: Mapping[str, Mapping[str, Any]]  # election -> its last change


class Metric(NamedTuple):
    """One metric; `name` without the prefix."""

    name: str
    kind: str  # "gauge" or "counter"
    help: str
    labels: tuple[str, ...]
    read: Callable[[Facts], Iterable[Sample]]


def gauge(name: str, text: str, labels: tuple[str, ...], read: Callable[[Facts], Iterable[Sample]]) -> Metric:
    """Declare a gauge."""
    return Metric(name, "gauge", text, labels, read)


def counter(name: str, text: str, labels: tuple[str, ...], read: Callable[[Facts], Iterable[Sample]]) -> Metric:
    """Declare a counter."""
    assert name.endswith("_total"), name
    return Metric(name, "counter", text, labels, read)


def at(*path: str, per_unit: int = 1) -> Callable[[Facts], Iterable[Sample]]:
    """Return a reader of one number of the status document; absent where a part of the path is.

    Args:
        path: names, one within the other.
        per_unit: how many of what the document has are one of the metric's unit.
    """

    def read(facts: Facts) -> Iterator[Sample]:
        found: Any = facts.status
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        if found is not None:
            yield (), found / per_unit

    return read


def each(*path: str) -> Callable[[Facts], Iterable[Sample]]:
    """Return a reader of a table of numbers: its names are the label."""

    def read(facts: Facts) -> Iterator[Sample]:
        found: Any = facts.status
        for name in path:
            found = (found or {}).get(name)
        for name, value in (found or {}).items():
            yield (str(name),), value

    return read


def per(part: str, value: Callable[[Any], float | None]) -> Callable[[Facts], Iterable[Sample]]:
    """Return a reader of one number of each thing of a part of the document."""

    def read(facts: Facts) -> Iterator[Sample]:
        for name, one in facts.status.get(part, {}).items():
            yield (name,), value(one)

    return read


def seconds(milliseconds: float | None) -> float | None:
    """Return milliseconds as seconds, what is unknown as unknown."""
    return None if milliseconds is None else milliseconds / 1000

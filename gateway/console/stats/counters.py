"""Counters that an operator may set to nothing, and maxima. Kept here alone: the node's own totals never go back.

Rule: what is shown is the node's total less what it was at `clear counters all`; where a node has begun anew, and its
total is below that, it is the total.
"""

from collections.abc import Iterable

from gateway.console.stats.columns import COUNTERS, MAXIMA
from gateway.console.stats.rows import Row, Value

ROWS_MAX = 4_096  # frontends and servers of one file: far fewer; a bound for what is remembered


class Counters:
    """What one console process remembers of the rows that it has seen."""

    def __init__(self) -> None:
        self._base: dict[str, dict[str, int]] = {}
        self._maxima: dict[str, dict[str, int]] = {}

    def seen(self, rows: Iterable[Row]) -> list[Row]:
        """Take rows as the node says them; return them as an operator reads them."""
        return [self._seen(row) for row in rows]

    def _seen(self, row: Row) -> Row:
        values: dict[str, Value] = dict(row.values)
        if row.key in self._maxima or len(self._maxima) < ROWS_MAX:
            maxima = self._maxima.setdefault(row.key, {})
            for most, now in MAXIMA.items():
                value = row.values.get(now)
                if isinstance(value, int):
                    values[most] = maxima[most] = max(value, maxima.get(most, 0))
        for name, base in self._base.get(row.key, {}).items():
            value = values.get(name)
            if isinstance(value, int):
                values[name] = value - base if value >= base else value
        return row._replace(values=values)

    def clear_maxima(self) -> None:
        """Begin the maxima anew."""
        self._maxima.clear()

    def clear_all(self, rows: Iterable[Row]) -> None:
        """Count from `rows` on, as the node says them, and begin the maxima anew."""
        self._maxima.clear()
        self._base = {
            row.key: {name: value for name, value in row.values.items() if name in COUNTERS and isinstance(value, int)}
            for row in list(rows)[:ROWS_MAX]
        }

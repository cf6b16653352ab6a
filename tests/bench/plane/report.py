"""The tables of a run: medians, and in each round the ratio to another contender; in Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.plane.contenders import ALL
from tests.bench.plane.loads import Figure

TITLES = {kind.name: kind.title for kind in ALL}
Rounds = Mapping[str, Mapping[str, Sequence[float | None]]]  # figure -> contender -> a value each round


def head(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items()) + "\n"


def values(title: str, figures: Sequence[Figure], rounds: Rounds, names: Sequence[str]) -> str:
    """Return the table of medians with their least and greatest."""
    rows = [
        (figure.title, [_spread(rounds[figure.title].get(name, ()), _number) for name in names]) for figure in figures
    ]
    return table(title, [TITLES[name] for name in names], rows)


def ratios(title: str, figures: Sequence[Figure], rounds: Rounds, names: Sequence[str], to: str) -> str:
    """Return the table of the medians of each round's ratio."""
    rows = []
    for figure in figures:
        if figure.is_ratio and any(value is not None for value in rounds[figure.title].get(to, ())):
            cells = [_spread(by_round(rounds[figure.title], name, to), _ratio) for name in names]
            rows.append((figure.title + (" (less is better)" if figure.less_is_better else ""), cells))
    return table(title, [TITLES[name] for name in names], rows)


def by_round(row: Mapping[str, Sequence[float | None]], name: str, to: str) -> list[float | None]:
    """Return the ratio in each round that has both."""
    pairs = zip(row.get(name, ()), row.get(to, ()), strict=False)
    return [one / other if one is not None and other else None for one, other in pairs]


def memory(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """Return the table of idle connections: KB each."""
    rows = []
    counts = sorted({count for one in found.values() for count in one})
    for count in counts:
        base = found.get("connection", {}).get(count, {}).get("kernel_kb")
        own, kernel = [], []
        for one in found.values():
            cell = one.get(count, {})
            short = cell.get("opened", count) < count
            note = f" ({cell['opened']:,} opened)" if short else ""
            own.append("-" if "own_kb" not in cell else f"{cell['own_kb']:.2f}{note}")
            known = "kernel_kb" in cell and base is not None
            kernel.append(f"{cell['kernel_kb'] - base:.1f}" if known else "-")
        rows.append((f"{count:,} idle connections: its own memory, KB each", own))
        rows.append((f"{count:,} idle connections: the kernel's beyond a direct connection's, KB each", kernel))
    return table("Memory of idle connections", [TITLES[name] for name in found], rows)


def switches(title: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the table of switches with open connections."""
    found = {name: found[name] for name in TITLES if name in found}
    rows: list[tuple[str, list[str]]] = []
    rows.append(("connections open", [_spread([one["open"] for one in each], _number) for each in found.values()]))
    rows.append(("of them noticed, %", [_spread([_noticed(one) for one in each], _number) for each in found.values()]))
    for key, text in (
        ("last_notice_ms", "decision to the last client's notice, ms"),
        ("served_ms", "decision to the first new connection served, ms"),
        ("new_at_old", "new connections at the old server"),
        ("new_failed", "new connections failed"),
    ):
        rows.append((text, [_spread([one[key] for one in each], _number) for each in found.values()]))
    return table(title, [TITLES[name] for name in found], rows)


def _noticed(one: Mapping[str, Any]) -> float | None:
    return 100 * (one["reset"] + one["finished"]) / one["open"] if one["open"] else None


def table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a table in Markdown that reads well as it is, too."""
    lines = [["", *columns], *([name, *cells] for name, cells in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns) + 1)]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"### {title}", "", shown[0], rule, *shown[1:], ""])


def _spread(found: Sequence[float | None], text: Any) -> str:
    known = [value for value in found if value is not None]
    if not known:
        return "-"
    middle = text(statistics.median(known))
    return middle if text(min(known)) == text(max(known)) else f"{middle} [{text(min(known))}-{text(max(known))}]"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if abs(value) >= 1_000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"

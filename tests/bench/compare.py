"""Two runs of a benchmark side by side: `python -m tests.bench.compare BEFORE AFTER`. Judges nothing."""

import argparse
import json
from pathlib import Path
from typing import Any

from tests.bench.results import Table, print_table


def compared(before: Table, after: Table) -> Table:
    """Return the later figures, each with its change in per cent where both are numbers."""
    return {
        subject: {column: _change(before.get(subject, {}).get(column), value) for column, value in row.items()}
        for subject, row in after.items()
    }


def _change(before: Any, after: Any) -> str:
    if not isinstance(after, int | float) or not isinstance(before, int | float):
        return "" if after is None else str(after)
    text = f"{after:.2f}" if isinstance(after, float) else str(after)
    return f"{text} ({(after - before) / before:+.0%})" if before else text


def main() -> None:
    parser = argparse.ArgumentParser(description="compare two saved runs")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    chosen = parser.parse_args()
    for path in (chosen.before, chosen.after):
        if not path.exists():
            raise SystemExit(f"no saved run '{path}': 'make bench' saves the last one, and keeps the one before it")
    was, now = (json.loads(path.read_text()) for path in (chosen.before, chosen.after))
    if was["name"] != now["name"]:
        raise SystemExit(f"'{was['name']}' and '{now['name']}' cannot be compared: they are different benchmarks")
    if was["machine"] != now["machine"]:
        print(f"different machines: {was['machine']} before, {now['machine']} after")
    print_table(now["name"], compared(was["table"], now["table"]))


if __name__ == "__main__":
    main()

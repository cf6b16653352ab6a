"""Results of a benchmark: a table for people, a JSON file to compare with."""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

Table = dict[str, dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark's command line say where its result is kept."""
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the result here, for `compare`")


def report(name: str, table: Table, chosen: argparse.Namespace) -> None:
    """Print a result, and save it where that was asked for."""
    print_table(name, table)
    save(name, table, chosen)


def save(name: str, table: Table, chosen: argparse.Namespace) -> None:
    """Save a result where that was asked for."""
    if chosen.save is not None:
        chosen.save.parent.mkdir(parents=True, exist_ok=True)
        machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
        document = {"name": name, "at": round(time.time()), "machine": machine, "table": table}
        chosen.save.write_text(json.dumps(document, indent=1) + "\n")


def print_table(name: str, table: Table) -> None:
    """Print one row a subject and one column a figure."""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    rows = [
        [name, *columns],
        *([subject, *(_text(row.get(column)) for column in columns)] for subject, row in table.items()),
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns) + 1)]
    for row in rows:
        print(
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
        )
    print()


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "" if value is None else str(value)

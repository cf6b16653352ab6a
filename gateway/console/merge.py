"""The merge command: accounting files that went on from a common base, into one. Nothing is written that is not proven.

Synchronous, as HTCondor's tools are: it is a command of its own, not a part of the node. Rule: inputs are only read,
OUT appears whole or not at all.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.core.reconcile import Merged, NotContinued, Pool, Side, reconcile
from gateway.matchmaker.histories import Draft, History, no_collection
from gateway.matchmaker.merge_letters import MergeFailed, Story
from gateway.wire.accountant import Records


class MergeRefused(Exception):  # noqa: N818 (an answer to the operator)
    """The files can't be merged, or the result can't be written; the text says why. Nothing was written."""


class Given(msgspec.Struct, frozen=True):
    """One side as the operator names it; see `gateway.core.reconcile.Side`."""

    path: Path
    term: int = 0
    took_over_s: int | None = None
    ended_s: int | None = None
    dropped_s: dict[str, int] = {}


class Done(msgspec.Struct, frozen=True):
    """What a merge has written. `warnings` are about the files, in sentences."""

    merged: Merged
    warnings: list[str]


def merge_files(base: Path, sides: Sequence[Given], out: Path, pool: Pool, *, force: bool = False) -> Done:
    """Merge `sides`, which went on from `base`, into `out`: on the disk, and read again, when this returns.

    Args:
        base: what the sides have in common.
        sides: two or more.
        out: the new file, as owned and as readable as the first side.
        pool: what must be known of the pool's configuration.
        force: replace `out` if it is there.

    Raises:
        MergeRefused: nothing was written.
    """
    _check_paths(base, [side.path for side in sides], out, force=force)
    names = _names([base, *(side.path for side in sides)])
    told = [Given(base), *sides]
    warnings: list[str] = []
    try:
        with no_collection():
            parsed: list[Side] = []
            alike: Records = {}
            for given, name in zip(told, names, strict=True):
                history = History(given.path, alike)
                history.close()
                warnings += history.warnings
                parsed.append(history.side(name, _story(given, name), parsed[0].updated_s if parsed else 0))
            alike.clear()
            before, *after = parsed
            merged = reconcile(before, after, pool)
            del history, parsed, before, after
            Draft(merged, out, sides[0].path).commit()
    except MergeFailed as error:
        raise MergeRefused(error.detail) from error
    except (NotContinued, ValueError) as error:
        raise MergeRefused(str(error)) from error
    return Done(merged, warnings)


def _story(given: Given, name: str) -> Story:
    return Story(
        name=name,
        path=str(given.path),
        term=given.term,
        ended_s=given.ended_s,
        took_over_s=given.took_over_s,
        dropped_s=given.dropped_s,
    )


def _check_paths(base: Path, sides: Sequence[Path], out: Path, *, force: bool) -> None:
    inputs = [base, *sides]
    for number, path in enumerate(inputs):
        if any(_is_same(path, other) for other in inputs[:number]):
            raise MergeRefused(f"'{path}' is given twice: name the common base, then each side's own file")
    if any(_is_same(path, out) for path in inputs):
        raise MergeRefused(f"'{out}' is one of the files to merge: name another one with -o")
    if os.path.lexists(out) and not force:
        raise MergeRefused(f"'{out}' exists: name another one with -o, or replace it with --force")
    if out.is_dir():
        raise MergeRefused(f"'{out}' is a directory: name a file with -o")


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return path == other  # what can't be opened is refused later, with its reason


def _names(paths: Sequence[Path]) -> list[str]:
    """Return what the report calls each file: its name, or where two have the same, its path."""
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]

"""Compacted: an accounting file as a negotiator writes it when it compacts: the header, then each record as it stands.

Rule: no transactions, so that no reader can find one open; what this writes, `gateway.wire.accountant` calls whole.
(src/condor_utils/classad_log.cpp, WriteClassAdLogState.)
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from gateway.wire.accountant import State

CHUNK_BYTES: Final = 1024 * 1024

_NO_WORD: Final = re.compile(r"[\s\0]|\A\Z", re.ASCII)
_NO_VALUE: Final = re.compile(r"[\n\0]|\A\s*\Z", re.ASCII)


def compact(state: State, sequence: int, birthdate_s: int) -> Iterator[bytes]:
    """Yield the file that holds `state`, in pieces of about a megabyte.

    Args:
        state: key -> attribute -> expression.
        sequence: how often the file was compacted, from 1.
        birthdate_s: of its first ancestor, in seconds since 1970.

    Raises:
        ValueError: a key or a name is no word, or a value has no place in one line: nothing that a reader gave.
    """
    lines = [f"107 {sequence} CreationTimestamp {birthdate_s}\n"]
    length = 0
    known: set[str] = set()
    for key, ad in state.items():
        _check(key, _NO_WORD, "a record can't have the key")
        if not known.issuperset(ad):
            for name in ad:
                _check(name, _NO_WORD, f"record {key!r} can't have the attribute")
            known.update(ad)
        # Three words: HTCondor's reader takes the next line for the third.
        text = f"\n103 {key} ".join([f"101 {key} * *", *map(" ".join, ad.items())]) + "\n"
        if text.count("\n") != len(ad) + 1 or "\0" in text or not all(map(str.strip, ad.values())):
            for name, value in ad.items():  # some value is to be looked at
                _check(value, _NO_VALUE, f"attribute {name!r} of {key!r} can't have the value")
        lines.append(text)
        length += len(text)
        if length > CHUNK_BYTES:
            yield _encoded(lines)
            lines, length = [], 0
    yield _encoded(lines)


def difference(before: State, after: State, keys: Iterable[str]) -> list[bytes]:
    """Return the records that, written behind a file of `before`, make one of `after` of it. One line each.

    Args:
        before: what the file holds.
        after: what it is to hold.
        keys: where the two may differ.

    Raises:
        ValueError: as `compact`.
    """
    lines: list[str] = []
    for key in keys:
        old, new = before.get(key), after.get(key)
        if new is None:
            lines += [f"102 {key}\n"] if old is not None else []
            continue
        if old is None:
            _check(key, _NO_WORD, "a record can't have the key")
            lines.append(f"101 {key} * *\n")
            old = {}
        lines += [f"104 {key} {name}\n" for name in old if name not in new]
        for name, value in new.items():
            if old.get(name) != value:
                _check(name, _NO_WORD, f"record {key!r} can't have the attribute")
                _check(value, _NO_VALUE, f"attribute {name!r} of {key!r} can't have the value")
                lines.append(f"103 {key} {name} {value}\n")
    return [line.encode(errors="surrogateescape") for line in lines]


def _check(text: str, wrong: re.Pattern[str], sentence: str) -> None:
    if wrong.search(text):
        raise ValueError(f"{sentence} {text!r}")


def records_of(state: State) -> int:
    """Return how many records the file of `state` has, its header included."""
    return 1 + len(state) + sum(map(len, state.values()))


def _encoded(lines: list[str]) -> bytes:
    return "".join(lines).encode(errors="surrogateescape")  # names are bytes to HTCondor

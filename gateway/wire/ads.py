"""Ads: the records of an accounting file, replayed: what a negotiator would hold in memory that has read them.

Rule: only what is known to be whole is replayed; see `gateway.wire.accountant`. Most of a file are ads as a compaction
writes them, all records of a key at once, and of few shapes: an ad of a known shape is read by one pattern.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

# \s of bytes is C's isspace in the "C" locale, which HTCondor uses. A NUL ends HTCondor's reading.
RECORD: Final = re.compile(
    rb"""(?:
      103 _ (?P<key>W) _ (?P<attribute>W) [^\S\n] (?P<value>[^\n\0]+)
    | 101 _ (?P<new_key>W) _ W _ (?:W)?
    | 102 _ (?P<destroyed_key>W)
    | 104 _ (?P<deleted_key>W) _ (?P<deleted>W)
    | (?P<begin>105) [^\S\n]
    | (?P<end>106) [^\S\n] (?:\#[^\n\0]+)?
    | 107 _ (?P<sequence>\d{1,19}) _ W _ (?P<birthdate>\d{1,19})
    )\n""".replace(b" _ ", rb"[^\S\n]+").replace(b"W", rb"[^\s\0]+"),
    re.VERBOSE,
)
_WORDS_OF_RECORDS: Final = 7  # the first groups: keys, attributes, the value
_OTHER_BLANKS: Final = ("  ", "\t", "\v", "\f", "\r")  # than one space between two words
# A word as above, and the literals that the Accountant writes; for bytes and for text. Sets written out are looked up
# in a table, which takes half the time of a class (\s, \d).
PLAIN_WORD: Final = r"[^ \t\n\v\f\r\0]++"
PLAIN_VALUE: Final = r"(?:-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+|\"[^\"\\\n\0]*+\")"
_SHAPES_MAX: Final = 8  # of ads: customers, groups, those with a limit, matches; more would be tried in vain for most
_VALUES_MAX: Final = 1_000  # the first ones: "0" and "0.000000", factors, times; no others come as often

State = dict[str, dict[str, str]]  # key -> attribute -> expression, as written (names keep their case)
# An ad as a compaction writes it, in many lines -> its key, and attribute -> expression.
Records = dict[str, tuple[str, dict[str, str]]]
_Said = tuple[str, tuple[str, ...], list[str]]  # an ad's key, names, values


class Replay:
    """A state that grows by pieces of a file. Records of it may be shared: they are copied before they are changed."""

    def __init__(self, alike: Records | None) -> None:
        self.state: State = {}
        self._alike = alike
        self._spelled: dict[str, str] = {}  # in lower case -> as first written
        self._names: dict[str, str] = {}  # as written -> as spelled: one string for each, not one for each record
        self._rows: dict[tuple[str, ...], tuple[str, ...]] = {}  # the same for all the names of a record at once
        self._shapes: dict[tuple[str, ...], Callable[[str], re.Match[str] | None]] = {}  # an ad's names -> its pattern
        self._values: dict[str, str] = {}  # those that most records have are held once, too

    def take(self, piece: bytes) -> None:
        """Take some whole lines, which a scan has found to be records."""
        first, *others = f"\n{_text(piece[:-1])}".split("\n101 ")
        self._take_lines(first[1:])
        for text in others:
            if not self.take_ad(text) and not self._put(text, self._of_any_shape(text)):
                self._take_lines(f"101 {text}")

    def take_ad(self, text: str) -> int:
        """Take an ad that one like it makes known to be whole; return how many records it is, or 0: it is not taken.

        Args:
            text: "key mytype targettype", and behind it the lines up to the next 101, with all its attributes.
        """
        known = None if self._alike is None else self._alike.get(text)
        if known is not None:
            key, ad = known
            if key not in self.state and self._row(names := tuple(ad)) == names:
                self.state[key] = ad
                return 1 + len(ad)
        return self._put(text, self._of_a_shape(text))

    def _put(self, text: str, said: _Said | None) -> int:
        if said is None or said[0] in self.state:
            return 0
        key, names, values = said
        row = self._row(names)
        if len(self._values) < _VALUES_MAX:
            self._values.update(zip(values, values, strict=True))
        ad = self.state[key] = dict(zip(row, map(self._values.get, values, values), strict=True))
        if self._alike is not None and row == names and len(ad) == len(names):
            self._alike[text] = key, ad
        return 1 + len(names)

    def _of_a_shape(self, text: str) -> _Said | None:
        """Return an ad's key, names and values if it has the names of one before: nearly all of a file."""
        for names, matches in self._shapes.items():
            found = matches(text)
            if found is not None:
                key, *values = found.groups()
                return key, names, values
        return None

    def _of_any_shape(self, text: str) -> _Said | None:
        """The same for any names; None where it is not written as a compaction does."""
        key = text[: text.index(" ")]
        plain = text.replace(f"\n103 {key} ", " ")
        words = plain.split(" ")
        if len(words) != 3 + 2 * text.count("\n") or "\n" in plain or _has_other_blanks(text):
            return None  # another record's line, or a value of more than one word
        names = tuple(words[3::2])
        if names in self._rows and len(self._shapes) < _SHAPES_MAX:  # not those that come but once
            self._shapes[names] = _shape(names)
        return key, names, words[4::2]

    def _take_lines(self, text: str) -> None:
        if not _has_other_blanks(text):
            self._take_records(line.split(" ", 3) for line in text.split("\n"))
            return
        lines = f"{text}\n".encode(errors="surrogateescape")
        self._take_records(
            [_text(word) for word in (record[0][:3], *record.groups()[:_WORDS_OF_RECORDS]) if word is not None]
            for record in RECORD.finditer(lines)
        )

    def _take_records(self, records: Iterable[list[str]]) -> None:
        """Take records one by one: number, key, attribute, value, as many as it has."""
        known: str | None = None  # the key of `ad`: most records say something of the same as the one before
        ad: dict[str, str] | None = None
        for words in records:
            kind = words[0]
            if kind == "103":
                _, key, word, value = words
                if key != known:
                    known, ad = key, self._own(key)
                if ad is not None:  # HTCondor ignores what is said of an ad that does not exist
                    ad[self._names.get(word) or self._name(word)] = value
            elif kind == "101":
                self.state.setdefault(words[1], {})  # of two the first is kept
                known, ad = words[1], self._own(words[1])
            elif kind == "102":
                self.state.pop(words[1], None)
                known = None
            elif kind == "104":
                known, ad = words[1], self._own(words[1])
                if ad is not None:
                    ad.pop(self._spelled.get(words[2].lower(), ""), None)

    def _own(self, key: str) -> dict[str, str] | None:
        ad = self.state.get(key)
        if ad is not None:
            ad = self.state[key] = dict(ad)
        return ad

    def _row(self, names: tuple[str, ...]) -> tuple[str, ...]:
        row = self._rows.get(names)
        if row is None:
            row = self._rows[names] = tuple(map(self._name, names))
        return row

    def _name(self, word: str) -> str:
        name = self._names[word] = self._spelled.setdefault(word.lower(), word)
        return name


def _shape(names: Sequence[str]) -> Callable[[str], re.Match[str] | None]:
    """Return what matches an ad with all its attributes as a compaction writes it; its groups: the key, the values.

    One pattern for a whole ad, its names written out, takes a quarter of the time of splitting it.
    """
    lines = (rf"\n103 \1 {re.escape(name)} ({PLAIN_VALUE})" for name in names)
    return re.compile(rf"({PLAIN_WORD}) {PLAIN_WORD} {PLAIN_WORD}" + "".join(lines)).fullmatch


def _has_other_blanks(text: str) -> bool:
    return any(blanks in text for blanks in _OTHER_BLANKS)


def _text(word: bytes) -> str:
    return word.decode(errors="surrogateescape")  # names are bytes to HTCondor; they must come back as they were

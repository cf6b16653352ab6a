"""Diagnostics: what is wrong with a file, where, and what to write instead. Plain text; knows no keyword.

Every message is one sentence in lower case that quotes what was written and says the fix. Whatever is quoted passes
`printable` first: a configuration full of terminal escapes must not reach the operator's terminal.
"""

import difflib
import enum
import functools
from collections.abc import Iterable
from typing import Protocol

import msgspec

DIAGNOSTICS_MAX = 100  # a file with more mistakes than this is not a configuration; the rest is not shown
QUOTED_CHARACTERS_MAX = 60  # a longer word would push the sentence out of sight
SUGGESTED_CHARACTERS_MAX = 64  # difflib is quadratic, and no known word is longer
SOURCE_CHARACTERS_MAX = 160  # of the source line, around the caret


class Severity(enum.StrEnum):
    """An error refuses the file; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


class Located(Protocol):
    """Anything with a place in what was read: lines and columns count from 1."""

    @property
    def line(self) -> int:
        """Return the line, 1 for the first that was read, of whichever file; 0 means the file as a whole."""

    @property
    def column(self) -> int:
        """Return the column in characters, 1 for the first."""


class Place(msgspec.Struct, frozen=True):
    """A place without a word: where something is missing. `line` counts as `Located` does."""

    line: int
    column: int


class SourceLine(msgspec.Struct, frozen=True):
    """A line as it was read: of which file, its number there, and its text."""

    file: str
    number: int
    text: str


WHOLE_FILE = Place(0, 0)


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One finding, in the file and line that it is about. Line 0 means the file as a whole, and `source` is empty."""

    severity: Severity
    file: str
    line: int
    column: int
    message: str
    source: str

    def render(self) -> str:
        """Return `file:line:column: error: message`, the source line with a caret if any, without a final newline."""
        if self.line == 0:
            return f"{printable(self.file)}: {self.severity}: {self.message}"
        head = f"{printable(self.file)}:{self.line}:{self.column}: {self.severity}: {self.message}"
        if not self.source.strip():
            return head  # the end of a file: a caret under nothing says nothing
        start = max(0, self.column - 1 - SOURCE_CHARACTERS_MAX // 2)
        shown = self.source[start : start + SOURCE_CHARACTERS_MAX].rstrip()
        # Tabs stay tabs, so that the caret stands under its word at any tab width.
        before = self.source[start : self.column - 1].ljust(self.column - 1 - start)
        caret = "".join("\t" if character == "\t" else " " for character in before) + "^"
        return f"{head}\n{printable(shown)}\n{caret}"


def render_all(diagnostics: Iterable[Diagnostic]) -> str:
    """Return every diagnostic rendered, each ended by a newline; an empty string where there is none."""
    return "".join(diagnostic.render() + "\n" for diagnostic in diagnostics)


class ConfigError(Exception):
    """The operator's mistake. The text is one clear sentence; `diagnostics` say where, if it lies in a file."""

    def __init__(self, message: str, diagnostics: tuple[Diagnostic, ...] = ()) -> None:
        super().__init__(message)
        self.diagnostics = diagnostics


class Reporter:
    """Collects the lines of a file and of those that it includes, in the order in which they are read, and findings."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lines: list[SourceLine] = []
        self._found: list[tuple[Located, Diagnostic]] = []
        self._closed: set[int] = set()
        self._overflowed = False

    def read(self, line: SourceLine) -> int:
        """Take a line that is read next; return its place among all, from 1."""
        self._lines.append(line)
        return len(self._lines)

    def origin(self, at: Located) -> SourceLine:
        """Return the line that `at` is on, which is not the file as a whole."""
        return self._lines[at.line - 1]

    @property
    def end(self) -> Place:
        """Where the file ends: the place of what is missing in it."""
        last = (place for place in range(len(self._lines), 0, -1) if self._lines[place - 1].file == self._file)
        return Place(next(last, len(self._lines)), 1)

    def error(self, at: Located, message: str) -> None:
        """Report what refuses the file."""
        self._add(Severity.ERROR, at, message)

    def warning(self, at: Located, message: str) -> None:
        """Report what is allowed and probably not meant."""
        self._add(Severity.WARNING, at, message)

    @property
    def full(self) -> bool:
        """Whether so much is wrong that reading on helps nobody."""
        return self._overflowed

    @property
    def has_errors(self) -> bool:
        """Whether anything found so far refuses the file."""
        return any(found.severity is Severity.ERROR for _, found in self._found)

    def close(self, line: int) -> None:
        """Take no more findings on a line: after a mistake that leaves the rest to guess, they would be guesses."""
        self._closed.add(line)

    def sorted(self) -> tuple[Diagnostic, ...]:
        """Return the findings in the order of reading; those on the file as a whole come last."""
        in_order = sorted(self._found, key=lambda found: (found[0].line == 0, found[0].line, found[0].column))
        return tuple(diagnostic for _, diagnostic in in_order)

    def _add(self, severity: Severity, at: Located, message: str) -> None:
        if self._overflowed or at.line in self._closed:
            return
        if len(self._found) >= DIAGNOSTICS_MAX:
            self._overflowed = True
            severity, at = Severity.ERROR, WHOLE_FILE
            message = f"more than {DIAGNOSTICS_MAX} mistakes: the rest is not shown"
        line = self.origin(at) if at.line > 0 else SourceLine(self._file, 0, "")
        self._found.append(
            (
                at,
                Diagnostic(
                    severity=severity,
                    file=line.file,
                    line=line.number,
                    column=at.column,
                    message=message,
                    source=line.text,
                ),
            )
        )


def printable(text: str) -> str:
    """Return `text` with everything that a terminal would act upon replaced by `?`; tabs stay."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character == "\t" else "?" for character in text)


def quote(text: str) -> str:
    """Return `text` as a message quotes it: in single quotes, printable, cut to a readable length."""
    if len(text) > QUOTED_CHARACTERS_MAX:
        text = text[: QUOTED_CHARACTERS_MAX - 3] + "..."
    return f"'{printable(text)}'"


def listing(words: Iterable[str], last: str = "or") -> str:
    """Return quoted words as prose: `'a', 'b' or 'c'`."""
    quoted = [quote(word) for word in words]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` was probably meant to be; None where nothing is close."""
    if len(word) > SUGGESTED_CHARACTERS_MAX:
        return None
    return _closest(word.lower(), tuple(known))


@functools.lru_cache(maxsize=1_024)
def _closest(word: str, known: tuple[str, ...]) -> str | None:
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.65)
    return matches[0] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence, `; did you mean 'x'?`, or nothing where no known word is close."""
    match = closest(word, known)
    return f"; did you mean {quote(match)}?" if match is not None else ""

"""Sources: the lines of a file and of those that it includes, in the order in which they stand. Opens no file itself.

`include PATH` is replaced by the lines of that file, wherever it stands: whole sections, or lines of the section around
it. A pattern names several files, in the order of their names. Cycles, depth and number of files are limited.
"""

import posixpath
from collections.abc import Callable, Mapping

import msgspec

from gateway.config.diagnostics import Located, Place, Reporter, SourceLine, quote
from gateway.config.lexer import Word, lex_line, split_lines
from gateway.config.limits import INCLUDED_FILES_MAX, INCLUDES_DEEP_MAX, TEXT_CHARACTERS_MAX

INCLUDE = "include"
PATTERN_CHARACTERS = frozenset("*?[")


class Unreadable(Exception):  # noqa: N818 (an answer to the operator)
    """A file can't be included; the text completes the sentence `'hosts.cfg' ...`, with the fix."""


# Given a path or a pattern, absolute or relative to the reader's own directory: the names of files and their texts, in
# the order of the names; none where a pattern matches nothing. Raises `Unreadable`.
Reader = Callable[[str], tuple[tuple[str, str], ...]]


class Lines(msgspec.Struct, frozen=True):
    """The words of every line that has any; not `complete` where something could not be read."""

    words: list[tuple[Word, ...]]
    complete: bool


def read_lines(text: str, file: str, environment: Mapping[str, str], report: Reporter, reader: Reader | None) -> Lines:
    """Return the lines of a file, those of included files in their places.

    Args:
        text: the file's text.
        file: its name, as diagnostics quote it.
        environment: the variables that lines may name.
        report: takes the lines, and what is wrong.
        reader: opens what is included; None where nothing can be.
    """
    sources = _Sources(environment, report, reader, several=_includes(text))
    sources.read(text, file, ())
    return Lines(sources.lines, sources.complete)


def _includes(text: str) -> bool:
    """Return whether a text may include others: lines are then told by their files too."""
    return any(line.lstrip().startswith(INCLUDE) for line in text.split("\n"))


class _Sources:
    def __init__(
        self, environment: Mapping[str, str], report: Reporter, reader: Reader | None, *, several: bool
    ) -> None:
        self._environment = environment
        self._report = report
        self._reader = reader
        self._several = several
        self._files = 0
        self._characters = 0
        self.lines: list[tuple[Word, ...]] = []
        self.complete = True

    def read(self, text: str, file: str, around: tuple[str, ...], at: Word | None = None) -> None:
        """Take the lines of a file, which `around` include, the outermost first."""
        self._characters += len(text)
        if self._characters > TEXT_CHARACTERS_MAX:
            many = "longer" if at is None else "with what it includes longer"
            told = f"{many} than {TEXT_CHARACTERS_MAX} characters: this is no configuration"
            self._report.read(SourceLine(file, 1, ""))
            self._fail(at or self._report.end, told)
            return
        for number, source in enumerate(split_lines(text), start=1):
            if self._report.full:
                return
            line = self._report.read(SourceLine(file, number, source))
            where = f"line {number} of {file}" if self._several else f"line {number}"
            words = lex_line(source, line, where, self._environment, self._report)
            if words and words[0].text == INCLUDE:
                self._include(words, (*around, file))
            elif words:
                self.lines.append(words)

    def _include(self, words: tuple[Word, ...], around: tuple[str, ...]) -> None:
        if len(words) != 2:
            at = Place(words[0].line, words[0].end + 1) if len(words) < 2 else words[2]
            self._fail(at, "include takes one path or pattern: include PATH")
            return
        written = words[1]
        path = posixpath.join(posixpath.dirname(around[-1]), written.text)
        try:
            if self._reader is None:
                raise Unreadable("can't be included here: this text is no file")
            if not written.text or not written.text.isprintable():
                raise Unreadable("is no path")
            if len(around) > INCLUDES_DEEP_MAX:
                raise Unreadable(f"is included {len(around)} files deep, and {INCLUDES_DEEP_MAX} is the limit")
            found = self._reader(path)
        except Unreadable as unreadable:
            self._fail(written, f"include: {quote(written.text)} {unreadable}")
            return
        if not found:
            self._report.warning(written, f"include: {quote(written.text)} matches no file")
        for name, text in found:
            self._files += 1
            if posixpath.normpath(name) in {posixpath.normpath(other) for other in around}:
                told = f"{quote(name)} includes itself" if name == around[-1] else f"{quote(name)} includes this file"
                self._fail(written, f"include: {told}: a file can't be a part of itself")
            elif self._files > INCLUDED_FILES_MAX:
                self._fail(written, f"include: more than {INCLUDED_FILES_MAX} files are included")
                return
            else:
                self.read(text, name, around, written)

    def _fail(self, at: Located, message: str) -> None:
        self.complete = False
        self._report.error(at, message)

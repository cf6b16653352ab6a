r"""Lexer: a file's text to words, each with its place. Knows how words are written, not what they mean.

HAProxy's rules (its configuration manual, §2.2): words are parted by blanks; `#` starts a comment; a backslash makes
the next character plain (and `\n`, `\r`, `\t`, `\xHH` mean what they mean in C); 'single quotes' keep everything as it
is; "double quotes" keep blanks and `#`, but expand `$NAME`, `${NAME}` and `${NAME-default}`. One difference: a variable
that is not set is an error here, because an empty word in its place makes a worse message later.
"""

import re
from collections.abc import Mapping

import msgspec

from gateway.config.diagnostics import Place, Reporter, quote

LINE_CHARACTERS_MAX = 2_048  # HAProxy's LINESIZE
WORDS_MAX = 64  # HAProxy's MAX_LINE_ARGS

_BLANKS = " \t"
_VARIABLE = re.compile(r"\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?P<default>-[^}]*)?\}|(?P<bare>[A-Za-z_][A-Za-z0-9_]*)")
_HAPROXY_VARIABLE = re.compile(r"\{\.?[A-Za-z_][A-Za-z0-9_.]*(\[\*\])?(-[^}]*)?\}")
_ONE_WORD = "a variable is of the environment, and one word or a part of one"
_SPECIAL = re.compile(r"[\\'\"$#]")
_PLAIN_WORD = re.compile(r"[^ ]+")
_HEX_BYTE = re.compile(r"x([0-9A-Fa-f]{2})")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class Word(msgspec.Struct, frozen=True):
    """One word after quotes, escapes and variables. `end` is the column after its last written character.

    `line` counts all lines that were read; `where` is what a message calls it: `line 12`, or `line 3 of hosts.cfg`.
    """

    text: str
    line: int
    column: int
    end: int
    where: str


def split_lines(text: str) -> list[str]:
    """Return the lines of `text` as an editor counts them, without line ends and without a byte order mark."""
    return [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]


def lex_line(source: str, line: int, where: str, environment: Mapping[str, str], report: Reporter) -> tuple[Word, ...]:
    """Return the words of a line; those of a comment or an empty line are none.

    What is badly written goes to `report`; the words of such a line are a best guess, and the line is closed.

    Args:
        source: the line's text.
        line: its place among all lines that are read.
        where: what messages call it.
        environment: the variables that it may name.
        report: takes what is wrong.
    """
    if source.lstrip(_BLANKS).startswith("#"):
        return ()
    return _LineLexer(source, line, where, environment, report).words()


class _LineLexer:
    """Reads one line from left to right. Never raises: what it can't read it reports and leaves out."""

    def __init__(self, source: str, number: int, where: str, environment: Mapping[str, str], report: Reporter) -> None:
        self._source = source
        self._number = number
        self._where = where
        self._environment = environment
        self._report = report
        self._at = 0
        self._broken = False

    def words(self) -> tuple[Word, ...]:
        plain = self._source.replace("\t", " ")
        if plain.isprintable() and _SPECIAL.search(plain) is None:
            found = tuple(
                Word(match[0], self._number, match.start() + 1, match.end() + 1, self._where)
                for match in _PLAIN_WORD.finditer(plain)
            )
            if len(found) <= WORDS_MAX and len(self._source) <= LINE_CHARACTERS_MAX:
                return found  # nearly every line; the way below takes it as well, in ten times the time
        words: list[Word] = []
        if len(self._source) > LINE_CHARACTERS_MAX:
            self._fail(LINE_CHARACTERS_MAX, f"line is longer than {LINE_CHARACTERS_MAX} characters")
            self._source = self._source[:LINE_CHARACTERS_MAX]
        while (word := self._word()) is not None:
            if len(words) == WORDS_MAX:
                self._fail(word.column - 1, f"line has more than {WORDS_MAX} words")
                break
            words.append(word)
        if self._broken:
            self._report.close(self._number)
        return tuple(words)

    def _word(self) -> Word | None:
        """Return the next word; None at the end of the line or at a comment."""
        source = self._source
        while self._at < len(source) and source[self._at] in _BLANKS:
            self._at += 1
        if self._at == len(source) or source[self._at] == "#":
            return None
        start = self._at
        pieces: list[str] = []
        while self._at < len(source) and source[self._at] not in _BLANKS + "#":
            pieces.append(self._piece())
        return Word("".join(pieces), self._number, start + 1, self._at + 1, self._where)

    def _piece(self) -> str:
        """Return what the next written element of a word stands for, and move past it."""
        character = self._source[self._at]
        if character == "\\":
            return self._escape()
        if character == "'":
            return self._single_quoted()
        if character == '"':
            return self._double_quoted()
        if character == "$":
            self._report.warning(
                Place(self._number, self._at + 1),
                "'$' means itself here: a variable is expanded only inside double quotes",
            )
        elif not character.isprintable():
            self._fail(self._at, f"character U+{ord(character):04X} cannot stand in a configuration: remove it")
        self._at += 1
        return character

    def _single_quoted(self) -> str:
        opened = self._at
        closed = self._source.find("'", opened + 1)
        if closed < 0:
            self._fail(opened, "single quote is never closed: add a ' before the end of the line")
            closed = len(self._source)
        self._at = min(closed + 1, len(self._source))
        return self._source[opened + 1 : closed]

    def _double_quoted(self) -> str:
        opened = self._at
        pieces: list[str] = []
        self._at += 1
        while self._at < len(self._source):
            character = self._source[self._at]
            if character == '"':
                self._at += 1
                return "".join(pieces)
            if character == "\\":
                pieces.append(self._escape())
            elif character == "$":
                pieces.append(self._variable())
            else:
                pieces.append(character)
                self._at += 1
        self._fail(opened, 'double quote is never closed: add a " before the end of the line')
        return "".join(pieces)

    def _escape(self) -> str:
        """Return the character that an escape stands for; `_at` is at its backslash."""
        backslash = self._at
        follower = self._source[backslash + 1 : backslash + 2]
        if not follower:
            self._fail(backslash, "backslash at the end of the line: a line cannot be continued on the next")
            self._at += 1
            return ""
        if follower == "x":
            digits = _HEX_BYTE.match(self._source, backslash + 1)
            if digits is None:
                self._fail(backslash, r"'\x' needs two hexadecimal digits, as in '\x20'")
                self._at += 2
                return ""
            self._at = digits.end()
            return chr(int(digits[1], 16))
        self._at += 2
        return _ESCAPES.get(follower, follower)

    def _variable(self) -> str:
        """Return the value of the variable at `_at`, which is at its dollar sign."""
        dollar = self._at
        match = _VARIABLE.match(self._source, dollar + 1)
        if match is None:
            if (known := _HAPROXY_VARIABLE.match(self._source, dollar + 1)) is not None:
                self._at = known.end()
                self._fail(dollar, f"{quote('$' + known[0])} is known in HAProxy, not here: {_ONE_WORD}")
                return ""
            self._fail(dollar, "'$' in double quotes starts a variable: write \"${NAME}\", or \\$ for the sign")
            self._at += 1
            return ""
        self._at = match.end()
        name = match["braced"] or match["bare"]
        value = self._environment.get(name)
        if value is not None:
            return value
        if match["default"] is not None:
            return match["default"].removeprefix("-")
        self._fail(dollar, f'variable {quote(name)} is not set: set it, or write "${{{name}-default}}"')
        return ""

    def _fail(self, index: int, message: str) -> None:
        self._broken = True
        self._report.error(Place(self._number, index + 1), message)

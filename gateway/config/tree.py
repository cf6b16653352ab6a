"""The tree: sections and statements as they were written, each value with its word. Holds no rule.

A statement with a mistake stays in the tree with the values that could be read, so that one mistake is reported once:
a peer whose address is wrong still has its name.
"""

from collections.abc import Iterator

import msgspec

from gateway.config.diagnostics import quote
from gateway.config.lexer import Word
from gateway.config.values import Value


class Given(msgspec.Struct, frozen=True):
    """A value and the word that gave it."""

    value: Value
    word: Word


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a section. `arguments` by the argument's name, `options` by the option's word.

    The keyword of a line that takes an option back is `no option NAME`.
    """

    keyword: str
    word: Word
    arguments: dict[str, tuple[Given, ...]]
    options: dict[str, Given]

    def argument(self, name: str) -> Given | None:
        """Return the argument called `name`; None where it could not be read."""
        given = self.arguments.get(name, ())
        return given[0] if given else None

    def subject(self) -> str:
        """Return what a message about this line is about: `server 'cm2'`, or the keyword alone."""
        name = self.argument("name")
        return f"{self.keyword} {quote(str(name.value))}" if name is not None else self.keyword


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One section. `name` is None where the kind has none or it could not be read.

    `written` is the kind in the file where that is another one: both halves of a listen section. `parent` names the
    defaults that it takes from, where it says.
    """

    kind: str
    word: Word
    name: Given | None
    statements: list[Statement]
    written: str = ""
    parent: Given | None = None

    def all(self, keyword: str) -> Iterator[Statement]:
        """Yield the statements of `keyword` in the order of the file."""
        return (statement for statement in self.statements if statement.keyword == keyword)

    def first(self, keyword: str) -> Statement | None:
        """Return the first statement of `keyword`; None where there is none."""
        return next(self.all(keyword), None)

    def subject(self) -> str:
        """Return what a message about this section is about: `backend 'managers'`."""
        kind = self.written or self.kind
        return f"{kind} {quote(str(self.name.value))}" if self.name is not None else kind


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file. `complete` is False where a section was skipped, so that something may seem to be missing.

    So may any line where `read` is False: a file that is included could not be read.
    """

    sections: list[Section]
    complete: bool
    read: bool = True
    unused: tuple[Section, ...] = ()  # defaults that no section takes from

    def all(self, kind: str) -> Iterator[Section]:
        """Yield the sections of `kind` in the order of the file."""
        return (section for section in self.sections if section.kind == kind)

    def first(self, kind: str) -> Section | None:
        """Return the first section of `kind`; None where there is none."""
        return next(self.all(kind), None)

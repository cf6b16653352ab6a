"""Origin: which line of which file a canonical line comes from. A line without one has its default.

What a server has from default-server, or a frontend from defaults, comes from the line of the keyword itself.
"""

import msgspec

from gateway.config.canonical import Line, Part, written
from gateway.config.diagnostics import Reporter
from gateway.config.tree import Section, Statement, Tree


class Origin(msgspec.Struct, frozen=True):
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def origin(part: Part, line: Line, expanded: Tree, report: Reporter) -> Origin | None:
    """Return where a line of a canonical section comes from; None for a default.

    Args:
        part: the section.
        line: of it.
        expanded: the tree that the settings were built from.
        report: the lines that it was parsed from.
    """
    for section in expanded.all(part.kind):
        if part.name and (section.name is None or str(section.name.value) != part.name):
            continue
        statement = _statement(section, line)
        if statement is not None:
            at = report.origin(statement.word)
            return Origin(at.file, at.number)
    return None


def _statement(section: Section, line: Line) -> Statement | None:
    for statement in section.statements:
        if statement.keyword.removeprefix("no ") == line.keyword and (not line.key or _has_key(statement, line.key)):
            return statement
    return None


def _has_key(statement: Statement, key: str) -> bool:
    words = [written(given.word.text) for given_many in statement.arguments.values() for given in given_many]
    return key in words or key == " ".join(words) or key in {word.lower().rstrip(".") for word in words}

"""Check of replicated files: rules on what a `replicate file` line may name, one function a rule.

A file is installed as root on every other manager: what makes a node what it is may not be among them.
"""

import posixpath
from collections.abc import Callable, Iterator

from gateway.config.diagnostics import Reporter, quote
from gateway.config.keywords import SECTIONS
from gateway.config.limits import REPLICATED_FILES_MAX
from gateway.config.tree import Given, Section, Statement, Tree

_ACCOUNTING = "Accountantnew.log"


def files_come_with_the_accounting(tree: Tree, report: Reporter) -> None:
    """Files are shipped on the stream of the accounting; a backend has a limit of them."""
    for section in tree.all("backend"):
        lines = list(section.all("replicate file"))
        if lines and section.first("replicate accounting") is None:
            report.error(
                lines[0].word,
                f"{section.subject()}: files are shipped beside the accounting: add 'replicate accounting'",
            )
        if len(lines) > REPLICATED_FILES_MAX:
            report.error(
                lines[REPLICATED_FILES_MAX].word, f"{section.subject()}: more than {REPLICATED_FILES_MAX} files"
            )


def accounting_comes_with_its_negotiator(tree: Tree, report: Reporter) -> None:
    """A replica takes the place of the accounting file while no negotiator has it open, and only who runs it knows."""
    for section in tree.all("backend"):
        replicated = section.first("replicate accounting")
        if replicated is not None and section.first("negotiator") is None:
            report.error(
                replicated.word,
                f"{section.subject()}: a manager takes the accounting over before its negotiator starts, and without "
                "'negotiator on-elected' negotiators are left alone: add 'negotiator on-elected'",
            )


def files_are_written_plainly(tree: Tree, report: Reporter) -> None:
    """One file has one spelling, so that two lines can be compared, and a node knows what it may be sent."""
    for _, _, given, path in _files(tree):
        plain = posixpath.normpath(path).replace("//", "/", 1)
        if path.endswith("/"):
            report.error(given.word, f"replicate file: {quote(path)} is a folder: name each of its files")
        elif path != plain:
            report.error(
                given.word, f"replicate file: {quote(path)} is another way to write {quote(plain)}: write that"
            )


def files_are_distinct(tree: Tree, report: Reporter) -> None:
    """A file is replicated once in a backend; another backend has other managers, with files of their own."""
    taken: dict[tuple[int, str], Statement] = {}
    for section, statement, given, path in _files(tree):
        first = taken.setdefault((section.word.line, path), statement)
        if first is not statement:
            told = f"{quote(path)} is already replicated by {section.subject()} on {first.word.where}"
            report.error(given.word, f"replicate file: {told}")


def files_are_not_the_nodes_own(tree: Tree, report: Reporter) -> None:
    """No key, no state of a node, and not the file that has a stream of its own."""
    key_file, state_dir = (_path_of(tree, keyword) for keyword in ("key-file", "state-dir"))
    for _, _, given, path in _files(tree):
        if path == key_file:
            report.error(
                given.word, f"replicate file: {quote(path)} is the key-file: bring it to each node by yourself"
            )
        elif state_dir and path.startswith(f"{state_dir.rstrip('/')}/"):
            report.error(
                given.word,
                f"replicate file: {quote(path)} is in the state-dir: what a node has promised is its own",
            )
        elif posixpath.basename(path) == _ACCOUNTING:
            report.error(
                given.word,
                f"replicate file: {quote(path)} has a stream of its own: 'replicate accounting' alone is right",
            )


FILE_RULES: tuple[Callable[[Tree, Reporter], None], ...] = (
    files_come_with_the_accounting,
    accounting_comes_with_its_negotiator,
    files_are_written_plainly,
    files_are_distinct,
    files_are_not_the_nodes_own,
)


def _files(tree: Tree) -> Iterator[tuple[Section, Statement, Given, str]]:
    for section in tree.all("backend"):
        for statement in section.all("replicate file"):
            given = statement.argument("path")
            if given is not None and isinstance(given.value, str):
                yield section, statement, given, given.value


def _path_of(tree: Tree, keyword: str) -> str:
    section = tree.first("global")
    statement = section.first(keyword) if section is not None else None
    given = statement.argument("path") if statement is not None else None
    return str(given.value) if given is not None else SECTIONS["global"].keywords[keyword].arguments[0].default or ""

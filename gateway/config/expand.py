"""Expand: a tree as it was written to one without `defaults` and `listen`. What is inherited keeps its own place.

As in HAProxy: defaults hold for the sections after them until the next defaults, or for those that name them by `from`;
what a section says itself wins; `no option NAME` takes back what the defaults say.
"""

import msgspec

from gateway.config.diagnostics import Reporter, did_you_mean, listing, quote
from gateway.config.keywords import SECTIONS
from gateway.config.schema import Keyword
from gateway.config.tree import Given, Section, Statement, Tree

_TRAFFIC = ("frontend", "backend", "listen")


def expand(tree: Tree, report: Reporter) -> Tree:
    """Return `tree` with every inherited line in its section, and every listen section as a frontend and a backend."""
    expander = _Expander(report)
    sections = [part for section in tree.sections for part in expander.parts(section)]
    expanded = Tree(sections=sections, complete=tree.complete, read=tree.read, unused=tuple(expander.unused.values()))
    _names_are_distinct(expanded, report)
    return expanded


class _Expander:
    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._current: Section | None = None
        self._named: dict[str, Section] = {}
        self.unused: dict[int, Section] = {}  # defaults, by their lines

    def parts(self, section: Section) -> list[Section]:
        """Return what stands in the expanded tree for a section; nothing for defaults."""
        if section.kind == "defaults":
            self._defaults(section)
            return []
        if section.kind not in _TRAFFIC:
            return [section]
        whole = self._inherit(section, self._parent(section) or self._current)
        return _halves(whole) if section.kind == "listen" else [whole]

    def _defaults(self, section: Section) -> None:
        parent = self._parent(section)
        self._current = section if parent is None else self._inherit(section, parent)
        self.unused[section.word.line] = section
        if section.name is not None:
            self._named.setdefault(str(section.name.value), self._current)

    def _parent(self, section: Section) -> Section | None:
        if section.parent is None:
            return None
        name = str(section.parent.value)
        if name not in self._named:
            known = list(self._named)
            names = listing(known, "and")
            hint = did_you_mean(name, known) or (f": there is {names}" if known else ": none has a name before this")
            told = f"{section.subject()}: no defaults above have the name {quote(name)}{hint}"
            self._report.error(section.parent.word, told)
        return self._named.get(name)

    def _inherit(self, section: Section, defaults: Section | None) -> Section:
        """Return `section` with what it does not say itself from `defaults`, which come first as their lines do."""
        if defaults is None:
            return section
        self.unused.pop(defaults.word.line, None)
        keywords = SECTIONS[section.kind].keywords
        taken = [line for line in defaults.statements if _is_taken(line, section, keywords.get(_plain(line.keyword)))]
        return msgspec.structs.replace(section, statements=taken + section.statements)


def _plain(keyword: str) -> str:
    return keyword.removeprefix("no ")


def _is_taken(line: Statement, section: Section, keyword: Keyword | None) -> bool:
    if keyword is None:
        return False
    said = any(_plain(other.keyword) == keyword.name for other in section.statements)
    return not keyword.once or not said


def _halves(listen: Section) -> list[Section]:
    """Return the frontend and the backend that a listen section is, each with its lines."""
    lines: dict[str, list[Statement]] = {
        kind: [line for line in listen.statements if _plain(line.keyword) in SECTIONS[kind].keywords]
        for kind in ("frontend", "backend")
    }
    frontend = lines["frontend"]
    if listen.name is not None:
        lines["frontend"] = [line for line in frontend if line.keyword != "default_backend"]
        lines["frontend"].append(_leads_to(listen.name))
    return [msgspec.structs.replace(listen, kind=kind, statements=lines[kind], written="listen") for kind in lines]


def _leads_to(name: Given) -> Statement:
    return Statement(keyword="default_backend", word=name.word, arguments={"backend": (name,)}, options={})


def _names_are_distinct(tree: Tree, report: Reporter) -> None:
    """A listen section has the name of no frontend and of no backend: it is one of each."""
    first: dict[tuple[str, object], Section] = {}
    told: set[int] = set()
    for section in tree.sections:
        if section.name is None or section.kind not in _TRAFFIC:
            continue
        other = first.setdefault((section.kind, section.name.value), section)
        if other.written != section.written and section.word.line not in told:
            told.add(section.word.line)
            where = f"{other.subject()} on {other.word.where}"
            report.error(section.name.word, f"{section.subject()}: {where} has this name, and a listen section is both")

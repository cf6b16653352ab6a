"""Parser: words to a tree, by the keyword table. Many mistakes per run; each line recovers by itself.

A misspelt word is reported and then read as the word it was probably meant to be, silently, so that it does not
seem to be missing as well.
"""

import functools
from collections.abc import Iterable

from gateway.config import foreign
from gateway.config.diagnostics import Reporter, closest, did_you_mean, listing, quote
from gateway.config.keywords import SECTIONS
from gateway.config.lexer import Word
from gateway.config.schema import Keyword, SectionKind
from gateway.config.sources import INCLUDE, Lines
from gateway.config.statements import after, read_given, read_statement
from gateway.config.tree import Given, Section, Statement, Tree


def parse(lines: Lines, report: Reporter) -> Tree:
    """Return the tree of `lines`; mistakes go to `report`. Never raises for what a file may hold."""
    parser = _Parser(report, lines.complete)
    for words in lines.words:
        if report.full:
            break
        parser.line(words)
    return parser.tree()


class _Parser:
    def __init__(self, report: Reporter, complete: bool) -> None:
        self._report = report
        self._sections: list[Section] = []
        self._current: Section | None = None
        self._skipping = False  # the lines of a section that is not known here
        self._complete = complete
        self._read = complete

    def tree(self) -> Tree:
        return Tree(sections=self._sections, complete=self._complete, read=self._read)

    def line(self, words: tuple[Word, ...]) -> None:
        word = words[0]
        follower = words[1].text if len(words) > 1 else ""
        is_header = word.text in SECTIONS or (word.column == 1 and not _is_keyword(word.text, follower))
        if is_header:
            if word.column > 1:
                self._report.error(word, f"section {quote(word.text)} starts its line: remove the blanks before it")
            self._header(words)
        elif self._current is not None:
            if word.column == 1 and word.text in _first_words(self._current.kind):
                kind = self._current.kind
                self._report.error(word, f"{quote(word.text)} is a keyword of {quote(kind)}: indent it")
            self._statement(self._current, words)
        elif not self._skipping:
            self._report.error(word, f"{quote(word.text)} stands before any section: start with {listing(SECTIONS)}")
            self._skipping = True

    # Sections

    def _header(self, words: tuple[Word, ...]) -> None:
        kind = self._section_kind(words[0])
        self._skipping = kind is None
        if kind is None:
            self._complete = False
            self._current = None
            return
        words, parent = self._parent(kind, words)
        name = self._section_name(kind, words)
        self._current = Section(kind=kind.word, word=words[0], name=name, statements=[], parent=parent)
        self._once(kind, self._current)
        self._sections.append(self._current)

    def _section_kind(self, word: Word) -> SectionKind | None:
        if word.text in SECTIONS:
            return SECTIONS[word.text]
        answer = foreign.section_answer(word.text)
        if answer is not None:
            self._report.error(word, f"section {quote(word.text)} {answer}")
            return None
        hint = did_you_mean(word.text, (*SECTIONS, INCLUDE)) or f"; sections are {listing(SECTIONS, 'and')}"
        self._report.error(word, f"unknown section {quote(word.text)}{hint}")
        match = closest(word.text, SECTIONS)
        return SECTIONS[match] if match is not None else None

    def _parent(self, kind: SectionKind, words: tuple[Word, ...]) -> tuple[tuple[Word, ...], Given | None]:
        """Return the words of a header without `from NAME`, and that name."""
        at = next((index for index, word in enumerate(words[1:], 1) if word.text == "from"), None)
        if not kind.inherits or at is None:
            return words, None
        if len(words) == at + 1:
            self._report.error(after(words[at]), "'from' needs the name of a defaults section after it")
            return words[:at], None
        given = read_given(_SECTION_NAME, words[at + 1], "from", self._report)
        return words[:at] + words[at + 2 :], given

    def _section_name(self, kind: SectionKind, words: tuple[Word, ...]) -> Given | None:
        extra = words[2:] if kind.named or kind.nameable else words[1:]
        if extra:
            takes = "takes one name" if kind.named or kind.nameable else "takes no name"
            self._report.error(extra[0], f"unexpected {quote(extra[0].text)}: section {quote(kind.word)} {takes}")
        if len(words) < 2 and kind.nameable:
            return None
        if not kind.named and not kind.nameable:
            return None
        if len(words) < 2:
            self._report.error(after(words[0]), f"section {quote(kind.word)} needs a name")
            return None
        return read_given(_SECTION_NAME, words[1], kind.word, self._report)

    def _once(self, kind: SectionKind, section: Section) -> None:
        """Report a section that stands a second time, or one too many of its kind."""
        others = [other for other in self._sections if other.kind == kind.word]
        if kind.single and others:
            told = f"the first is on {others[0].word.where}, join them"
            self._report.error(section.word, f"second section {quote(kind.word)}: {told}")
            return
        if len(others) == kind.count_max:
            self._report.error(section.word, f"more than {kind.count_max} sections {quote(kind.word)}")
        for other in others:
            if section.name and other.name and section.name.value == other.name.value:
                told = f"the first is on {other.word.where}"
                self._report.error(section.name.word, f"second {section.subject()}: {told}")
                return

    # Statements

    def _statement(self, section: Section, words: tuple[Word, ...]) -> None:
        if words[0].text == "no":
            self._taken_back(section, words)
            return
        keyword = self._keyword(section, words)
        if keyword is None or self._is_second(section, keyword, words[0]):
            return
        section.statements.append(read_statement(keyword, words, self._report))

    def _is_second(self, section: Section, keyword: Keyword, word: Word) -> bool:
        """Return whether a keyword that stands once stands already, or is taken back; report it."""
        first = section.first(keyword.name) or section.first(f"no {keyword.name}")
        if not keyword.once or first is None:
            return False
        self._report.error(word, f"second {quote(keyword.name)}: the first is on {first.word.where}")
        return True

    def _taken_back(self, section: Section, words: tuple[Word, ...]) -> None:
        """Read a line `no option NAME`: what the defaults say does not hold here."""
        if len(words) < 2 or words[1].text != "option":
            at = words[1] if len(words) > 1 else after(words[0])
            self._report.error(at, "'no' takes an option back, as in 'no option condor-check'; leave out other lines")
            return
        keyword = self._keyword(section, words[1:])
        if keyword is None or self._is_second(section, keyword, words[0]):
            return
        if len(words) > 3:
            self._report.error(words[3], f"no {keyword.name}: unexpected {quote(words[3].text)}")
        taken_back = Statement(keyword=f"no {keyword.name}", word=words[0], arguments={}, options={})
        section.statements.append(taken_back)

    def _keyword(self, section: Section, words: tuple[Word, ...]) -> Keyword | None:
        """Return the keyword that a line starts with, or probably means; None where nothing can be made of it."""
        keywords = SECTIONS[section.kind].keywords
        word = words[0]
        if word.text in keywords:
            return keywords[word.text]
        seconds = [name.split()[1] for name in keywords if name.startswith(f"{word.text} ")]
        if seconds:
            return self._second_word(section.kind, words, seconds)
        follower = words[1].text if len(words) > 1 else ""
        if (told := foreign.second_answer(word.text, follower)) is not None and not seconds:
            self._report.error(word, f"{quote(f'{word.text} {follower}')} {told}")
            return None
        known = foreign.keyword_answer(word.text, follower)
        if known is not None:
            self._report.error(word, f"{quote(known[0])} {known[1]}")
            return None
        if (answer := foreign.section_answer(word.text)) is not None:
            self._report.error(word, f"section {quote(word.text)} {answer}")
            return None
        homes = _homes(kind for kind in SECTIONS if word.text in _first_words(kind))
        if homes:
            self._elsewhere(section.kind, words, homes)
            return None
        firsts = _first_words(section.kind)
        joined = next(
            (name for name in keywords if name in {f"{word.text}-{follower}", f"{word.text}_{follower}"}), None
        )
        if joined is not None:
            self._report.error(word, f"{quote(f'{word.text} {follower}')} is one word: write {quote(joined)}")
            self._report.close(word.line)
            return keywords[joined]
        hint = did_you_mean(word.text, firsts) or f"; its keywords are {listing(firsts, 'and')}"
        self._report.error(word, f"unknown keyword {quote(word.text)} in section {quote(section.kind)}{hint}")
        self._report.close(word.line)
        return keywords.get(closest(word.text, firsts) or "")

    def _second_word(self, kind: str, words: tuple[Word, ...], seconds: list[str]) -> Keyword | None:
        keywords, first = SECTIONS[kind].keywords, words[0].text
        if len(words) < 2:
            self._report.error(after(words[0]), f"{quote(first)} needs {listing(seconds)} after it")
            return None
        second = words[1]
        if second.text in seconds:
            return keywords[f"{first} {second.text}"]
        if self._elsewhere(kind, words, []):
            return None
        hint = did_you_mean(second.text, seconds) or f": write {listing(seconds)}"
        self._report.error(second, f"unknown {first} {quote(second.text)}{hint}")
        self._report.close(second.line)
        return keywords.get(f"{first} {closest(second.text, seconds)}")

    def _elsewhere(self, kind: str, words: tuple[Word, ...], homes: list[str]) -> bool:
        """Report a line that belongs to another section, or another program; `homes` have its first word at least."""
        first = words[0].text
        second = words[1].text if len(words) > 1 else ""
        both = f"{first} {second}"
        homes_of_both = _homes(kind for kind in SECTIONS if both in SECTIONS[kind].keywords)
        answer = foreign.second_answer(first, second)
        if answer is not None and not homes_of_both:
            self._report.error(words[1], f"{quote(both)} {answer}")
        elif homes_of_both or homes:
            written, there = (both, homes_of_both) if homes_of_both else (first, homes)
            told = f"is a keyword of {listing(there)}, not of {quote(kind)}: move it there"
            self._report.error(words[0], f"{quote(written)} {told}")
        return answer is not None or homes_of_both != [] or homes != []


_SECTION_NAME = SECTIONS["peers"].keywords["peer"].arguments[0]


@functools.cache
def _first_words(section: str) -> tuple[str, ...]:
    """Return the words that a line of `section` may start with."""
    return tuple(sorted({name.split()[0] for name in SECTIONS[section].keywords}))


def _homes(kinds: Iterable[str]) -> list[str]:
    """Return the sections in which a keyword is most often meant: those about traffic before the others."""
    homes = list(kinds)
    return [kind for kind in homes if kind in {"global", "peers", "address", "frontend", "backend"}] or homes


def _is_keyword(word: str, follower: str) -> bool:
    """Return whether a word that starts no section is a keyword of one, here or elsewhere; and which word is next."""
    if word == "no" or any(word in _first_words(kind) for kind in SECTIONS):
        return True
    return foreign.section_answer(word) is None and foreign.keyword_answer(word, follower) is not None

"""Parser: words to a tree, by the keyword table. Many mistakes per run; each line recovers by itself.

A misspelt word is reported and then read as the word it was probably meant to be, silently, so that it does not
seem to be missing as well.
"""

from collections.abc import Mapping

from gateway.config import foreign
from gateway.config.diagnostics import Place, Reporter, closest, did_you_mean, listing, quote
from gateway.config.keywords import SECTIONS, Argument, Keyword, Option, SectionKind
from gateway.config.lexer import Line, Word
from gateway.config.tree import Given, Section, Statement, Tree
from gateway.config.values import Refused, Value, read_value


def parse(lines: list[Line], report: Reporter) -> Tree:
    """Return the tree of `lines`; mistakes go to `report`. Never raises for what a file may hold."""
    parser = _Parser(report)
    for line in lines:
        if report.full:
            break
        parser.line(line)
    return parser.tree()


class _Parser:
    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._sections: list[Section] = []
        self._current: Section | None = None
        self._skipping = False  # the lines of a section that is not known here
        self._complete = True

    def tree(self) -> Tree:
        return Tree(sections=self._sections, complete=self._complete)

    def line(self, line: Line) -> None:
        word = line.words[0]
        # A line that the lexer has reported is read for its names only.
        report = self._report.muted() if line.broken else self._report
        keywords = SECTIONS[self._current.kind].keywords if self._current else {}
        is_keyword = word.text in keywords or any(name.startswith(f"{word.text} ") for name in keywords)
        if word.column == 1 and not is_keyword:
            self._header(line.words, report)
        elif word.column > 1 and word.text in SECTIONS and not is_keyword:
            report.error(word, f"section {quote(word.text)} must stand at the start of its line: remove the blanks")
            self._header(line.words, report)
        elif self._current is not None:
            if word.column == 1:
                report.error(word, f"{quote(word.text)} is a keyword of {quote(self._current.kind)}: indent it")
            self._statement(self._current, line.words, report)
        elif not self._skipping:
            report.error(word, f"{quote(word.text)} stands before any section: start with {listing(SECTIONS)}")
            self._skipping = True

    # Sections

    def _header(self, words: tuple[Word, ...], report: Reporter) -> None:
        kind = self._section_kind(words[0], report)
        self._skipping = kind is None
        if kind is None:
            self._complete = False
            self._current = None
            return
        name = self._section_name(kind, words, report)
        self._current = Section(kind=kind.word, word=words[0], name=name, statements=[])
        self._once(kind, self._current, report)
        self._sections.append(self._current)

    def _section_kind(self, word: Word, report: Reporter) -> SectionKind | None:
        if word.text in SECTIONS:
            return SECTIONS[word.text]
        answer = foreign.SECTIONS.get(word.text)
        if answer is not None:
            report.error(word, f"section {quote(word.text)} {answer}")
            return None
        homes = [kind.word for kind in SECTIONS.values() if word.text in kind.keywords]
        if homes:
            report.error(word, f"{quote(word.text)} is a keyword of {listing(homes)}: write it there, indented")
            return None
        match = closest(word.text, SECTIONS)
        hint = did_you_mean(word.text, SECTIONS) if match else f"; sections are {listing(SECTIONS, 'and')}"
        report.error(word, f"unknown section {quote(word.text)}{hint}")
        return SECTIONS[match] if match else None

    def _section_name(self, kind: SectionKind, words: tuple[Word, ...], report: Reporter) -> Given | None:
        extra = words[2:] if kind.named else words[1:]
        if extra:
            takes = "takes one name" if kind.named else "takes no name"
            report.error(extra[0], f"unexpected {quote(extra[0].text)}: section {quote(kind.word)} {takes}")
        if not kind.named:
            return None
        if len(words) < 2:
            report.error(_after(words[0]), f"section {quote(kind.word)} needs a name")
            return None
        return _read(_SECTION_NAME, words[1], kind.word, report)

    def _once(self, kind: SectionKind, section: Section, report: Reporter) -> None:
        """Report a section that stands a second time, or one too many of its kind."""
        others = [other for other in self._sections if other.kind == kind.word]
        if kind.single and others:
            first = others[0].word.line
            report.error(section.word, f"second section {quote(kind.word)}: the first is on line {first}, join them")
        elif len(others) == kind.count_max:
            report.error(section.word, f"more than {kind.count_max} sections {quote(kind.word)}")
        for other in others:
            if section.name and other.name and section.name.value == other.name.value and not kind.single:
                report.error(section.name.word, f"second {section.subject()}: the first is on line {other.word.line}")
                return

    # Statements

    def _statement(self, section: Section, words: tuple[Word, ...], report: Reporter) -> None:
        found = self._keyword(section, words, report)
        if found is None:
            return
        keyword, report = found
        if keyword.once and (first := section.first(keyword.name)) is not None:
            report.error(words[0], f"second {quote(keyword.name)}: the first is on line {first.word.line}")
            return
        rest = words[keyword.name.count(" ") + 1 :]
        section.statements.append(_StatementReader(keyword, words, report).read(rest))

    def _keyword(self, section: Section, words: tuple[Word, ...], report: Reporter) -> tuple[Keyword, Reporter] | None:
        """Return the keyword of a line and whom to tell of what follows it."""
        keywords = SECTIONS[section.kind].keywords
        word = words[0]
        if word.text in keywords:
            return keywords[word.text], report
        seconds = [name.split()[1] for name in keywords if name.startswith(f"{word.text} ")]
        if seconds:
            return self._second_word(keywords, words, seconds, report)
        answer = foreign.KEYWORDS.get(word.text)
        if answer is not None:
            report.error(word, f"{quote(word.text)} {answer}")
            return None
        homes = [kind.word for kind in SECTIONS.values() if word.text in {name.split()[0] for name in kind.keywords}]
        if homes:
            report.error(
                word,
                f"{quote(word.text)} is a keyword of {listing(homes)}, not of {quote(section.kind)}: move it there",
            )
            return None
        firsts = sorted({name.split()[0] for name in keywords})
        hint = did_you_mean(word.text, firsts) or f"; its keywords are {listing(firsts, 'and')}"
        report.error(word, f"unknown keyword {quote(word.text)} in section {quote(section.kind)}{hint}")
        match = closest(word.text, firsts)
        return (keywords[match], report.muted()) if match is not None and match in keywords else None

    def _second_word(
        self, keywords: Mapping[str, Keyword], words: tuple[Word, ...], seconds: list[str], report: Reporter
    ) -> tuple[Keyword, Reporter] | None:
        first = words[0].text
        if len(words) < 2:
            report.error(_after(words[0]), f"{quote(first)} needs {listing(seconds)} after it")
            return None
        second = words[1]
        if second.text in seconds:
            return keywords[f"{first} {second.text}"], report
        answer = foreign.SECOND_WORDS.get(first, {}).get(second.text)
        if answer is not None:
            report.error(second, f"{quote(f'{first} {second.text}')} {answer}")
            return None
        hint = did_you_mean(second.text, seconds) or f": write {listing(seconds)}"
        report.error(second, f"unknown {first} {quote(second.text)}{hint}")
        match = closest(second.text, seconds)
        return (keywords[f"{first} {match}"], report.muted()) if match else None


class _StatementReader:
    """Reads the words of one line after its keyword."""

    def __init__(self, keyword: Keyword, words: tuple[Word, ...], report: Reporter) -> None:
        self._keyword = keyword
        self._word = words[0]
        self._end = words[-1]
        self._report = report
        self._arguments: dict[str, tuple[Given, ...]] = {}
        self._options: dict[str, Given] = {}

    def read(self, rest: tuple[Word, ...]) -> Statement:
        statement = Statement(
            keyword=self._keyword.name, word=self._word, arguments=self._arguments, options=self._options
        )
        for argument in self._keyword.arguments:
            taken = rest if argument.many else rest[:1]
            rest = rest[len(taken) :]
            if not taken:
                self._report.error(_after(self._end), f"{statement.subject()} needs more: {self._keyword.usage()}")
                return statement
            values = [_read(argument, word, statement.subject(), self._report) for word in taken]
            self._arguments[argument.name] = tuple(value for value in values if value is not None)
        while rest:
            rest = self._option(rest, statement)
        for option in self._keyword.options:
            if option.required and option.word not in self._options:
                self._report.error(
                    _after(self._end),
                    f"{statement.subject()} needs {quote(option.word)}: {self._keyword.usage()}",
                )
        return statement

    def _option(self, rest: tuple[Word, ...], statement: Statement) -> tuple[Word, ...]:
        """Read the option at the start of `rest`; return the words after it."""
        word = rest[0]
        subject = statement.subject()
        option = self._known_option(word, subject)
        if option is None:
            # Whether the next word is its value can't be known: what follows would be guesses.
            return _from_next_option(self._keyword, rest[1:])
        if option.word in self._options:
            self._report.error(word, f"{subject}: second {quote(option.word)} on this line")
        if option.argument is None:
            self._options[option.word] = Given(True, word)
            return rest[1:]
        if len(rest) < 2:
            self._report.error(
                _after(word), f"{subject}: {quote(word.text)} needs {option.argument.kind.value} after it"
            )
            # Its place is taken, so that a required option is not reported as missing too.
            self._options[option.word] = Given("", word)
            return ()
        given = _read(option.argument, rest[1], f"{subject}: {word.text}", self._report)
        self._options[option.word] = given if given is not None else Given("", rest[1])
        return rest[2:]

    def _known_option(self, word: Word, subject: str) -> Option | None:
        options = {option.word: option for option in self._keyword.options}
        if word.text in options:
            return options[word.text]
        answer = foreign.LINE_OPTIONS.get(self._keyword.name, {}).get(word.text)
        if answer is not None:
            self._report.error(word, f"{subject}: {quote(word.text)} {answer}")
            return None
        hint = did_you_mean(word.text, options) or f": {self._keyword.usage()}"
        self._report.error(word, f"{subject}: unexpected {quote(word.text)}{hint}")
        return None


_SECTION_NAME = SECTIONS["peers"].keywords["peer"].arguments[0]


def _read(argument: Argument, word: Word, subject: str, report: Reporter) -> Given | None:
    """Return the value of `word`; None where it was refused and reported."""
    try:
        value: Value = read_value(argument, word.text)
    except Refused as refused:
        report.error(word, f"{subject}: {refused}")
        return None
    return Given(value, word)


def _after(word: Word) -> Place:
    """Return the place where the word after `word` is missing."""
    return Place(word.line, word.end + 1)


def _from_next_option(keyword: Keyword, rest: tuple[Word, ...]) -> tuple[Word, ...]:
    """Return `rest` from the first word that is an option of `keyword`."""
    options = {option.word for option in keyword.options}
    for index, word in enumerate(rest):
        if word.text in options:
            return rest[index:]
    return ()

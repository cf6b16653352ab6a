"""Statements: the words of one line after its keyword, to values by the keyword's arguments and options.

What is wrong with a word is reported at it, and the words after it are read as far as they can be told from guesses.
"""

from gateway.config import foreign
from gateway.config.diagnostics import Place, Reporter, did_you_mean, listing, quote
from gateway.config.lexer import Word
from gateway.config.schema import Argument, Keyword, Option
from gateway.config.tree import Given, Statement
from gateway.config.values import UNITS, Refused, Value, read_value


def read_statement(keyword: Keyword, words: tuple[Word, ...], report: Reporter) -> Statement:
    """Return the statement of a line; what is wrong with it goes to `report`, and is missing in it."""
    return _Reader(keyword, words, report).read(words[keyword.name.count(" ") + 1 :])


class _Reader:
    """Reads the words of one line after its keyword."""

    def __init__(self, keyword: Keyword, words: tuple[Word, ...], report: Reporter) -> None:
        self._keyword = keyword
        self._word = words[0]
        self._end = words[-1]
        self._report = report
        self._arguments: dict[str, tuple[Given, ...]] = {}
        self._options: dict[str, Given] = {}
        self._before: Word | None = None  # the last word that was a value
        self._unexpected = False  # what is missing may be what was misspelt

    def read(self, rest: tuple[Word, ...]) -> Statement:
        statement = Statement(
            keyword=self._keyword.name, word=self._word, arguments=self._arguments, options=self._options
        )
        rest = self._without_equals_sign(rest, statement.subject())
        for argument in self._keyword.arguments:
            taken = rest if argument.many else rest[:1]
            rest = rest[len(taken) :]
            if not taken:
                self._report.error(after(self._end), f"{statement.subject()} needs more: {self._keyword.usage()}")
                return statement
            values = [read_given(argument, word, statement.subject(), self._report) for word in taken]
            self._before = taken[-1]
            self._arguments[argument.name] = tuple(value for value in values if value is not None)
        while rest:
            rest = self._option(rest, statement)
        for option in self._keyword.options:
            if option.required and option.word not in self._options and not self._unexpected:
                self._report.error(
                    after(self._end),
                    f"{statement.subject()} needs {quote(option.word)}: {self._keyword.usage()}",
                )
        return statement

    def _without_equals_sign(self, rest: tuple[Word, ...], subject: str) -> tuple[Word, ...]:
        """Return `rest` without the sign that HTCondor writes after a keyword."""
        if rest and rest[0].text == "=":
            self._report.error(rest[0], f"{subject}: remove the '=': a keyword and its value are parted by a blank")
            return rest[1:]
        return rest

    def _option(self, rest: tuple[Word, ...], statement: Statement) -> tuple[Word, ...]:
        """Read the option at the start of `rest`; return the words after it."""
        word = rest[0]
        subject = statement.subject()
        option = self._known_option(word, subject)
        if option is None:
            # Whether the next word is its value can't be known: what follows would be guesses.
            self._unexpected = True
            return _from_next_option(self._keyword, rest[1:])
        if option.word in self._options:
            self._report.error(word, f"{subject}: second {quote(option.word)} on this line")
        if option.argument is None:
            self._options[option.word] = Given(True, word)
            return rest[1:]
        if len(rest) < 2:
            wanted = listing(option.argument.choices) or option.argument.kind.value
            self._report.error(after(word), f"{subject}: {quote(word.text)} needs {wanted} after it")
            # Its place is taken, so that a required option is not reported as missing too.
            self._options[option.word] = Given("", word)
            return ()
        given = read_given(option.argument, rest[1], f"{subject}: {word.text}", self._report)
        self._before = rest[1]
        self._options[option.word] = given if given is not None else Given("", rest[1])
        return rest[2:]

    def _known_option(self, word: Word, subject: str) -> Option | None:
        options = {option.word: option for option in self._keyword.options}
        if word.text in options:
            return options[word.text]
        answer = foreign.option_answer(self._keyword.name, word.text)
        if answer is not None:
            self._report.error(word, f"{subject}: {quote(word.text)} {answer}")
            return None
        hint = did_you_mean(word.text, options) or f": {self._keyword.usage()}"
        if word.text in UNITS and self._before is not None and self._before.text.isdigit():
            hint = f": write {quote(self._before.text + word.text)}, without a blank"
        self._report.error(word, f"{subject}: unexpected {quote(word.text)}{hint}")
        return None


def read_given(argument: Argument, word: Word, subject: str, report: Reporter) -> Given | None:
    """Return the value of `word`; None where it was refused and reported."""
    try:
        value: Value = read_value(argument, word.text)
    except Refused as refused:
        report.error(word, f"{subject}: {_with_punctuation(argument, word.text) or refused}")
        return None
    return Given(value, word)


def after(word: Word) -> Place:
    """Return the place where the word after `word` is missing."""
    return Place(word.line, word.end + 1)


def _from_next_option(keyword: Keyword, rest: tuple[Word, ...]) -> tuple[Word, ...]:
    """Return `rest` from the first word that can't be a value: an option of `keyword`, or one known elsewhere."""
    known = {option.word for option in keyword.options} | foreign.foreign_options(keyword.name)
    for index, word in enumerate(rest):
        if word.text in known:
            return rest[index:]
    return ()


def _with_punctuation(argument: Argument, text: str) -> str:
    """Return what to say of a value that would be one without its last character; "" of others."""
    if text[-1:] not in {",", ";"}:
        return ""
    try:
        read_value(argument, text[:-1])
    except Refused:
        return ""
    return f"words are parted by blanks: remove the {text[-1]!r} after {quote(text[:-1])}"

import pytest

from gateway.config.diagnostics import Reporter
from gateway.config.lexer import LINE_CHARACTERS_MAX, WORDS_MAX
from gateway.config.sources import read_lines

ENVIRONMENT = {"POOL": "physics", "EMPTY": "", "SPACED": "a b # c"}


def words(text):
    report = Reporter("x.cfg")
    lines = read_lines(text, "x.cfg", ENVIRONMENT, report, None).words
    return [word for line in lines for word in line], [found.message for found in report.sorted()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", ["a", "b"]),
        ("  a\tb  ", ["a", "b"]),
        ("a # b", ["a"]),
        ("a#b", ["a"]),
        ("# a", []),
        (r"a\#b", ["a#b"]),
        (r"a\ b", ["a b"]),
        (r"a\\b \'c\"", [r"a\b", "'c\""]),
        (r"\t\n\r", ["\t\n\r"]),
        (r"\x41\x7e", ["A~"]),
        (r"'a b' '#' '\x41' '$POOL'", ["a b", "#", r"\x41", "$POOL"]),
        ('"a b" "#" "it\'s"', ["a b", "#", "it's"]),
        (r'"a\"b" "\$POOL" "\\"', ['a"b', "$POOL", "\\"]),
        ('a"b c"d', ["ab cd"]),
        ("''", [""]),
        ('"$POOL" "${POOL}s"', ["physics", "physicss"]),
        ('"${EMPTY}" "${SPACED}"', ["", "a b # c"]),
        ('"${NONE-else}" "${POOL-else}" "${NONE-}"', ["else", "physics", ""]),
    ],
)
def test_words_are_written_as_in_haproxy(text, expected):
    found, messages = words(text)
    assert [word.text for word in found] == expected
    assert messages == []


def test_every_word_keeps_its_place():
    found, _ = words('a  "b c" d\n\n\te # f\r\ng')
    assert [(word.text, word.line, word.column, word.end) for word in found] == [
        ("a", 1, 1, 2),
        ("b c", 1, 4, 9),
        ("d", 1, 10, 11),
        ("e", 3, 2, 3),
        ("g", 4, 1, 2),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_word():
    found, messages = words("\ufeffglobal")
    assert [(word.text, word.column) for word in found] == [("global", 1)]
    assert messages == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("'a", "single quote is never closed"),
        ('"a', "double quote is never closed"),
        ("a\\", "a line cannot be continued"),
        (r"\x4", "two hexadecimal digits"),
        ('"${NONE}"', "variable 'NONE' is not set"),
        ('"$ "', "starts a variable"),
        ('"${POOL"', "starts a variable"),
        ("a\x00b", "U+0000"),
        ("a\x0cb", "U+000C"),
        ("a\udc80", "U+DC80"),
        ("$POOL", "only inside double quotes"),
    ],
)
def test_what_is_badly_written_is_said(text, said):
    _, messages = words(text)
    assert len(messages) == 1
    assert said in messages[0]


def test_a_line_may_be_long_but_not_longer_than_its_limit():
    assert words("a" * LINE_CHARACTERS_MAX)[1] == []
    assert words("a" * (LINE_CHARACTERS_MAX + 1))[1] == [f"line is longer than {LINE_CHARACTERS_MAX} characters"]


def test_a_line_has_at_most_its_limit_of_words():
    assert words("a " * WORDS_MAX)[1] == []
    assert words("a " * (WORDS_MAX + 1))[1] == [f"line has more than {WORDS_MAX} words"]


def test_a_mistake_does_not_stop_the_lines_after_it():
    found, messages = words("'a\nb\n\"c\nd")
    assert [word.text for word in found] == ["a", "b", "c", "d"]
    assert len(messages) == 2

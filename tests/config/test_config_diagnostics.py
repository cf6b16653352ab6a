import pytest
from config_files import load_sample

from gateway.config.diagnostics import Diagnostic, Severity, did_you_mean, listing, printable, quote


def diagnostic(source, column, line=14):
    return Diagnostic(
        severity=Severity.ERROR, file="gateway.cfg", line=line, column=column, message="it is so", source=source
    )


def test_a_diagnostic_shows_place_source_and_caret():
    (found,) = load_sample(("10.77.0.12:9618", "10.77.0.12:9618 rise 300")).diagnostics
    assert found.render() == (
        "gateway.cfg:31:37: error: server 'cm2': rise: '300' is not a whole number from 1 to 100\n"
        "    server cm2 10.77.0.12:9618 rise 300\n"
        "                                    ^"
    )


def test_the_caret_keeps_the_tabs_before_it():
    assert diagnostic("\ta\tb", 4).render().splitlines()[1:] == ["\ta\tb", "\t \t^"]


def test_the_caret_may_stand_after_the_end_of_the_line():
    assert diagnostic("a b", 5).render().splitlines()[1:] == ["a b", "    ^"]


def test_a_finding_on_the_whole_file_has_no_source():
    assert diagnostic("", 0, line=0).render() == "gateway.cfg: error: it is so"


def test_a_long_line_is_cut_around_the_caret():
    rendered = diagnostic("x" * 1000 + "y" + "x" * 1000, 1001).render().splitlines()
    assert len(rendered[1]) == 160
    assert rendered[1][rendered[2].index("^")] == "y"


def test_nothing_of_a_file_acts_on_the_terminal():
    (found,) = load_sample(("cluster physics-pool", "cluster '\x1b[2J\x07\u202e'")).diagnostics
    assert found.render().replace("\n", "").isprintable()
    assert printable("a\tb\x1b\udc80") == "a\tb??"


@pytest.mark.parametrize(
    ("word", "expected"),
    [("leas", "; did you mean 'lease'?"), ("LEASE", "; did you mean 'lease'?"), ("xyz", ""), ("lease" * 20, "")],
)
def test_a_suggestion_is_made_for_what_is_close(word, expected):
    assert did_you_mean(word, ["lease", "heartbeat"]) == expected


def test_words_are_listed_as_prose_and_cut_when_long():
    assert listing(["a"]) == "'a'"
    assert listing(["a", "b", "c"]) == "'a', 'b' or 'c'"
    assert len(quote("x" * 500)) == 62

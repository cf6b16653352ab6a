"""Promises of the help: every command's fits a screen of 100 columns and 40 lines, and pipes are not disturbed."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import cli
from gateway.console.command_tree import read_tree

COLUMNS, LINES = 100, 40  # of a terminal on half a screen of today; what does not fit it is not read
# The laboratory's own: its scenarios are a table of their own.
LONGER = {("lab", "measure")}
PROGRAM = Path(sys.executable).parent / "condor-gateway"


def parsers(parser, words=()):
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from parsers(inner, (*words, name))


@pytest.mark.parametrize("words", [words for words, _ in parsers(cli.make_parser())], ids=" ".join)
def test_the_help_of_every_command_fits_a_screen(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    text = dict(parsers(cli.make_parser()))[words].format_help()
    lines = text.splitlines()
    assert max(map(len, lines)) <= COLUMNS, [line for line in lines if len(line) > COLUMNS]
    if words not in LONGER:
        assert len(lines) <= LINES


def test_every_command_says_what_it_does_and_what_its_options_mean():
    for command in read_tree(cli.make_parser()).walk():
        if command.words[:1] != ("lab",):
            assert command.description
            for argument in command.arguments:
                assert argument.help or not argument.flags, (command.words, argument.flags)


def test_a_reader_that_has_had_enough_is_no_error():
    command = f"{PROGRAM} man gateway.cfg | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(".TH")


def test_nothing_is_coloured_that_goes_into_a_pipe():
    environment = {**os.environ, "TERM": "xterm-256color"}
    file = Path(__file__).parents[2] / "haproxy-like-config/minimal.cfg"
    argv = [PROGRAM, "doctor", "-f", file, "--node", "cm1", "--verbose"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert "checks are fine" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        cli.run_command_line(["statsu"])
    assert left.value.code == 2
    assert "unknown command 'statsu'; did you mean 'status'?" in capsys.readouterr().err

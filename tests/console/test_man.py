"""Promises of the man pages: every command, option and keyword is in them, and groff has nothing to complain of."""

import re
import shutil
import subprocess

import pytest

from gateway import cli
from gateway.config.keywords import SECTIONS
from gateway.console.command_tree import read_tree
from gateway.console.manual import file_page, pages, program_page
from gateway.console.roff import Page, escape
from gateway.doctor.checks import CHECKS


@pytest.fixture(scope="module")
def tree():
    return read_tree(cli.make_parser())


def plain(page):
    """A page's text without the marks of roff."""
    text = re.sub(r"\\f[BIR]", "", page)
    for mark, character in (
        ("\\-", "-"),
        ("\\(aq", "'"),
        ("\\(dq", '"'),
        ("\\(ga", "`"),
        ("\\(ha", "^"),
        ("\\(ti", "~"),
    ):
        text = text.replace(mark, character)
    return text.replace("\\&", "").replace("\\e", "\\")


def test_every_command_and_every_option_is_in_the_programs_page(tree):
    page = plain(program_page(tree))
    for command in tree.walk():
        if command.words:
            assert f'.SS "{" ".join(command.words)}"\n' in page
        for option in command.options:
            assert all(flag in page for flag in option.flags)
        for example in command.examples:
            assert example in page
    for status in ("0", "1", "2", "130"):
        assert f".TP\n{status}\n" in page
    assert "NO_COLOR" in page
    for check in CHECKS:
        assert f".TP\n{check.name}\n" in page


def test_every_keyword_with_its_limits_and_default_is_in_the_files_page():
    page = plain(file_page())
    for section in SECTIONS.values():
        assert f'.SH "SECTION {section.word}' in page
        for keyword in section.keywords.values():
            assert f".TP\n{keyword.name}" in page, keyword.name
            assert keyword.help in page
    assert "LEASE" not in page
    assert "TIME: a time; 30ms to 60s; not less: a leader stops 10 ms before its end" in page
    assert "default 300ms." in page


def test_no_text_can_be_read_as_a_macro():
    page = Page("x", 1, "y", "z")
    page.text(".so /etc/passwd 'quoted' `these` a\\b")
    assert "\n\\&.so" in page.render()
    assert escape("a-b") == "a\\-b"


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_formats_the_pages_without_a_warning(tree):
    for name, make in pages(tree).items():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-rLL=100n"],
            input=make(),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert done.stderr == "", name
        shown = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
        assert "NAME" in shown
        assert not re.search(r"\\[f(&]", shown), name


def test_pages_are_written_where_man_looks_for_them(tmp_path, capsys):
    assert cli.run_command_line(["man", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "man1/condor-gateway.1").read_text().startswith(".TH")
    assert (tmp_path / "man5/gateway.cfg.5").exists()
    capsys.readouterr()
    assert cli.run_command_line(["man", "gateway.cfg"]) == 0
    assert capsys.readouterr().out == (tmp_path / "man5/gateway.cfg.5").read_text()
    (tmp_path / "file").touch()
    assert cli.run_command_line(["man", "-o", str(tmp_path / "file")]) == 1
    assert "cannot be written" in capsys.readouterr().err

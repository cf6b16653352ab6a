"""The project's own rules, as tests: the layering law, types, style, limits on size, and what the documents promise."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SOURCES = sorted((ROOT / "gateway").rglob("*.py"))
LINES_MAX = 500  # of a module; most have under 300, and a longer one holds two jobs


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240)


def test_the_layering_law_holds():
    done = run(str(BIN / "lint-imports"), "--no-cache")
    assert done.returncode == 0, done.stdout


def test_types_are_strict():
    done = run(str(BIN / "mypy"))
    assert done.returncode == 0, done.stdout


def test_style_is_kept():
    done = run(str(BIN / "ruff"), "check", ".")
    assert done.returncode == 0, done.stdout


def test_format_is_kept():
    done = run(str(BIN / "ruff"), "format", "--check", ".")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_its_job_and_keeps_to_one(path: Path):
    text = path.read_text()
    said = ast.get_docstring(ast.parse(text))
    assert said, "a module's first line says what it is for"
    assert len(text.splitlines()) <= LINES_MAX


def test_the_root_holds_what_it_was_given_and_nothing_else():
    tracked = run("git", "ls-files").stdout.split()
    assert {name.split("/")[0] for name in tracked} == {
        ".ci",
        ".gitignore",
        "LICENSE",
        "Makefile",
        "README.md",
        "gateway",
        "haproxy-like-config",
        "pyproject.toml",
        "tests",
        "vagrant",
    }


def test_every_command_of_the_readme_exists():
    readme = (ROOT / "README.md").read_text()
    helped = run(str(BIN / "condor-gateway"), "--help").stdout
    commands = set(re.findall(r"condor-gateway ([a-z]+)", readme))
    assert commands, "the README shows how the command is used"
    for command in commands:
        assert re.search(rf"^    {command}\b", helped, re.MULTILINE), f"README: condor-gateway {command}"
    targets = set(re.findall(r"make ([a-z-]+)", readme))
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"README: make {target}"


def test_no_two_test_modules_share_a_name():
    """Pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))

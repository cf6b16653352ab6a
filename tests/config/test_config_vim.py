"""Vim's files are those of the keyword table; they colour what stands in the examples, and nothing misspelt."""

import shutil
import subprocess

import pytest
from config_files import EXAMPLES, SAMPLE

from gateway.config.vim_syntax import FILETYPE, vim_files

VIM = EXAMPLES / "vim"
ASK = """\
set nocompatible
set runtimepath^={folder}
syntax on
filetype on
edit {file}
let told = [&filetype]
for line in range(1, line('$'))
  let column = match(getline(line), '\\S') + 1
  call add(told, line . ' ' . synIDattr(synID(line, max([column, 1]), 1), 'name'))
endfor
call writefile(told, '{out}')
qall!
"""


@pytest.mark.parametrize("name", vim_files())
def test_vims_files_are_made_from_the_keyword_table(name):
    """Write them anew by: for name, text in vim_files().items(): (VIM / name).write_text(text)."""
    assert (VIM / name).read_text(encoding="utf-8") == vim_files()[name]


@pytest.fixture
def colours(tmp_path):
    """Return a function that tells Vim's file type and the group of the first word of each line, by its number."""

    def ask(text, name="gateway.cfg"):
        file, script, out = tmp_path / name, tmp_path / "ask.vim", tmp_path / "out"
        file.write_text(text, encoding="utf-8")
        script.write_text(ASK.format(folder=VIM, file=file, out=out))
        argv = ["vim", "-u", "NONE", "-n", "-es", "-S", str(script)]
        subprocess.run(argv, check=False, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
        first, *rest = out.read_text().splitlines()
        return first, {int(line.split(" ")[0]): line.split(" ")[1] for line in rest}

    return ask


needs_vim = pytest.mark.skipif(shutil.which("vim") is None, reason="there is no vim here")


@needs_vim
@pytest.mark.parametrize("name", ["campus", "haproxy-style", "operators"])
def test_every_line_of_an_example_begins_in_colour(name, colours):
    text = (EXAMPLES / f"{name}.cfg").read_text(encoding="utf-8")
    filetype, found = colours(text)
    assert filetype == FILETYPE
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#") or line.lstrip().startswith("#"):
            assert found[number] == f"{FILETYPE}Comment", line
        elif line.strip() and number in found:
            assert found[number].endswith("Keyword" if line.startswith(" ") else "Section"), line


@needs_vim
def test_a_misspelt_keyword_and_one_in_a_wrong_place_stay_plain(colours):
    _, found = colours(
        SAMPLE.replace("    lease 300ms", "    leas 300ms").replace("    forward proxy", "    bind proxy")
    )
    lines = SAMPLE.splitlines()
    assert found[lines.index("    lease 300ms") + 1] == ""
    assert found[lines.index("    forward proxy") + 1] == ""
    assert found[lines.index("    heartbeat 50ms") + 1] == f"{FILETYPE}PeersKeyword"


@needs_vim
def test_a_file_is_recognised_by_its_name_or_by_a_comment(colours):
    assert colours(SAMPLE, "other.cfg")[0] != FILETYPE
    assert colours(f"# condor-gateway check -f other.cfg\n{SAMPLE}", "other.cfg")[0] == FILETYPE

"""Promises of `completion`: a real bash completes commands, options, values and files with what is printed."""

import argparse
import subprocess

import pytest

from gateway import cli
from gateway.console.command_tree import read_tree
from gateway.console.shells import SHELLS, bash, fish, zsh


@pytest.fixture(scope="module")
def tree():
    return read_tree(cli.make_parser())


def completed(script, *words, cwd=None):
    """What a real bash offers for a command line; the last word is the one that is being typed."""
    typed = " ".join(f"'{word}'" for word in ("condor-gateway", *words))
    asking = (
        f"{script}\ncomplete -p condor-gateway >&2\nCOMP_WORDS=({typed})\nCOMP_CWORD={len(words)}\n_condor_gateway\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-eu"], input=asking, capture_output=True, text=True, timeout=10, cwd=cwd, check=False
    )
    assert done.stderr.strip() == "complete -F _condor_gateway condor-gateway", done.stderr
    return set(done.stdout.split())


def test_bash_completes_commands_and_those_below_them(tree):
    script = bash(tree)
    assert {"check", "status", "doctor", "lab", "condor-config"} <= completed(script, "")
    assert completed(script, "imp") == {"import-had"}
    assert {"up", "down", "measure"} <= completed(script, "lab", "")
    assert completed(script, "lab", "d") == {"down"}


def test_bash_completes_options_of_the_command_that_was_typed(tree):
    script = bash(tree)
    assert {"--json", "--peers", "--file", "-f"} <= completed(script, "doctor", "-")
    assert "--peers" not in completed(script, "status", "--")
    assert completed(script, "doctor", "--json", "--ver") == {"--verbose"}
    assert "--slots" in completed(script, "lab", "up", "--s")


def test_bash_completes_values_and_files(tree, tmp_path):
    script = bash(tree)
    assert completed(script, "condor-config", "--role", "") == {"manager", "submit", "execute", "gateway"}
    assert completed(script, "completion", "") == {"bash", "zsh", "fish"}
    (tmp_path / "gateway.cfg").touch()
    assert completed(script, "check", "-f", "gate", cwd=tmp_path) == {"gateway.cfg"}
    assert completed(script, "keygen", "gate", cwd=tmp_path) == {"gateway.cfg"}
    assert completed(script, "doctor", "--node", "") == set()


def test_no_hidden_option_is_offered(tree):
    for shell in SHELLS.values():
        assert "guarded" not in shell(tree)


def test_every_command_is_in_every_shells_script(tree):
    for command in tree.walk():
        for option in command.options:
            assert option.help or command.words[:1] == ("lab",), (command.words, option.flags)
        if command.words:
            assert f"{'/'.join(('', *command.words))}" in bash(tree)
            assert f"'{command.words[-1]}" in zsh(tree)
            assert f"-a '{command.words[-1]}'" in fish(tree)


def test_no_name_that_zsh_keeps_for_itself_is_used(tree):
    """`options`, `commands`, `path` and others are special in zsh, and can't be made local arrays (zshmodules(1))."""
    declared = [line for line in zsh(tree).splitlines() if line.strip().startswith("local")]
    assert declared
    for name in ("options", "commands", "path", "functions", "aliases", "parameters", "status"):
        assert not any(f" {name}" in line for line in declared)


def test_text_with_quotes_harms_no_script():
    parser = argparse.ArgumentParser(prog="condor-gateway")
    inner = parser.add_subparsers().add_parser("it", help='it\'s `rm -rf` $HOME "quoted" \\ and 100%%')
    inner.add_argument("--that", metavar="FILE", help="don't $(touch /tmp/never)")
    odd = read_tree(parser)
    assert completed(bash(odd), "") == {"it"}
    assert completed(bash(odd), "it", "--") == {"--that", "--help"}
    assert "'it:it'\\''s `rm -rf` $HOME" in zsh(odd)
    assert "-d 'it\\'s `rm -rf` $HOME" in fish(odd)


def test_the_command_prints_it(capsys):
    for shell in SHELLS:
        assert cli.run_command_line(["completion", shell]) == 0
        assert f"written by 'condor-gateway completion {shell}'" in capsys.readouterr().out

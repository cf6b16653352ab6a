"""`condor-gateway completion`: the words of this program, for the shell."""

import argparse

from gateway.console.commands.common import OK

NAME = "completion"
HELP = "print completion for a shell: bash, zsh, fish"
DESCRIPTION = """\
Print a script that lets the shell complete this program's commands, options and values. It holds every word, and is
to be made anew with each version of the program."""
EXAMPLES = (
    "condor-gateway completion bash > /etc/bash_completion.d/condor-gateway",
    "condor-gateway completion zsh > /usr/local/share/zsh/site-functions/_condor-gateway",
    "condor-gateway completion fish > /etc/fish/completions/condor-gateway.fish",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose")


def run(chosen: argparse.Namespace) -> int:
    """Print it."""
    from gateway.console.command_tree import read_tree
    from gateway.console.shells import SHELLS

    print(SHELLS[chosen.shell](read_tree(chosen.parser)), end="")
    return OK

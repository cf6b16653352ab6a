"""`condor-gateway check`: everything that is wrong with a configuration file, at once."""

import argparse
import sys

from gateway.config import render_all
from gateway.console.commands.common import OK, REFUSED, add_file, load_file

NAME = "check"
HELP = "check a configuration file and say everything that is wrong with it"
DESCRIPTION = "Say everything that is wrong with a configuration file, each with its line and column. Starts nothing."
EXAMPLES = ("condor-gateway check -f gateway.cfg",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)


def run(chosen: argparse.Namespace) -> int:
    """Check the file."""
    loaded = load_file(chosen.file)
    print(render_all(loaded.diagnostics), end="", file=sys.stderr)
    if loaded.settings is None:
        return REFUSED
    print(f"{chosen.file}: valid")
    return OK

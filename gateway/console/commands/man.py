"""`condor-gateway man`: the man pages, from the same text as the help."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from gateway.console.commands.common import OK, Refused

NAME = "man"
HELP = "show a man page, or write them all"
DESCRIPTION = """\
Show a man page; into a pipe or a file it goes as roff, as man -l reads it. With -o the pages are written below a
folder, as man1/condor-gateway.1 and man5/gateway.cfg.5."""
EXAMPLES = ("condor-gateway man", "condor-gateway man gateway.cfg", "condor-gateway man -o /usr/local/share/man")
PAGES = ("condor-gateway", "gateway.cfg", "condor-gateway-events")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("page", nargs="?", choices=PAGES, default=PAGES[0], help="which (default %(default)s)")
    parser.add_argument("-o", "--output", metavar="DIR", help="write all pages below this folder instead")


def run(chosen: argparse.Namespace) -> int:
    """Show or write them."""
    from gateway.console.command_tree import read_tree
    from gateway.console.manual import pages

    made = pages(read_tree(chosen.parser))
    if chosen.output is not None:
        for name, make in made.items():
            path = Path(chosen.output, f"man{name[-1]}", name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(make(), encoding="utf-8")
            except OSError as error:
                raise Refused(f"'{path}' cannot be written: {error.strerror}") from None
            print(path)
        return OK
    text = next(make() for name, make in made.items() if name.rpartition(".")[0] == chosen.page)
    if sys.stdout.isatty() and shutil.which("man"):
        subprocess.run(["man", "-l", "-"], input=text.encode(), check=False)
    else:
        print(text, end="")
    return OK

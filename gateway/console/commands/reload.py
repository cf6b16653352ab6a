"""`condor-gateway reload`: a new process takes this host's node over, with a new file or a new program."""

import argparse
import sys
from pathlib import Path

from gateway.config import render_all
from gateway.config.settings import Settings
from gateway.console.commands.common import OK, REFUSED, Refused, add_file, admin_socket, ask, load_file

NAME = "reload"
HELP = "let a new process take this host's node over: new file, new program"
DESCRIPTION = """\
Check the file, show what it changes, and let a new process take this host's node over. Leases, addresses and
connections stay. What does not fit (an invalid file, other peers) is refused and changes nothing. Without a changed
file it brings a new key or a new version of the program in."""
EXAMPLES = ("condor-gateway reload", "condor-gateway reload --dry-run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)
    parser.add_argument("--dry-run", action="store_true", help="check the file and show what it changes, no more")


def run(chosen: argparse.Namespace) -> int:
    """Reload the node."""
    from gateway.console.admin import AdminUnreachable
    from gateway.console.reload import ReloadFailed, reload_node

    loaded = load_file(chosen.file)
    print(render_all(loaded.diagnostics), end="", file=sys.stderr)
    if loaded.settings is None:
        return REFUSED
    try:
        print(_changes(chosen, loaded.settings), flush=True)
        if not chosen.dry_run:
            print(reload_node(admin_socket(loaded.settings)))
    except (AdminUnreachable, ReloadFailed) as error:
        raise Refused(str(error)) from error
    return OK


def _changes(chosen: argparse.Namespace, settings: Settings) -> str:
    """Return what `settings` change of those that the node runs by, a line each."""
    import msgspec

    from gateway.config.difference import differences, render_text
    from gateway.control.configuration import restore

    answer = ask(chosen, "config")
    try:
        before = restore(answer)
    except (msgspec.MsgspecError, KeyError):
        return "the running program is of another version: what the file changes can't be shown"
    read_from = answer["file"]
    lines = render_text(differences(before, settings)).rstrip("\n")
    if read_from and read_from != str(Path(chosen.file).resolve()):
        # The guard has its command line, and the file is a part of that.
        raise Refused(f"the node reads '{read_from}': change that file, or restart the node with '-f {chosen.file}'")
    return lines or "the file changes nothing"

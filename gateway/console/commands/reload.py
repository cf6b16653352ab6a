"""`condor-gateway reload`: a new process takes this host's node over, with a new file or a new program."""

import argparse
import sys

from gateway.config import render_all
from gateway.console.commands.common import OK, REFUSED, Refused, add_file, admin_socket, load_file

NAME = "reload"
HELP = "let a new process take this host's node over: new file, new program"
DESCRIPTION = """\
Check the file, and let a new process take this host's node over. Leases, addresses and connections stay. What does not
fit (an invalid file, other peers) is refused and changes nothing."""
EXAMPLES = ("condor-gateway reload",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)


def run(chosen: argparse.Namespace) -> int:
    """Reload the node."""
    from gateway.console.admin import AdminUnreachable
    from gateway.console.reload import ReloadFailed, reload_node

    loaded = load_file(chosen.file)
    print(render_all(loaded.diagnostics), end="", file=sys.stderr)
    if loaded.settings is None:
        return REFUSED
    try:
        print(reload_node(admin_socket(loaded.settings)))
    except (AdminUnreachable, ReloadFailed) as error:
        raise Refused(str(error)) from error
    return OK

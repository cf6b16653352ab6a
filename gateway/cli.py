"""The command line: `condor-gateway COMMAND`, a sentence on stderr for each error.

Exit status: 0 done; 1 refused, with the reason; 2 the command line itself is wrong.
"""

import argparse
import os
import re
import signal
import socket
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from gateway import __version__
from gateway.config import ConfigError, identify, render_all
from gateway.console.commands import add_command, command_modules
from gateway.console.commands.common import OK, REFUSED, Refused, add_file, load_file
from gateway.lab import command as lab

INTERRUPTED = 130  # as a shell says of SIGINT


def run_command_line(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    chosen = make_parser().parse_args(arguments)
    try:
        status = int(chosen.command(chosen))
        sys.stdout.flush()
    except (Refused, ConfigError) as error:
        print(f"condor-gateway: {error}", file=sys.stderr)
        return REFUSED
    except BrokenPipeError:
        # Whoever read has had enough, as `head` has; what Python would still write at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistyped command with the one that was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and exit."""
        mistyped = re.match(r"argument COMMAND: invalid choice: '([^']*)'", message)
        if mistyped is not None:
            near = get_close_matches(mistyped[1], [*(module.NAME for module in command_modules()), "run", "lab"], n=1)
            guess = f"; did you mean '{near[0]}'?" if near else ""
            message = f"unknown command '{mistyped[1]}'{guess}; '{self.prog} --help' lists them"
        super().error(message)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; man pages and completion are made from it too."""
    parser = Parser(
        prog="condor-gateway", description="A highly available HTCondor matchmaker behind one virtual address."
    )
    parser.add_argument("--version", action="version", version=f"condor-gateway {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run this host's node in the foreground"))
    for module in command_modules():
        add_command(commands, module)
    lab.add_arguments(commands)
    parser.set_defaults(parser=parser)  # for the commands that describe all others
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.description = "Run this host's node in the foreground, as root, until SIGTERM. SIGHUP reloads it."
    add_file(run)
    run.add_argument("--node", metavar="NAME", help="which peer of the file this host is; found out where not given")
    # Said by the guard, our parent, to the control process that it starts: the descriptor of its link.
    run.add_argument("--guarded", type=int, metavar="FD", help=argparse.SUPPRESS)
    run.add_argument("--adopt", type=int, metavar="FD", help=argparse.SUPPRESS)
    run.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> int:
    return _guard(chosen) if chosen.guarded is None else _control(chosen)


def _guard(chosen: argparse.Namespace) -> int:
    """Become the guard, which starts control. What is wrong with the file is said before."""
    from gateway.control.preflight import StartRefused, require_root

    try:
        require_root()
    except StartRefused as error:
        raise Refused(str(error)) from error
    loaded = load_file(chosen.file)
    print(render_all(loaded.diagnostics), end="", file=sys.stderr, flush=True)
    if loaded.settings is None:
        return REFUSED
    # -P: never import from the directory in which root happened to start us.
    control = [sys.executable, "-P", "-m", "gateway", "run", "-f", chosen.file]
    control += ["--node", chosen.node] if chosen.node else []
    guard = str(Path(__file__).parent / "guard" / "__main__.py")
    os.execv(sys.executable, [sys.executable, "-I", "-S", guard, *control])


def _control(chosen: argparse.Namespace) -> int:
    # Imported here: `check` and `status` need neither trio nor scapy, whose import takes longer than they do.
    import trio

    from gateway.config.keyfile import KeyFileError
    from gateway.console.logs import start_log, stop_log
    from gateway.control.preflight import StartRefused
    from gateway.daemon import run_node
    from gateway.kernel.address import local_addresses
    from gateway.keyfiles import read_key_file

    # The guard gets these as well, and decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        loaded = load_file(chosen.file)
        if loaded.settings is None:  # changed since the guard was started
            print(render_all(loaded.diagnostics), end="", file=sys.stderr)
            return REFUSED
        settings = loaded.settings
        me = identify(settings, node=chosen.node, host_name=socket.gethostname(), local_addresses=local_addresses())
        keys = read_key_file(settings.key_file)
        start_log(settings.log_format, me.name)
        with socket.socket(fileno=chosen.guarded) as guard:
            predecessor = None if chosen.adopt is None else socket.socket(fileno=chosen.adopt)
            file = str(Path(chosen.file).resolve())
            trio.run(run_node, settings, me, keys, guard, predecessor, file, strict_exception_groups=True)
    except (StartRefused, KeyFileError) as error:
        raise Refused(str(error)) from error
    finally:
        stop_log()
    return OK

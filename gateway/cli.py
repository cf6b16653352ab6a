"""The command line: `condor-gateway COMMAND`, a sentence on stderr for each error.

Exit status: 0 done; 1 refused, with the reason; 2 the command line itself is wrong.
"""

import argparse
import json
import os
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.config import ConfigError, Loaded, identify, load, render_all
from gateway.console import merge_options
from gateway.lab import command as lab

CONFIG_FILE = "/etc/condor-gateway/gateway.cfg"

OK, REFUSED = 0, 1


class Refused(Exception):  # noqa: N818 (an answer to the operator)
    """A command can't be carried out; the text is what the operator reads."""


def run_command_line(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.command(chosen))
    except (Refused, ConfigError) as error:
        print(f"condor-gateway: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return 130  # as a shell says of SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="condor-gateway", description="A highly available HTCondor matchmaker behind one virtual address."
    )
    parser.add_argument("--version", action="version", version=f"condor-gateway {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run this host's node in the foreground")
    _add_file(run)
    run.add_argument("--node", metavar="NAME", help="which peer of the file this host is; found out where not given")
    # Said by the guard, our parent, to the control process that it starts: the descriptor of its link.
    run.add_argument("--guarded", type=int, metavar="FD", help=argparse.SUPPRESS)
    run.add_argument("--adopt", type=int, metavar="FD", help=argparse.SUPPRESS)
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="check a configuration file and say everything that is wrong with it")
    _add_file(check)
    check.set_defaults(command=_check)

    keygen = commands.add_parser("keygen", help="make the cluster's key file, readable by its owner only")
    keygen.add_argument("path", metavar="FILE")
    keygen.add_argument(
        "--rotate", action="store_true", help="add a new key to FILE, the first of three steps; it says the next one"
    )
    step = keygen.add_mutually_exclusive_group()
    step.add_argument("--activate", action="store_true", help="with --rotate: seal with the newest key from now on")
    step.add_argument("--retire", action="store_true", help="with --rotate: remove the keys older than the active one")
    keygen.set_defaults(command=_keygen, wrong_usage=keygen.error)

    reload = commands.add_parser("reload", help="let a new process take this host's node over: new file, new program")
    _add_file(reload)
    reload.set_defaults(command=_reload)

    status = commands.add_parser("status", help="show who leads, as the node on this host sees it")
    _add_file(status)
    status.add_argument("--json", action="store_true", help="the whole document, for programs")
    status.set_defaults(command=_status)

    merge = commands.add_parser("merge", help="merge accounting files that went on separately from a common base")
    merge_options.add_arguments(merge)
    merge.set_defaults(command=_merge)

    lab.add_arguments(commands)
    return parser


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f", "--file", default=CONFIG_FILE, metavar="FILE", help=f"configuration (default {CONFIG_FILE})"
    )


def _load(path: str) -> Loaded:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refused(f"configuration file '{path}' does not exist: name it with -f FILE") from None
    except UnicodeDecodeError:
        raise Refused(f"configuration file '{path}' is not UTF-8 text") from None
    except OSError as error:
        raise Refused(f"configuration file '{path}' cannot be read: {error.strerror}") from None
    return load(text, path, os.environ)


def _check(chosen: argparse.Namespace) -> int:
    loaded = _load(chosen.file)
    print(render_all(loaded.diagnostics), end="", file=sys.stderr)
    if loaded.settings is None:
        return REFUSED
    print(f"{chosen.file}: valid")
    return OK


def _keygen(chosen: argparse.Namespace) -> int:
    from gateway.config.keyfile import KeyFileError
    from gateway.keyfiles import create_key_file

    if (chosen.activate or chosen.retire) and not chosen.rotate:
        chosen.wrong_usage("--activate and --retire are steps of --rotate: write it too")
    try:
        if chosen.rotate:
            print(_rotate(chosen))
        else:
            create_key_file(chosen.path)
            print(f"{chosen.path}: one key, mode 0600; copy it to every node of the cluster")
    except KeyFileError as error:
        raise Refused(str(error)) from error
    return OK


def _rotate(chosen: argparse.Namespace) -> str:
    """Take one step of a rotation; return what it did and how to go on."""
    from gateway.config.keyfile import activate_newest, add_key, retire_old
    from gateway.keyfiles import new_key, rewrite_key_file

    again = "copy the file to every node and reload them one after the other"
    path = shlex.quote(chosen.path)
    if chosen.activate:
        keys = rewrite_key_file(chosen.path, activate_newest)
        done, then = f"key {keys.active} seals from now on, all others still open", f"keygen --rotate --retire {path}"
    elif chosen.retire:
        keys = rewrite_key_file(chosen.path, retire_old)
        return f"{chosen.path}: key {keys.active} is the oldest left; {again}, and the rotation is done"
    else:
        keys = rewrite_key_file(chosen.path, lambda keys: add_key(keys, new_key()))
        done = f"key {keys.newest} added; it opens, and key {keys.active} still seals"
        then = f"keygen --rotate --activate {path}"
    return f"{chosen.path}: {done}\nnow {again}; only when all have it:\n    condor-gateway {then}"


def _run(chosen: argparse.Namespace) -> int:
    return _guard(chosen) if chosen.guarded is None else _control(chosen)


def _guard(chosen: argparse.Namespace) -> int:
    """Become the guard, which starts control. What is wrong with the file is said before."""
    from gateway.control.preflight import StartRefused, require_root

    try:
        require_root()
    except StartRefused as error:
        raise Refused(str(error)) from error
    loaded = _load(chosen.file)
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
        loaded = _load(chosen.file)
        if loaded.settings is None:  # changed since the guard was started
            print(render_all(loaded.diagnostics), end="", file=sys.stderr)
            return REFUSED
        settings = loaded.settings
        me = identify(settings, node=chosen.node, host_name=socket.gethostname(), local_addresses=local_addresses())
        keys = read_key_file(settings.key_file)
        start_log(settings.log_format, me.name)
        with socket.socket(fileno=chosen.guarded) as guard:
            predecessor = None if chosen.adopt is None else socket.socket(fileno=chosen.adopt)
            trio.run(run_node, settings, me, keys, guard, predecessor, strict_exception_groups=True)
    except (StartRefused, KeyFileError) as error:
        raise Refused(str(error)) from error
    finally:
        stop_log()
    return OK


def _reload(chosen: argparse.Namespace) -> int:
    from gateway.console.admin import AdminUnreachable
    from gateway.console.reload import ReloadFailed, reload_node

    loaded = _load(chosen.file)
    print(render_all(loaded.diagnostics), end="", file=sys.stderr)
    if loaded.settings is None:
        return REFUSED
    try:
        print(reload_node(Path(loaded.settings.state_dir) / "admin.sock"))
    except (AdminUnreachable, ReloadFailed) as error:
        raise Refused(str(error)) from error
    return OK


def _status(chosen: argparse.Namespace) -> int:
    from gateway.console.admin import AdminUnreachable, ask_admin
    from gateway.console.status_text import render_status

    loaded = _load(chosen.file)
    settings = loaded.require()
    try:
        document: dict[str, Any] = ask_admin(Path(settings.state_dir) / "admin.sock", "status")
    except AdminUnreachable as error:
        raise Refused(str(error)) from error
    print(json.dumps(document) if chosen.json else render_status(document))
    return OK


def _merge(chosen: argparse.Namespace) -> int:
    from gateway.console.merge import MergeRefused, merge_files
    from gateway.matchmaker.histories import no_collection
    from gateway.matchmaker.merge_text import render_json, render_report, render_summary

    with no_collection():  # until the report is told: it holds a line for each customer that was touched
        sides = merge_options.sides_of(chosen)
        try:
            pool = merge_options.pool_of(chosen)
            done = merge_files(Path(chosen.base), sides, Path(chosen.out), pool, force=chosen.force)
        except MergeRefused as error:
            raise Refused(str(error)) from error
        for warning in done.warnings:
            print(f"condor-gateway: {warning}", file=sys.stderr)
        if chosen.json:
            print(render_json(done.merged.report))
            return OK
        print(render_summary(done.merged.report, chosen.out))
        if chosen.report:
            print(f"\n{render_report(done.merged.report)}")
        return OK

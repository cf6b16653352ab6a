"""`condor-gateway keygen`: the cluster's key file, and the three steps in which a key is changed."""

import argparse
import shlex

from gateway.console.commands.common import OK, Refused

NAME = "keygen"
HELP = "make the cluster's key file, readable by its owner only"
DESCRIPTION = """\
Make the cluster's key file, or take one of the three steps in which its key is changed without losing a heartbeat.
Each step says the next one."""
EXAMPLES = (
    "condor-gateway keygen /etc/condor-gateway/cluster.key",
    "condor-gateway keygen --rotate /etc/condor-gateway/cluster.key",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("path", metavar="FILE")
    parser.add_argument(
        "--rotate", action="store_true", help="add a new key to FILE, the first of three steps; it says the next one"
    )
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--activate", action="store_true", help="with --rotate: seal with the newest key from now on")
    step.add_argument("--retire", action="store_true", help="with --rotate: remove the keys older than the active one")
    parser.set_defaults(wrong_usage=parser.error)


def run(chosen: argparse.Namespace) -> int:
    """Make the file, or take a step."""
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

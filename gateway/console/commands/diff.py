"""`condor-gateway diff`: what a file would change, and what it takes to bring that in."""

import argparse
import json
import sys

from gateway.config import render_all
from gateway.config.diagnostics import ConfigError
from gateway.config.difference import differences, render_json, render_text
from gateway.config.settings import Settings
from gateway.console.commands.common import OK, REFUSED, Refused, add_file, ask, load_file

NAME = "diff"
HELP = "show what a configuration file would change, and what it takes to bring that in"
DESCRIPTION = """\
Compare two files by what they say, or, given one or none, the running node with FILE: order of sections, comments,
spelling of times, defaults and includes make no difference. What a reload would refuse is marked. Nothing is printed
where both say the same."""
EXAMPLES = (
    "condor-gateway diff",
    "condor-gateway diff old.cfg new.cfg",
    "condor-gateway diff --exit-code -f /etc/condor-gateway/gateway.cfg",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)
    parser.add_argument("old", nargs="?", metavar="OLD", help="a file to compare; not given: what the node here has")
    parser.add_argument("new", nargs="?", metavar="NEW", help="a file to compare; not given: that of -f")
    parser.add_argument("--json", action="store_true", help="one JSON document, for programs")
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 where there is a difference")


def run(chosen: argparse.Namespace) -> int:
    """Compare."""
    new = _settings(chosen.new or chosen.file)
    old = _settings(chosen.old) if chosen.old is not None else _running(chosen)
    found = differences(old, new)
    if chosen.json:
        print(json.dumps(render_json(found)))
    else:
        print(render_text(found), end="")
    return REFUSED if found and chosen.exit_code else OK


def _settings(path: str) -> Settings:
    loaded = load_file(path)
    if loaded.settings is None:
        print(render_all(loaded.diagnostics), end="", file=sys.stderr)
        raise Refused(f"'{path}' is not valid, and says nothing to compare")
    return loaded.settings


def _running(chosen: argparse.Namespace) -> Settings:
    import msgspec

    from gateway.control.configuration import restore

    try:
        return restore(ask(chosen, "config"))
    except ConfigError as error:  # of the file whose node is asked
        raise Refused(f"'{chosen.file}' is not valid, and says no state-dir where the node could be asked") from error
    except (msgspec.MsgspecError, KeyError) as error:
        raise Refused("the running node is of another version, whose configuration can't be read here") from error

"""`condor-gateway check`: everything that is wrong with a configuration file, at once."""

import argparse
import json
import sys
from typing import Any

from gateway.config import Diagnostic, Loaded, Severity, render_all
from gateway.config.diagnostics import printable
from gateway.config.settings import Settings
from gateway.console.commands.common import CONFIG_FILE, OK, REFUSED, Refused, load_file

SCHEMA = 1
NOTHING_TO_SERVE = 2  # as HAProxy's -c
HINT = "; did you mean "

NAME = "check"
HELP = "check a configuration file and say everything that is wrong with it"
DESCRIPTION = """\
Say everything that is wrong with a configuration file, each with its line and column. Starts nothing, and needs no
rights. Exit status, as of 'haproxy -c': 0 valid, with or without warnings; 1 not valid; 2 valid, but no client could
connect."""
EXAMPLES = (
    "condor-gateway check",
    "condor-gateway check -f gateway.cfg --warnings-fatal",
    "condor-gateway check --json -f gateway.cfg",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "-f", "--file", default=CONFIG_FILE, metavar="FILE", help=f"configuration (default {CONFIG_FILE})"
    )
    parser.add_argument("-dW", "--warnings-fatal", action="store_true", help="a warning makes the file invalid")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of a file that is valid")
    parser.add_argument("--json", action="store_true", help="one JSON document, for programs")


def run(chosen: argparse.Namespace) -> int:
    """Check the file."""
    try:
        loaded = load_file(chosen.file)
    except Refused as refused:
        if not chosen.json:
            raise
        print(json.dumps(_document(chosen.file, [_unreadable(chosen.file, str(refused))], valid=False)))
        return REFUSED
    valid = loaded.settings is not None and not (chosen.warnings_fatal and loaded.diagnostics)
    if chosen.json:
        print(json.dumps(_document(chosen.file, loaded.diagnostics, valid=valid)))
    else:
        _say(chosen, loaded, valid=valid)
    if not valid:
        return REFUSED
    assert loaded.settings is not None
    return OK if serves_somebody(loaded.settings) else NOTHING_TO_SERVE


def serves_somebody(settings: Settings) -> bool:
    """Return whether anybody can connect: where managers are elected, a frontend has to lead to them.

    An address alone is of use without one: what answers on it is another program.
    """
    return settings.frontends != () or settings.backends == ()


def _say(chosen: argparse.Namespace, loaded: Loaded, *, valid: bool) -> None:
    print(render_all(loaded.diagnostics), end="", file=sys.stderr)
    if loaded.settings is not None and not valid:
        print(f"{chosen.file}: not valid, because warnings are fatal", file=sys.stderr)
    elif loaded.settings is not None and not serves_somebody(loaded.settings):
        print(f"{chosen.file}: valid, but there is no frontend: no client could connect")
    elif valid and not chosen.quiet:
        print(f"{chosen.file}: valid")


def _document(file: str, diagnostics: tuple[Diagnostic, ...] | list[Diagnostic], *, valid: bool) -> dict[str, Any]:
    return {"schema": SCHEMA, "file": file, "valid": valid, "diagnostics": [_entry(one) for one in diagnostics]}


def _entry(found: Diagnostic) -> dict[str, Any]:
    message, hint, word = found.message.partition(HINT)
    entry: dict[str, Any] = {
        "file": printable(found.file),
        "line": found.line,
        "column": found.column,
        "severity": found.severity.value,
        "message": message,
    }
    return entry | ({"hint": f"did you mean {word}"} if hint else {})


def _unreadable(file: str, told: str) -> Diagnostic:
    return Diagnostic(severity=Severity.ERROR, file=file, line=0, column=0, message=told, source="")

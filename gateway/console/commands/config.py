"""`condor-gateway config show`: what a file says, defaults included, and where each line comes from."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from gateway.config import render_all
from gateway.config.canonical import Line, Part, canonical
from gateway.config.diagnostics import did_you_mean, quote
from gateway.config.origin import Origin, origin
from gateway.config.reference import known_words, reference
from gateway.console.commands.common import OK, REFUSED, Refused, add_file, load_file

SCHEMA = 1
ORIGIN_COLUMN = 56  # where the comment with the origin begins, if the line is no longer

NAME = "config"
HELP = "show what a configuration says, defaults included, and where; explain its keywords"
DESCRIPTION = """\
'config show' prints everything that FILE says, with includes and defaults in their places and a line for each keyword
that it leaves out. The output is itself a valid file that says the same. With --origin each line says from which line
of which file it comes, or that it is the default.
'config keywords' explains the language: all of it, a section, or a keyword, with limits and defaults."""
EXAMPLES = (
    "condor-gateway config show --origin -f gateway.cfg",
    "condor-gateway config keywords backend",
    "condor-gateway config keywords lease",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("act", choices=("show", "keywords"), metavar="show|keywords", help="what to print")
    parser.add_argument("word", nargs="*", help="with keywords: a section, or a keyword of one or two words")
    add_file(parser)
    parser.add_argument("--origin", action="store_true", help="say where each line comes from")
    parser.add_argument("--json", action="store_true", help="one JSON document, for programs")


def run(chosen: argparse.Namespace) -> int:
    """Show it."""
    if chosen.act == "keywords":
        return _explain(" ".join(chosen.word))
    if chosen.word:
        raise Refused(f"unexpected '{chosen.word[0]}': the file is named with -f FILE")
    loaded = load_file(chosen.file)
    print(render_all(loaded.diagnostics), end="", file=sys.stderr)
    if loaded.settings is None:
        return REFUSED
    read = loaded.read
    assert read is not None, "a valid file was read"

    def where(part: Part, line: Line) -> Origin | None:
        return origin(part, line, read.expanded, read.report)

    parts = canonical(loaded.settings)
    if chosen.json:
        print(json.dumps(_document(chosen.file, parts, where)))
    else:
        print("\n\n".join(_text(part, where if chosen.origin else None) for part in parts))
    return OK


def _explain(word: str) -> int:
    try:
        print(reference(word))
    except KeyError:
        hint = did_you_mean(word, known_words()) or ": 'condor-gateway config keywords' shows all"
        raise Refused(f"no section and no keyword has the name {quote(word)}{hint}") from None
    return OK


def _text(part: Part, where: Callable[[Part, Line], Origin | None] | None) -> str:
    lines = [part.header]
    for line in part.lines:
        if line.text:
            lines.append(f"    {line.text}")
            if where is not None:
                lines[-1] = f"{lines[-1].ljust(ORIGIN_COLUMN)}  # {where(part, line) or 'default'}"
    return "\n".join(lines)


def _document(file: str, parts: tuple[Part, ...], where: Callable[[Part, Line], Origin | None]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "file": file,
        "sections": [
            {"section": part.kind, "name": part.name, "lines": [_entry(line, where(part, line)) for line in part.lines]}
            for part in parts
        ],
    }


def _entry(line: Line, at: Origin | None) -> dict[str, Any]:
    """Return a line as JSON; `origin` is null for a default."""
    return {
        "keyword": line.keyword,
        "key": line.key,
        "value": line.value,
        "origin": None if at is None else {"file": at.file, "line": at.line},
    }

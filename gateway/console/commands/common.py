"""What commands have in common: the file, the node behind it, refusals. Nothing heavy is imported here."""

import argparse
import os
from pathlib import Path
from typing import Any

from gateway.config import Loaded, load
from gateway.config.settings import Settings
from gateway.includes import read_included

CONFIG_FILE = "/etc/condor-gateway/gateway.cfg"

OK, REFUSED, USAGE = 0, 1, 2


class Refused(Exception):  # noqa: N818 (an answer to the operator)
    """A command can't be carried out; the text is what the operator reads."""


def add_file(parser: argparse.ArgumentParser) -> None:
    """Add `-f FILE`."""
    parser.add_argument(
        "-f", "--file", default=CONFIG_FILE, metavar="FILE", help=f"configuration (default {CONFIG_FILE})"
    )


def load_file(path: str) -> Loaded:
    """Read and load a configuration file.

    Raises:
        Refused: it can't be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refused(f"configuration file '{path}' does not exist: name it with -f FILE") from None
    except UnicodeDecodeError:
        raise Refused(f"configuration file '{path}' is not UTF-8 text") from None
    except OSError as error:
        raise Refused(f"configuration file '{path}' cannot be read: {error.strerror}") from None
    return load(text, path, os.environ, read_included)


def admin_socket(settings: Settings) -> Path:
    """Return where a node of this configuration answers its host's administrator."""
    return Path(settings.state_dir) / "admin.sock"


def ask(chosen: argparse.Namespace, request: str | dict[str, Any], *, wait_s: float = 5.0) -> Any:
    """Ask the node that runs on this host by the file `chosen.file`; return its answer.

    Raises:
        Refused: no node answers, or it refuses; the text says why.
        ConfigError: the file is invalid.
    """
    from gateway.console.admin import AdminUnreachable, ask_admin

    settings = load_file(chosen.file).require()
    try:
        answer = ask_admin(admin_socket(settings), request, wait_s=wait_s)
    except AdminUnreachable as error:
        raise Refused(str(error)) from error
    if isinstance(answer, dict) and "error" in answer:
        raise Refused(str(answer["error"]))
    return answer

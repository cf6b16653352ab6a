"""The commands of the command line, one module each. This one knows their order in the help, and how they are made.

A command module has:

    NAME                the word
    HELP                one line, for the list of commands
    DESCRIPTION         a few lines, for its own help and its man page
    EXAMPLES            command lines, each as it would be typed
    add_arguments       its arguments, given its parser
    run                 what it does, given what was chosen; returns the exit status

Rule: importing a command module costs nothing: what is heavy is imported by `run`.
"""

import argparse
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]

# In the order of the help: a node's life, looking, acting, files.
MODULES = (
    "check",
    "diff",
    "config",
    "status",
    "history",
    "reload",
    "switchover",
    "failover",
    "pause",
    "resume",
    "drain",
    "undrain",
    "simulate",
    "keygen",
    "merge",
    "condor_config",
    "import_had",
    "doctor",
    "explain",
    "report",
    "completion",
    "man",
)


class CommandModule(Protocol):
    """What a command module offers."""

    NAME: str
    HELP: str
    DESCRIPTION: str
    EXAMPLES: tuple[str, ...]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, chosen: argparse.Namespace) -> int:
        """Do it; return the exit status."""


def command_modules(names: Sequence[str] = MODULES) -> tuple[CommandModule, ...]:
    """Return the command modules, imported."""
    return tuple(cast("CommandModule", importlib.import_module(f"{__name__}.{name}")) for name in names)


class ScreenFormatter(argparse.HelpFormatter):
    """Help that fits the screen: paragraphs are filled, examples and what is indented stay as they are written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(
            paragraph
            if paragraph.startswith("examples:") or "\n " in paragraph
            else super(ScreenFormatter, self)._fill_text(paragraph, width, indent)
            for paragraph in paragraphs
        )


def add_command(commands: "Commands", module: CommandModule) -> argparse.ArgumentParser:
    """Add one command; what is chosen has its function as `command`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        module.NAME,
        help=module.HELP,
        description=module.DESCRIPTION,
        epilog="\n".join(("examples:", *(f"  {line}" for line in module.EXAMPLES))) if module.EXAMPLES else None,
        formatter_class=ScreenFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(command=module.run)
    return parser

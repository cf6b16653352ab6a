"""The configuration language: text in, `Settings` or diagnostics out. Nothing here opens a file.

`load` reads a whole file and says everything that is wrong with it at once; `identify` finds this host in it.
"""

from collections.abc import Mapping

import msgspec

from gateway.config.build import build
from gateway.config.check import check
from gateway.config.diagnostics import (
    ConfigError,
    Diagnostic,
    Reporter,
    Severity,
    render_all,
)
from gateway.config.expand import expand
from gateway.config.identity import identify
from gateway.config.parser import parse
from gateway.config.settings import Settings
from gateway.config.sources import Reader, Unreadable, read_lines
from gateway.config.tree import Tree

__all__ = [
    "ConfigError",
    "Diagnostic",
    "Loaded",
    "Reader",
    "Severity",
    "Unreadable",
    "identify",
    "load",
    "render_all",
]


class Read(msgspec.Struct, frozen=True, eq=False):
    """A file as it was written, for those who ask where something comes from. What defaults add is in its sections."""

    expanded: Tree
    report: Reporter


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says. `settings` is None exactly when a diagnostic is an error, and so is `read`."""

    settings: Settings | None
    diagnostics: tuple[Diagnostic, ...]
    read: Read | None = None

    def require(self) -> Settings:
        """Return the settings; raise `ConfigError` with every diagnostic where there are none."""
        if self.settings is None:
            raise ConfigError(render_all(self.diagnostics).rstrip("\n"), self.diagnostics)
        return self.settings


def load(text: str, file: str, environment: Mapping[str, str], reader: Reader | None = None) -> Loaded:
    """Return the settings that a configuration's text says, and all that is to be said about it.

    Args:
        text: the file's text.
        file: its name, as diagnostics quote it; what it includes is relative to the directory of it.
        environment: the variables that `"${NAME}"` may name.
        reader: opens what `include` names; None where nothing can be included.

    Raises nothing for any text: mistakes are diagnostics.
    """
    report = Reporter(file)
    tree = parse(read_lines(text, file, environment, report, reader), report)
    expanded = expand(tree, report)
    check(expanded, report)
    diagnostics = report.sorted()
    if report.has_errors:
        return Loaded(settings=None, diagnostics=diagnostics)
    return Loaded(settings=build(expanded), diagnostics=diagnostics, read=Read(expanded, report))

"""The configuration language: text in, `Settings` or diagnostics out. Nothing here opens a file.

`load` reads a whole file and says everything that is wrong with it at once; `identify` finds this host in it.
"""

from collections.abc import Mapping

import msgspec

from gateway.config.build import build
from gateway.config.check import check
from gateway.config.diagnostics import (
    WHOLE_FILE,
    ConfigError,
    Diagnostic,
    Reporter,
    Severity,
    render_all,
)
from gateway.config.identity import identify
from gateway.config.lexer import TEXT_CHARACTERS_MAX, lex, split_lines
from gateway.config.parser import parse
from gateway.config.settings import Settings

__all__ = [
    "ConfigError",
    "Diagnostic",
    "Loaded",
    "Severity",
    "identify",
    "load",
    "render_all",
]


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says. `settings` is None exactly when a diagnostic is an error."""

    settings: Settings | None
    diagnostics: tuple[Diagnostic, ...]

    def require(self) -> Settings:
        """Return the settings; raise `ConfigError` with every diagnostic where there are none."""
        if self.settings is None:
            raise ConfigError(render_all(self.diagnostics).rstrip("\n"), self.diagnostics)
        return self.settings


def load(text: str, file: str, environment: Mapping[str, str]) -> Loaded:
    """Return the settings that a configuration's text says, and all that is to be said about it.

    Args:
        text: the file's text.
        file: its name, as diagnostics quote it.
        environment: the variables that `"${NAME}"` may name.

    Raises nothing for any text: mistakes are diagnostics.
    """
    sources = split_lines(text)
    report = Reporter(file, sources)
    if len(text) > TEXT_CHARACTERS_MAX:
        report.error(WHOLE_FILE, f"longer than {TEXT_CHARACTERS_MAX} characters: this is no configuration")
        return Loaded(settings=None, diagnostics=report.sorted())
    tree = parse(lex(sources, environment, report), report)
    check(tree, report)
    diagnostics = report.sorted()
    if any(diagnostic.severity is Severity.ERROR for diagnostic in diagnostics):
        return Loaded(settings=None, diagnostics=diagnostics)
    return Loaded(settings=build(tree), diagnostics=diagnostics)

"""The command line as data: commands, options, what they take. Read from the parser, so that nothing is said twice.

Rule: what argparse hides (SUPPRESS) is hidden here too.
"""

import argparse
from collections.abc import Iterator
from typing import Final

import msgspec

# Placeholders of arguments that are files of this host, by their names in the help.
FILE_NAMES: Final = frozenset({"FILE", "PATH", "BASE", "OURS", "THEIRS", "OUT", "CSV", "JSON"})
FOLDER_NAMES: Final = frozenset({"DIR", "FOLDER"})


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """An option, with its spellings in `flags`, or a positional argument, without any.

    `value` is the placeholder of what it takes, "" where it takes nothing; `choices` are all values that it takes.
    """

    flags: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...] = ()
    many: bool = False
    optional: bool = False

    @property
    def is_file(self) -> bool:
        """Whether its value is a file or folder of this host."""
        return self.value.strip("[].") in FILE_NAMES | FOLDER_NAMES


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A command: its words (none for the program itself), what it says of itself, what belongs to it."""

    words: tuple[str, ...]
    help: str
    description: str
    examples: tuple[str, ...]
    usage: str
    arguments: tuple[Argument, ...]
    commands: tuple["Command", ...] = ()

    def walk(self) -> Iterator["Command"]:
        """Yield this command and all below it."""
        yield self
        for command in self.commands:
            yield from command.walk()

    @property
    def options(self) -> tuple[Argument, ...]:
        """The arguments that have flags."""
        return tuple(argument for argument in self.arguments if argument.flags)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        """The arguments that have none."""
        return tuple(argument for argument in self.arguments if not argument.flags)


def read_tree(parser: argparse.ArgumentParser) -> Command:
    """Return the whole command line that `parser` reads."""
    return _command(parser, (), "")


def _command(parser: argparse.ArgumentParser, words: tuple[str, ...], text: str) -> Command:
    arguments = []
    commands: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            commands += [
                _command(inner, (*words, name), helps[name]) for name, inner in action.choices.items() if name in helps
            ]
        elif action.help != argparse.SUPPRESS:
            arguments.append(_argument(action, parser))
    return Command(
        words=words,
        help=text,
        description=" ".join((parser.description or text).split()),
        examples=_examples(parser.epilog),
        usage=" ".join(parser.format_usage().removeprefix("usage: ").split()),
        arguments=tuple(arguments),
        commands=tuple(commands),
    )


def _argument(action: argparse.Action, parser: argparse.ArgumentParser) -> Argument:
    choices = tuple(str(choice) for choice in action.choices) if action.choices is not None else ()
    takes = action.nargs != 0
    name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    shown = name if isinstance(name, str) else " ".join(name)
    if choices and action.metavar is None:
        shown = "|".join(choices)
    return Argument(
        flags=tuple(action.option_strings),
        value=shown if takes else "",
        help=" ".join((action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%").split()),
        choices=choices,
        many=action.nargs in {"*", "+", argparse.REMAINDER},
        optional=action.nargs in {"?", "*"},
    )


def _examples(epilog: str | None) -> tuple[str, ...]:
    """Return the command lines of an epilog `examples:`, as commands have it."""
    lines = (epilog or "").splitlines()
    if not lines or lines[0].strip() != "examples:":
        return ()
    return tuple(line.strip() for line in lines[1:] if line.strip())

"""Lines of the stats socket as commands, and what a command may be. The manners are HAProxy's.

`;` parts commands, blanks part words, a backslash takes the next character as it is. Rule: a command is found by its
first words, and whoever may not give it learns nothing else of it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from gateway.config.settings import Settings
from gateway.control.commands import Level

COMMANDS_MAX: Final = 64  # of one line
BACKSLASH: Final = "\\"


class Refusal(Exception):  # noqa: N818 (an answer to the operator)
    """A command can't be carried out; the text is the answer."""


DENIED: Final = "Permission denied"


class Session:
    """One client: its level, which it may lower, and how it talks."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.interactive = False
        self.prompt = False
        self.quit = False
        self.idle_s: float | None = None  # None: whatever the socket gives


class Asker(Protocol):
    """What a handler may ask the node, at the session's level. `Refusal` where it refuses."""

    async def status(self) -> dict[str, Any]:
        """Return the status document."""

    async def settings(self) -> Settings | None:
        """Return the node's settings, None where it does not give them."""

    async def request(self, command: str, **fields: Any) -> Any:
        """Return the answer to one command of the node."""


Handler = Callable[[Asker, Session, Sequence[str]], str | Awaitable[str]]


class Entry(NamedTuple):
    """One command: its words, what it takes, what it does, and who may give it."""

    words: tuple[str, ...]
    takes: str
    help: str
    level: Level
    handler: Handler

    @property
    def usage(self) -> str:
        """Return the words and what comes after them."""
        return " ".join((*self.words, *([self.takes] if self.takes else [])))


def split_line(line: str) -> list[list[str]]:
    """Return the commands of one line, each as its words. Commands without a word are left out.

    Raises:
        Refusal: more commands than anybody needs.
    """
    commands: list[list[str]] = [[]]
    word: str | None = None
    marks = iter(line)
    for mark in marks:
        if mark == BACKSLASH:
            word = (word or "") + next(marks, BACKSLASH)
        elif mark in " \t\r;":
            if word is not None:
                commands[-1].append(word)
            word = None
            if mark == ";":
                commands.append([])
        else:
            word = (word or "") + mark
    if word is not None:
        commands[-1].append(word)
    found = [words for words in commands if words]
    if len(found) > COMMANDS_MAX:
        raise Refusal(f"Too many commands in one line: at most {COMMANDS_MAX}")
    return found


def find(entries: Sequence[Entry], words: Sequence[str]) -> Entry | None:
    """Return the command that `words` begin with, the longest where there are several."""
    fitting = [entry for entry in entries if tuple(words[: len(entry.words)]) == entry.words]
    return max(fitting, key=lambda entry: len(entry.words), default=None)


def help_text(entries: Sequence[Entry], level: Level, words: Sequence[str] = ()) -> str:
    """Return the commands that `level` may give and that begin as `words` do."""
    fitting = [entry for entry in entries if level >= entry.level and _begins(entry, words)]
    return "The following commands are valid at this level:\n" + _listed(fitting)


def unknown_text(entries: Sequence[Entry], level: Level, words: Sequence[str]) -> str:
    """Return what is said of a command that does not exist; all of them where none resembles it."""
    permitted = [entry for entry in entries if level >= entry.level]
    for length in range(min(len(words), 2), 0, -1):
        near = [entry for entry in permitted if _begins(entry, words[:length])]
        if near:
            return "Unknown command, but maybe one of the following ones is a better match:\n" + _listed(near)
    return "Unknown command. Please enter one of the following commands only:\n" + _listed(permitted)


def _begins(entry: Entry, words: Sequence[str]) -> bool:
    return all(have.startswith(want) for want, have in zip(words, entry.words, strict=False))


def _listed(entries: Sequence[Entry]) -> str:
    return "".join(f"  {entry.usage:<40}: {entry.help}\n" for entry in entries)

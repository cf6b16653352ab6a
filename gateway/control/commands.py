"""Commands: what a running node can be asked, by name. Who asks, and over which socket, is another module's business.

Rule: a command never holds the node up: what takes long is awaited, and ends with whoever has asked.
"""

import enum
import inspect
from collections.abc import AsyncIterable, Awaitable, Callable
from difflib import get_close_matches
from typing import Any

import structlog

Request = dict[str, Any]  # `command`, and what that command takes
Answer = dict[str, Any] | AsyncIterable[dict[str, Any]]  # one document, or documents for as long as somebody reads
Handler = Callable[[Request], Answer | Awaitable[Answer]]


class Level(enum.IntEnum):
    """Who may ask what, as HAProxy's levels (management.txt, section 9.3)."""

    USER = 1  # looks
    OPERATOR = 2  # looks, and counts anew
    ADMIN = 3  # changes something

    @classmethod
    def of(cls, word: str) -> "Level":
        """Return the level that the configuration calls `word`."""
        return cls[word.upper()]


class CommandRefused(Exception):  # noqa: N818 (an answer to the operator)
    """A command can't be carried out. `reason` is a stable name, for programs; the sentence is for people."""

    def __init__(self, sentence: str, reason: str = "refused") -> None:
        super().__init__(sentence)
        self.reason = reason


class Commands:
    """The commands of one node."""

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[Handler, Level]] = {}

    def add(self, name: str, handler: Handler, level: Level = Level.ADMIN) -> None:
        """Let `name` be answered by `handler`, for whoever has at least `level`."""
        assert name not in self._handlers, f"second command {name!r}"
        self._handlers[name] = handler, level

    def names(self, level: Level = Level.ADMIN) -> list[str]:
        """Return the commands that `level` may give, sorted."""
        return sorted(name for name, (_, least) in self._handlers.items() if level >= least)

    async def answer(self, request: Request, level: Level = Level.ADMIN) -> Answer:
        """Carry out one request.

        Raises:
            CommandRefused: unknown, not permitted, or the command itself refuses.
        """
        name = request.get("command")
        if not isinstance(name, str) or name not in self._handlers:
            raise CommandRefused(self._unknown(name, level), "unknown-command")
        handler, least = self._handlers[name]
        if level < least:
            raise CommandRefused(f"'{name}' needs the level {least.name.lower()}, and this is {level.name.lower()}",
                                 "permission-denied")  # fmt: skip
        try:
            answer = handler(request)
            return await answer if inspect.isawaitable(answer) else answer
        except CommandRefused:
            raise
        except Exception as error:
            structlog.get_logger().exception("command.failed", command=name)
            raise CommandRefused(f"the command failed: {error!r}", "failed") from error

    def _unknown(self, name: object, level: Level) -> str:
        known = self.names(level)
        near = get_close_matches(str(name), known, n=1)
        guess = f"; did you mean '{near[0]}'?" if near else ""
        return f"unknown command {name!r}{guess}; known: {', '.join(known)}"

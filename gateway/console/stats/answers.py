"""Answers: every command of the stats socket, and what is said to a line. Knows no socket.

Rule: one command's answer ends with an empty line and holds none, so that a script can part several (HAProxy's
management.txt, section 9.3).
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from gateway.config.settings import Settings, StatsSocket
from gateway.console.stats import acting, looking, ours
from gateway.console.stats.counters import Counters
from gateway.console.stats.foreign import refusal
from gateway.console.stats.language import DENIED, Entry, Refusal, Session, find, help_text, split_line, unknown_text
from gateway.console.stats.rows import rows
from gateway.control.commands import CommandRefused, Level, Request
from gateway.control.configuration import restore

Ask = Callable[[Request, Level], Awaitable[Any]]
USER, OPERATOR, ADMIN = Level.USER, Level.OPERATOR, Level.ADMIN
_LEVELS: Final = {level.name.lower(): level for level in Level}


class StatsAnswers:
    """What one console process answers on all its stats sockets.

    Args:
        ask: asks the control process; raises `CommandRefused`, or returns `{"error": ...}`, where that refuses.
        sockets: for `show cli sockets`.
    """

    def __init__(self, ask: Ask, sockets: Sequence[StatsSocket] = ()) -> None:
        self._ask = ask
        self._sockets = tuple(sockets)
        self._counters = Counters()
        self._settings: Settings | None = None
        self._log = structlog.get_logger()
        self._entries = self._table()

    async def line(self, line: str, session: Session) -> str:
        """Return what is answered to one line, all its commands together."""
        try:
            commands = split_line(line)
        except Refusal as error:
            return _ended(str(error))
        if not commands:
            return "" if session.interactive else _ended(unknown_text(self._entries, session.level, ()))
        said = ""
        for words in commands:
            said += _ended(await self._answer(words, session))
            if session.quit:
                break
        return said

    async def observe(self) -> None:
        """Look at the figures, for the maxima. A node that does not answer has none."""
        node = _Node(self, Level.ADMIN)
        try:
            self._counters.seen(rows(await node.status()))
        except Refusal:
            return

    async def _answer(self, words: Sequence[str], session: Session) -> str:
        entry = find(self._entries, words)
        try:
            if entry is None:
                return refusal(words) or unknown_text(self._entries, session.level, words)
            if session.level < entry.level:
                return DENIED
            answer = entry.handler(_Node(self, session.level), session, words)
            return await answer if inspect.isawaitable(answer) else answer
        except Refusal as error:
            return str(error)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            # The node's answer has another shape than this module knows: no reason to end the whole console.
            self._log.error("stats.failed", command=" ".join(words)[:100], reason=repr(error))
            return "Internal error: the log of the node has it"

    async def ask_node(self, request: Request, level: Level) -> Any:
        """Ask control; raise `Refusal` where it refuses."""
        try:
            answer = await self._ask(request, level)
        except CommandRefused as error:
            raise Refusal(_sentence(str(error), error.reason)) from error
        if isinstance(answer, dict) and "error" in answer:
            raise Refusal(_sentence(str(answer["error"]), str(answer.get("reason", ""))))
        return answer

    async def settings(self, level: Level) -> Settings | None:
        """Return the node's settings, which are the same for as long as this process lives."""
        if self._settings is None:
            try:
                self._settings = restore(await self.ask_node({"command": "config"}, level))
            except (Refusal, LookupError, TypeError, msgspec.ValidationError):
                return None
        return self._settings

    def _table(self) -> tuple[Entry, ...]:
        looks = looking.Looking(self._counters)
        entries = [
            Entry(("show", "info"), "[typed|json]", "this node in HAProxy's fields", USER, looking.show_info),
            Entry(("show", "stat"), "[<px> <type> <sid>] [typed|json|up|no-maint]", "counters of frontends, backends "
                  "and servers", USER, looks.show_stat),
            Entry(("show", "servers", "state"), "[<backend>]", "states of the servers", USER, looks.show_servers_state),
            Entry(("show", "servers", "conn"), "[<backend>]", "connections of the servers", USER,
                  looks.show_servers_conn),
            Entry(("show", "backend"), "", "names of the backends", USER, looking.show_backend),
            Entry(("show", "sess"), "[<id>]", "connections that this gateway carries now", OPERATOR, looking.show_sess),
            Entry(("show", "events"), "", "the last changes of leader", OPERATOR, looking.show_events),
            Entry(("show", "errors"), "[<px>]", "how often each cause of an error was counted", OPERATOR,
                  looking.show_errors),
            Entry(("show", "activity"), "", "what the processes are busy with", OPERATOR, looking.show_activity),
            Entry(("show", "env"), "[<name>]", "the environment; what may be secret is hidden", OPERATOR,
                  looking.show_env),
            Entry(("show", "peers"), "", "the cluster's other nodes", USER, looking.show_peers),
            Entry(("show", "schema", "json"), "", "the schema of the JSON forms", USER, looking.show_schema),
            Entry(("show", "version"), "", "the version of the program", USER, looking.show_version),
            Entry(("show", "cli", "level"), "", "the level of this connection", USER, _show_level),
            Entry(("show", "cli", "sockets"), "", "the stats sockets", OPERATOR, self._show_sockets),
            Entry(("show", "election"), "[<name>]", "who leads what, and who could", USER, ours.show_election),
            Entry(("show", "lease"), "", "what this node leads, and for how long yet", USER, ours.show_lease),
            Entry(("show", "replication"), "", "ads and accounting on the standbys", USER, ours.show_replication),
            Entry(("show", "address"), "", "the virtual addresses of this node", USER, ours.show_address),
            Entry(("show", "history"), "[<count>]", "changes of leader, and what each took", USER, ours.show_history),
            Entry(("show", "orders"), "", "who is drained, and whether the cluster is paused", USER, ours.show_orders),
            Entry(("set", "server"), "<bk>/<srv> state ready|drain|maint", "take a server's node out, or in again",
                  ADMIN, acting.set_server),
            Entry(("disable", "server"), "<bk>/<srv>", "as 'set server ... state maint'", ADMIN, acting.disable_server),
            Entry(("enable", "server"), "<bk>/<srv>", "as 'set server ... state ready'", ADMIN, acting.enable_server),
            Entry(("shutdown", "session"), "<id>", "end one connection", ADMIN, acting.shutdown_session),
            Entry(("clear", "counters"), "[all]", "begin maxima (or, as admin, all counters) anew", OPERATOR,
                  acting.clear_counters(self._counters)),
            Entry(("set", "timeout"), "cli <seconds>", "how long this connection may be silent", USER,
                  acting.set_timeout),
            Entry(("operator",), "", "lower the level of this connection to operator", OPERATOR,
                  partial(_lower, OPERATOR)),
            Entry(("user",), "", "lower the level of this connection to user", USER, partial(_lower, USER)),
            Entry(("help",), "[<command>]", "these commands, or those that begin so", USER, self._help),
            Entry(("prompt",), "[n|i|p]", "take commands until 'quit'", USER, _prompt),
            Entry(("quit",), "", "end this connection", USER, _quit),
        ]  # fmt: skip
        return tuple(entries)

    def _help(self, node: object, session: Session, words: Sequence[str]) -> str:
        return help_text(self._entries, session.level, words[1:])

    def _show_sockets(self, node: object, session: Session, words: Sequence[str]) -> str:
        lines = [f"unix@{one.path} {one.level} all\n" for one in self._sockets]
        return "# socket lvl processes\n" + "".join(lines)


class _Node:
    """The node, at the level of one session. See `language.Asker`."""

    def __init__(self, answers: StatsAnswers, level: Level) -> None:
        self._answers = answers
        self._level = level
        self._status: dict[str, Any] | None = None

    async def status(self) -> dict[str, Any]:
        if self._status is None:  # one command sees one moment
            self._status = await self.request("status")
        return self._status

    async def settings(self) -> Settings | None:
        return await self._answers.settings(self._level)

    async def request(self, command: str, **fields: Any) -> Any:
        return await self._answers.ask_node({"command": command, **fields}, self._level)


def _show_level(node: object, session: Session, words: Sequence[str]) -> str:
    return f"{session.level.name.lower()}\n"


def _lower(level: Level, node: object, session: Session, words: Sequence[str]) -> str:
    session.level = min(session.level, level)
    return ""


def _prompt(node: object, session: Session, words: Sequence[str]) -> str:
    """`prompt` alone turns it on and off; `n`, `i` and `p` are the ways to talk that HAProxy 3 has."""
    for word in words[1:]:
        if word not in ("n", "i", "p"):
            raise Refusal("usage: prompt [n|i|p]")
        session.interactive, session.prompt = word != "n", word == "p"
    if len(words) == 1:
        session.interactive = session.prompt = not session.prompt
    return ""


def _quit(node: object, session: Session, words: Sequence[str]) -> str:
    session.quit = True
    return ""


def _sentence(text: str, reason: str) -> str:
    return DENIED if reason == "permission-denied" else text


def _ended(text: str) -> str:
    """Return `text` with an end of its own, without an empty line in it, and with one after it."""
    lines = [line for line in text.splitlines() if line]
    return "".join(f"{line}\n" for line in lines) + "\n"

"""Sessions: what the relay's connections are doing, asked of its workers, and the end of one of them.

Rule: who asks waits, control does not; a worker that does not answer in time is left out, and that is said.
"""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, Final

import trio

from gateway.control.commands import CommandRefused, Commands, Level, Request
from gateway.relay.client import Relay
from gateway.relay.messages import Listener, ListSessions, Session, Sessions, ShutDown, Shutdown

SESSIONS_DEFAULT: Final = 100
SESSIONS_MAX: Final = 1_000  # some 300 kB of JSON
ANSWER_MS_MAX: Final = 1_000  # a worker under full load takes 50 ms


class _Question:
    """One order to some workers, and what they have said."""

    def __init__(self, workers: Iterable[int]) -> None:
        self.waiting = set(workers)
        self.sessions: list[tuple[int, Session]] = []
        self.total = 0
        self.found = False
        self.answered = trio.Event()

    def done(self, worker: int) -> None:
        self.waiting.discard(worker)
        if not self.waiting:
            self.answered.set()


class RelaySessions:
    """The connections of all workers.

    Args:
        relays: the workers, by their number.
        listeners: what they listen on.
    """

    def __init__(self, relays: Sequence[Relay], listeners: Iterable[Listener]) -> None:
        self._relays = relays
        self._listeners = {listener.name: listener for listener in listeners}
        self._numbers = count(1)
        self._questions: dict[int, _Question] = {}

    def take(self, worker: int, answer: Sessions | ShutDown) -> None:
        """Take an answer; one that comes too late is nobody's."""
        question = self._questions.get(answer.request)
        if question is None:
            return
        match answer:
            case Sessions(sessions=sessions, total=total, last=last):
                question.sessions += [(worker, session) for session in sessions]
                if last:
                    question.total += total
                    question.done(worker)
            case ShutDown(found=found):
                question.found = question.found or found
                question.done(worker)

    def register(self, commands: Commands) -> None:
        """Answer `sessions {limit}` and `shutdown-session {session}`, with the levels that HAProxy has for them."""
        commands.add("sessions", self._answer_list, Level.OPERATOR)
        commands.add("shutdown-session", self._answer_shut_down, Level.ADMIN)

    async def _answer_list(self, request: Request) -> dict[str, Any]:
        limit = request.get("limit", SESSIONS_DEFAULT)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= SESSIONS_MAX:
            raise CommandRefused(f"limit must be a whole number from 1 to {SESSIONS_MAX}, not {limit!r}", "bad-request")
        return await self.list(limit)

    async def _answer_shut_down(self, request: Request) -> dict[str, Any]:
        session = request.get("session")
        if not isinstance(session, str) or not await self.shut_down(session):
            raise CommandRefused(f"there is no session {session!r}: see the ids of 'sessions'", "no-such-session")
        return {"session": session}

    async def list(self, sessions_max: int = SESSIONS_DEFAULT) -> dict[str, Any]:
        """Return up to so many connections (at most SESSIONS_MAX), the oldest first, and how many there are.

        `silent_workers` are those that did not answer. What the kernel carries (`forward nat`, `forward direct`) is not
        among them, only what the relay holds or carries itself.
        """
        most = max(0, min(sessions_max, SESSIONS_MAX))
        question = await self._ask(range(len(self._relays)), lambda n: ListSessions(request=n, sessions_max=most))
        oldest = sorted(question.sessions, key=lambda each: -each[1].age_ms)[:most]
        return {
            "total": question.total,
            "silent_workers": sorted(question.waiting),
            "sessions": [self._shown(worker, session) for worker, session in oldest],
        }

    async def shut_down(self, session: str) -> bool:
        """Reset the connection that `list` calls so; return whether there was one."""
        number, _, identity = session.partition("-")
        if not number.isdecimal() or not identity or int(number) >= len(self._relays):
            return False
        question = await self._ask((int(number),), lambda n: Shutdown(request=n, session=identity))
        return question.found

    async def _ask(self, workers: Iterable[int], order: Any) -> _Question:
        number = next(self._numbers)
        question = self._questions[number] = _Question(workers)
        try:
            for worker in sorted(question.waiting):
                self._relays[worker].ask(f"question {number}", order(number))
            with trio.move_on_after(ANSWER_MS_MAX / 1000):
                await question.answered.wait()
        finally:
            del self._questions[number]
        return question

    def _shown(self, worker: int, session: Session) -> dict[str, Any]:
        listener = self._listeners.get(session.listener)
        names = dict(listener.servers) if listener is not None else {}
        return {
            "id": f"{worker}-{session.id}",
            "frontend": session.listener.partition("/")[0],
            "backend": listener.route if listener is not None else "",
            "server": names.get(session.server, session.server) or None,
            "client": session.client,
            "state": session.state,
            "age_ms": session.age_ms,
            "idle_ms": session.idle_ms,
            "bytes_to_server": session.bytes_to_server,
            "bytes_to_client": session.bytes_to_client,
            "waiting": session.waiting,
        }

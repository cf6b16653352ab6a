"""The observer: what the console knows of its node, asked for once however many look, and only while somebody does.

Rule: the node is asked for its status at most once in `STATUS_S`; whoever asks sooner gets what was found then.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

import structlog
import trio

from gateway.console.multiplex import Asker
from gateway.console.page.changes import merged
from gateway.control.commands import CommandRefused, Level, Request

STATUS_S: Final = 0.5
STATUS_WAIT_S: Final = 1.5  # control answers in milliseconds, or is in trouble
LOOK_S: Final = 1.0  # between two looks while nothing happens; an event brings the next one forward, not below STATUS_S
PEERS_S: Final = 1.0  # between two questions to the other nodes
PEERS_WAIT_S: Final = 0.5  # for their answers, which take milliseconds from a node that lives
FIRST_S: Final = 0.7  # how long a page that is loaded waits for them
STALE_S: Final = 6.0  # what they said longer ago is not shown any more
HISTORY_S: Final = 5.0  # an event brings the next one forward
HISTORY_MAX: Final = 50
UNABLE_S: Final = 60.0  # until a command that the node does not know is tried again: it may have been replaced
EVENTS_KEPT: Final = 256  # for readers that were away for a moment

Document = Mapping[str, Any]
T = TypeVar("T")


class Look(NamedTuple):
    """What was seen at one moment. `failure` is why there is no document; `history` is that of all nodes together."""

    serial: int
    at_s: float
    document: Document | None
    failure: str
    history: Document
    peers: Mapping[str, Document]


class Kept(Generic[T]):
    """What is asked for by many and fetched by one; kept for `keep_s`."""

    def __init__(self, fetch: Callable[[], Awaitable[T]], keep_s: float) -> None:
        self._fetch = fetch
        self._keep_s = keep_s
        self._fetching = trio.Lock()
        self._found: tuple[T] | None = None
        self._until_s = 0.0

    async def get(self) -> T:
        """Return what is known, or what is fetched now."""
        async with self._fetching:
            if self._found is None or trio.current_time() >= self._until_s:
                began_s = trio.current_time()
                self._found = (await self._fetch(),)
                self._until_s = began_s + self._keep_s
            return self._found[0]

    def forget(self) -> None:
        """Fetch anew when next asked."""
        self._until_s = 0.0


class Background(Generic[T]):
    """What takes long to fetch, and is never waited for once there is something; `run` must run while it is asked for.

    Another node that is dead costs whoever asks it a second: the page must not wait for that, least of all then.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T]], nothing: T, keep_s: float) -> None:
        self._fetch = fetch
        self._nothing = nothing
        self._keep_s = keep_s
        self._found: T = nothing
        self._found_s = -math.inf
        self._patient = True
        self._wanted = trio.Event()
        self._came = trio.Event()

    async def get(self) -> T:
        """Return what is known, after `FIRST_S` at most, and have it fetched anew."""
        self._wanted.set()
        if trio.current_time() - self._found_s > self._keep_s + STALE_S:
            self._found = self._nothing
            if self._patient:
                with trio.move_on_after(FIRST_S):
                    await self._came.wait()
                self._patient = False  # once: what does not come does not come sooner by waiting for it
        return self._found

    def forget(self) -> None:
        """Fetch anew as soon as may be: something has happened."""
        self._wanted.set()

    async def run(self) -> None:
        """Fetch while it is asked for; ends by cancellation."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            began_s = trio.current_time()
            self._found = await self._fetch()
            self._found_s = trio.current_time()
            self._patient = True
            self._came.set()
            self._came = trio.Event()
            await trio.sleep_until(began_s + self._keep_s)


class Observer:
    """What one console knows. `run` must run.

    Args:
        asker: reaches the node.
    """

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._status = Kept(self._ask_status, STATUS_S)
        self._history = Kept(self._ask_history, HISTORY_S)
        self._others = Background[Mapping[str, Document]](self._ask_histories, {}, PEERS_S)
        self._peers = Background[Mapping[str, Document]](self._ask_peers, {}, PEERS_S)
        self._histories: dict[str, Document] = {}  # what a node that has died knew is still true
        self._unable_until_s: dict[str, float] = {}
        self._looked = Look(0, 0.0, None, "nobody has looked yet", {}, {})
        self._new_look = trio.Event()
        self._readers = 0
        self._somebody = trio.Event()
        self._hurry = trio.Event()
        self._events: deque[Document] = deque(maxlen=EVENTS_KEPT)
        self._new_event = trio.Event()
        self._log = structlog.get_logger()

    # -- asking once -----------------------------------------------------------------------------------------------

    async def document(self) -> Document:
        """Return the status of the node, at most `STATUS_S` old.

        Raises:
            CommandRefused: it does not answer.
        """
        document, refusal = await self._status.get()
        if refusal is not None:
            raise refusal
        assert document is not None
        return document

    async def history(self) -> Document:
        """Return what `history` answers; without changes where there is none."""
        return await self._history.get()

    async def look(self) -> Look:
        """Return everything at one moment: for a page that is loaded, and for those that watch."""
        peers = await self._peers.get()
        histories = await self._others.get()
        history = await self._history.get()
        document, refusal = await self._status.get()  # last: it is what changes fastest
        changes = {"changes": merged(history["changes"], histories)}
        failure = "" if refusal is None else f"{refusal}."
        return Look(self._looked.serial + 1, time.time(), document, failure, changes, peers)

    async def _ask_status(self) -> tuple[Document | None, CommandRefused | None]:
        try:
            return await self._asker.ask({"command": "status"}, Level.USER, wait_s=STATUS_WAIT_S), None
        except CommandRefused as refusal:
            return None, refusal

    async def _ask_history(self) -> Document:
        answer: Document = await self._ask_if_able({"command": "history", "limit": HISTORY_MAX})
        return answer if "changes" in answer else {"changes": []}

    async def _ask_histories(self) -> Mapping[str, Document]:
        answers = await self._ask_others({"command": "history", "limit": HISTORY_MAX})
        self._histories |= {node: answer for node, answer in answers.items() if "changes" in answer}
        return dict(self._histories)

    async def _ask_peers(self) -> Mapping[str, Document]:
        return await self._ask_others({"command": "status"})

    async def _ask_others(self, request: Request) -> Mapping[str, Document]:
        return await self._ask_if_able({"command": "peers", "request": request, "wait_s": PEERS_WAIT_S})

    async def _ask_if_able(self, request: Request) -> Document:
        """Ask for what a node may not know how to answer; return nothing where it can't."""
        command = request["command"]
        if trio.current_time() < self._unable_until_s.get(command, 0.0):
            return {}
        try:
            answer: Document = await self._asker.ask(request, Level.USER)
        except CommandRefused as refusal:
            if refusal.reason == "unknown-command":
                self._unable_until_s[command] = trio.current_time() + UNABLE_S
            return {}
        return answer

    # -- watching --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Have the node looked at regularly inside the block."""
        self._readers += 1
        self._somebody.set()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._somebody = trio.Event()

    async def next_look(self, after: int) -> Look:
        """Return the newest look, as soon as its serial is above `after`."""
        while self._looked.serial <= after:
            await self._new_look.wait()
        return self._looked

    async def events(self, after: int | None) -> AsyncIterator[Document]:
        """Yield the node's events with numbers above `after` (None: new ones only), for ever."""
        last = self._events[-1]["seq"] if after is None and self._events else after or 0
        while True:  # ends by cancellation
            for event in [one for one in self._events if one["seq"] > last]:
                last = event["seq"]
                yield event
            await self._new_event.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look while somebody reads, and follow the node's events; ends by cancellation."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_regularly)
            nursery.start_soon(self._follow_events)
            nursery.start_soon(self._peers.run)
            nursery.start_soon(self._others.run)

    async def _look_regularly(self) -> None:
        while True:
            await self._somebody.wait()
            self._hurry = trio.Event()
            self._looked = await self.look()
            self._new_look.set()
            self._new_look = trio.Event()
            await trio.sleep(STATUS_S)
            with trio.move_on_after(LOOK_S - STATUS_S):
                await self._hurry.wait()

    async def _follow_events(self) -> None:
        last = 0
        while True:
            try:
                async with self._asker.following({"command": "events", "after": last}, Level.USER) as events:
                    async for event in events:
                        last = event["seq"]
                        self._take(event)
                pause_s = LOOK_S
            except CommandRefused as refusal:
                pause_s = UNABLE_S
                self._log.info("console.no-events", reason=str(refusal))
            await trio.sleep(pause_s)

    def _take(self, event: Document) -> None:
        self._events.append(event)
        self._history.forget()
        self._others.forget()
        self._hurry.set()
        self._new_event.set()
        self._new_event = trio.Event()

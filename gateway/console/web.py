"""The web application that only looks: the page, the documents, the streams. What acts is `gateway.console.web_orders`.

Rule: every answer comes from the observer, so that a crowd of readers costs the node what one does.
"""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.console.observer import Look, Observer
from gateway.console.page import ASSETS, Message, Operator, asset, render_fragments, render_page
from gateway.console.places import Places
from gateway.control.commands import CommandRefused

STREAMS_MAX: Final = 64
STREAMS_SOURCE_MAX: Final = STREAMS_MAX // 2
QUIET_S: Final = 15.0  # after which a comment keeps a stream, and finds out that its reader has gone
STREAM_PATHS: Final = frozenset({"/page/stream", "/api/v1/events"})
LOOKERS = tuple[Operator, Message | None]

Endpoint = Callable[[Request], Awaitable[Response]]


class Web:
    """The reading part.

    Args:
        observer: what is shown.
        who: returns what the reader of the page may do, and what is to be said to them.
    """

    def __init__(self, observer: Observer, who: Callable[[Request], LOOKERS]) -> None:
        self._observer = observer
        self._who = who
        self._streams = Places(STREAMS_MAX, STREAMS_SOURCE_MAX)
        self._rendered: tuple[int, dict[str, str]] = (0, {})

    def routes(self) -> list[Route]:
        """Return the routes of everything that changes nothing."""
        return [
            Route("/", self.page),
            Route("/page/stream", self.page_stream),
            Route("/api/v1/status", self.status),
            Route("/api/v1/history", self.history),
            Route("/api/v1/events", self.events),
            *(Route(f"/{name}", _asset(name, kind)) for name, kind in ASSETS.items()),
        ]

    # -- the page --------------------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """The whole page."""
        operator, message = self._who(request)
        return await self.render(operator, message)

    async def render(self, operator: Operator, message: Message | None, status: int = 200) -> Response:
        """Return the page for one reader."""
        look = await self._observer.look()
        text = render_page(
            look.document,
            look.history,
            look.peers,
            now_s=look.at_s,
            failure=look.failure,
            operator=operator,
            message=message,
        )
        return Response(text, status, media_type="text/html")

    async def page_stream(self, request: Request) -> Response:
        """The parts of the page that have changed, as they change."""
        return self._stream(request, self._fragments())

    async def _fragments(self) -> AsyncIterator[str]:
        serial, sent = 0, dict[str, str]()
        with self._observer.reading():
            while True:  # ends with the reader
                look = await self._observer.next_look(serial)
                serial = look.serial
                parts = self._render(look)
                changed = {name: html for name, html in parts.items() if sent.get(name) != html}
                sent = parts
                if "title" in changed:
                    yield _event("title", changed.pop("title"))
                yield _event("fragments", changed)

    def _render(self, look: Look) -> dict[str, str]:
        """Render once, however many read."""
        if self._rendered[0] != look.serial:
            parts = render_fragments(look.document, look.history, look.peers, now_s=look.at_s, failure=look.failure)
            self._rendered = look.serial, parts
        return self._rendered[1]

    # -- documents -------------------------------------------------------------------------------------------------

    async def status(self, request: Request) -> Response:
        """The status document; 503 while the node does not answer."""
        try:
            return JSONResponse(await self._observer.document())
        except CommandRefused as refusal:
            return JSONResponse({"error": str(refusal), "reason": refusal.reason}, 503)

    async def history(self, request: Request) -> Response:
        """What has changed."""
        return JSONResponse(await self._observer.history())

    async def events(self, request: Request) -> Response:
        """What happens, from now on or after the number that the reader had last."""
        last = request.headers.get("last-event-id", request.query_params.get("after", ""))
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else None
        return self._stream(request, self._events(after))

    async def _events(self, after: int | None) -> AsyncIterator[str]:
        async for event in self._observer.events(after):
            yield f"id: {event['seq']}\n{_event(_word(event.get('event')), event)}"

    # -- streams ---------------------------------------------------------------------------------------------------

    def _stream(self, request: Request, lines: AsyncIterator[str]) -> Response:
        source = request.client.host if request.client else ""
        # Taken here: a reader that has been let in keeps its place until its answer ends.
        if not self._streams.take(source):
            said = f"{STREAMS_MAX} readers follow already, or {STREAMS_SOURCE_MAX} of your address: try again\n"
            return PlainTextResponse(said, 503, headers={"retry-after": "30"})
        return _Counted(_kept_alive(lines), partial(self._streams.leave, source), media_type="text/event-stream")


class _Counted(StreamingResponse):
    """A stream that says when it is over, however it ends."""

    def __init__(self, content: AsyncIterator[str], ended: Callable[[], None], **more: Any) -> None:
        super().__init__(content, **more)
        self._ended = ended

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def _kept_alive(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield what comes, and a comment whenever nothing has come for long."""
    sending, receiving = trio.open_memory_channel[str](1)

    async def feed() -> None:
        async for line in lines:
            await sending.send(line)

    yield "retry: 2000\n\n"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed)
        while True:  # ends with the reader
            line = ": nothing new\n\n"
            with trio.move_on_after(QUIET_S):
                line = await receiving.receive()
            yield line


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _word(name: object) -> str:
    """Return an event's name as one word: it stands on a line of its own."""
    return "".join(letter for letter in str(name) if letter.isalnum() or letter in "-._") or "event"


def _asset(name: str, kind: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return Response(asset(name), media_type=kind)

    return endpoint


def now_s() -> float:
    """Return the clock of the doorkeeper."""
    return time.monotonic()

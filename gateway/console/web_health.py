"""Health and metrics over HTTP, for load balancers and Prometheus. What they mean is said where they are computed."""

from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.console import health
from gateway.console.metrics import Metrics
from gateway.console.observer import Document, Observer
from gateway.control.commands import CommandRefused

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_HEALTH: Final = ("/live", "/health", "/ready", "/leader")


def is_health(path: str) -> bool:
    """Return whether a path asks for health."""
    return path in _HEALTH or path.startswith("/leader/")


class WebHealth:
    """Answers from what the observer knows."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._metrics = Metrics()

    def routes(self) -> list[Route]:
        """Return the routes."""
        paths = (*_HEALTH, "/leader/{election}")
        return [*(Route(path, self.health) for path in paths), Route("/metrics", self.metrics)]

    async def health(self, request: Request) -> Response:
        """Say with the status code how this node is."""
        document: Document | None
        try:
            document = await self._observer.document()
        except CommandRefused:
            document = None
        found = health.answer(request.url.path, document)
        status, sentence = found if found is not None else (404, "no such path")
        return PlainTextResponse(f"{sentence}\n", status)

    async def metrics(self, request: Request) -> Response:
        """Give one scrape; 503 while the node does not answer."""
        try:
            document = await self._observer.document()
        except CommandRefused as refusal:
            return PlainTextResponse(f"{refusal}\n", 503)
        text = self._metrics.render(document, await self._observer.history())
        return Response(text, media_type=METRICS_TYPE)

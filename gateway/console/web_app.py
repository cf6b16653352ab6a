"""The application's frame: routes, and what is answered where something goes wrong. Errors are one sentence each."""

from collections.abc import Sequence
from http import HTTPStatus

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gateway.console.web_guard import Refusal


def application(routes: Sequence[Route]) -> Starlette:
    """Return the application of these routes."""
    return Starlette(
        routes=list(routes), exception_handlers={Refusal: _refused, HTTPException: _refused, Exception: _failed}
    )


async def _refused(request: Request, error: Exception) -> Response:
    headers = None
    if isinstance(error, HTTPException):
        status, sentence, headers = error.status_code, HTTPStatus(error.status_code).phrase.lower(), error.headers
    else:
        assert isinstance(error, Refusal), f"no refusal: {error!r}"
        status, sentence = error.status, str(error)
    return answer(request, status, sentence, dict(headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    """A bug of ours: it is in the log, and the reader need not see it."""
    structlog.get_logger().error("console.fault", path=request.url.path, reason=repr(error), exc_info=error)
    return answer(request, 500, "this request has met a fault of the console; its log says more", {})


def answer(request: Request, status: int, sentence: str, headers: dict[str, str]) -> Response:
    """Return a refusal in the manner of its path: JSON for programs, text for people."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": sentence, "reason": HTTPStatus(status).phrase.lower()}, status, headers)
    return PlainTextResponse(f"{sentence}\n", status, headers)

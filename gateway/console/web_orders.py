"""The web application that acts: logging in, and orders to the cluster. Everything here wants the operator's token.

Rule: a browser's order counts only where its session, its CSRF token and its origin say so together. A program's
carries the token itself (`Authorization: Bearer ...`), which no browser does behind its user's back.
"""

import json
from typing import Any, Final
from urllib.parse import parse_qsl

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from gateway.console.doorkeeper import Doorkeeper, Session, TooSoon, same_secret
from gateway.console.multiplex import Asker
from gateway.console.page import Message, Operator
from gateway.console.web import LOOKERS, Endpoint, Web, now_s
from gateway.console.web_guard import Refusal
from gateway.control.commands import CommandRefused, Level

COOKIE: Final = "condor-gateway-session"
WORD_LENGTH_MAX: Final = 200
ORDER_S_MAX: Final = 70.0  # a switchover waits until the replica has caught up
# Command -> what it takes, and whether it must be given.
ORDERS: Final = {
    "switchover": {"election": True, "to": False},
    "pause": {"reason": False},
    "resume": {},
    "drain": {"node": True},
    "undrain": {"node": True},
}
DONE: Final = {
    "switchover": "{election} was handed over.",
    "pause": "Paused: nobody takes over until it is resumed.",
    "resume": "Resumed.",
    "drain": "{node} is drained: it gives up what it leads.",
    "undrain": "{node} may lead again.",
}


class WebOrders:
    """The acting part.

    Args:
        asker: carries orders to the node.
        doorkeeper: knows who may give them.
    """

    def __init__(self, asker: Asker, doorkeeper: Doorkeeper) -> None:
        self._asker = asker
        self._doorkeeper = doorkeeper
        self._web: Web | None = None
        self._log = structlog.get_logger()

    def routes(self, web: Web) -> list[Route]:
        """Return the routes of everything that changes something; none where there is no token."""
        self._web = web
        if not self._doorkeeper.possible:
            return []
        return [
            Route("/login", self.login, methods=["POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            *(Route(f"/api/v1/{name}", self._order(name), methods=["POST"]) for name in ORDERS),
        ]

    def who(self, request: Request) -> LOOKERS:
        """Return what the reader of the page may do, and what is to be said to them, once."""
        session = self._session(request)
        if session is None:
            return Operator(self._doorkeeper.possible), None
        said, session.message = session.message, None
        return Operator(True, session.csrf), None if said is None else Message(*said)

    # -- sessions --------------------------------------------------------------------------------------------------

    async def login(self, request: Request) -> Response:
        """Begin a session for whoever knows the token."""
        assert self._web is not None, "there are routes, so there is a page"
        require_own_origin(request, must_say=True)
        form = await _form(request)
        source = request.client.host if request.client else ""
        try:
            if self._doorkeeper.admits(source, form.get("token", ""), now_s()):
                self._log.info("console.login", source=source)
                inside = RedirectResponse("/", 303)
                inside.set_cookie(COOKIE, self._doorkeeper.begin(now_s()), httponly=True, samesite="strict", path="/")
                return inside
        except TooSoon as refusal:
            message = Message("warn", f"{refusal}.".capitalize())
            answer = await self._web.render(Operator(True), message, 429)
            answer.headers["retry-after"] = str(int(refusal.wait_s) + 1)
            return answer
        self._log.warning("console.login-refused", source=source)
        return await self._web.render(Operator(True), Message("bad", "That is not the token."), 403)

    async def logout(self, request: Request) -> Response:
        """End the session."""
        self._require_session(request, await _form(request))
        self._doorkeeper.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(COOKIE, path="/")
        return answer

    def _session(self, request: Request) -> Session | None:
        key = request.cookies.get(COOKIE, "")
        return self._doorkeeper.session(key, now_s()) if key else None

    def _require_session(self, request: Request, form: dict[str, str]) -> Session:
        session = self._session(request)
        if session is None:
            raise Refusal(403, "log in first, or send the token: 'Authorization: Bearer TOKEN'")
        require_own_origin(request, must_say=True)
        if not same_secret(form.get("csrf", ""), session.csrf):
            raise Refusal(403, "this form is not of this session: load the page again")
        return session

    def _require_bearer(self, request: Request, token: str) -> None:
        require_own_origin(request, must_say=False)
        try:
            if not self._doorkeeper.admits(request.client.host if request.client else "", token, now_s()):
                raise Refusal(403, "that is not the token")
        except TooSoon as refusal:
            raise Refusal(429, str(refusal)) from refusal

    # -- orders ----------------------------------------------------------------------------------------------------

    def _order(self, name: str) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            kind, _, token = request.headers.get("authorization", "").partition(" ")
            if kind.lower() == "bearer":
                self._require_bearer(request, token.strip())
                return await self._by_program(name, await _said(request))
            form = await _form(request)
            return await self._by_browser(name, form, self._require_session(request, form))

        return endpoint

    async def _by_program(self, name: str, said: dict[str, Any]) -> Response:
        try:
            return JSONResponse(await self._give(name, said))
        except CommandRefused as refusal:
            status = {"unanswered": 504, "malformed": 400}.get(refusal.reason, 409)
            return JSONResponse({"error": str(refusal), "reason": refusal.reason}, status)

    async def _by_browser(self, name: str, form: dict[str, str], session: Session) -> Response:
        try:
            answer = await self._give(name, form)
        except CommandRefused as refusal:
            session.message = "bad", f"Not done: {refusal}."
        else:
            text = DONE[name].format_map(form)
            gap = f" The gap was {answer['gap_ms']:.0f} ms." if isinstance(answer.get("gap_ms"), int | float) else ""
            session.message = "ok", text + gap
        return RedirectResponse("/", 303)

    async def _give(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        request: dict[str, Any] = {"command": name}
        for word, needed in ORDERS[name].items():
            value = said.get(word) or ""
            if not isinstance(value, str) or len(value) > WORD_LENGTH_MAX:
                raise CommandRefused(f"{word!r} is a text of at most {WORD_LENGTH_MAX} characters", "malformed")
            if needed and not value:
                raise CommandRefused(f"'{name}' needs {word!r}", "malformed")
            request |= {word: value} if value else {}
        self._log.info("console.order", order=request)
        answer: dict[str, Any] = await self._asker.ask(request, Level.ADMIN, wait_s=ORDER_S_MAX)
        return answer


def require_own_origin(request: Request, *, must_say: bool) -> None:
    """Let pass what this page has sent itself; with `must_say` also nothing of which the browser does not say so.

    Raises:
        Refusal: another site has sent it.
    """
    origin, fetched = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    # A proxy before us that ends TLS speaks plain HTTP to us, while the browser's origin begins with https.
    if origin is not None and origin.partition("://")[2] != own.partition("://")[2]:
        raise Refusal(403, f"this was sent by a page of {origin[:100]}, not by this one")
    if fetched not in (None, "same-origin", "none"):
        raise Refusal(403, "this was sent by a page of another site")
    if must_say and origin is None and fetched is None:
        raise Refusal(403, "nothing says which page has sent this: 'Origin' is missing")


async def _form(request: Request) -> dict[str, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refusal(415, "a form is wanted here (application/x-www-form-urlencoded)")
    try:
        return dict(parse_qsl((await request.body()).decode(), max_num_fields=16))
    except ValueError as error:
        raise Refusal(400, "this is no form") from error


async def _said(request: Request) -> dict[str, Any]:
    """Return what a program has sent: a JSON object, or nothing."""
    body = await request.body()
    if not body:
        return {}
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "this is no JSON") from error
    if not isinstance(said, dict):
        raise Refusal(400, "a JSON object is wanted here")
    return said

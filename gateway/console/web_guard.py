"""The guard before the web application: whose requests are taken, how large and how many, and with what headers.

Rule: what is refused here never reaches a handler. A plain ASGI application around another one.
"""

import ipaddress
import math
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final

import structlog
import trio

from gateway.console.places import Places

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES_MAX: Final = 8_192  # a form of the page has some hundred bytes
REQUESTS_MAX: Final = 192  # at the same time; streams are counted apart, and are among them
REQUESTS_SOURCE_MAX: Final = REQUESTS_MAX // 2
TARGET_BYTES_MAX: Final = 2_048
HEADER_BYTES_MAX: Final = 16_384
REQUEST_S_MAX: Final = 75.0  # a switchover waits for the replica; nothing else takes a second
BODY_S_MAX: Final = 10.0
NOTE_S: Final = 5.0  # between two refusals in the log

# No script, style, picture or connection but this server's own; nobody frames the page; nothing of it is kept.
HEADERS: Final = (
    (b"content-security-policy",
     b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
     b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # with `no-referrer` a browser says "null" for the origin of a form
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
)  # fmt: skip


class Refusal(Exception):  # noqa: N818 (an answer to the client)
    """This request is not taken; `status` is HTTP's."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class WebGuard:
    """Stands before `application`.

    Args:
        application: takes what passes.
        hosts: names that the page may be asked for by, in lower case; addresses always may.
        open_to_all: paths that are answered whatever the Host header says: load balancers write what they like there.
        streams: paths whose answers last.
    """

    def __init__(
        self,
        application: Application,
        *,
        hosts: Collection[str],
        open_to_all: Callable[[str], bool],
        streams: Collection[str],
    ) -> None:
        self._application = application
        self._hosts = frozenset(hosts)
        self._open_to_all = open_to_all
        self._streams = frozenset(streams)
        self._now = Places(REQUESTS_MAX, REQUESTS_SOURCE_MAX)
        self._noted_s = -math.inf
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one connection's next request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = {name for name, _ in HEADERS}
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in own]
                message["headers"] = [*kept, *HEADERS]
            await send(message)

        try:
            if scope["type"] != "http":
                raise Refusal(400, "there are no web sockets here")
            self._check(scope)
            with self._now.held((scope.get("client") or ("",))[0]) as held:
                if not held:
                    raise Refusal(503, "too many requests at once: try again")
                limit_s = float("inf") if scope["path"] in self._streams else REQUEST_S_MAX
                with trio.move_on_after(limit_s) as timer:
                    await self._application(scope, await _with_body(receive), send_guarded)
                if timer.cancelled_caught and not begun:
                    raise Refusal(504, f"this took longer than {REQUEST_S_MAX:g} s")
        except Refusal as refusal:
            self._note(scope, refusal)
            if scope["type"] == "http" and not begun:
                await _refuse(send_guarded, refusal)

    def _note(self, scope: Scope, refusal: Refusal) -> None:
        """Log a refusal, unless one was logged just now: whoever reaches this port must not fill the disk."""
        if trio.current_time() >= self._noted_s + NOTE_S:
            self._noted_s = trio.current_time()
            path = str(scope.get("path", ""))[:100]
            self._log.info("console.refused", path=path, status=refusal.status, reason=str(refusal))

    def _check(self, scope: Scope) -> None:
        if len(scope.get("raw_path", b"")) + len(scope.get("query_string", b"")) > TARGET_BYTES_MAX:
            raise Refusal(414, f"a request of more than {TARGET_BYTES_MAX} bytes")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES_MAX:
            raise Refusal(431, f"headers of more than {HEADER_BYTES_MAX} bytes")
        said = [value for name, value in scope["headers"] if name == b"host"]
        if self._open_to_all(scope["path"]):
            return
        if len(said) != 1 or not is_known_host(said[0].decode("latin-1"), self._hosts):
            names = ", ".join(repr(value.decode("latin-1")) for value in said) or "none"
            raise Refusal(421, f"this page is not known by the host {names[:200]}: write 'allow-host' in the section "
                               "console of the configuration, or use the address")  # fmt: skip
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if lengths and (not lengths[0].isdigit() or int(lengths[0]) > BODY_BYTES_MAX):
            raise Refusal(413, f"a body of more than {BODY_BYTES_MAX} bytes")


def is_known_host(said: str, hosts: Collection[str]) -> bool:
    """Return whether a Host header names this page: an address, or one of `hosts`.

    A page elsewhere whose name is bound anew to this address is read by a browser as if it were ours (DNS rebinding);
    its own name stays in the header. An address there was written by whoever came, and can't be bound to another.
    """
    name = said.strip().lower()
    if name.startswith("["):
        address, bracket, port = name[1:].partition("]")
        if not bracket or (port and not (port[:1] == ":" and port[1:].isdigit())):
            return False
        return _is_address(address)
    host, colon, port = name.partition(":")
    if colon and not port.isdigit():
        return False
    return host.rstrip(".") in hosts or _is_address(host)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


async def _with_body(receive: Receive) -> Receive:
    """Return a `receive` that gives up a body that is too large or too slow."""
    taken = 0
    whole = False

    async def receive_guarded() -> Message:
        nonlocal taken, whole
        if whole:
            return await receive()  # waits for the end of the connection
        with trio.move_on_after(BODY_S_MAX) as slow:
            message = await receive()
        if slow.cancelled_caught:
            raise Refusal(408, f"the body did not come within {BODY_S_MAX:g} s")
        taken += len(message.get("body", b""))
        if taken > BODY_BYTES_MAX:
            raise Refusal(413, f"a body of more than {BODY_BYTES_MAX} bytes")
        whole = not message.get("more_body", False)
        return message

    return receive_guarded


async def _refuse(send: Send, refusal: Refusal) -> None:
    body = f"{refusal}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

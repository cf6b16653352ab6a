"""The door: where a node listens on TCP, at its own peer endpoint. What is spoken there, the first four bytes say.

Rule: a stranger costs a place for two seconds at most, and is counted by what is wrong with it. The door knows no
secret: it looks at no more than four bytes.
"""

from collections import Counter
from typing import Any, Final

import structlog
import trio

from gateway.config.settings import Endpoint
from gateway.matchmaker.stream import ENDINGS, HANDSHAKE_MS, Handler, Lost, receive_exactly
from gateway.wire.channel import MAGIC_BYTES
from gateway.wire.errors import Reason

# Between two connections. A flood costs this process, which may be a real-time one, 16 % of a core then, and not 91 %.
ACCEPT_MS: Final = 2
BACKLOG: Final = 128  # a quarter of a second of these; who finds it full tries again
NOTE_S: Final = 5.0  # between two refusals in the log
CONNECTIONS_MAX: Final = 64  # at once, strangers included; each of those is closed after HANDSHAKE_MS


class Door:
    """One node's TCP port for its peers.

    Args:
        endpoint: where to listen; port 0 chooses one.
        refused: counts refusals by name.
    """

    def __init__(self, endpoint: Endpoint, refused: Counter[str] | None = None) -> None:
        self.endpoint = endpoint
        self.refused: Counter[str] = Counter() if refused is None else refused
        self.accepted_total = 0
        self._handlers: dict[bytes, Handler] = {}
        self._connections = 0
        self._note_at = 0.0
        self._log = structlog.get_logger()

    def open_to(self, magic: bytes, handler: Handler) -> None:
        """Let connections that begin with `magic` be served by `handler`, from now on."""
        assert len(magic) == MAGIC_BYTES, f"{magic!r} is no magic"
        assert magic not in self._handlers, f"two handlers for {magic!r}"
        self._handlers[magic] = handler

    async def run(self, *, task_status: trio.TaskStatus[Endpoint] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, until cancelled; started with the endpoint once it does.

        Raises:
            OSError: the endpoint can't be listened on.
        """
        listeners = await trio.open_tcp_listeners(self.endpoint.port, host=self.endpoint.host, backlog=BACKLOG)
        port = listeners[0].socket.getsockname()[1]
        paced = [_Paced(listener) for listener in listeners]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._admit, paced)
            task_status.started(Endpoint(self.endpoint.host, port))

    def status(self) -> dict[str, Any]:
        """Return what an operator sees."""
        return {
            "connections": self._connections,
            "accepted_total": self.accepted_total,
            "refused_total": dict(self.refused),
        }

    async def _admit(self, stream: trio.SocketStream) -> None:
        """Serve one connection, and never let its troubles out."""
        try:
            if self._connections >= CONNECTIONS_MAX:
                self._refuse("full", f"{self._connections} connections")
                return
            self._connections += 1
            try:
                await self._serve(stream)
            finally:
                self._connections -= 1
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            with trio.fail_after(HANDSHAKE_MS / 1000):
                magic = await receive_exactly(stream, MAGIC_BYTES)
        except trio.TooSlowError:
            self._refuse("silent", f"nothing for {HANDSHAKE_MS} ms")
            return
        except Lost:
            return  # somebody who looks whether the port is open: no refusal of ours
        except ENDINGS:
            return
        handler = self._handlers.get(magic)
        if handler is None:
            self._refuse(Reason.BAD_MAGIC, repr(magic))
            return
        self.accepted_total += 1
        await handler(stream, magic)

    def _refuse(self, reason: str, detail: str) -> None:
        self.refused[str(reason)] += 1
        if trio.current_time() >= self._note_at:  # whoever reaches this port must not fill the disk
            self._note_at = trio.current_time() + NOTE_S
            self._log.info("door.refused", reason=str(reason), detail=detail)


class _Paced(trio.abc.Listener[trio.SocketStream]):
    """A listener that takes one connection after the other, `ACCEPT_MS` apart at least."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self._next_s = 0.0

    async def accept(self) -> trio.SocketStream:
        await trio.sleep_until(self._next_s)
        stream = await self._listener.accept()
        self._next_s = trio.current_time() + ACCEPT_MS / 1000
        return stream

    async def aclose(self) -> None:
        await self._listener.aclose()

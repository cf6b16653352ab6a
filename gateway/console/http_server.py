"""HTTP: hypercorn serves each connection that is let in, and this lets them in.

Rule: who finds no place is closed at once: nobody waits behind a crowd in the kernel's queue.
"""

import math
from typing import Any, Final

import hypercorn.config
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from gateway.console.places import Places

# A descriptor each. Most are idle ones, that a browser keeps for its next request.
CONNECTIONS_MAX: Final = 384
CONNECTIONS_SOURCE_MAX: Final = CONNECTIONS_MAX // 2
NOTE_S: Final = 60.0  # between two lines in the log about a crowd


class _Connection(TCPServer):
    """One connection, which ends when the client has closed it, and not when it would have been idle for too long."""

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()


class HttpServer:
    """Serves one ASGI application.

    Args:
        application: what answers; it has no lifespan.
        config: hypercorn's. Its binds count for nothing.
        places: for connections.
    """

    def __init__(self, application: Any, config: hypercorn.config.Config, places: Places) -> None:
        self._application = ASGIWrapper(application)
        self._config = config
        self._places = places
        self._context = WorkerContext(None)
        self._noted_s = -math.inf

    async def run(self, listening: trio.SocketListener) -> None:
        """Serve who connects, until cancelled."""
        await trio.serve_listeners(self._serve, [listening])

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            source = str(stream.socket.getpeername()[0])
        except OSError:  # it has gone already
            await trio.aclose_forcefully(stream)
            return
        with self._places.held(source) as held:
            if held:
                plain: Any = stream  # the annotation says TLS; it finds out by itself
                await _Connection(self._application, self._config, self._context, ConnectionState({}), plain)
            else:
                self._note(source)
                await trio.aclose_forcefully(stream)

    def _note(self, source: str) -> None:
        if trio.current_time() >= self._noted_s + NOTE_S:
            self._noted_s = trio.current_time()
            structlog.get_logger().warning("console.crowded", source=source)

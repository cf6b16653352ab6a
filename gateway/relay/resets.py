"""Resets: the end of thousands of connections at a switch, some at a time.

Rule: clients first, all of them; then their servers. A client that learns late loses an update, a server nothing.
"""

import socket
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.relay import sockets
from gateway.relay.engine import Engine

TURN_MS_MAX = 2  # then the others have theirs: new clients, and control's orders
RESETS_PER_LOOK = 16  # at the clock


class Doomed(Protocol):
    """A connection to the server before the switch."""

    is_open: bool

    def reset_client(self) -> socket.SocketType:
        """Close it, its client by a reset; return the server's socket."""


def reset_all(engine: Engine, doomed: Iterable[Doomed], done: Callable[[], None]) -> None:
    """Reset both sides of `doomed`, at once as far as a turn goes; call `done` at the end."""
    _Resets(engine, list(doomed), done).go_on()


class _Resets:
    def __init__(self, engine: Engine, doomed: list[Doomed], done: Callable[[], None]) -> None:
        self._engine = engine
        self._doomed = doomed
        self._done = done
        self._servers: list[socket.SocketType] = []

    def go_on(self) -> None:
        ends_at = time.monotonic() + TURN_MS_MAX / 1000
        while self._doomed or self._servers:
            if self._doomed:
                self._reset_clients()
            else:
                self._reset_servers()
            if time.monotonic() >= ends_at and (self._doomed or self._servers):
                self._engine.soon(self.go_on)
                return
        self._done()

    def _reset_clients(self) -> None:
        some = self._doomed[-RESETS_PER_LOOK:]
        del self._doomed[-RESETS_PER_LOOK:]
        for connection in some:
            if connection.is_open:  # it may have ended meanwhile
                self._servers.append(connection.reset_client())

    def _reset_servers(self) -> None:
        some = self._servers[-RESETS_PER_LOOK:]
        del self._servers[-RESETS_PER_LOOK:]
        for server in some:
            sockets.reset(server)

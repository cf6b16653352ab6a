"""Resets: the end of thousands of connections at a switch, some at a time.

Rule: clients first, all of them; then their servers. A client that learns late loses an update, a server nothing. And
who is new is served between two turns, which are short as long as somebody may be waiting for the switch.
"""

import socket
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.relay import sockets
from gateway.relay.engine import Engine

# Then the others have theirs: new clients, and control's orders. A new client needs some four turns. Among 9,800 old
# ones on one core the first was served after 10 to 14 ms with turns of 2 ms, after 3 with these (measured). With short
# turns to the end the last old one learned of it after 350 ms instead of 280: so many new ones were served meanwhile.
TURN_MS_MAX = 2
FIRST_TURN_MS_MAX = 0.5
FIRST_TURNS_MS = 30  # after the switch
RESETS_PER_LOOK = 8  # at the clock; 13 us each


class Doomed(Protocol):
    """A connection that may be one to the server before the switch."""

    def leave(self, epoch: int) -> socket.SocketType | None:
        """Close it, its client by a reset, where it is of an older epoch than this one; return the server's socket."""


class Resets:
    """Those of one switch: `go_on` is called until all are gone, and then `done` with their number."""

    def __init__(
        self, engine: Engine, doomed: Iterable[Doomed], epoch: int, done: Callable[[int], None] = lambda count: None
    ) -> None:
        self._engine = engine
        self._doomed = list(doomed)
        self._epoch = epoch
        self._done = done
        self._servers: list[socket.SocketType] = []
        self._count = 0
        self._hurry_until = time.monotonic() + FIRST_TURNS_MS / 1000

    def go_on(self) -> None:
        """Reset as many as a turn takes, at once."""
        now = time.monotonic()
        ends_at = now + (FIRST_TURN_MS_MAX if now < self._hurry_until else TURN_MS_MAX) / 1000
        while self._doomed or self._servers:
            if self._doomed:
                self._reset_clients()
            else:
                self._reset_servers()
            if time.monotonic() >= ends_at and (self._doomed or self._servers):
                self._engine.soon(self.go_on)
                return
        self._done(self._count)

    def _reset_clients(self) -> None:
        some = self._doomed[-RESETS_PER_LOOK:]
        del self._doomed[-RESETS_PER_LOOK:]
        for connection in some:
            server = connection.leave(self._epoch)
            if server is not None:
                self._servers.append(server)
                self._count += 1

    def _reset_servers(self) -> None:
        some = self._servers[-RESETS_PER_LOOK:]
        del self._servers[-RESETS_PER_LOOK:]
        for server in some:
            sockets.reset(server)

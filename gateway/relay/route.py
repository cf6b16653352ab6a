"""Routes: to which server the clients of a pool go, and what waits while there is none.

Rule: TCP and UDP listeners of one route share one object, so that a switch reaches both in one pass.
"""

import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from gateway.relay import messages
from gateway.relay.engine import Engine
from gateway.relay.timers import Timer

if TYPE_CHECKING:
    from gateway.relay.listener import Listener

RETRY_MS = 50  # a server that refuses has most likely just died; the election notices within a few of these
RETRIES_PER_TICK_MAX = 16  # of those held: enough to see that the server is back, few enough to cost nothing
DATAGRAMS_HELD_MAX = 64  # a route: daemons repeat what matters; these save the updates of a short election


class Held(Protocol):
    """A client's connection that waits for a server."""

    def connect(self) -> None:
        """Try the route's server."""


class HeldDatagram(Protocol):
    """A datagram that waits for a server."""

    expires_at: float

    def deliver(self) -> None:
        """Send it to the route's server."""

    def drop(self) -> None:
        """Give it up, and count it."""


class Route:
    """The server of one route now, its listeners, and the clients held for it."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.server: tuple[str, int] | None = None
        self.epoch: int | None = None  # None: control has not spoken of this route yet
        self.listeners: list[Listener] = []
        self.held: dict[Held, None] = {}
        self._engine = engine
        self._retry: Timer | None = None
        self._serving = False
        self._datagrams: deque[HeldDatagram] = deque()

    def apply(self, order: messages.Route) -> messages.Switched | None:
        """Carry out `order`; return the answer where its epoch is a new one.

        Old connections go before the held ones are served: the server's first moments belong to the clients that it
        will keep, and a client that learns of its reset late loses an update.
        """
        assert self.epoch is None or order.epoch >= self.epoch, (
            f"route {self.name}: epoch {self.epoch} -> {order.epoch} is not a transition"
        )
        began_ns = time.monotonic_ns()
        switch = self.epoch is None or order.epoch > self.epoch
        server = None if order.server_host is None else (order.server_host, order.server_port)
        self.server, self.epoch = server, order.epoch
        connections = flows = 0
        for listener in self.listeners:
            closed = listener.route_changed(switch=switch)
            if listener.settings.protocol == "tcp":
                connections += closed
            else:
                flows += closed
        if server is not None:
            self.serve_held()
            self._deliver_datagrams()
        if not switch:
            return None
        return messages.Switched(
            route=self.name,
            epoch=order.epoch,
            connections_closed=connections,
            flows_closed=flows,
            took_us=(time.monotonic_ns() - began_ns) // 1000,
        )

    def hold(self, connection: Held) -> None:
        """Keep `connection` until a server comes; while there is one that refuses, try it again soon."""
        self.held[connection] = None
        if self.server is not None and self._retry is None:
            self._retry = self._engine.after(RETRY_MS, self._retry_some)

    def release(self, connection: Held) -> None:
        """Forget `connection`: it is being connected, or gone."""
        self.held.pop(connection, None)

    def serve_held(self) -> None:
        """Connect everybody who waits: the server has come, or has just answered one of them."""
        if not self._serving:  # one who is answered at once calls this again from within
            self._serving = True
            self._connect(list(self.held))
            self._serving = False

    def _connect(self, connections: list[Held]) -> None:
        for connection in connections:
            if connection in self.held:
                connection.connect()

    def _retry_some(self) -> None:
        self._retry = None
        if self.server is None:
            return
        # Who fails goes to the end of the queue, so all get their turn.
        self._connect(list(self.held)[:RETRIES_PER_TICK_MAX])
        if self.held and self._retry is None:
            self._retry = self._engine.after(RETRY_MS, self._retry_some)

    def hold_datagram(self, datagram: HeldDatagram) -> None:
        """Keep `datagram`, or drop it where the queue is full of younger ones."""
        self._drop_expired()
        if len(self._datagrams) >= DATAGRAMS_HELD_MAX:
            datagram.drop()
        else:
            self._datagrams.append(datagram)

    def _deliver_datagrams(self) -> None:
        self._drop_expired()
        # Taken out first: a delivery must not find the queue that it came from.
        waiting, self._datagrams = self._datagrams, deque()
        for datagram in waiting:
            datagram.deliver()

    def _drop_expired(self) -> None:
        now = time.monotonic()
        while self._datagrams and self._datagrams[0].expires_at <= now:
            self._datagrams.popleft().drop()

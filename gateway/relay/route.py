"""Routes: to which server the clients of a pool go, and what waits while there is none.

Rule: TCP and UDP listeners of one route share one object, so that a switch reaches both in one pass.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from gateway.relay import messages, sockets
from gateway.relay.engine import Engine
from gateway.relay.resets import Doomed, Resets
from gateway.relay.timers import Timer

if TYPE_CHECKING:
    from gateway.relay.listener import Listener

RETRY_MS = 50  # a server that refuses has most likely just died; the election notices within a few of these
RETRIES_PER_TICK_MAX = 16  # of those held: enough to see that the server is back, few enough to cost nothing
CONNECTS_PER_TURN_MAX = 64  # of those held, when a server has come: the others must get their turn
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
        self.family = 0  # of the server's address
        self.epoch: int | None = None  # None: control has not spoken of this route yet
        self.drain_ms = 0  # of the last switch
        self.listeners: list[Listener] = []
        self.held: dict[Held, None] = {}
        self._engine = engine
        self._retry: Timer | None = None
        self._serving = False
        self._doomed: list[Doomed] = []
        self._datagrams: deque[HeldDatagram] = deque()

    def apply(self, order: messages.Route, answer: Callable[[messages.Switched], None]) -> None:
        """Carry out `order`; call `answer` when that is done, where its epoch is a new one.

        Old connections begin to go before the held ones are served: a client that learns of its reset late loses an
        update. Where there are thousands, both go on side by side.
        """
        assert self.epoch is None or order.epoch >= self.epoch, (
            f"route {self.name}: epoch {self.epoch} -> {order.epoch} is not a transition"
        )
        began_ns = time.monotonic_ns()
        switch = self.epoch is None or order.epoch > self.epoch
        server = None if order.server_host is None else (order.server_host, order.server_port)
        self.server, self.epoch = server, order.epoch
        if server is not None:
            self.family = int(sockets.family_of(server[0]))
        if switch:
            self.drain_ms = order.drain_ms
        connections = flows = 0
        for listener in self.listeners:
            closed = listener.route_changed(switch=switch)
            if listener.settings.protocol == "tcp":
                connections += closed
            else:
                flows += closed

        def done(reset: int) -> None:
            if switch:
                took_us = (time.monotonic_ns() - began_ns) // 1000
                answer(
                    messages.Switched(
                        route=self.name,
                        epoch=order.epoch,
                        connections_closed=connections + reset,
                        flows_closed=flows,
                        took_us=took_us,
                    )
                )

        self._reset_doomed(order.epoch, done)
        if server is not None:
            self.serve_held()
            self._deliver_datagrams()

    def doom(self, connections: Iterable[Doomed]) -> None:
        """Let `connections` be looked at when the switch goes on: those of all listeners go together, clients first."""
        self._doomed += connections

    def end_drain(self, connections: Iterable[Doomed], epoch: int) -> None:
        """Reset those of `connections` that are of an older epoch than this one."""
        Resets(self._engine, connections, epoch).go_on()

    def _reset_doomed(self, epoch: int, done: Callable[[int], None]) -> None:
        doomed, self._doomed = self._doomed, []
        Resets(self._engine, doomed, epoch, done).go_on()

    def hold(self, connection: Held) -> None:
        """Keep `connection` until a server comes; while there is one that refuses, try it again soon."""
        self.held[connection] = None
        self._retry_later()

    def release(self, connection: Held) -> None:
        """Forget `connection`: it is being connected, or gone."""
        self.held.pop(connection, None)

    def serve_held(self) -> None:
        """Connect everybody who waits: the server has come, or has just answered one of them."""
        if not self._serving:  # one who is answered at once calls this again from within
            self._serving = True
            self._serve(list(self.held))

    def _serve(self, waiting: list[Held]) -> None:
        if self.server is not None:
            self._connect(waiting[:CONNECTS_PER_TURN_MAX])
            rest = waiting[CONNECTS_PER_TURN_MAX:]
            if rest:
                self._engine.soon(lambda: self._serve(rest))
                return
            self._retry_later()  # who has come to wait meanwhile
        self._serving = False

    def _connect(self, connections: list[Held]) -> None:
        for connection in connections:
            if connection in self.held and self.server is not None:
                connection.connect()

    def _retry_some(self) -> None:
        self._retry = None
        if self.server is None:
            return
        # Who fails goes to the end of the queue, so all get their turn.
        self._connect(list(self.held)[:RETRIES_PER_TICK_MAX])
        self._retry_later()

    def _retry_later(self) -> None:
        if self.held and self.server is not None and self._retry is None:
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

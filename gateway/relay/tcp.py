"""TCP listeners: accept in bursts, hand each client to a connection of its own, and bound what they cost.

Rule: nobody is accepted and left hanging: a client is served, or held for a bounded time, or reset at once.
"""

import socket
import time
from collections.abc import Callable

from gateway.relay import sockets
from gateway.relay.connection import Connection
from gateway.relay.ending import By, Course
from gateway.relay.engine import Engine
from gateway.relay.listener import NO_DESCRIPTORS, Listener
from gateway.relay.messages import Listener as Settings
from gateway.relay.messages import ListenerStats, WhenDown
from gateway.relay.route import Route
from gateway.relay.sources import Sources
from gateway.relay.tcplog import Tcplog
from gateway.relay.timers import Timer

ACCEPTS_PER_TURN_MAX = 16  # of a burst of reconnecting clients; open connections must get their turn as well
SWEEP_MS_MAX = 60_000  # between two looks at each connection: before KEEPALIVE_IDLE_S, which it sets
SWEEPS_OF_IDLENESS = 4  # so many looks for `client_ms`: it is closed up to a quarter late
SWEPT_PER_STEP_MAX = 200  # a look takes a microsecond, and nobody must notice that there are thousands of them
HELLO_STEP_MS_MAX = 1_000  # between two looks at the silent ones, where their settings may have changed
ROOM_CLIENTS_MAX = 16  # silent ones that go when there is no file descriptor left


class TcpListener(Listener):
    """One listening TCP port and its connections."""

    def __init__(self, settings: Settings, route: Route, engine: Engine, on_change: Callable[[Listener], None]) -> None:
        super().__init__(settings, route, engine, on_change)
        self.connections: dict[Connection, None] = {}
        self.silent: dict[Connection, None] = {}  # the longest silent first
        self.open_now = 0
        self._draining = 0
        self._family = int(sockets.family_of(settings.host))
        self._burst = 1  # how many to accept before looking whether there is one more
        self._sources = Sources()
        self.tcplog: Tcplog | None = None
        self._hello_timer: Timer | None = None
        self._swept: list[Connection] = []
        self._sweep_timer = engine.after(self._sweep_ms(), self._sweep)

    # --- who comes

    def on_ready(self, events: int) -> None:
        """Accept who is waiting, up to a burst; the engine tells of the rest again."""
        for _ in range(self._burst):
            if self.sock is None:
                return  # a REFUSE listener was closed by what an accepted connection met
            try:
                client, address = sockets.accept(self.sock, self._family)
            except BlockingIOError:
                self._burst = 1  # to find nobody costs as much as a short connection's whole reading
                return
            except OSError as error:
                if error.errno not in NO_DESCRIPTORS:
                    continue  # accept(2): errors of the new connection itself (ECONNABORTED, EPROTO)
                if not self.make_room():
                    self.pause()
                    return
                continue
            self._take_in(client, address)
        self._burst = min(2 * self._burst, ACCEPTS_PER_TURN_MAX)

    def _take_in(self, client: socket.SocketType, address: sockets.Address) -> None:
        counters = self.counters
        counters.connections_total += 1
        if not self._admits(address[0]):
            counters.refused_total += 1
            sockets.reset(client)
            return
        connection = Connection(self, client, address)
        if self.tcplog is not None:
            connection.course = Course(time.monotonic())
        self.connections[connection] = None
        if self.is_full():
            connection.abort(By.LIMIT)
        else:
            connection.start()

    def _admits(self, source: str) -> bool:
        """Whether the limits for one client address let one more in; counted, for the caller resets it."""
        settings, counters = self.settings, self.counters
        if settings.source_rate and self._sources.is_too_fast(source, settings.source_rate, self.engine.now):
            counters.source_rate_refused_total += 1
            return False
        if settings.source_max and self._sources.has_too_many(source, settings.source_max):
            counters.source_refused_total += 1
            return False
        self._sources.add(source)  # also without a limit: a reload may bring one
        return True

    def is_full(self) -> bool:
        """Whether the newest connection is one too many; counted, for the caller resets it."""
        if len(self.connections) - len(self.silent) <= self.settings.connections_max:
            return False
        self.counters.maxconn_refused_total += 1
        self.counters.refused_total += 1
        return True

    def gone(self, connection: Connection, by: By) -> None:
        """Forget `connection`, which closes itself, and say how it ended where that is wanted."""
        if connection.course is not None and self.tcplog is not None:
            self.tcplog.write(connection, connection.course, by)
        del self.connections[connection]
        if connection.is_open:
            self.left_server(connection)
        else:
            self.silent.pop(connection, None)
            self.route.release(connection)
        if connection.address is not None:
            self._sources.remove(connection.address[0])

    def left_server(self, connection: Connection) -> None:
        """Note that `connection` is open no more."""
        self.open_now -= 1
        if self._draining and connection.epoch is not None and connection.epoch != self.route.epoch:
            self._draining -= 1
            self.counters.drained_total += 1

    # --- who says nothing

    def await_hello(self, connection: Connection) -> None:
        """Bound the number and the time of those who have not spoken."""
        self.silent[connection] = None
        if len(self.silent) > self.settings.silent_max:
            self._evict_silent()
        if self._hello_timer is None:
            self._hello_timer = self.engine.after(min(self.settings.hello_ms, HELLO_STEP_MS_MAX), self._expire_silent)

    def _evict_silent(self) -> None:
        """Reset who has been silent for longest: in a flood that is none of the pool's, whose clients speak at once."""
        self.counters.silent_evicted_total += 1
        next(iter(self.silent)).abort(By.LIMIT)

    def make_room(self) -> bool:
        """There is no file descriptor left: take some from those who have not spoken; return whether there were any."""
        count = min(len(self.silent), ROOM_CLIENTS_MAX)
        for _ in range(count):
            self._evict_silent()
        return count > 0

    def _expire_silent(self) -> None:
        self._hello_timer = None
        hello_s = self.settings.hello_ms / 1000
        left_s = hello_s
        while self.silent:
            oldest = next(iter(self.silent))
            left_s = oldest.accepted_at + hello_s - self.engine.now
            if left_s > 0:
                break
            self.counters.hello_expired_total += 1
            oldest.abort(By.CLIENT_TIME)
        if self.silent:
            self._hello_timer = self.engine.after(min(left_s * 1000, HELLO_STEP_MS_MAX), self._expire_silent)

    # --- who is idle

    def _sweep_ms(self) -> float:
        return min(SWEEP_MS_MAX, (self.settings.client_ms or SWEEP_MS_MAX) / SWEEPS_OF_IDLENESS)

    def _sweep(self) -> None:
        """Look at every open connection, some at a time; comes back by itself until the listener is closed."""
        if not self._swept:
            self._swept = list(self.connections)
        sweeps_max = -int(-self.settings.client_ms // self._sweep_ms())  # rounded up: never early
        for _ in range(min(SWEPT_PER_STEP_MAX, len(self._swept))):
            connection = self._swept.pop()
            if connection.is_open:
                connection.sweep(sweeps_max)
        self._sweep_timer = self.engine.after(0 if self._swept else self._sweep_ms(), self._sweep)

    # --- another server

    def route_changed(self, *, switch: bool) -> int:
        """As every listener; and who is just connecting to another server than the route's waits for that one."""
        closed = super().route_changed(switch=switch)
        if len(self.connections) > self.open_now:
            for connection in [each for each in self.connections if not each.is_open]:
                connection.route_changed(switch=switch)
        return closed

    def leave_server(self) -> int:
        """Reset the connections to the server before, or let them go on until the drain's deadline."""
        epoch = self.route.epoch
        assert epoch is not None, "a switch has an epoch"
        if self.route.drain_ms and self.route.server is not None:
            self._draining = self.open_now
            self.engine.after(self.route.drain_ms, lambda: self.route.end_drain(list(self.connections), epoch))
            return 0
        self.route.doom(self.connections)
        return 0  # counted as they go: to look at thousands before anybody is reset would keep new ones waiting

    def left_by_switch(self) -> None:
        """Note that a connection's time with its server is over: it is none that drains."""
        if self._draining:
            self._draining -= 1

    def close_clients(self) -> int:
        """Reset at once, on both sides, every connection that has a server."""
        opened = [each for each in self.connections if each.is_open]
        for connection in opened:
            connection.abort(By.OPERATOR)
        return len(opened)

    def close_held(self) -> None:
        """Reset the clients that wait, and let the sweep end."""
        for connection in list(self.connections):
            connection.abort(By.OPERATOR)
        self.engine.cancel(self._sweep_timer)
        if self._hello_timer is not None:
            self.engine.cancel(self._hello_timer)

    def _close_socket(self) -> None:
        """Close the port. Who has connected to a REFUSE listener and was not accepted yet is refused gently."""
        if self.sock is not None and self.settings.when_down is WhenDown.REFUSE:
            for _ in range(ACCEPTS_PER_TURN_MAX):
                try:
                    client, _address = sockets.accept(self.sock, self._family)
                except OSError:
                    break
                self.counters.connections_total += 1
                connection = Connection(self, client, None)
                self.connections[connection] = None
                connection.refuse()
        super()._close_socket()

    # --- what is said of it

    def held_now(self) -> int:
        """Return how many have spoken and have no server yet."""
        return len(self.connections) - len(self.silent) - self.open_now

    def stats(self) -> ListenerStats:
        """Return the counters of this moment."""
        return self.counters.stats(
            self.settings.name,
            connections_now=len(self.connections),
            silent_now=len(self.silent),
            held_now=self.held_now(),
            draining_now=self._draining,
        )

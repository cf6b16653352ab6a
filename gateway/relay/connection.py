"""Connections: one client, one server, the bytes between them verbatim; or a client that waits for a server.

Rule: nothing is read from a client before a server has accepted, so a client whose server dies before that has lost
nothing and can be given to the next one.

    HELD -> CONNECTING -> OPEN -> CLOSED       CONNECTING -> HELD: refused, timed out, or the route has changed
                                               OPEN -> HELD: reset by the server before a byte went either way
    HELD -> CLOSED                             nobody waits at a REFUSE listener; but see YOUNG_MS
"""

import enum
import errno
import socket
import time
from typing import TYPE_CHECKING

from gateway.relay import sockets
from gateway.relay.engine import PEER_SHUT
from gateway.relay.messages import WhenDown
from gateway.relay.stream import End
from gateway.relay.timers import Timer

if TYPE_CHECKING:
    from gateway.relay.tcp import TcpListener


# A client of a REFUSE listener, which is HTCondor's collector, must have come out of connect() before it is reset: a
# reset that it meets there makes it sleep for a whole second and try again (src/condor_io/sock.cpp, do_connect_finish;
# refused, it gives up at once). Measured: 1.0 s without an answer to anybody, which looks like a dead collector.
YOUNG_MS = 50


class State(enum.Enum):
    """Where a connection stands."""

    HELD = "held"
    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


class Connection:
    """One accepted client of a TCP listener."""

    __slots__ = (
        "_connect_timer",
        "_first_byte_timer",
        "_hold_timer",
        "_target",
        "accepted_at",
        "client",
        "counters",
        "is_open",
        "listener",
        "server",
        "state",
    )

    def __init__(self, listener: "TcpListener", client: socket.socket) -> None:
        self.listener = listener
        self.counters = listener.counters
        self.state = State.HELD
        self.is_open = False  # state is OPEN; an attribute, because every event asks
        self.accepted_at = listener.engine.now
        self.client = End(self, listener.engine, client)
        self.server: End | None = None
        self._target: tuple[str, int] | None = None
        self._connect_timer: Timer | None = None
        self._first_byte_timer: Timer | None = None
        self._hold_timer: Timer | None = None

    def start(self) -> None:
        """Begin: go to the route's server, or wait for one."""
        if self.listener.route.server is None:
            self._hold()
        else:
            self.connect()

    # --- towards a server

    def connect(self) -> None:
        """Try the route's server; the answer comes later."""
        assert self.state is State.HELD, f"{self.state} -> connecting is not a transition"
        listener = self.listener
        listener.route.release(self)
        self._target = listener.route.server
        assert self._target is not None, "nobody connects while the route has no server"
        self.state = State.CONNECTING
        try:
            sock = sockets.server_stream(self._target[0], listener.settings.user_timeout_ms)
        except OSError:  # EMFILE: as good as a server that refuses, somebody may close something soon
            self._connect_failed()
            return
        self.server = End(self, listener.engine, sock)
        self.server.other, self.client.other = self.client, self.server
        code = sock.connect_ex(self._target)
        if code == errno.EINPROGRESS:
            self._connect_timer = listener.engine.after(listener.settings.connect_ms, self._connect_failed)
            self.server.await_connect()
        elif code:
            self._connect_failed()
        else:
            self._opened()

    def on_unopened(self, end: End, events: int) -> None:
        """Something happened on a socket of a connection that is not open yet."""
        if end is self.server:
            if end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._connect_failed()
            else:
                self._opened()
        elif events & ~PEER_SHUT:
            self.abort()
        elif self._hold_timer is not None and not self._client_has_spoken():
            self.abort()  # it waited, said nothing, and went away
        else:
            # It has sent its request and shut its side, which is legal: it is still to be served.
            end.set_mask(0)

    def _client_has_spoken(self) -> bool:
        try:
            return bool(self.client.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _connect_failed(self) -> None:
        self.counters.connect_failed_total += 1
        self._leave_server()
        self._hold()

    def _opened(self) -> None:
        assert self.state is State.CONNECTING, f"{self.state} -> open is not a transition"
        assert self.server is not None
        self.state, self.is_open = State.OPEN, True
        self._cancel_timers()
        self.server.start_reading()
        self.client.start_reading()
        if self.listener.route.held:
            self.listener.route.serve_held()
        if self.is_open:
            self.client.pump()  # the client speaks first, and mostly has by now

    # --- waiting

    def _hold(self) -> None:
        """Wait for a server; or give up at once, where nobody waits or the time is over."""
        settings = self.listener.settings
        left_ms = settings.hold_ms - (time.monotonic() - self.accepted_at) * 1000
        if settings.when_down is WhenDown.REFUSE:
            self.listener.rest()
            self.refuse()
        elif left_ms <= 0:
            self._hold_expired()
        else:
            self.state, self.is_open = State.HELD, False
            if self._hold_timer is None:
                self.counters.held_total += 1
                self._hold_timer = self.listener.engine.after(left_ms, self._hold_expired)
                self.client.set_mask(PEER_SHUT)
            self.listener.route.hold(self)

    def refuse(self) -> None:
        """Reset the client of a REFUSE listener, as soon as it can't be in connect() any more."""
        self.counters.refused_total += 1
        young_ms = YOUNG_MS - (time.monotonic() - self.accepted_at) * 1000
        if young_ms <= 0:
            self.abort()
        else:
            self.state, self.is_open = State.HELD, False
            self.client.set_mask(0)
            self._hold_timer = self.listener.engine.after(young_ms, self.abort)

    def _hold_expired(self) -> None:
        self.counters.hold_expired_total += 1
        self.abort()

    def route_changed(self, *, switch: bool) -> None:
        """Go back to waiting when the server that we are connecting to is no longer the one."""
        if self.state is State.CONNECTING and (switch or self._target != self.listener.route.server):
            self._leave_server()
            self._hold()

    # --- while open, called by the ends

    def first_bytes_from(self, end: End) -> None:
        """`end` has sent its first bytes."""
        if end is self.server:
            if self._first_byte_timer is not None:
                self.listener.engine.cancel(self._first_byte_timer)
                self._first_byte_timer = None
        elif self.listener.settings.first_byte_ms and self.server is not None and not self.server.moved:
            self._first_byte_timer = self.listener.engine.after(
                self.listener.settings.first_byte_ms, self._first_byte_missed
            )

    def _first_byte_missed(self) -> None:
        self.counters.first_byte_missed_total += 1
        self.abort()

    def broke(self, end: End) -> None:
        """`end` was reset, timed out or became unreachable: the other side learns it at once.

        A server that resets before a byte went either way has died with our connection in its backlog: the client
        has not noticed anything, so it waits for a living one.
        """
        untouched = end is self.server and not (self.client.moved or end.moved or end.finished)
        if untouched:
            self._connect_failed()
        else:
            self.abort()

    # --- the end

    def finish(self) -> None:
        """Both sides have said and been sent everything."""
        self._close(by_reset=False)

    def abort(self) -> None:
        """Reset both sides at once."""
        self._close(by_reset=True)

    def _close(self, *, by_reset: bool) -> None:
        assert self.state is not State.CLOSED, "closed -> closed is not a transition"
        self.state, self.is_open = State.CLOSED, False
        self._cancel_timers()
        self.listener.route.release(self)
        del self.listener.connections[self]
        self.client.close(by_reset=by_reset)
        if self.server is not None:
            self.server.close(by_reset=by_reset)
            self.server = None  # ends and connection refer to each other: nothing is left to the garbage collector

    def _leave_server(self) -> None:
        if self._connect_timer is not None:
            self.listener.engine.cancel(self._connect_timer)
            self._connect_timer = None
        if self.server is not None:
            self.server.close(by_reset=True)
            self.server = None
            self.client.other = None

    def _cancel_timers(self) -> None:
        for timer in (self._connect_timer, self._first_byte_timer, self._hold_timer):
            if timer is not None:
                self.listener.engine.cancel(timer)
        self._connect_timer = self._first_byte_timer = self._hold_timer = None

"""Connections: one client, one server, the bytes between them verbatim; or a client that waits for a server.

Rule: until a server has answered, its client has lost nothing when it dies: what the client said is kept (`hello`),
and said again to the next server where that is safe (`wire.hello`). HTCondor's client always speaks first.

    SILENT -> HELD | CONNECTING                the client has spoken; a REFUSE listener does not wait for it
    HELD -> CONNECTING -> OPEN -> CLOSED       CONNECTING -> HELD: refused, timed out, or the route has changed
                                               OPEN -> HELD: the server died, or another was elected, before an answer
    SILENT, HELD -> CLOSED                     nobody waits at a REFUSE listener; but see YOUNG_MS
"""

import enum
import errno
import socket
import time
from typing import TYPE_CHECKING

from gateway.relay import sockets
from gateway.relay.engine import BROKEN, HANG_UP
from gateway.relay.messages import WhenDown
from gateway.relay.sockets import Address
from gateway.relay.stream import READING_AND_WRITING, End
from gateway.relay.timers import Timer
from gateway.wire.hello import is_replayable_untrusted

if TYPE_CHECKING:
    from gateway.relay.tcp import TcpListener


# A client of a REFUSE listener, which is HTCondor's collector, must have come out of connect() before it is reset: a
# reset that it meets there makes it sleep for a whole second and try again (src/condor_io/sock.cpp, do_connect_finish;
# refused, it gives up at once). Measured: 1.0 s without an answer to anybody, which looks like a dead collector.
YOUNG_MS = 50

HELLO_BYTES_MAX = 16_384  # a new session's opening has 700; one with many trust domains may have a few thousand
REPLAYS_MAX = 4  # to a server that is still the elected one, after 100, 200, 400, 800 ms; then only to another
REPLAY_MS = 100

_NO_ADDRESS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)


class State(enum.Enum):
    """Where a connection stands."""

    SILENT = "silent"
    HELD = "held"
    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


_SILENT, _HELD, _CONNECTING, _OPEN, _CLOSED = State  # an attribute of an enumeration costs a lookup by its metaclass


class Connection:
    """One accepted client of a TCP listener.

    Args:
        listener: whose client it is.
        client: its socket.
        address: of the client, where anybody asks (source_max, transparent).
    """

    __slots__ = (
        "_connect_timer",
        "_first_byte_timer",
        "_hold_timer",
        "_idle_sweeps",
        "_moved_before",
        "_replays",
        "_target",
        "accepted_at",
        "address",
        "client",
        "counters",
        "engine",
        "epoch",
        "hello",
        "is_open",
        "listener",
        "server",
        "state",
    )

    def __init__(self, listener: "TcpListener", client: socket.SocketType, address: Address | None) -> None:
        self.listener = listener
        self.engine = listener.engine
        self.counters = listener.counters
        self.address = address
        self.state = _SILENT
        self.is_open = False  # state is OPEN; an attribute, because every event asks
        self.accepted_at = listener.engine.now
        self.client = End(self, client, is_client=True)
        self.server: End | None = None
        self.hello: bytes | None = None  # what the client has said, while it may have to be said again
        self.epoch: int | None = None  # of the route, when the server was chosen
        self._target: tuple[str, int] | None = None
        self._connect_timer: Timer | None = None
        self._first_byte_timer: Timer | None = None
        self._hold_timer: Timer | None = None
        self._replays = 0
        self._moved_before = -1
        self._idle_sweeps = 0

    # --- the client's first bytes

    def start(self) -> None:
        """Begin: hear what the client wants, or go to the route's server at once, or wait for one."""
        settings = self.listener.settings
        if settings.when_down is WhenDown.HOLD:
            if settings.hello_ms:
                self._hear()
                return
            self.hello = b""
        self._go()

    def _hear(self) -> None:
        client = self.client
        try:
            hello = client.sock.recv(HELLO_BYTES_MAX)
        except BlockingIOError:
            if self not in self.listener.silent:
                client.watch()
                self.listener.await_hello(self)
            return
        except OSError:
            self.counters.reset_by_client_total += 1
            self.abort()
            return
        if not hello:  # came and went without a word, as port scanners and health checks do
            self._close(by_reset=False)
            return
        self.listener.silent.pop(self, None)
        client.unread = len(hello) == HELLO_BYTES_MAX or client.ending
        client.moved = len(hello)
        self.counters.bytes_to_server_total += len(hello)
        self.hello = hello
        self._go()

    def _go(self) -> None:
        self.state = _HELD
        if self.listener.is_full():
            self.abort()
        elif self.listener.route.server is None:
            self._hold()
        else:
            self.connect()

    # --- towards a server

    def connect(self) -> None:
        """Try the route's server; the answer comes later."""
        assert self.state is _HELD, f"{self.state} -> connecting is not a transition"
        listener = self.listener
        route = listener.route
        route.release(self)
        target = self._target = route.server
        assert target is not None, "nobody connects while the route has no server"
        self.state = _CONNECTING
        self.epoch = route.epoch
        sock = self._server_socket(route.family)
        if sock is None:
            return
        server = self.server = End(self, sock, is_client=False)
        server.other, self.client.other = self.client, server
        server.reported = True
        code = sock.connect_ex(target)
        if code == errno.EINPROGRESS and not self._say_hello(server):
            self._connect_timer = self.engine.after(listener.settings.connect_ms, self._connect_failed)
            server.watch(READING_AND_WRITING)
        elif code and code != errno.EINPROGRESS:
            if code in _NO_ADDRESS and listener.settings.transparent:
                self._refuse_source(code)
            else:
                self._connect_failed()

    def _server_socket(self, family: int) -> socket.SocketType | None:
        """Return a socket towards the server; None: there is none to be had, and what follows is arranged."""
        settings = self.listener.settings
        try:
            sock = sockets.server_stream(family, settings.user_timeout_ms, speaks=bool(self.hello))
        except OSError:  # EMFILE: as good as a server that refuses, somebody may close something soon
            self.counters.descriptors_missed_total += 1
            self.listener.make_room()
            self._connect_failed()
            return None
        if settings.transparent:
            assert self.address is not None
            try:
                sockets.come_from(sock, family, self.address)
            except OSError as error:
                sock.close()
                self._refuse_source(error.errno or 0)
                return None
        return sock

    def _refuse_source(self, number: int) -> None:
        """The client's address can't be used towards the server: under another one it would be another client."""
        self.counters.refused_total += 1
        if number in _NO_ADDRESS:
            self.counters.transparent_busy_total += 1
        else:
            self.counters.transparent_refused_total += 1
        self.abort()

    def _say_hello(self, server: End) -> bool:
        """Send the client's first bytes, which opens the connection; return whether the server was ready to take them.

        Nearby, the handshake is over when connect() returns: then this saves a turn. The kernel says what went wrong
        with a connect in its next call, so nobody need ask for that.
        """
        hello = self.hello
        if not hello:
            return False
        try:
            sent = server.sock.send(hello)
        except BlockingIOError:
            return False
        except OSError:
            self._connect_failed()
            return True
        if sent < len(hello):
            server.keep(memoryview(hello)[sent:])
        self._opened(server)
        return True

    def on_unopened(self, end: End, events: int) -> None:
        """Something happened on a socket of a connection that is not open yet."""
        if end is self.server:
            if self.hello:
                self._say_hello(end)
            elif end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._connect_failed()
            else:
                self._opened(end)
        elif self.state is _SILENT:
            self._hear()
        elif events & (HANG_UP | BROKEN):
            self.counters.reset_by_client_total += 1
            self.abort()
        elif end.ending and self._hold_timer is not None and not self._client_has_spoken():
            self.abort()  # it waited, said nothing, and went away
        # Else it has sent its request and shut its side, which is legal: it is still to be served.

    def _client_has_spoken(self) -> bool:
        if self.client.moved:
            return True
        try:
            return bool(self.client.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _connect_failed(self) -> None:
        self.counters.connect_failed_total += 1
        self._leave_server()
        self._hold()

    def _opened(self, server: End) -> None:
        assert self.state is _CONNECTING, f"{self.state} -> open is not a transition"
        self.state, self.is_open = _OPEN, True
        listener, client = self.listener, self.client
        listener.open_now += 1
        if self._connect_timer is not None or self._hold_timer is not None:
            self._cancel_timers()
        if self.hello is not None or listener.settings.first_byte_ms:
            client.reported = True
            if self.hello:
                self._await_first_byte()
        server.watch()
        client.watch()
        if client.finished:
            if not server.blocked:
                server.shut_down()
        elif client.unread:
            client.pump()  # it has said more, or something, by now
        if server.unread:
            server.resume()
        if listener.route.held:
            listener.route.serve_held()

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
        elif self._hold_timer is None and self.listener.held_now() > settings.held_max:
            self.counters.held_refused_total += 1
            self.counters.refused_total += 1
            self.abort()
        else:
            self.state = _HELD
            if self._hold_timer is None:
                self.counters.held_total += 1
                self._hold_timer = self.engine.after(left_ms, self._hold_expired)
                self.client.watch()
            self.listener.route.hold(self)

    def refuse(self) -> None:
        """Reset the client of a REFUSE listener, as soon as it can't be in connect() any more."""
        self.counters.refused_total += 1
        young_ms = YOUNG_MS - (time.monotonic() - self.accepted_at) * 1000
        if young_ms <= 0:
            self.abort()
        else:
            self.state = _HELD
            self.client.watch()
            self._hold_timer = self.engine.after(young_ms, self.abort)

    def _hold_expired(self) -> None:
        self.counters.hold_expired_total += 1
        self.abort()

    # --- while open, called by the ends

    def heard(self, end: End, data: memoryview) -> None:
        """`end` has sent `data`, among its first; called as long as its `reported` is set."""
        if end is not self.client:
            # The server has answered: what the client has said was not in vain, and is not said again.
            end.reported = self.client.reported = False
            self.hello = None
            self._replays = 0
            if self._first_byte_timer is not None:
                self.engine.cancel(self._first_byte_timer)
                self._first_byte_timer = None
            return
        if self.hello is not None:
            self.hello = self.hello + data if len(self.hello) + len(data) <= HELLO_BYTES_MAX else None
        self._await_first_byte()
        end.reported = self.hello is not None

    def _await_first_byte(self) -> None:
        first_byte_ms = self.listener.settings.first_byte_ms
        if first_byte_ms and self._first_byte_timer is None:
            self._first_byte_timer = self.engine.after(first_byte_ms, self._first_byte_missed)

    def _first_byte_missed(self) -> None:
        self.counters.first_byte_missed_total += 1
        self.abort()

    def broke(self, end: End) -> None:
        """`end` was reset, timed out or became unreachable: the other side learns it at once.

        A server that has answered nothing has died with our connection in its backlog, or busy with what it must not
        have begun: where it is safe the client, who has not noticed anything, waits for a living one.
        """
        if end is self.client:
            self.counters.reset_by_client_total += 1
        elif self._may_have_another(end):
            self._replay()
            return
        else:
            self.counters.reset_by_server_total += 1
        self.abort()

    def takes_end_for_death(self, end: End) -> bool:
        """`end` says that it is finished; whether it is a server that has died without an answer (once, to be sure)."""
        if end is self.client or end.moved or not self.hello or self._replays or not self._may_have_another(end):
            return False
        self._replay()
        return True

    def _may_have_another(self, server: End) -> bool:
        """Whether the client can be given to another server and not notice it."""
        if server.moved or server.finished or self.listener.settings.when_down is WhenDown.REFUSE:
            return False
        return not self.client.moved or (self.hello is not None and is_replayable_untrusted(self.hello))

    def _wait_for_another(self) -> None:
        """Wait for another server; and try this one again, at growing intervals."""
        if self.client.moved:
            self.counters.replayed_total += 1
        self.listener.left_server(self)
        self.state, self.is_open = _HELD, False
        self.accepted_at = time.monotonic()  # held anew: it had been served
        self._cancel_timers()
        self._leave_server()
        self._hold()

    def _replay(self) -> None:
        self.counters.connect_failed_total += 1
        self._replays += 1
        self._wait_for_another()
        if self._replays > 1 and self.state is _HELD:
            # It accepts and dies again, as a shared port does whose collector is gone: not everybody at once, again.
            self.listener.route.release(self)
            if self._replays <= REPLAYS_MAX:
                self._connect_timer = self.engine.after(REPLAY_MS << self._replays - 2, self._hold_on)

    def _hold_on(self) -> None:
        """Wait among the others again."""
        if self._connect_timer is not None:
            self.engine.cancel(self._connect_timer)
            self._connect_timer = None
        self.listener.route.hold(self)

    # --- the end of the server's time

    def route_changed(self, *, switch: bool) -> None:
        """Go back to waiting when the server that we are connecting to is no longer the one."""
        if self.state is _CONNECTING and (switch or self._target != self.listener.route.server):
            self._leave_server()
            self._hold()
        elif switch and self._replays and self.state is _HELD:
            self._hold_on()  # it was waiting for another server

    def leave_server(self) -> bool:
        """Another server was elected: go back to waiting where the client notices nothing; return whether it was."""
        assert self.server is not None
        if not self._may_have_another(self.server):
            return False
        self._wait_for_another()
        return True

    def reset_client(self) -> socket.SocketType:
        """Close for a switch, the client by a reset; return the server's socket, for the caller to reset later."""
        assert self.server is not None
        server = self.server.sock
        self.server.let_go()
        self.server = None
        self._close(by_reset=True)
        return server

    # --- the end

    def finish(self) -> None:
        """Both sides have said and been sent everything."""
        self._close(by_reset=False)

    def abort(self) -> None:
        """Reset both sides at once."""
        self._close(by_reset=True)

    def _close(self, *, by_reset: bool) -> None:
        assert self.state is not _CLOSED, "closed -> closed is not a transition"
        self.listener.gone(self)
        self.state, self.is_open = _CLOSED, False
        self._cancel_timers()
        self.hello = None
        self.client.close(by_reset=by_reset)
        if self.server is not None:
            self.server.close(by_reset=by_reset)
            self.server = None  # ends and connection refer to each other: nothing is left to the garbage collector

    def _leave_server(self) -> None:
        if self._connect_timer is not None:
            self.engine.cancel(self._connect_timer)
            self._connect_timer = None
        if self.server is not None:
            self.server.close(by_reset=True)
            self.server = None
            self.client.other = None

    def _cancel_timers(self) -> None:
        if self._connect_timer is not None:
            self.engine.cancel(self._connect_timer)
            self._connect_timer = None
        if self._hold_timer is not None:
            self.engine.cancel(self._hold_timer)
            self._hold_timer = None
        if self._first_byte_timer is not None:
            self.engine.cancel(self._first_byte_timer)
            self._first_byte_timer = None

    # --- now and then

    def sweep(self, idle_sweeps_max: int) -> None:
        """Look after a connection that has lived for a while: the short ones never pay for this.

        Args:
            idle_sweeps_max: close it when it has moved no byte for so many sweeps; 0: never.
        """
        server = self.server
        assert server is not None, "only open connections are swept"
        if self._moved_before < 0:
            self._moved_before = 0
            sockets.keep_alive(server.sock)
            return
        self.hello = None  # no answer in all this time: there are commands that have none
        self.client.reported = self.client.reported and self.listener.settings.first_byte_ms > 0
        # Bytes that wait for a peer are subtracted: what it takes of them is movement as well.
        moved = self.client.moved + server.moved - self.client.waiting() - server.waiting()
        if moved != self._moved_before:
            self._moved_before, self._idle_sweeps = moved, 0
            return
        self._idle_sweeps += 1
        if idle_sweeps_max and self._idle_sweeps >= idle_sweeps_max:
            self.counters.client_idle_total += 1
            self.abort()

"""Connections: one client, one server, the bytes between them verbatim (`moving`); or a client that waits for a server.

Rule: until a server has answered, its client has lost nothing when it dies: what the client said is kept (`hello`),
and said again to the next server where that is safe (`wire.hello`). HTCondor's client always speaks first.

    SILENT -> HELD | CONNECTING                the client has spoken; a REFUSE listener does not wait for it
    HELD -> CONNECTING -> OPEN -> CLOSED       CONNECTING -> HELD: refused, timed out, or the route has changed
                                               OPEN -> HELD: the server died, or another was elected, before an answer
    SILENT, HELD -> CLOSED                     nobody waits at a REFUSE listener; but see YOUNG_MS
"""

import errno
import socket
import time

from gateway.relay import sockets
from gateway.relay.ending import By, State
from gateway.relay.engine import BROKEN, HANG_UP
from gateway.relay.messages import WhenDown
from gateway.relay.moving import HELLO_BYTES_MAX, Moving
from gateway.relay.stream import READING_AND_WRITING, End

# A client of a REFUSE listener, which is HTCondor's collector, must have come out of connect() before it is reset: a
# reset that it meets there makes it sleep for a whole second and try again (src/condor_io/sock.cpp, do_connect_finish;
# refused, it gives up at once). Measured: 1.0 s without an answer to anybody, which looks like a dead collector.
YOUNG_MS = 50

REPLAYS_MAX = 4  # to a server that is still the elected one, after 100, 200, 400, 800 ms; then only to another
REPLAY_MS = 100

_NO_ADDRESS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)

_SILENT, _HELD, _CONNECTING, _OPEN, _CLOSED = State  # an attribute of an enumeration costs a lookup by its metaclass


class Connection(Moving):
    """One accepted client of a TCP listener: see `Moving` for what it is made of."""

    __slots__ = ()

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
            self.abort(By.CLIENT)
            return
        if not hello:  # came and went without a word, as port scanners and health checks do
            self._close(By.CLIENT, by_reset=False)
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
            self.abort(By.LIMIT)
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
        if self.course is not None:
            self.course.connecting_at, self.course.opened_at = time.monotonic(), 0.0
            self.course.connects += 1
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
        if settings.transparent and self._is_on(self._target):
            # The answer to an address of the server's own host would never leave it: HTCondor's tools on the elected
            # manager are served from our address, as without `transparent`.
            self.counters.transparent_own_total += 1
        elif settings.transparent:
            assert self.address is not None
            try:
                sockets.come_from(sock, family, self.address)
            except OSError as error:
                sock.close()
                self._refuse_source(error.errno or 0)
                return None
        return sock

    def _is_on(self, server: tuple[str, int] | None) -> bool:
        """Whether the client is on the server's host, as far as its address tells."""
        return self.address is not None and server is not None and self.address[0] == server[0]

    def _refuse_source(self, number: int) -> None:
        """The client's address can't be used towards the server: under another one it would be another client."""
        self.counters.refused_total += 1
        if number in _NO_ADDRESS:
            self.counters.transparent_busy_total += 1
        else:
            self.counters.transparent_refused_total += 1
        self.abort(By.RESOURCE)

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
            self.abort(By.CLIENT)
        elif end.ending and self._hold_timer is not None and not self._client_has_spoken():
            self.abort(By.CLIENT)  # it waited, said nothing, and went away
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
        if self.course is not None:
            self.course.opened_at = time.monotonic()
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
            self.abort(By.LIMIT)
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
            self.abort(By.SERVER)
        else:
            self.state = _HELD
            self.client.watch()
            self._hold_timer = self.engine.after(young_ms, lambda: self.abort(By.SERVER))

    def _hold_expired(self) -> None:
        self.counters.hold_expired_total += 1
        self.abort(By.SERVER_TIME)

    # --- another server

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

    def route_changed(self, *, switch: bool) -> None:
        """Go back to waiting when the server that we are connecting to is no longer the one."""
        if self.state is _CONNECTING and (switch or self._target != self.listener.route.server):
            self._leave_server()
            self._hold()
        elif switch and self._replays and self.state is _HELD:
            self._hold_on()  # it was waiting for another server

    def leave(self, epoch: int) -> socket.SocketType | None:
        """Another server was elected, in `epoch`: leave one of an older epoch, for the caller to reset its socket.

        None: it is of this epoch, or has ended; or it went back to waiting, where the client notices nothing.
        """
        if not self.is_open or self.epoch is None or self.epoch >= epoch:
            return None
        assert self.server is not None
        self.epoch = None  # its time is over: it does not count as one that drains
        self.listener.left_by_switch()
        if self._may_have_another(self.server):
            self._wait_for_another()
            return None
        self.counters.reset_at_switch_total += 1
        return self.reset_client()

    def _leave_server(self) -> None:
        if self._connect_timer is not None:
            self.engine.cancel(self._connect_timer)
            self._connect_timer = None
        if self.server is not None:
            self.server.close(by_reset=True)
            self.server = None
            self.client.other = None

    def _ended(self, by: By) -> None:
        self.listener.gone(self, by)

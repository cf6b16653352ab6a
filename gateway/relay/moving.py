"""Moving: a connection that has a server, from its first bytes to its end; the bytes themselves are its ends' business.

Rule: whatever happens to one side, the other learns at once. Who ended it, and how far it had come, is said where
somebody wants to know (`ending`).
"""

import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from gateway.relay import sockets
from gateway.relay.ending import By, Course, State
from gateway.relay.messages import WhenDown
from gateway.relay.sockets import Address
from gateway.relay.stream import End
from gateway.relay.timers import Timer
from gateway.wire.hello import is_replayable_untrusted

if TYPE_CHECKING:
    from gateway.relay.tcp import TcpListener

HELLO_BYTES_MAX = 16_384  # a new session's opening has 700; one with many trust domains may have a few thousand

_CLOSED = State.CLOSED  # an attribute of an enumeration costs a lookup by its metaclass


class Moving(ABC):
    """One accepted client of a TCP listener. `Connection` is the whole of it.

    Args:
        listener: whose client it is.
        client: its socket.
        address: of the client; None where nobody asks.
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
        "course",
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
        self.state = State.SILENT
        self.is_open = False  # state is OPEN; an attribute, because every event asks
        self.accepted_at = listener.engine.now
        self.client = End(self, client, is_client=True)
        self.server: End | None = None
        self.hello: bytes | None = None  # what the client has said, while it may have to be said again
        self.epoch: int | None = None  # of the route, when the server was chosen
        self.course: Course | None = None  # where its end is to be told
        self._target: tuple[str, int] | None = None
        self._connect_timer: Timer | None = None
        self._first_byte_timer: Timer | None = None
        self._hold_timer: Timer | None = None
        self._replays = 0
        self._moved_before = -1
        self._idle_sweeps = 0

    @property
    def target(self) -> tuple[str, int] | None:
        """The server that it is with, or is connecting to."""
        return self._target if self.server is not None else None

    @abstractmethod
    def on_unopened(self, end: End, events: int) -> None:
        """Something happened on a socket of a connection that is not open."""

    @abstractmethod
    def _replay(self) -> None:
        """Wait for another server, and say to it what the client has said."""

    @abstractmethod
    def _ended(self, by: By) -> None:
        """Tell the listener, before anything is let go of."""

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
        self.abort(By.SERVER_TIME)

    def broke(self, end: End) -> None:
        """`end` was reset, timed out or became unreachable: the other side learns it at once.

        A server that has answered nothing has died with our connection in its backlog, or busy with what it must not
        have begun: where it is safe the client, who has not noticed anything, waits for a living one.
        """
        if end is self.client:
            self.counters.reset_by_client_total += 1
            self.abort(By.CLIENT)
        elif self._may_have_another(end):
            self._replay()
        else:
            self.counters.reset_by_server_total += 1
            self.abort(By.SERVER)

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

    # --- the end

    def reset_client(self) -> socket.SocketType:
        """Close for a switch, the client by a reset; return the server's socket, for the caller to reset later."""
        assert self.server is not None
        server = self.server.sock
        self._ended(By.SWITCH)
        self.server.let_go()
        self.server = None
        self._let_go(by_reset=True)
        return server

    def finish(self) -> None:
        """Both sides have said and been sent everything."""
        self._close(By.NOBODY, by_reset=False)

    def abort(self, by: By) -> None:
        """Reset both sides at once."""
        self._close(by, by_reset=True)

    def _close(self, by: By, *, by_reset: bool) -> None:
        assert self.state is not _CLOSED, "closed -> closed is not a transition"
        self._ended(by)
        self._let_go(by_reset=by_reset)

    def _let_go(self, *, by_reset: bool) -> None:
        self.state, self.is_open = _CLOSED, False
        self._cancel_timers()
        self.hello = None
        self.client.close(by_reset=by_reset)
        if self.server is not None:
            self.server.close(by_reset=by_reset)
            self.server = None  # ends and connection refer to each other: nothing is left to the garbage collector

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
            sockets.outlive(server.sock)
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
            self.abort(By.CLIENT_TIME)

"""Listeners: what TCP and UDP listening ports have in common: when they are open, and what is said when they can't be.

Rule: a HOLD listener is always open; a REFUSE listener is open only while its route has a server.
"""

import errno
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable

from gateway.relay import sockets
from gateway.relay.counters import Counters
from gateway.relay.engine import READABLE, Engine
from gateway.relay.messages import Listener as Settings
from gateway.relay.messages import ListenerStats, ListenFailed, WhenDown
from gateway.relay.route import Route
from gateway.relay.timers import Timer

REOPEN_MS = 1_000  # between tries to open a port that could not be opened: somebody may give it back
REST_MS = 100  # a REFUSE listener whose server refuses: who comes meanwhile is refused by the kernel, in microseconds
ACCEPT_PAUSE_MS = 100  # without file descriptors: long enough not to spin, short enough to resume unnoticed
NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Listener(ABC):
    """One listening port and its clients. Subclasses serve the socket (`on_ready`) and close the clients."""

    def __init__(
        self, settings: Settings, route: Route, engine: Engine, on_change: Callable[["Listener"], None]
    ) -> None:
        self.settings = settings
        self.route = route
        self.engine = engine
        self.counters = Counters()
        self.failure: OSError | None = None
        self.sock: socket.socket | None = None
        self._on_change = on_change
        self._reopen: Timer | None = None
        route.listeners.append(self)

    @abstractmethod
    def on_ready(self, events: int) -> None:
        """Serve the listening socket."""

    @abstractmethod
    def close_clients(self) -> int:
        """Close at once all connections and flows that have a server; return how many."""

    def leave_server(self) -> int:
        """Another server was elected: close the clients of the one before; return how many."""
        return self.close_clients()

    @abstractmethod
    def close_held(self) -> None:
        """Close at once the clients that have no server either: the listener is going away."""

    @abstractmethod
    def stats(self) -> ListenerStats:
        """Return the counters of this moment."""

    def route_changed(self, *, switch: bool) -> int:
        """The route has another server, or none, or (`switch`) another epoch; return how many clients were closed."""
        closed = 0
        refused = self.settings.when_down is WhenDown.REFUSE and self.route.server is None
        if refused:
            self.refresh()  # first: who is reset comes back at once
            closed = self.close_clients()
        elif switch:
            closed = self.leave_server()
        self.counters.reset_at_switch_total += closed
        if not refused:
            self.refresh()
        return closed

    def refresh(self) -> None:
        """Open or close the listening socket as the route stands now; say so when it can't be opened."""
        wanted = self.settings.when_down is WhenDown.HOLD or self.route.server is not None
        failure: OSError | None = None
        try:
            if wanted and self.sock is None:
                self._open()
            elif not wanted:
                self._close_socket()
                sockets.bind(self.settings).close()  # a port in use is said now, not in the middle of a failover
        except OSError as error:
            failure = error
            if self._reopen is None:
                self._reopen = self.engine.after(REOPEN_MS, self._try_again)
        changed = (failure and failure.errno) != (self.failure and self.failure.errno)
        self.failure = failure
        if changed:
            self._on_change(self)

    def failed(self) -> ListenFailed | None:
        """Return why the port could not be opened; None where it is open, or closed on purpose."""
        if self.failure is None:
            return None
        number = self.failure.errno or 0
        reason = f"{errno.errorcode.get(number, 'error')}: {os.strerror(number)}" if number else str(self.failure)
        return ListenFailed(
            listener=self.settings.name,
            host=self.settings.host,
            port=self.settings.port,
            errno=number,
            reason=reason,
        )

    def close(self) -> None:
        """Close the port and all its clients: the configuration names it no more."""
        self.route.listeners.remove(self)
        if self._reopen is not None:
            self.engine.cancel(self._reopen)
        self._close_socket()
        self.close_clients()
        self.close_held()

    def rest(self) -> None:
        """Close a REFUSE listener for a moment: its server has just refused."""
        if self.sock is not None:
            self._close_socket()
            if self._reopen is None:
                self._reopen = self.engine.after(REST_MS, self._try_again)

    def pause(self) -> None:
        """Stop accepting for a moment: there is no file descriptor left."""
        assert self.sock is not None
        self.counters.accept_paused_total += 1
        self.engine.unwatch(self.sock.fileno())
        self.engine.after(ACCEPT_PAUSE_MS, self._resume)

    def _resume(self) -> None:
        if self.sock is not None:
            self.engine.watch(self.sock.fileno(), READABLE, self)

    def _open(self) -> None:
        self.sock = sockets.listen(self.settings)
        self.engine.watch(self.sock.fileno(), READABLE, self)

    def _close_socket(self) -> None:
        if self.sock is not None:
            self.engine.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None

    def _try_again(self) -> None:
        self._reopen = None
        self.refresh()

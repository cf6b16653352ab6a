"""The worker: orders in, answers out, and the listeners that follow from them.

Rule: control decides, the worker obeys. A broken order is a bug of ours: the process ends loudly and is started anew.
"""

import socket
from collections import deque

import msgspec

from gateway.relay import sessions
from gateway.relay.engine import READABLE, WRITABLE, Engine
from gateway.relay.listener import Listener
from gateway.relay.messages import (
    MESSAGE_BYTES_MAX,
    Answer,
    Configure,
    ListSessions,
    Order,
    Ready,
    Report,
    Shutdown,
    Vitals,
    WhenDown,
)
from gateway.relay.messages import Listener as Settings
from gateway.relay.messages import Route as RouteOrder
from gateway.relay.route import Route
from gateway.relay.tcp import TcpListener
from gateway.relay.tcplog import Lines, Tcplog
from gateway.relay.udp import UdpListener
from gateway.relay.vitals import vitals

REPORT_MS = 1_000
ANSWERS_WAITING_MAX = 1_000  # control reads at once or is dead; beyond this it is dead
ORDERS_PER_TURN_MAX = 64


class Worker:
    """The relay process, apart from its loop."""

    def __init__(self, control: socket.socket, engine: Engine) -> None:
        """`control` is this process's end of the SOCK_SEQPACKET pair."""
        control.setblocking(False)
        self._control = control
        self._engine = engine
        self._routes: dict[str, Route] = {}
        self._listeners: dict[str, Listener] = {}
        self._waiting: deque[bytes] = deque()
        self._ready_said = True
        self._configuring = False
        self._lines = Lines()
        self._decoder: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
        self._encoder = msgspec.msgpack.Encoder()
        engine.watch(control.fileno(), READABLE, self)
        engine.after(REPORT_MS, self._report)

    def on_ready(self, events: int) -> None:
        """Read orders, and send the answers that had to wait."""
        if events & WRITABLE:
            self._send_waiting()
        if not events & ~WRITABLE:
            return
        for _ in range(ORDERS_PER_TURN_MAX):
            try:
                order = self._control.recv(MESSAGE_BYTES_MAX + 1)
            except BlockingIOError:
                return
            except ConnectionResetError:
                order = b""
            if not order:
                self._engine.stop()  # control has died: nobody decides any more, so nobody obeys
                return
            self._obey(self._decoder.decode(order))

    def _obey(self, order: Order) -> None:
        match order:
            case Configure():
                self._configure(order)
            case RouteOrder():
                self._route(order.route).apply(order, self._answer)
            case ListSessions():
                sessions.tell(order, self._clients(), self._engine, self._answer)
            case Shutdown():
                self._answer(sessions.shut_down(order, self._clients()))

    def _route(self, name: str) -> Route:
        route = self._routes.get(name)
        if route is None:
            route = self._routes[name] = Route(name, self._engine)
        return route

    def _configure(self, order: Configure) -> None:
        wanted = {settings.name: settings for settings in order.listeners}
        assert len(wanted) == len(order.listeners), "two listeners have one name"
        self._ready_said, self._configuring = False, True
        # Closed first: a port may have moved from one name to another.
        for name, listener in list(self._listeners.items()):
            if name not in wanted or not _same_socket(listener.settings, wanted[name]):
                del self._listeners[name]
                listener.close()
        for name, settings in wanted.items():
            listener = self._listeners.get(name) or self._new_listener(settings)
            listener.settings = settings  # limits and deadlines hold from the next client on
            if isinstance(listener, TcpListener):
                self._let_log(listener)
            listener.refresh()
            failed = listener.failed()
            if failed is not None:
                self._answer(failed)
        self._configuring = False
        self._say_ready()

    def _new_listener(self, settings: Settings) -> Listener:
        kinds: dict[str, type[Listener]] = {"tcp": TcpListener, "udp": UdpListener}
        kind = kinds[settings.protocol]
        listener = kind(settings, self._route(settings.route), self._engine, self._listener_changed)
        self._listeners[settings.name] = listener
        return listener

    def _let_log(self, listener: TcpListener) -> None:
        wanted = listener.settings.tcplog
        if wanted is None:
            listener.tcplog = None
        else:
            listener.tcplog = Tcplog(wanted, self._lines, listener, self._tcp)

    def _tcp(self) -> list[TcpListener]:
        return [each for each in self._listeners.values() if isinstance(each, TcpListener)]

    def _clients(self) -> list[TcpListener]:
        """Return the listeners of the frontends, whose clients are the pool's."""
        return [each for each in self._tcp() if each.settings.when_down is WhenDown.HOLD]

    def _listener_changed(self, listener: Listener) -> None:
        """A port could be opened, or no longer, since the last time that it was tried."""
        if self._configuring:
            return  # said at the end of it, for each listener once
        failed = listener.failed()
        if failed is not None:
            self._ready_said = False
            self._answer(failed)
        else:
            self._say_ready()

    def _say_ready(self) -> None:
        if not self._ready_said and all(each.failure is None for each in self._listeners.values()):
            self._ready_said = True
            self._answer(Ready(listeners=len(self._listeners)))

    def _answer(self, answer: Answer) -> None:
        """Send `answer`, now or as soon as control reads again; never wait for it."""
        assert len(self._waiting) < ANSWERS_WAITING_MAX, "control does not read its answers"
        self._waiting.append(self._encoder.encode(answer))
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting:
            try:
                self._control.send(self._waiting[0])
            except BlockingIOError:
                break
            except (BrokenPipeError, ConnectionResetError):
                self._engine.stop()
                return
            self._waiting.popleft()
        mask = READABLE | WRITABLE if self._waiting else READABLE
        self._engine.watch(self._control.fileno(), mask, self)

    def _report(self) -> None:
        """Send the counters; where control is not reading, leave it out: the next one says the same and more."""
        self._engine.after(REPORT_MS, self._report)
        if not self._waiting:
            stats = tuple(each.stats() for each in self._listeners.values())
            report = Report(listeners=stats, vitals=_vitals(self._lines.dropped_total))
            try:
                self._control.send(self._encoder.encode(report))
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._engine.stop()


def _vitals(log_dropped_total: int) -> Vitals | None:
    """Return what we use; None where not even a descriptor is left to look it up."""
    try:
        return vitals(log_dropped_total)
    except OSError:
        return None


def _same_socket(one: Settings, other: Settings) -> bool:
    """Whether `other` can take over the socket and the clients of `one`."""
    return all(
        getattr(one, field) == getattr(other, field)
        for field in ("route", "protocol", "host", "port", "freebind", "reuse_port", "when_down")
    )

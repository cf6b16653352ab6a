"""UDP listeners: a flow with a socket of its own for each client, so that the server's answers find their way back.

Rule: a datagram is delivered to the route's server, or held for it, or dropped and counted; nothing here is fatal,
and memory is bounded by the number of flows and of held datagrams.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from gateway.relay import sockets
from gateway.relay.engine import READABLE, Engine
from gateway.relay.listener import NO_DESCRIPTORS, Listener
from gateway.relay.messages import Listener as Settings
from gateway.relay.messages import ListenerStats
from gateway.relay.route import Route

DATAGRAMS_PER_TURN_MAX = 128  # then the others get their turn
SWEEP_MS_MAX = 5_000  # flows are forgotten up to this much late

Address = tuple[Any, ...]  # (host, port) or (host, port, flowinfo, scope)

# One for the whole process: between a read and its write nothing else runs. The largest UDP payload is 65,527 bytes.
_buffer = bytearray(65_536)
_view = memoryview(_buffer)


class Flow:
    """One client address of a UDP listener, and the socket towards the server that stands for it."""

    __slots__ = ("_address", "_listener", "seen_at", "sock")

    def __init__(self, listener: "UdpListener", address: Address, server: tuple[str, int]) -> None:
        self._listener = listener
        self._address = address
        self.seen_at = listener.engine.now
        self.sock = sockets.server_datagrams(*server)
        listener.engine.watch(self.sock.fileno(), READABLE, self)

    def send(self, datagram: memoryview | bytes) -> None:
        """Send to the server."""
        counters = self._listener.counters
        self.seen_at = self._listener.engine.now
        for _ in range(2):
            try:
                self.sock.send(datagram)
            except ConnectionRefusedError:
                # The kernel reports the ICMP error of an earlier datagram instead of sending this one (udp(7)).
                counters.unreachable_total += 1
                continue
            except OSError:  # EAGAIN: the queue is full; EHOSTUNREACH and the like; EPERM: a firewall
                break
            counters.datagrams_to_server_total += 1
            return
        counters.datagrams_dropped_total += 1

    def on_ready(self, events: int) -> None:
        """Carry the server's answers to the client."""
        listener = self._listener
        counters = listener.counters
        for _ in range(DATAGRAMS_PER_TURN_MAX):
            try:
                count = self.sock.recv_into(_buffer)
            except BlockingIOError:
                break
            except OSError:
                counters.unreachable_total += 1
                continue
            if listener.reply(_view[:count], self._address):
                counters.datagrams_to_client_total += 1
            else:
                counters.datagrams_dropped_total += 1
        listener.keep(self._address, self)

    def close(self) -> None:
        """Close the socket; late answers meet a closed port."""
        self._listener.engine.forget(self.sock.fileno())
        self.sock.close()


class WaitingDatagram:
    """A datagram that came while the route had no server."""

    __slots__ = ("_address", "_datagram", "_listener", "expires_at")

    def __init__(self, listener: "UdpListener", address: Address, datagram: bytes) -> None:
        self._listener = listener
        self._address = address
        self._datagram = datagram
        self.expires_at = time.monotonic() + listener.settings.hold_ms / 1000

    def deliver(self) -> None:
        """Send it on, as if it had come now."""
        self._listener.forward(self._address, self._datagram)

    def drop(self) -> None:
        """Give it up."""
        self._listener.counters.datagrams_dropped_total += 1


class UdpListener(Listener):
    """One listening UDP port and its flows, the longest idle first."""

    def __init__(self, settings: Settings, route: Route, engine: Engine, on_change: Callable[[Listener], None]) -> None:
        super().__init__(settings, route, engine, on_change)
        self._flows: OrderedDict[Address, Flow] = OrderedDict()
        self._flows_server: tuple[str, int] | None = None
        self._closed = False
        self._sweep()

    def on_ready(self, events: int) -> None:
        """Carry the clients' datagrams to the server."""
        assert self.sock is not None
        for _ in range(DATAGRAMS_PER_TURN_MAX):
            try:
                count, address = self.sock.recvfrom_into(_buffer)
            except BlockingIOError:
                return
            except OSError:
                self.counters.unreachable_total += 1
                continue
            if self.route.server is not None:
                self.forward(address, _view[:count])
            else:
                # From a client with a flow, too: its server is the one that the election is about.
                self.route.hold_datagram(WaitingDatagram(self, address, bytes(_view[:count])))

    def forward(self, address: Address, datagram: memoryview | bytes) -> None:
        """Send `datagram` of the client at `address` to the route's server."""
        flow = self._flows.get(address)
        if flow is None:
            flow = self._new_flow(address)
            if flow is None:
                self.counters.datagrams_dropped_total += 1
                return
        else:
            self._flows.move_to_end(address)
        flow.send(datagram)

    def _new_flow(self, address: Address) -> Flow | None:
        server = self.route.server
        assert server is not None, "without a server datagrams are held"
        if len(self._flows) >= self.settings.flows_max:
            self._forget_oldest()
        try:
            flow = Flow(self, address, server)
        except OSError as error:
            if error.errno in NO_DESCRIPTORS and self._flows:
                self._forget_oldest()  # room for the next datagram: daemons repeat theirs
            return None
        self._flows_server = server
        self._flows[address] = flow
        self.counters.flows_total += 1
        return flow

    def reply(self, datagram: memoryview, address: Address) -> bool:
        """Send `datagram` to the client from the port that it knows; return whether it went."""
        if self.sock is None:
            return False
        try:
            self.sock.sendto(datagram, address)
        except OSError:
            return False
        return True

    def keep(self, address: Address, flow: Flow) -> None:
        """Note that `flow` is in use."""
        flow.seen_at = self.engine.now
        self._flows.move_to_end(address)

    def close_clients(self) -> int:
        """Forget all flows; return how many."""
        closed = len(self._flows)
        while self._flows:
            self._forget_oldest()
        return closed

    def close_held(self) -> None:
        """Let the sweep end. Datagrams that wait in the route are dropped when their time is over."""
        self._closed = True

    def route_changed(self, *, switch: bool) -> int:
        """As every listener; and flows to another server than the route's are forgotten, whatever the epoch.

        A flow has no state that its client could miss, and TCP and UDP of a client must reach the same server.
        """
        closed = super().route_changed(switch=switch)
        if self.route.server not in (None, self._flows_server):
            closed += self.close_clients()
        return closed

    def stats(self) -> ListenerStats:
        """Return the counters of this moment."""
        return self.counters.stats(self.settings.name, connections_now=0, held_now=0, flows_now=len(self._flows))

    def _forget_oldest(self) -> None:
        _address, flow = self._flows.popitem(last=False)
        flow.close()

    def _sweep(self) -> None:
        """Forget flows that have been silent for too long; comes back by itself until the listener is closed."""
        if self._closed:
            return
        idle_s = self.settings.flow_idle_ms / 1000
        while self._flows and next(iter(self._flows.values())).seen_at + idle_s <= self.engine.now:
            self._forget_oldest()
        self.engine.after(min(SWEEP_MS_MAX, self.settings.flow_idle_ms / 4), self._sweep)

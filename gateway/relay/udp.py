"""UDP listeners: read in batches, told apart by client, sent on in runs; see `flows` for what a client has.

Rule: a datagram is delivered to the route's server, or held for it, or dropped and counted; nothing here is fatal,
and memory is bounded by the number of flows and of held datagrams.
"""

import errno
import socket
import struct
import time
from collections.abc import Callable, Sequence

from gateway.relay import sockets
from gateway.relay.engine import Engine
from gateway.relay.flows import Datagram, Flow, Flows, send_one
from gateway.relay.listener import NO_DESCRIPTORS, Listener
from gateway.relay.messages import Listener as Settings
from gateway.relay.messages import ListenerStats
from gateway.relay.route import Route
from gateway.relay.sockets import Address

BATCH = 64  # datagrams read before any is sent on: runs of one client need a call for all of them
BATCHES_PER_TURN_MAX = 2  # then the others get their turn
SWEEP_MS_MAX = 5_000  # flows are forgotten up to this much late
SEGMENT_BYTES_MAX = 16_384  # of a datagram of a run, until the kernel says what a frame carries

# A flow takes 12 us to make and to close. More new clients than this are a flood, or a pool far greater than any: their
# datagrams go by one socket for all, from which no answer comes back. Those of daemons (updates) want none.
NEW_FLOWS_PER_S_MAX = 5_000

_SO_MEMINFO = 55  # <asm-generic/socket.h>, 9 x u32 (<linux/sock_diag.h>)
_MEMINFO_DROPS = 8

# The largest UDP payload is 65,527 bytes. An odd stride: equal ends of addresses would share few lines of the cache.
_STRIDE = 65_536 + 2_112
_room = memoryview(bytearray(BATCH * _STRIDE))
_slots = tuple(_room[number * _STRIDE :][:65_536] for number in range(BATCH))


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
        self._listener.forward(self._address, (self._datagram,))

    def drop(self) -> None:
        """Give it up."""
        self._listener.counters.datagrams_dropped_total += 1


class UdpListener(Listener):
    """One listening UDP port and its flows."""

    def __init__(self, settings: Settings, route: Route, engine: Engine, on_change: Callable[[Listener], None]) -> None:
        super().__init__(settings, route, engine, on_change)
        self.segment_bytes_max = SEGMENT_BYTES_MAX
        self._flows = Flows()
        self._flows_server: tuple[str, int] | None = None
        self._family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._crowd: socket.SocketType | None = None  # towards the server, for those who get no flow
        self._credit = float(NEW_FLOWS_PER_S_MAX)  # flows that may be made now
        self._credited_at = engine.now
        self._missed_before = 0  # by sockets before the present one
        self._closed = False
        self._sweep()

    # --- from the clients

    def on_ready(self, events: int) -> None:
        """Carry the clients' datagrams to the server."""
        for _ in range(BATCHES_PER_TURN_MAX):
            batch, more = self._read()
            if self.route.server is not None:
                for address, datagrams in batch.items():
                    self.forward(address, datagrams)
            else:
                # From a client with a flow, too: its server is the one that the election is about.
                for address, datagrams in batch.items():
                    for datagram in datagrams:
                        self.route.hold_datagram(WaitingDatagram(self, address, bytes(datagram)))
            if not more:
                return

    def _read(self) -> tuple[dict[Address, list[Datagram]], bool]:
        """Return what has come, by client and in order, and whether there may be more."""
        assert self.sock is not None
        receive = self.sock.recvfrom_into
        batch: dict[Address, list[Datagram]] = {}
        for slot in _slots:
            try:
                count, address = receive(slot)
            except BlockingIOError:
                return batch, False
            except OSError:
                self.counters.unreachable_total += 1
                continue
            datagrams = batch.get(address)
            if datagrams is None:
                batch[address] = [slot[:count]]
            else:
                datagrams.append(slot[:count])
        return batch, True

    def forward(self, address: Address, datagrams: Sequence[Datagram]) -> None:
        """Send the datagrams of the client at `address` to the route's server."""
        flow = self._flows.get(address) or self._new_flow(address)
        if flow is not None:
            flow.send(datagrams)
        elif (crowd := self._open_crowd()) is not None:
            for datagram in datagrams:
                send_one(crowd, datagram, self.counters)
        else:
            self.counters.datagrams_dropped_total += len(datagrams)

    def _new_flow(self, address: Address) -> Flow | None:
        """Return a flow for a new client; None where there can be none now."""
        if not self._may_make_flow():
            return None
        server = self.route.server
        assert server is not None, "without a server datagrams are held"
        if self.settings.transparent and self.route.family != self._family:
            self.counters.transparent_refused_total += 1  # no server of IPv4 has a client of IPv6, or the reverse
            return None

        def make() -> Flow:
            client = address if self._shows(address, server) else None
            return Flow(self, address, sockets.server_datagrams(self.route.family, server, client))

        if self.settings.transparent and not self._shows(address, server):
            self.counters.transparent_own_total += 1
        try:
            flow = self._flows.add(address, make, self.settings.flows_max)
        except OSError as error:
            self._count_failure(error)
            return None
        self._flows_server = server
        self.counters.flows_total += 1
        return flow

    def _shows(self, address: Address, server: tuple[str, int]) -> bool:
        """Whether the server is to see the client's address: not its own host's, answers to that never leave it."""
        return self.settings.transparent and address[0] != server[0]

    def _may_make_flow(self) -> bool:
        now = self.engine.now
        grown = self._credit + (now - self._credited_at) * NEW_FLOWS_PER_S_MAX
        self._credit, self._credited_at = min(NEW_FLOWS_PER_S_MAX, grown), now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def _count_failure(self, error: OSError) -> None:
        if error.errno in NO_DESCRIPTORS:
            self.counters.descriptors_missed_total += 1
            if self._flows:
                self._flows.forget_one(self.settings.flows_max)  # room for the next client
        elif self.settings.transparent and error.errno == errno.EADDRINUSE:
            self.counters.transparent_busy_total += 1
        elif self.settings.transparent and error.errno in (errno.EPERM, errno.EINVAL, errno.EADDRNOTAVAIL):
            self.counters.transparent_refused_total += 1

    def _open_crowd(self) -> socket.SocketType | None:
        """Return the socket of those without a flow; None where they can have none: it is not from their address."""
        if self._crowd is None and self.route.server is not None and not self.settings.transparent:
            try:
                self._crowd = sockets.server_datagrams(self.route.family, self.route.server)
            except OSError:
                return None
            self._crowd.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the least: nobody reads here
            self._flows_server = self.route.server
        return self._crowd

    # --- to the clients

    def reply(self, datagram: memoryview, address: Address) -> bool:
        """Send `datagram` to the client from the port that it knows; return whether it went."""
        if self.sock is None:
            return False
        try:
            self.sock.sendto(datagram, address)
        except OSError:
            return False
        return True

    def answered(self, address: Address) -> None:
        """Keep the flow of this client before those of new ones."""
        self._flows.get(address)

    # --- the end of flows

    def close_clients(self) -> int:
        """Forget all flows; return how many."""
        if self._crowd is not None:
            self._crowd.close()
            self._crowd = None
        return self._flows.clear()

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

    def _sweep(self) -> None:
        """Forget flows that have been silent for too long; comes back by itself until the listener is closed."""
        if self._closed:
            return
        self._flows.forget_idle(self.engine.now - self.settings.flow_idle_ms / 1000)
        self.engine.after(min(SWEEP_MS_MAX, self.settings.flow_idle_ms / 4), self._sweep)

    # --- what is said of it

    def stats(self) -> ListenerStats:
        """Return the counters of this moment."""
        self.counters.datagrams_missed_total = self._missed_before + self._missed()
        return self.counters.stats(self.settings.name, flows_now=len(self._flows))

    def _missed(self) -> int:
        """Return how many datagrams the kernel has dropped because our queue was full."""
        if self.sock is None:
            return 0
        try:
            info = self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
        except OSError:  # before Linux 4.12
            return 0
        return int(struct.unpack("=9I", info)[_MEMINFO_DROPS])

    def _close_socket(self) -> None:
        self._missed_before += self._missed()
        super()._close_socket()

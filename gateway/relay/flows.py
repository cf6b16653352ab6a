"""Flows: a socket towards the server for each client of a UDP port, so that the server's answers find their way back.

Rule: their number is bounded. Who has come once makes room before those who came again or were answered: a flood from
random ports displaces itself.
"""

import errno
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.relay.counters import Counters
from gateway.relay.engine import READABLE, Engine
from gateway.relay.sockets import Address

DATAGRAMS_PER_TURN_MAX = 128  # of one flow's answers; then the others get their turn
NEW_PART_MIN = 8  # at least one of so many flows may be a new one: a new client has a chance however many are known

UDP_SEGMENT = 103  # <linux/udp.h>; not in Python's socket module
SEGMENTS_MAX = 60  # the kernel takes 64 (UDP_MAX_SEGMENTS)
SEGMENTED_BYTES_MAX = 65_000  # of one run: it is one IP packet until the kernel cuts it
SEND_BYTES = 1 << 20  # for flows that have runs: a few of them wait here for the network card
_NO_SEGMENTS = {errno.EINVAL, errno.EMSGSIZE}  # greater than what one frame carries, or an old kernel

# One for the whole process: between a read and its write nothing else runs. The largest UDP payload is 65,527 bytes.
_buffer = bytearray(65_536)
_view = memoryview(_buffer)

Datagram = memoryview | bytes


class Port(Protocol):
    """The listening port that a flow belongs to."""

    engine: Engine
    counters: Counters
    segment_bytes_max: int  # datagrams up to this size may be sent several at a time

    def reply(self, datagram: memoryview, address: Address) -> bool:
        """Send `datagram` to the client from the port that it knows; return whether it went."""

    def answered(self, address: Address) -> None:
        """Note that the server has answered this client."""


class Flow:
    """One client, and the socket that stands for it towards the server."""

    __slots__ = ("_address", "_has_room", "_port", "seen_at", "sock")

    def __init__(self, port: Port, address: Address, sock: socket.SocketType) -> None:
        self._port = port
        self._address = address
        self._has_room = False
        self.seen_at = port.engine.now
        self.sock = sock
        port.engine.watch(sock.fileno(), READABLE, self)

    def send(self, datagrams: Sequence[Datagram]) -> None:
        """Send to the server, in order."""
        self.seen_at = self._port.engine.now
        if len(datagrams) == 1:
            send_one(self.sock, datagrams[0], self._port.counters)
            return
        at = 0
        while at < len(datagrams):
            end = run_end(datagrams, at, self._port.segment_bytes_max)
            if end - at == 1 or not self._send_run(datagrams[at:end]):
                end = at + 1
                send_one(self.sock, datagrams[at], self._port.counters)
            at = end

    def _send_run(self, run: Sequence[Datagram]) -> bool:
        """Send several datagrams of one size by one call (UDP_SEGMENT, udp(7)); False where that can't be done."""
        if not self._has_room:
            self._has_room = True
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        counters, size = self._port.counters, len(run[0])
        ancillary = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))]
        for _ in range(2):
            try:
                self.sock.sendmsg(run, ancillary)
            except ConnectionRefusedError:
                counters.unreachable_total += 1  # see `send_one`
                continue
            except OSError as error:
                if error.errno in _NO_SEGMENTS:
                    self._port.segment_bytes_max = size - 1
                    return False
                if error.errno == errno.EIO:  # a device that does not compute checksums
                    self._port.segment_bytes_max = 0
                    return False
                break
            counters.datagrams_to_server_total += len(run)
            return True
        counters.datagrams_dropped_total += len(run)
        return True

    def on_ready(self, events: int) -> None:
        """Carry the server's answers to the client."""
        port = self._port
        counters = port.counters
        for _ in range(DATAGRAMS_PER_TURN_MAX):
            try:
                count = self.sock.recv_into(_buffer)
            except BlockingIOError:
                break
            except OSError:
                counters.unreachable_total += 1
                continue
            if port.reply(_view[:count], self._address):
                counters.datagrams_to_client_total += 1
            else:
                counters.datagrams_dropped_total += 1
        self.seen_at = port.engine.now
        port.answered(self._address)

    def close(self) -> None:
        """Close the socket; late answers meet a closed port."""
        self._port.engine.forget(self.sock.fileno())
        self.sock.close()


def send_one(sock: socket.SocketType, datagram: Datagram, counters: Counters) -> None:
    """Send on a connected socket, or drop; counted either way."""
    for _ in range(2):
        try:
            sock.send(datagram)
        except ConnectionRefusedError:
            # The kernel reports the ICMP error of an earlier datagram instead of sending this one (udp(7)).
            counters.unreachable_total += 1
            continue
        except OSError:  # EAGAIN: the queue is full; EHOSTUNREACH and the like; EPERM: a firewall
            break
        counters.datagrams_to_server_total += 1
        return
    counters.datagrams_dropped_total += 1


def run_end(datagrams: Sequence[Datagram], at: int, size_max: int) -> int:
    """Return the end of the run that begins at `at`: as many bytes each, and the last one may have fewer."""
    size = len(datagrams[at])
    end = at + 1
    if not 0 < size <= size_max:
        return end
    last = min(len(datagrams), at + min(SEGMENTS_MAX, SEGMENTED_BYTES_MAX // size))
    while end < last:
        count = len(datagrams[end])
        if count == size:
            end += 1
        elif 0 < count < size:
            return end + 1
        else:
            break
    return end


class Flows:
    """The flows of one port: those of new clients, and of clients that came again or were answered.

    Of both the longest idle is first.
    """

    def __init__(self) -> None:
        self._new: OrderedDict[Address, Flow] = OrderedDict()
        self._known: OrderedDict[Address, Flow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._new) + len(self._known)

    def get(self, address: Address) -> Flow | None:
        """Return the flow of a client that comes (again); None where it has none."""
        flow = self._known.get(address)
        if flow is not None:
            self._known.move_to_end(address)
        elif (flow := self._new.pop(address, None)) is not None:
            self._known[address] = flow
        return flow

    def add(self, address: Address, make: Callable[[], Flow], flows_max: int) -> Flow:
        """Add the flow of a new client; whoever is in the way goes. Raises what `make` raises."""
        while len(self) >= flows_max:
            self.forget_one(flows_max)
        flow = self._new[address] = make()
        return flow

    def forget_one(self, flows_max: int) -> None:
        """Close the least useful flow."""
        new_first = len(self._new) >= max(1, flows_max // NEW_PART_MIN) or not self._known
        _address, flow = (self._new if new_first else self._known).popitem(last=False)
        flow.close()

    def forget_idle(self, since: float) -> None:
        """Close those that nothing was heard of since that time of the engine."""
        for flows in (self._new, self._known):
            while flows and next(iter(flows.values())).seen_at <= since:
                flows.popitem(last=False)[1].close()

    def clear(self) -> int:
        """Close all; return how many."""
        count = len(self)
        for flows in (self._new, self._known):
            for flow in flows.values():
                flow.close()
            flows.clear()
        return count

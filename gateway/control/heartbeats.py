"""Heartbeats: sealed datagrams to and from the peers, over one UDP socket. Sends never wait; a refusal is counted.

Rule: a leader does not listen for a moment after its beat. Each of its peers answers at once, and four answers taken
together cost as much as one: most of what a datagram costs is waking up for it. Followers listen all the time.
"""

import contextlib
import errno
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping

import trio

from gateway.config.settings import Endpoint
from gateway.control.pump import Pump
from gateway.kernel.alarm import Alarm
from gateway.kernel.clock import boot_ms
from gateway.wire.errors import Malformed, Reason
from gateway.wire.heartbeat import decode_untrusted, encode
from gateway.wire.messages import Message, Pulse
from gateway.wire.seal import DATAGRAM_BYTES_MAX, Seal

DRAIN_MAX = 64  # datagrams taken in one turn, so that a flood can't keep timers from their turn
REST_MS = 2  # between a leader's beat and its look at the answers, which take 0.2 to 1 ms on a LAN


class HeartbeatPortTaken(Exception):  # noqa: N818 (an answer to the operator)
    """The node's own heartbeat port is not to be had."""


class Heartbeats:
    """The heartbeat socket of one node.

    Args:
        own: where this node listens; peers know it by this endpoint.
        peers: the other nodes' endpoints by name.
        seal: this process' seal.
        adopted: the socket of a process whose place this one takes; what waits in it is not lost.

    Raises:
        HeartbeatPortTaken: `own` can't be bound.
    """

    def __init__(
        self, own: Endpoint, peers: Mapping[str, Endpoint], seal: Seal, adopted: socket.socket | None = None
    ) -> None:
        self._socket = _bound(own) if adopted is None else adopted
        self._socket.setblocking(False)
        self.pump = Pump()
        self._rested = Alarm()
        self._deliver: Callable[[str, Message], None] = _nobody
        self._resting = False
        self.pump.add(self._socket, self._drain)
        self.pump.add(self._rested, self._end_rest, listen=False)
        self._targets = {name: (peer.host, peer.port) for name, peer in peers.items()}
        self._seal = seal
        # One seal a peer and message: encoding is shared by the peers of one step.
        self._last: tuple[Message, bytes] | None = None
        self.sent_total = 0
        self.unsent: Counter[str] = Counter()  # by errno name: a full queue, no route, a link that is down
        self.received_total = 0

    @property
    def refused(self) -> Counter[Reason]:
        """Datagrams that were refused, by reason."""
        return self._seal.refused

    def let_go(self) -> int:
        """Return a copy of the socket, for the process that takes our place."""
        return os.dup(self._socket.fileno())

    def send(self, to: str, message: Message) -> None:
        """Send `message` to a peer, or count why not. Takes microseconds."""
        if self._last is None or self._last[0] is not message:
            self._last = (message, encode(message))
        self._put(to, self._seal.seal(to, self._last[1]))
        if type(message) is Pulse and message.leads and not self._resting:
            self._rest()

    def _put(self, to: str, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, self._targets[to])
            self.sent_total += 1
        except OSError as error:
            # Whatever it is, the next heartbeat comes soon, and silence is what the election is made for.
            self.unsent[errno.errorcode.get(error.errno or 0, "?")] += 1

    async def run(
        self,
        deliver: Callable[[str, Message], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver authentic, fresh messages until cancelled, and run the pump."""
        self._deliver = deliver
        with self._socket, contextlib.closing(self._rested):
            await self.pump.run(task_status=task_status)

    def _rest(self) -> None:
        """Let the answers to a beat gather."""
        if self.pump.closed:
            return
        self._resting = True
        self.pump.listen(self._socket, listen=False)
        self._rested.set(boot_ms() + REST_MS)
        self.pump.listen(self._rested, listen=True)

    def _end_rest(self) -> None:
        self._resting = False
        self.pump.listen(self._rested, listen=False)
        self.pump.listen(self._socket, listen=True)
        self._drain()

    def _drain(self) -> None:
        for _ in range(DRAIN_MAX):
            try:
                datagram = self._socket.recv(DATAGRAM_BYTES_MAX + 1)
            except BlockingIOError:
                break
            except OSError as error:  # an ICMP error for what we have sent
                self.unsent[errno.errorcode.get(error.errno or 0, "?")] += 1
                continue
            self._take_untrusted(datagram)

    def _take_untrusted(self, datagram: bytes) -> None:
        self.received_total += 1
        try:
            opened = self._seal.open_untrusted(datagram)
            message = decode_untrusted(opened.payload) if opened.payload is not None else None
        except Malformed as refusal:
            if refusal.reason is Reason.BAD_PAYLOAD:
                self._seal.refused[refusal.reason] += 1
            return
        if opened.reply_to is not None:
            self._put(opened.reply_to, self._seal.hello(opened.reply_to))
        if message is not None:
            self._deliver(opened.sender, message)


def _nobody(sender: str, message: Message) -> None:
    """Deliver to nobody yet."""


def _bound(own: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in own.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        opened.bind((own.host, own.port))
    except OSError as error:
        opened.close()
        raise HeartbeatPortTaken(_explain(own, error)) from error
    return opened


def _explain(own: Endpoint, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"UDP port {own} of this node's heartbeats is in use: is another condor-gateway running here?"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this host does not have the address {own.host} of its own peer line: is its interface up?"
    return f"cannot listen for heartbeats on UDP {own}: {error.strerror}"

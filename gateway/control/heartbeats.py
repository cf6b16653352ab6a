"""Heartbeats: sealed datagrams to and from the peers, over one UDP socket. Sends never wait; a refusal is counted.

What one wake-up has to say to a peer leaves in one datagram: `send` gathers, `flush` sends.

Rule: nobody wakes up for an answer, or for what comes with one. To wake up costs more than all the answers to a beat,
and a leader is awake at its next one. So the kernel keeps them apart (`gateway.kernel.lanes`), and they are read at the
next beat: that a lease of many heartbeats goes on is known one of them later. Where the lease is short, a leader looks
at them a moment after its beat, when all have come.
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
from gateway.kernel.lanes import open_second_lane
from gateway.wire.errors import Malformed, Reason
from gateway.wire.heartbeat import bundle, encode, unbundle_untrusted
from gateway.wire.messages import Ack, Message, Pulse
from gateway.wire.seal import ANSWER, DATAGRAM_BYTES_MAX, Seal

# Datagrams taken in one turn, so that a flood can't keep timers from their turn. What they ask for is sent after them,
# and the guard's letters stay within a window of 64 numbers.
DRAIN_MAX = 16
REST_MS = 2  # between a leader's beat and its look at the answers, which take 0.2 to 1 ms on a LAN


class HeartbeatPortTaken(Exception):  # noqa: N818 (an answer to the operator)
    """The node's own heartbeat port is not to be had."""


class Heartbeats:
    """The heartbeat socket of one node.

    Args:
        own: where this node listens; peers know it by this endpoint.
        peers: the other nodes' endpoints by name.
        seal: this process' seal.
        patient: whether answers wait for the next beat (`Timing.patient`).
        adopted: the sockets of a process whose place this one takes; what waits in them is not lost.

    Raises:
        HeartbeatPortTaken: `own` can't be bound.
    """

    def __init__(
        self,
        own: Endpoint,
        peers: Mapping[str, Endpoint],
        seal: Seal,
        *,
        patient: bool = False,
        adopted: tuple[socket.socket, ...] = (),
    ) -> None:
        self._socket, self._answers = _lanes(own) if not adopted else (adopted[0], adopted[1] if adopted[1:] else None)
        self._socket.setblocking(False)
        self._patient = patient and self._answers is not None
        self.pump = Pump()
        self._rested = Alarm()
        self._deliver: Callable[[str, Message], None] = _nobody
        self._settle: Callable[[], None] = self.flush
        self._resting = False
        self.pump.add(self._socket, self._drain)
        if self._answers is not None:
            self.pump.add(self._answers, self._drain, listen=not self._patient)
        self.pump.add(self._rested, self._end_rest, listen=False)
        self._targets = {name: (peer.host, peer.port) for name, peer in peers.items()}
        self._seal = seal
        self._outbox: dict[str, list[bytes]] = {}  # by peer, in the order of the first message
        self._answered: set[str] = set()  # peers that get an answer
        self._urgent: set[str] = set()  # peers that get something that may not wait
        # Encoding is shared by the peers of one step.
        self._last: tuple[Message, bytes] | None = None
        self._beaten = False  # a leader's beat is in the outbox
        self._just_beaten = False  # it was in the last flush
        self._flooded = False  # more answers wait than were taken
        self.sent_total = 0
        self.unsent: Counter[str] = Counter()  # by errno name: a full queue, no route, a link that is down
        self.received_total = 0

    @property
    def refused(self) -> Counter[Reason]:
        """Datagrams that were refused, by reason."""
        return self._seal.refused

    @property
    def lanes(self) -> int:
        """In how many sockets the kernel sorts what arrives: 2, or 1 where it can't."""
        return 1 if self._answers is None else 2

    def let_go(self) -> tuple[int, ...]:
        """Read no more; return copies of the sockets, for the process that takes our place."""
        for source in (self._socket, self._answers, self._rested):
            if source is not None and not self.pump.closed:
                self.pump.remove(source)
        return tuple(os.dup(one.fileno()) for one in (self._socket, self._answers) if one is not None)

    def send(self, to: str, message: Message) -> None:
        """Send `message` to a peer with the next `flush`. Takes microseconds."""
        if self._last is None or self._last[0] is not message:
            self._last = (message, encode(message))
        self._outbox.setdefault(to, []).append(self._last[1])
        if type(message) is Ack:
            self._answered.add(to)
        elif type(message) is Pulse:
            self._beaten = self._beaten or bool(message.leads)
            # A heartbeat that is sent along with an answer finds a leader that has just beaten. It may wait like the
            # answer, unless that leader in turn beats along with this node (`Node.step`: the later in the alphabet).
            if message.leads and to > self._seal.me:
                self._urgent.add(to)
        else:
            self._urgent.add(to)

    def flush(self) -> None:
        """Let what has been gathered leave, or count why it can't."""
        if not self._outbox:
            return
        outbox, self._outbox = self._outbox, {}
        may_wait = self._answered - self._urgent
        self._answered, self._urgent = set(), set()
        for to, messages in outbox.items():
            for payload in messages if len(messages) == 1 else bundle(messages):
                self._put(to, self._seal.seal(to, payload, urgent=to not in may_wait))
        self._just_beaten, self._beaten = self._beaten, False
        if self._just_beaten and not self._resting and not self._patient:
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
        settle: Callable[[], None] | None = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver authentic, fresh messages until cancelled, and run the pump.

        `settle` is called when what had arrived together has been delivered, and is to call `flush`.
        """
        self._deliver, self._settle = deliver, settle or self.flush
        with self._socket, self._answers or contextlib.nullcontext(), contextlib.closing(self._rested):
            await self.pump.run(task_status=task_status)

    def _rest(self) -> None:
        """Let the answers to a beat gather."""
        if self.pump.closed:
            return
        self._resting = True
        self.pump.listen(self._answers or self._socket, listen=False)
        self._rested.set(boot_ms() + REST_MS)
        self.pump.listen(self._rested, listen=True)

    def _end_rest(self) -> None:
        self._resting = False
        self.pump.listen(self._rested, listen=False)
        self.pump.listen(self._answers or self._socket, listen=True)
        self._drain()

    def _drain(self) -> None:
        # What is urgent first: a leader that beats along with another wakes the peers up once for both. It then reads
        # the answers to its last beat, as other leaders do when their own beat is due.
        self._just_beaten = False
        self._take_from(self._socket)
        self._settle()
        if (self._just_beaten or not self._patient or self._flooded) and self._take_answers():
            self._settle()

    def take_waiting(self) -> None:
        """Deliver what has arrived. To be called at a wake-up for something else, before it: `settle` is not called.

        Who was stopped for a while finds its timers and the words of others; the words were there first.
        """
        self._take_answers()
        self._take_from(self._socket)

    def _take_answers(self) -> int:
        """Deliver answers; return how many. More than nine nodes can send are listened to until there are no more.

        Else whoever reaches the port could fill the lane between two beats, and no answer would ever be read.
        """
        if self._answers is None:
            return 0
        taken = self._take_from(self._answers)
        flooded = taken == DRAIN_MAX
        if self._patient and flooded != self._flooded:
            self.pump.listen(self._answers, listen=flooded)
        self._flooded = flooded
        return taken

    def _take_from(self, lane: socket.socket) -> int:
        """Deliver what waits in a lane, up to `DRAIN_MAX`; return how many datagrams that were."""
        for number in range(DRAIN_MAX):
            try:
                datagram = lane.recv(DATAGRAM_BYTES_MAX + 1)
            except BlockingIOError:
                return number
            except OSError as error:  # an ICMP error for what we have sent
                self.unsent[errno.errorcode.get(error.errno or 0, "?")] += 1
                continue
            self._take_untrusted(datagram)
        return DRAIN_MAX

    def _take_untrusted(self, datagram: bytes) -> None:
        self.received_total += 1
        try:
            opened = self._seal.open_untrusted(datagram)
        except Malformed:
            return  # and counted
        try:
            messages = unbundle_untrusted(opened.payload) if opened.payload is not None else ()
        except Malformed as refusal:
            self._seal.refused[refusal.reason] += 1
            return
        if opened.reply_to is not None:
            self._put(opened.reply_to, self._seal.hello(opened.reply_to))
        for message in messages:
            self._deliver(opened.sender, message)


def _nobody(sender: str, message: Message) -> None:
    """Deliver to nobody yet."""


def _lanes(own: Endpoint) -> tuple[socket.socket, socket.socket | None]:
    first = _bound(own)
    return first, open_second_lane(first, ANSWER)


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

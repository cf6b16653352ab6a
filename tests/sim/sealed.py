"""Sealed: datagrams as the real node sends them, so that replay, forgery and rot meet the real encoding and seal.

S9: only a fresh, authentic datagram of this cluster, sent to this host by the present run of its sender, reaches the
core, and once. Judged by somebody who has seen every datagram leave.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from typing import TYPE_CHECKING

import msgspec

from gateway.wire.errors import Malformed
from gateway.wire.heartbeat import decode_untrusted, encode
from gateway.wire.messages import Message
from gateway.wire.seal import Keyring, Seal

from .audit import Violation

if TYPE_CHECKING:
    from .host import Host
    from .world import World

CLUSTER = "simulated"
RECORDED_MAX = 512  # datagrams that an attacker has on tape
REMEMBERED_MAX = 200_000  # datagrams known to be genuine; older ones can't be in flight any more


class Genuine(msgspec.Struct, frozen=True):
    """A datagram that a host has really sent."""

    sender: str
    boot: int  # counts the runs of all hosts; a later one is higher
    receiver: str
    sent_us: int


class Door:
    """One run of one host, as the audit sees it: its seal, and what has come in by it.

    Args:
        seal: the real one.
        boot: number of this run.
        opened_us: when it began.
    """

    def __init__(self, seal: Seal, boot: int, opened_us: int) -> None:
        self.seal = seal
        self.boot = boot
        self.opened_us = opened_us
        self.delivered: set[bytes] = set()
        self.heard: dict[str, int] = {}  # peer -> its run that was heard last
        self.replaced: set[int] = set()  # runs of peers that this run has seen replaced


class SealedPost:
    """Carries messages as sealed datagrams.

    Args:
        world: the cluster.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng
        self._keys = {number: self.rng.randbytes(32) for number in (1, 2)}
        self.active_key = 1  # for runs that begin from now on; both keys open
        self.stranger = Keyring({1: self.rng.randbytes(32)}, 1)
        self.boots = 0
        self.doors: dict[str, Door] = {}
        self.genuine: dict[bytes, Genuine] = {}
        self.recorded: deque[tuple[int, bytes]] = deque(maxlen=RECORDED_MAX)  # (receiver, datagram)
        self.refused: Counter[str] = Counter()
        self._last: tuple[Message, bytes] | None = None

    def boot(self, host: Host) -> None:
        """A run of a host begins."""
        self.boots += 1
        ring = Keyring(self._keys, self.active_key)
        seal = Seal(CLUSTER, ring, host.name, self.rng.randbytes(16), self.world.shape.voters)
        self.doors[host.name] = Door(seal, self.boots, self.world.now_us)

    def snapshot(self, name: str) -> Door:
        """Return a copy of a run's seal and of what has come in, as a virtual machine's snapshot has it."""
        door = self.doors[name]
        ring = door.seal._keyring
        return copy.deepcopy(door, {id(ring): ring})

    def post(self, source: Host, to: str, message: Message) -> None:
        """Send a message."""
        if self._last is None or self._last[0] is not message:
            self._last = (message, encode(message))
        self._carry(source, to, self.doors[source.name].seal.seal(to, self._last[1]))

    def _carry(self, source: Host, to: str, datagram: bytes) -> None:
        world, receiver = self.world, self.world.index[to]
        if len(self.genuine) >= REMEMBERED_MAX:
            for old in list(self.genuine)[: REMEMBERED_MAX // 2]:
                del self.genuine[old]
        self.genuine[datagram] = Genuine(source.name, self.doors[source.name].boot, to, world.now_us)
        if self.rng.random() < 0.02:
            self.recorded.append((receiver, datagram))
        for delay_us in world.network.arrivals_us(source.index, receiver):
            arriving = self.rotten(datagram) if world.network.corrupts() else datagram
            world.later(delay_us, world.DATAGRAM, receiver, 0, arriving)

    def rotten(self, datagram: bytes) -> bytes:
        """Return `datagram` with a bit flipped, or cut short."""
        if self.rng.random() < 0.1:
            return datagram[: self.rng.randrange(len(datagram))]
        place = self.rng.randrange(len(datagram))
        return datagram[:place] + bytes((datagram[place] ^ 1 << self.rng.randrange(8),)) + datagram[place + 1 :]

    def open(self, host: Host, datagram: bytes) -> tuple[str, Message] | None:
        """Take a datagram as the real node does; return its sender and message, or None where nothing came of it."""
        door = self.doors[host.name]
        try:
            opened = door.seal.open_untrusted(datagram)
            message = decode_untrusted(opened.payload) if opened.payload is not None else None
        except Malformed as refusal:
            self.refused[refusal.reason] += 1
            return None
        if opened.reply_to is not None:
            self._carry(host, opened.reply_to, door.seal.hello(opened.reply_to))
        if message is None:
            return None
        self._judge(host, door, opened.sender, datagram)
        return opened.sender, message

    def _judge(self, host: Host, door: Door, sender: str, datagram: bytes) -> None:
        """S9 for one delivered payload."""
        made = self.genuine.get(datagram)
        if made is None or made.sender != sender or made.receiver != host.name:
            raise Violation(f"S9: {host.name} hears {sender} say what it never said: {made}")
        if datagram in door.delivered:
            raise Violation(f"S9: {host.name} hears the same datagram of {sender} twice")
        if made.sent_us < door.opened_us:
            raise Violation(f"S9: {host.name} hears what {sender} said at {made.sent_us} us, before its own start")
        if made.boot in door.replaced:
            raise Violation(f"S9: {host.name} hears a run of {sender} that it has seen replaced")
        if door.heard.get(sender, made.boot) != made.boot:
            door.replaced.add(door.heard[sender])
        door.heard[sender] = made.boot
        door.delivered.add(datagram)

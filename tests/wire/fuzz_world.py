"""What the fuzz tests share: real datagrams, a receiver that counts, and cases that name their seed when they fail.

`FUZZ_SEED=7 FUZZ_SCALE=100 pytest tests/wire -k fuzz --timeout 0` runs a hundred times as many, from another seed.
"""

import contextlib
import os
import random
from collections import Counter
from collections.abc import Iterator

from gateway.wire.errors import Malformed, Reason
from gateway.wire.heartbeat import bundle, encode, unbundle_untrusted
from gateway.wire.messages import (
    Ack,
    Drain,
    Message,
    Orders,
    Pause,
    Pulse,
    Resignation,
    Standing,
    VoteReply,
    VoteRequest,
)
from gateway.wire.seal import BOOT_ID_BYTES, KEY_BYTES, Keyring, Seal

SEED = int(os.environ.get("FUZZ_SEED", "1"))
SCALE = int(os.environ.get("FUZZ_SCALE", "1"))
BATCH = 1_000  # cases that share a generator: a failure is found again by running one batch

CLUSTER = "pool-13038"
CLUSTER_OF_THE_SAME_TAG = "pool-20737"  # the four bytes of the tag are no secret: two names are found in a second
KEYS = {1: bytes(range(KEY_BYTES)), 2: bytes(range(1, KEY_BYTES + 1))}
NAMES = ("gw1", "gw2", "cm1")

# One of each type, and a long one; what a decoder does not look at is nowhere in them.
MESSAGES: tuple[Message, ...] = (
    Pulse(123_456, (("vip", 7),), (Standing("vip", True, True, 0, 0, ""),), ()),
    Pulse(
        2**62,
        tuple((f"election-{number}", number) for number in range(16)),
        tuple(Standing(f"election-{number}", True, False, number, 2**40, "0123456789abcdef") for number in range(16)),
        tuple(f"{number:016x}" for number in range(32)),
    ),
    Ack(123_456, (("vip", 7), ("managers", 9))),
    VoteRequest("vip", 8, True, 123_457),
    VoteReply("vip", 8, False, 123_457, True, 8, 250),
    Resignation("vip", 7, "the node is stopping"),
    Orders(3, "gw2", Pause("a new switch", "gw1", 1_700_000_000), (Drain("cm1", "gw2", 1_700_000_001),), 1_700_000_001),
)
BUNDLED = (MESSAGES[0], *MESSAGES[2:])  # all that are small: one payload
(BUNDLE,) = bundle([encode(message) for message in BUNDLED])


class Storm:
    """Cases of one kind: their generator, and where a failure says how to see it again."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.made = 0
        self.random = random.Random()

    def cases(self, count: int) -> Iterator[int]:
        """Yield the numbers of `count` cases times the scale, with the generator seeded anew for each batch."""
        for number in range(count * SCALE):
            if number % BATCH == 0:
                self.random.seed(f"{self.kind} {SEED} {number // BATCH}")
            self.made += 1
            yield number

    @contextlib.contextmanager
    def shown(self, number: int, data: bytes) -> Iterator[None]:
        """Say the seed and the bytes of a case that fails."""
        try:
            yield
        except Exception as error:
            error.add_note(f"fuzz {self.kind!r}, FUZZ_SEED={SEED}, case {number}, bytes {data.hex()}")
            raise


class Node:
    """A node's ears: the seal and the decoder, one after the other, as the heartbeat socket has them."""

    def __init__(
        self, me: str, boot_id: bytes, *, cluster: str = CLUSTER, keyring: Keyring | None = None, names=NAMES
    ) -> None:
        self.me = me
        self.seal = Seal(cluster, keyring or Keyring(KEYS, 1), me, boot_id, names)
        self.delivered: list[Message] = []
        self.raised: Counter[Reason] = Counter()  # counted by what was raised: to compare with what the seal counts
        self.greeted = 0

    def hear(self, datagram: bytes) -> str | None:
        """Take a datagram; return to whom a hello is due. Raises nothing for a refusal."""
        try:
            opened = self.seal.open_untrusted(datagram)
        except Malformed as refusal:
            self.raised[refusal.reason] += 1
            return None
        if opened.payload is not None:
            self.delivered += unbundle_untrusted(opened.payload)
        else:
            self.greeted += 1
        return opened.reply_to

    def counters_agree(self) -> bool:
        """Whether each refusal that was raised was counted once, under its name."""
        return self.raised == self.seal.refused


def boot_id(generator: random.Random) -> bytes:
    return generator.randbytes(BOOT_ID_BYTES)


def introduce(one: Node, other: Node) -> None:
    """Let two nodes get to know each other."""
    for here, there in ((one, other), (other, one)):
        queue = [(there, here.seal.seal(there.me, encode(MESSAGES[0])))]
        while queue:
            receiver, datagram = queue.pop()
            reply_to = receiver.hear(datagram)
            if reply_to is not None:
                sender = one if reply_to == one.me else other
                queue.append((sender, receiver.seal.hello(reply_to)))


def pair(generator: random.Random) -> tuple[Node, Node]:
    """Return two nodes that know each other and have nothing delivered or counted yet."""
    nodes = Node("gw1", boot_id(generator)), Node("cm1", boot_id(generator))
    introduce(*nodes)
    for node in nodes:
        node.delivered.clear()
        assert not node.raised
        node.greeted = 0
    return nodes

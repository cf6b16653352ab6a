"""Forged and replayed heartbeats: 100,000 of them, real ones at that, and none is delivered a second time or elsewhere.

A recording from before a restart looks like a restart: it may be *greeted*, which changes nothing but a counter. What
is never allowed is that its payload is delivered.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest
from fuzz_world import KEYS, MESSAGES, NAMES, SCALE, SEED, Node, Storm, boot_id, introduce, pair

from gateway.wire.errors import Reason
from gateway.wire.heartbeat import encode
from gateway.wire.messages import VoteRequest
from gateway.wire.seal import GREETED_MAX, KEY_BYTES, WINDOW, Keyring

FORGED_OF_A_KIND = 5_000
WORLDS = 120
MOVES = 900  # of one world; a good half are the attacker's


def payload(generator: random.Random) -> bytes:
    return encode(generator.choice(MESSAGES))


def of_another_cluster(generator: random.Random, real: Node, receiver: Node) -> bytes:
    foreign = Node(real.me, boot_id(generator), cluster="chemistry")
    return foreign.seal.seal(receiver.me, payload(generator))


def of_another_cluster_with_our_tag(generator: random.Random, real: Node, receiver: Node) -> bytes:
    ours = real.seal.seal(receiver.me, payload(generator))
    return ours[:6] + of_another_cluster(generator, real, receiver)[6:]


def with_another_key_of_that_id(generator: random.Random, real: Node, receiver: Node) -> bytes:
    forger = Node(real.me, boot_id(generator), keyring=Keyring({1: generator.randbytes(KEY_BYTES)}, 1))
    return forger.seal.seal(receiver.me, payload(generator))


def with_an_unknown_key(generator: random.Random, real: Node, receiver: Node) -> bytes:
    key_id = generator.randrange(3, 256)
    forger = Node(real.me, boot_id(generator), keyring=Keyring({key_id: generator.randbytes(KEY_BYTES)}, key_id))
    return forger.seal.seal(receiver.me, payload(generator))


def with_the_key_under_another_id(generator: random.Random, real: Node, receiver: Node) -> bytes:
    datagram = real.seal.seal(receiver.me, payload(generator))
    return datagram[:1] + b"\x02" + datagram[2:]


def of_a_stranger(generator: random.Random, real: Node, receiver: Node) -> bytes:
    names = ("intruder", *NAMES)
    return Node("intruder", boot_id(generator), names=names).seal.seal(receiver.me, payload(generator))


def reflected(generator: random.Random, real: Node, receiver: Node) -> bytes:
    return receiver.seal.seal(real.me, payload(generator))


def redirected(generator: random.Random, real: Node, receiver: Node) -> bytes:
    return real.seal.seal("gw2", payload(generator))


FORGERIES: tuple[tuple[Callable[[random.Random, Node, Node], bytes], Reason], ...] = (
    (of_another_cluster, Reason.WRONG_CLUSTER),
    (of_another_cluster_with_our_tag, Reason.BAD_SEAL),
    (with_another_key_of_that_id, Reason.BAD_SEAL),
    (with_an_unknown_key, Reason.UNKNOWN_KEY),
    (with_the_key_under_another_id, Reason.BAD_SEAL),
    (of_a_stranger, Reason.UNKNOWN_PEER),
    (reflected, Reason.BAD_SEAL),
    (redirected, Reason.BAD_SEAL),
)


@pytest.mark.parametrize(("forge", "reason"), FORGERIES, ids=[forge.__name__ for forge, _ in FORGERIES])
def test_fuzz_a_forged_heartbeat_is_refused_by_its_reason(forge, reason):
    storm = Storm(f"forged {forge.__name__}")
    real, receiver = pair(random.Random(4))
    for number in storm.cases(FORGED_OF_A_KIND):
        datagram = forge(storm.random, real, receiver)
        with storm.shown(number, datagram):
            receiver.hear(datagram)
            assert not receiver.delivered, "accepted"
    assert receiver.raised == {reason: storm.made}
    assert receiver.counters_agree()
    receiver.hear(real.seal.seal(receiver.me, encode(MESSAGES[0])))
    assert receiver.delivered == [MESSAGES[0]]


@pytest.mark.parametrize("lag", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 500])
def test_fuzz_a_replay_is_refused_within_the_window_and_beyond_it(lag):
    storm = Storm(f"replay {lag}")
    sender, receiver = pair(random.Random(5))
    recorded: list[bytes] = []
    replayed = 0
    for number in storm.cases(2_000):
        datagram = sender.seal.seal(receiver.me, payload(storm.random))
        receiver.hear(datagram)
        recorded.append(datagram)
        if len(recorded) > lag:
            replayed += 1
            with storm.shown(number, recorded[-1 - lag]):
                receiver.hear(recorded[-1 - lag])
                assert len(receiver.delivered) == len(recorded), "accepted"
    assert receiver.raised == {Reason.REPLAYED: replayed}
    assert receiver.counters_agree()


class World:
    """Three nodes that talk and restart, and an attacker who has recorded everything and sends any of it anywhere."""

    def __init__(self, generator: random.Random) -> None:
        self.random = generator
        self.nodes = {name: Node(name, boot_id(generator)) for name in NAMES}
        self.terms = itertools.count(1)
        self.recorded: list[bytes] = []
        self.refused: Counter[Reason] = Counter()
        self.injected = 0
        self.refused_of_attacker = 0
        self.delivered = 0

    def carry(self, to: str, datagram: bytes) -> None:
        """Deliver, and the hellos that it leads to; all of it is recorded."""
        queue = [(to, datagram)]
        while queue:
            receiver, sealed = queue.pop()
            self.recorded.append(sealed)
            reply_to = self.nodes[receiver].hear(sealed)
            if reply_to is not None:
                queue.append((reply_to, self.nodes[receiver].seal.hello(reply_to)))

    def talk(self) -> None:
        sender, receiver = self.random.sample(NAMES, 2)
        message = VoteRequest("vip", next(self.terms), False, 1)
        self.carry(receiver, self.nodes[sender].seal.seal(receiver, encode(message)))

    def restart(self) -> None:
        name = self.random.choice(NAMES)
        self._close(self.nodes[name])
        self.nodes[name] = Node(name, boot_id(self.random))

    def attack(self, number: int, storm: Storm) -> None:
        """Send something recorded to someone: old, or of the last exchange, which may be a handshake."""
        near = self.random.random() < 0.5
        sealed = self.random.choice(self.recorded[-12:] if near else self.recorded)
        victim = self.nodes[self.random.choice(NAMES)]
        before, refused = len(victim.delivered), victim.raised.total()
        with storm.shown(number, sealed):
            reply_to = victim.hear(sealed)
            assert len(victim.delivered) == before, "a recording was delivered"
        self.injected += 1
        self.refused_of_attacker += victim.raised.total() - refused
        if reply_to is not None:  # the answer is on the wire as well, and reaches whom it is for
            self.carry(reply_to, victim.seal.hello(reply_to))

    def all_hear_each_other(self) -> bool:
        """Whether real heartbeats are delivered between all of them, within three."""
        for sender, receiver in itertools.permutations(NAMES, 2):
            before = len(self.nodes[receiver].delivered)
            for _ in range(3):
                self.carry(receiver, self.nodes[sender].seal.seal(receiver, encode(MESSAGES[0])))
            if len(self.nodes[receiver].delivered) == before:
                return False
        return True

    def close(self) -> None:
        for node in self.nodes.values():
            self._close(node)

    def _close(self, node: Node) -> None:
        assert node.counters_agree(), f"{node.raised} was raised, {node.seal.refused} counted"
        terms = [message.term for message in node.delivered if isinstance(message, VoteRequest)]
        assert len(terms) == len(set(terms)), "a heartbeat was delivered twice"
        self.refused += node.raised
        self.delivered += len(node.delivered)


def test_fuzz_recordings_among_restarts_are_never_delivered_and_shut_nobody_out():
    storm = Storm("recordings")
    injected = delivered = unanswered = 0
    refused: Counter[Reason] = Counter()
    for number in storm.cases(WORLDS):
        world = World(random.Random(f"recordings {SEED} {number}"))
        for _ in range(MOVES):
            chance = world.random.random()
            if chance < 0.35 or not world.recorded:
                world.talk()
            elif chance < 0.36:
                world.restart()
            else:
                world.attack(number, storm)
        assert world.all_hear_each_other(), f"world {number}: shut out"
        world.close()
        injected += world.injected
        delivered += world.delivered
        unanswered += world.injected - world.refused_of_attacker
        refused += world.refused
    assert injected >= 60_000 * SCALE
    assert delivered > injected / 10, "there was hardly any traffic to record"
    assert set(refused) == {Reason.BAD_SEAL, Reason.REPLAYED, Reason.STALE_BOOT}
    assert unanswered < injected / 10  # greeted: after a restart a recording looks like a new boot


def test_fuzz_recordings_of_many_boots_earn_a_bounded_number_of_hellos():
    storm = Storm("old boots")
    receiver = Node("cm1", boot_id(random.Random(6)))
    sender = Node("gw1", boot_id(random.Random(7)))
    ghosts = [Node("gw1", boot_id(random.Random(f"ghost {number}"))) for number in range(100)]
    recorded = [ghost.seal.seal("cm1", encode(message)) for ghost in ghosts for message in MESSAGES]
    answered = 0
    for number in storm.cases(5_000):
        datagram = storm.random.choice(recorded)
        with storm.shown(number, datagram):
            answered += receiver.hear(datagram) is not None
            assert not receiver.delivered, "accepted"
    assert answered == receiver.greeted == GREETED_MAX
    assert receiver.raised == {Reason.STALE_BOOT: storm.made - GREETED_MAX}
    assert receiver.counters_agree()
    introduce(receiver, sender)
    receiver.hear(sender.seal.seal("cm1", encode(MESSAGES[0])))
    assert receiver.delivered, "the living one is shut out"


def test_fuzz_a_key_of_the_ring_that_is_not_active_opens_as_well():
    """The other half of 'wrong key': what the mutations above must not be refused for."""
    generator = random.Random(8)
    old, new = Node("gw1", boot_id(generator)), Node("cm1", boot_id(generator), keyring=Keyring(KEYS, 2))
    introduce(old, new)
    old.hear(new.seal.seal("gw1", encode(MESSAGES[0])))
    assert old.delivered
    assert old.seal.refused == {}

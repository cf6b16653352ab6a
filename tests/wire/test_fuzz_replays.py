"""Forged and replayed heartbeats: 100,000 of them, real ones at that, and none is delivered a second time or elsewhere.

A recording from before a restart looks like a restart: it may be *greeted*, which changes nothing but a counter. What
is never allowed is that its payload is delivered.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
from fuzz_world import (
    BUNDLE,
    CLUSTER_OF_THE_SAME_TAG,
    KEYS,
    MESSAGES,
    NAMES,
    SCALE,
    SEED,
    Node,
    Storm,
    boot_id,
    introduce,
    pair,
)

from gateway.wire.errors import Reason
from gateway.wire.heartbeat import bundle, encode
from gateway.wire.messages import VoteRequest
from gateway.wire.seal import ANSWER, GREETED_MAX, KEY_BYTES, WINDOW, Keyring

FORGED_OF_A_KIND = 5_000
WORLDS = 120
MOVES = 900  # of one world; a good half are the attacker's


def payload(generator: random.Random) -> bytes:
    return BUNDLE if generator.random() < 0.2 else encode(generator.choice(MESSAGES))


def sealed(generator: random.Random, sender: Node, to: str) -> bytes:
    """Return a datagram of any content and urgency."""
    return sender.seal.seal(to, payload(generator), urgent=generator.random() < 0.5)


def of_another_cluster(generator: random.Random, real: Node, receiver: Node) -> bytes:
    foreign = Node(real.me, boot_id(generator), cluster="chemistry")
    return sealed(generator, foreign, receiver.me)


def of_another_cluster_with_our_tag(generator: random.Random, real: Node, receiver: Node) -> bytes:
    foreign = Node(real.me, boot_id(generator), cluster=CLUSTER_OF_THE_SAME_TAG)
    return sealed(generator, foreign, receiver.me)


def with_another_key_of_that_id(generator: random.Random, real: Node, receiver: Node) -> bytes:
    forger = Node(real.me, boot_id(generator), keyring=Keyring({1: generator.randbytes(KEY_BYTES)}, 1))
    return sealed(generator, forger, receiver.me)


def with_an_unknown_key(generator: random.Random, real: Node, receiver: Node) -> bytes:
    key_id = generator.randrange(3, 256)
    forger = Node(real.me, boot_id(generator), keyring=Keyring({key_id: generator.randbytes(KEY_BYTES)}, key_id))
    return sealed(generator, forger, receiver.me)


def with_the_key_under_another_id(generator: random.Random, real: Node, receiver: Node) -> bytes:
    datagram = sealed(generator, real, receiver.me)
    return datagram[:1] + b"\x02" + datagram[2:]


def of_a_stranger(generator: random.Random, real: Node, receiver: Node) -> bytes:
    names = ("intruder", *NAMES)
    return sealed(generator, Node("intruder", boot_id(generator), names=names), receiver.me)


def reflected(generator: random.Random, real: Node, receiver: Node) -> bytes:
    return sealed(generator, receiver, real.me)


def redirected(generator: random.Random, real: Node, receiver: Node) -> bytes:
    return sealed(generator, real, "gw2")


def of_another_urgency(generator: random.Random, real: Node, receiver: Node) -> bytes:
    return urgency_changed(sealed(generator, real, receiver.me))


def urgency_changed(datagram: bytes) -> bytes:
    return bytes((datagram[0] ^ ANSWER,)) + datagram[1:]


FORGERIES: tuple[tuple[Callable[[random.Random, Node, Node], bytes], Reason], ...] = (
    (of_another_cluster, Reason.WRONG_CLUSTER),
    (of_another_cluster_with_our_tag, Reason.BAD_SEAL),
    (with_another_key_of_that_id, Reason.BAD_SEAL),
    (with_an_unknown_key, Reason.UNKNOWN_KEY),
    (with_the_key_under_another_id, Reason.BAD_SEAL),
    (of_a_stranger, Reason.UNKNOWN_PEER),
    (reflected, Reason.BAD_SEAL),
    (redirected, Reason.BAD_SEAL),
    (of_another_urgency, Reason.BAD_SEAL),
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
        datagram = sealed(storm.random, sender, receiver.me)
        before = len(receiver.delivered)
        receiver.hear(datagram)
        recorded.append(datagram)
        delivered = len(receiver.delivered)
        assert delivered > before, "refused"
        if len(recorded) > lag:
            replayed += 1
            with storm.shown(number, recorded[-1 - lag]):
                receiver.hear(recorded[-1 - lag])
                assert len(receiver.delivered) == delivered, "accepted"
    assert receiver.raised == {Reason.REPLAYED: replayed}
    assert receiver.counters_agree()


class Run(NamedTuple):
    """One run of a node's process: its ears, and the how manieth of its name it is."""

    node: Node
    number: int


class Letter(NamedTuple):
    """A heartbeat as its sender meant it."""

    sender: str
    sender_run: int
    receiver: str
    receiver_run: int  # the one that lived when it was sealed


class World:
    """Three nodes that talk, restart and are reloaded; an attacker who records, holds back, sends anything anywhere.

    Every message has a term of its own; some share a datagram. One may be delivered once ever, to whom it was meant
    for, in the run in which it was sealed; and nothing of an older run of its sender once a newer one has been heard.
    """

    def __init__(self, generator: random.Random, storm: Storm, number: int) -> None:
        self.random = generator
        self.storm = storm
        self.number = number
        self.runs = {name: Run(Node(name, boot_id(generator)), 1) for name in NAMES}
        self.ghosts: list[Run] = []  # ended for the others, and still talking: a snapshot that was started again
        self.letters: dict[int, Letter] = {}  # by term
        self.done: set[int] = set()
        self.heard: dict[tuple[str, int, str], set[int]] = {}  # (receiver, its run, sender) -> runs of the sender
        self.recorded: list[bytes] = []
        self.refused: Counter[Reason] = Counter()
        self.injected = 0
        self.held_back = 0.15  # of all datagrams
        self.late = 0  # held back by the attacker, and delivered in time

    def hear(self, name: str, sealed: bytes) -> str | None:
        """Let the present run of `name` hear a datagram, and judge what it delivers."""
        node, run = self.runs[name]
        before = len(node.delivered)
        with self.storm.shown(self.number, sealed):
            reply_to = node.hear(sealed)
            for message in node.delivered[before:]:
                assert isinstance(message, VoteRequest)
                letter = self.letters[message.term]
                assert message.term not in self.done, "delivered twice"
                assert (letter.receiver, letter.receiver_run) == (name, run), "delivered to another, or another run"
                heard = self.heard.setdefault((name, run, letter.sender), set())
                assert letter.sender_run >= max(heard, default=0), "delivered from a run that has ended"
                heard.add(letter.sender_run)
                self.done.add(message.term)
        return reply_to

    def carry(self, to: str, datagram: bytes) -> None:
        """Deliver, and the hellos that it leads to; all of it is recorded, and some of it goes no further."""
        queue = [(to, datagram)]
        while queue:
            receiver, sealed = queue.pop()
            self.recorded.append(sealed)
            if self.random.random() < self.held_back:
                return
            reply_to = self.hear(receiver, sealed)
            if reply_to is not None:
                queue.append((reply_to, self.runs[receiver].node.seal.hello(reply_to)))

    def letter(self, sender: str, receiver: str, *, by: Run | None = None) -> bytes:
        node, run = by or self.runs[sender]
        messages = []
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            term = len(self.letters) + 1
            self.letters[term] = Letter(sender, run, receiver, self.runs[receiver].number)
            messages.append(encode(VoteRequest("vip", term, False, 1)))
        return node.seal.seal(receiver, bundle(messages)[0], urgent=self.random.random() < 0.5)

    def talk(self) -> None:
        sender, receiver = self.random.sample(NAMES, 2)
        self.carry(receiver, self.letter(sender, receiver))

    def restart(self) -> None:
        name = self.random.choice(NAMES)
        node, number = self.runs[name]
        self._close(node)
        self.ghosts.append(self.runs[name])
        self.runs[name] = Run(Node(name, boot_id(self.random)), number + 1)

    def reload(self) -> None:
        """Put another process in a node's place: to the others it is the same run."""
        name = self.random.choice(NAMES)
        node, number = self.runs[name]
        self._close(node)
        state = node.seal.state()
        successor = Node(name, state.boot_id)
        successor.seal.take_over(state)
        self.runs[name] = Run(successor, number)

    def attack(self) -> None:
        """Send something recorded to someone: old, or of the last exchange, which may be a handshake."""
        near = self.random.random() < 0.5
        sealed = self.random.choice(self.recorded[-12:] if near else self.recorded)
        victim = self.random.choice(NAMES)
        delivered = len(self.done)
        if self.random.random() < 0.02:
            assert self.hear(victim, urgency_changed(sealed)) is None, "answered"
            assert len(self.done) == delivered, "delivered with another urgency"
            self.injected += 1
        reply_to = self.hear(victim, sealed)
        self.injected += 1
        self.late += len(self.done) - delivered
        if reply_to is not None:  # the answer is on the wire as well, and reaches whom it is for
            self.carry(reply_to, self.runs[victim].node.seal.hello(reply_to))

    def haunt(self) -> None:
        """Let a process that has been replaced listen, and talk to one that has heard both it and its successor."""
        if not self.ghosts:
            return
        ghost = self.random.choice(self.ghosts)
        name = ghost.node.me
        receiver = self.random.choice([other for other in NAMES if other != name])
        ghost.node.hear(self.letter(receiver, name))
        heard = self.heard.get((receiver, self.runs[receiver].number, name), set())
        if ghost.number in heard and max(heard) > ghost.number:
            self.injected += 1
            self.hear(receiver, self.letter(name, receiver, by=ghost))

    def all_hear_each_other(self) -> bool:
        """Whether heartbeats are delivered between all of them in the third round, when none is held back."""
        self.held_back = 0.0
        for _ in range(3):
            before, sent_before = len(self.done), len(self.letters)
            for sender, receiver in itertools.permutations(NAMES, 2):
                self.carry(receiver, self.letter(sender, receiver))
        return len(self.done) - before == len(self.letters) - sent_before

    def close(self) -> None:
        for run in self.runs.values():
            self._close(run.node)

    def _close(self, node: Node) -> None:
        assert node.counters_agree(), f"{node.raised} was raised, {node.seal.refused} counted"
        self.refused += node.raised


def test_fuzz_recordings_among_restarts_and_reloads_are_never_delivered_and_shut_nobody_out():
    storm = Storm("recordings")
    injected = delivered = late = 0
    refused: Counter[Reason] = Counter()
    for number in storm.cases(WORLDS):
        world = World(random.Random(f"recordings {SEED} {number}"), storm, number)
        for _ in range(MOVES):
            chance = world.random.random()
            if chance < 0.35 or not world.recorded:
                world.talk()
            elif chance < 0.36:
                world.restart()
            elif chance < 0.37:
                world.reload()
            elif chance < 0.41:
                world.haunt()
            else:
                world.attack()
        assert world.all_hear_each_other(), f"world {number}: shut out"
        world.close()
        injected += world.injected
        delivered += len(world.done)
        late += world.late
        refused += world.refused
    assert injected >= 60_000 * SCALE
    assert delivered > injected / 5, "there was hardly any traffic to record"
    assert 0 < late < delivered / 5, "what was only held back is late, not forged"
    assert set(refused) == {Reason.BAD_SEAL, Reason.REPLAYED, Reason.STALE_BOOT}


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

"""Fuzzed datagrams: 200,000 malformed ones, none of which is opened; each refusal has a name and is counted once."""

import random
from collections.abc import Callable, Iterator

import pytest
from fuzz_world import BUNDLE, BUNDLED, MESSAGES, Node, Storm, pair

from gateway.wire.errors import Reason
from gateway.wire.heartbeat import encode
from gateway.wire.seal import ANSWER, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN

CLEAR_BYTES = 6  # version, key id, cluster tag: what an onlooker can copy
CASES = 200_000


def recorded(sender: Node, receiver: Node) -> list[bytes]:
    """Return a real datagram of each message type, a bundle, an answer that may wait, and a hello; none is carried."""
    return [
        *(sender.seal.seal(receiver.me, encode(message)) for message in MESSAGES),
        sender.seal.seal(receiver.me, BUNDLE),
        sender.seal.seal(receiver.me, encode(MESSAGES[2]), urgent=False),
        sender.seal.hello(receiver.me),
    ]


def random_bytes(generator: random.Random, _real: list[bytes]) -> bytes:
    return generator.randbytes(generator.choice((0, 1, 17, generator.randrange(600), generator.randrange(1, 5_000))))


def random_behind_a_real_header(generator: random.Random, real: list[bytes]) -> bytes:
    header = generator.choice(real)[: generator.choice((1, 2, CLEAR_BYTES, CLEAR_BYTES + 12))]
    return header + generator.randbytes(generator.randrange(DATAGRAM_BYTES_MIN, 400))


def truncated(generator: random.Random, real: list[bytes]) -> bytes:
    datagram = generator.choice(real)
    return datagram[: generator.randrange(len(datagram))]


def extended(generator: random.Random, real: list[bytes]) -> bytes:
    return generator.choice(real) + generator.randbytes(generator.choice((1, 2, 16, 200, DATAGRAM_BYTES_MAX)))


def beheaded(generator: random.Random, real: list[bytes]) -> bytes:
    return generator.choice(real)[generator.randrange(1, 60) :]


def some_bytes_changed(generator: random.Random, real: list[bytes]) -> bytes:
    data = bytearray(generator.choice(real))
    for _ in range(generator.randrange(1, 8)):
        data[generator.randrange(len(data))] ^= generator.randrange(1, 256)
    return bytes(data)


def spliced(generator: random.Random, real: list[bytes]) -> bytes:
    head, tail = generator.sample(real, 2)
    at = generator.randrange(1, min(len(head), len(tail)))
    return head[:at] + tail[at:]


def blocks_moved(generator: random.Random, real: list[bytes]) -> bytes:
    data = generator.choice(real)
    first, second, third = sorted(generator.sample(range(len(data) + 1), 3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def urgency_changed(generator: random.Random, real: list[bytes]) -> bytes:
    """Have another lane take a datagram, with no other byte changed, or some behind the header."""
    data = bytearray(generator.choice(real))
    data[0] ^= ANSWER
    for _ in range(generator.choice((0, 1, 3))):
        data[generator.randrange(1, len(data))] ^= generator.randrange(256)
    return bytes(data)


MUTATIONS: tuple[Callable[[random.Random, list[bytes]], bytes], ...] = (
    random_bytes,
    random_behind_a_real_header,
    truncated,
    extended,
    beheaded,
    some_bytes_changed,
    spliced,
    blocks_moved,
    urgency_changed,
)


def every_flipped_bit(real: list[bytes]) -> Iterator[bytes]:
    for datagram in real:
        for bit in range(len(datagram) * 8):
            flipped = bytearray(datagram)
            flipped[bit // 8] ^= 1 << bit % 8
            yield bytes(flipped)


def still_hears(receiver: Node, sender: Node) -> bool:
    """Whether a real heartbeat is delivered, at the first attempt."""
    before = len(receiver.delivered)
    receiver.hear(sender.seal.seal(receiver.me, encode(MESSAGES[0])))
    return receiver.delivered[before:] == [MESSAGES[0]]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_fuzz_no_malformed_datagram_is_opened_and_each_refusal_is_counted(mutation):
    storm = Storm(mutation.__name__)
    sender, receiver = pair(random.Random(1))
    real: list[bytes] = []
    for number in storm.cases(-(-CASES // len(MUTATIONS))):
        if number % 1_000 == 0:
            real = recorded(sender, receiver)
        datagram = real[0]
        while datagram in real:  # a change that changes nothing would be delivered, and rightly; it is rare
            datagram = mutation(storm.random, real)
        with storm.shown(number, datagram):
            assert receiver.hear(datagram) is None, "answered"
            assert not receiver.delivered, "accepted"
            assert not receiver.greeted, "opened"
    assert receiver.raised.total() == storm.made
    assert receiver.counters_agree()
    assert set(receiver.raised) <= {
        Reason.TOO_SHORT,
        Reason.TOO_LONG,
        Reason.UNKNOWN_VERSION,
        Reason.UNKNOWN_KEY,
        Reason.WRONG_CLUSTER,
        Reason.BAD_SEAL,
    }
    assert still_hears(receiver, sender)


def test_fuzz_every_flipped_bit_of_every_message_type_is_refused():
    storm = Storm("flipped bits")
    sender, receiver = pair(random.Random(2))
    real = recorded(sender, receiver)
    count = 0
    for count, datagram in enumerate(every_flipped_bit(real), start=1):
        with storm.shown(count, datagram):
            receiver.hear(datagram)
            assert not receiver.delivered, "accepted"
            assert not receiver.greeted, "opened"
    assert count == sum(len(datagram) * 8 for datagram in real)
    assert receiver.raised.total() == count
    assert receiver.counters_agree()
    assert {Reason.UNKNOWN_VERSION, Reason.UNKNOWN_KEY, Reason.WRONG_CLUSTER, Reason.BAD_SEAL} == set(receiver.raised)
    for datagram in real:  # nothing of this has used up the real ones
        receiver.hear(datagram)
    assert receiver.delivered == [*MESSAGES, *BUNDLED, MESSAGES[2]]


def test_fuzz_every_length_of_every_message_type_is_refused():
    storm = Storm("lengths")
    sender, receiver = pair(random.Random(3))
    count = 0
    for datagram in recorded(sender, receiver):
        for length in range(len(datagram)):
            count += 1
            with storm.shown(count, datagram[:length]):
                receiver.hear(datagram[:length])
                assert not receiver.delivered, "accepted"
    assert receiver.raised.total() == count
    assert set(receiver.raised) == {Reason.TOO_SHORT, Reason.BAD_SEAL}
    assert receiver.counters_agree()
    assert still_hears(receiver, sender)

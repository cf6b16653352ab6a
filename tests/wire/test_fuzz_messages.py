"""Fuzzed payloads: what a peer with the key could send by mistake. 200,000 of them; only `Malformed` comes out.

A payload that decodes is messages within bounds: our own encoder takes them, and they come back as they were.
"""

import random
from collections import Counter

import msgspec
import pytest
from fuzz_world import BUNDLE, MESSAGES, SCALE, Storm

from gateway.wire.errors import Malformed, Reason
from gateway.wire.heartbeat import BUNDLE_MAX, MESSAGE_BYTES_MAX, bundle, encode, unbundle_untrusted

CASES = 200_000
REAL = [encode(message) for message in MESSAGES]
PAYLOADS = [*REAL, BUNDLE]
TAGS = ("pulse", "ack", "vote-request", "vote-reply", "resignation", "gossip", "", 1)
ODD = (
    *(0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, 1.0, 1.5, -0.0, float("inf"), float("nan"), True, False, None),
    *("", "vip", "x" * 64, "x" * 65, "\x00", "a\nb", "é" * 40, b"", b"vip", b"\xff" * 9),
    *([], {}, {"a": 1}, [[]], msgspec.msgpack.Ext(5, b"x"), msgspec.msgpack.Ext(-1, bytes(4))),
)


def random_value(generator: random.Random, depth: int) -> object:
    if depth and generator.random() < 0.5:
        return [random_value(generator, depth - 1) for _ in range(generator.choice((0, 1, 2, 2, 6, 17, 33)))]
    return generator.choice(ODD)


def structured(generator: random.Random) -> bytes:
    """Return well-formed msgpack of a message's shape and any content."""
    fields = [random_value(generator, 2) for _ in range(generator.randrange(9))]
    return msgspec.msgpack.encode([generator.choice(TAGS), *fields])[: MESSAGE_BYTES_MAX + 1]


def field_replaced(generator: random.Random) -> bytes:
    """Return a real message with one field, or one part of one, replaced by any content."""
    fields = msgspec.msgpack.decode(generator.choice(REAL))
    part = fields
    while True:  # ends at a leaf, at the latest
        at = generator.randrange(len(part))
        if not (isinstance(part[at], list) and part[at]) or generator.random() < 0.3:
            break
        part = part[at]
    part[at] = random_value(generator, 2)
    return msgspec.msgpack.encode(fields)


def bytes_changed(generator: random.Random) -> bytes:
    data = bytearray(generator.choice(PAYLOADS))
    for _ in range(generator.choice((1, 1, 2, 5))):
        data[generator.randrange(len(data))] = generator.randrange(256)
    return bytes(data)


def spliced(generator: random.Random) -> bytes:
    head, tail = generator.choice(PAYLOADS), generator.choice(PAYLOADS)
    return head[: generator.randrange(len(head) + 1)] + tail[generator.randrange(len(tail) + 1) :]


def random_bytes(generator: random.Random) -> bytes:
    return generator.randbytes(generator.choice((generator.randrange(40), generator.randrange(400))))


def bundled(generator: random.Random) -> bytes:
    """Return a bundle of real messages and others, now and then with a length that is not true."""
    data = b"\xc1"
    for _ in range(generator.choice((0, 1, 2, 2, 3, 3, BUNDLE_MAX, BUNDLE_MAX + 1))):
        make = generator.choice((real, real, real, field_replaced, random_bytes))
        message = make(generator)
        wrong = generator.choice((-1, 1, 65_000)) if generator.random() < 0.1 else 0
        data += min(max(len(message) + wrong, 0), 65_535).to_bytes(2, "big") + message
    return data if generator.random() < 0.8 else data[: generator.randrange(len(data) + 1)]


def real(generator: random.Random) -> bytes:
    return generator.choice(REAL)


MUTATIONS = (structured, field_replaced, bytes_changed, spliced, random_bytes, bundled)


@pytest.mark.parametrize(
    "mutation",
    MUTATIONS,
    ids=lambda mutation: mutation.__name__,
)
def test_fuzz_only_malformed_escapes_from_a_mutated_payload(mutation):
    storm = Storm(f"payload {mutation.__name__}")
    refused: Counter[Reason] = Counter()
    taken = 0
    cases = -(-CASES // len(MUTATIONS))
    for number in storm.cases(cases):
        data = mutation(storm.random)
        with storm.shown(number, data):
            try:
                messages = unbundle_untrusted(data)
            except Malformed as refusal:
                refused[refusal.reason] += 1
                continue
            assert 0 < len(messages) <= BUNDLE_MAX
            again = bundle([encode(message) for message in messages])
            assert tuple(message for payload in again for message in unbundle_untrusted(payload)) == messages
            taken += 1
    assert taken + refused.total() == storm.made == cases * SCALE
    assert set(refused) <= {Reason.BAD_PAYLOAD, Reason.TOO_LONG}
    assert refused[Reason.BAD_PAYLOAD] > 1_000

"""The replication link's frames: nothing forged, moved, repeated or left out is believed."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.errors import Malformed, Reason
from gateway.wire.replica import (
    ANSWERING_BYTES,
    CHUNK_BYTES,
    FILE_BYTES_MAX,
    FRAME_BYTES_MAX,
    OPENING_BYTES,
    Accepted,
    Assembly,
    Channel,
    Chunk,
    Done,
    Hello,
    Kind,
    Proceed,
    Refusal,
    Refused,
    Side,
    Snapshot,
    Welcome,
    answering,
    body,
    make_replica,
    offer,
    opening,
)
from gateway.wire.seal import Keyring

KEYS = Keyring({1: bytes(range(32))}, 1)
MESSAGES = [
    Hello("cm1", "cm2"),
    Welcome(3, 17),
    Snapshot(Kind.ACCOUNTING, "cm1", 3, 18, 5, bytes(32)),
    Proceed(),
    Chunk(b"hello"),
    Chunk(bytes(CHUNK_BYTES)),
    Done(),
    Accepted(3, 18),
    Refused(Refusal.STALE, 4, 1),
]


def connect(sender_nonce: bytes = b"s" * 32, receiver_nonce: bytes = b"r" * 32, cluster: str = "physics"):
    opened, answered = opening(KEYS, cluster, sender_nonce), answering(receiver_nonce)
    return (
        Channel(KEYS, cluster, Side.SENDER, opened, answered),
        Channel(KEYS, cluster, Side.RECEIVER, opened, answered),
    )


def refuse(channel: Channel, data: bytes) -> Reason:
    with pytest.raises(Malformed) as refusal:
        list(channel.receive_untrusted(data))
    return refusal.value.reason


def test_every_message_arrives_as_it_was_in_both_directions():
    sender, receiver = connect()
    assert list(receiver.receive_untrusted(b"".join(map(sender.seal, MESSAGES)))) == MESSAGES
    assert list(sender.receive_untrusted(b"".join(map(receiver.seal, MESSAGES)))) == MESSAGES


def test_messages_arrive_whole_when_the_network_cuts_them_into_single_bytes():
    sender, receiver = connect()
    stream = b"".join(sender.seal(message) for message in MESSAGES if message != MESSAGES[5])
    got = [message for byte in stream for message in receiver.receive_untrusted(bytes((byte,)))]
    assert got == [message for message in MESSAGES if message != MESSAGES[5]]


def test_every_flipped_bit_is_refused():
    frame = connect()[0].seal(MESSAGES[0])
    for bit in range(len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        receiver = connect()[1]
        try:
            assert list(receiver.receive_untrusted(bytes(flipped))) == []  # a longer length: more is awaited
        except Malformed:
            continue
        refuse(receiver, bytes(FRAME_BYTES_MAX))


def test_frames_repeated_left_out_reordered_or_reflected_are_refused():
    sender, receiver = connect()
    first, second = sender.seal(Chunk(b"1")), sender.seal(Chunk(b"2"))
    assert refuse(connect()[1], second) is Reason.BAD_SEAL
    assert refuse(connect()[1], second + first) is Reason.BAD_SEAL
    assert list(receiver.receive_untrusted(first)) == [Chunk(b"1")]
    assert refuse(receiver, first) is Reason.BAD_SEAL
    assert refuse(connect()[0], first) is Reason.BAD_SEAL


def test_frames_of_another_session_are_refused_whichever_nonce_is_new():
    frame = connect()[0].seal(Hello("cm1", "cm2"))
    assert refuse(connect(receiver_nonce=b"x" * 32)[1], frame) is Reason.BAD_SEAL
    assert refuse(connect(sender_nonce=b"x" * 32)[1], frame) is Reason.BAD_SEAL
    assert refuse(connect(cluster="chemistry")[1], frame) is Reason.BAD_SEAL


def test_an_opening_from_strangers_is_refused_by_name():
    answered = answering(b"r" * 32)
    good = opening(KEYS, "physics", b"s" * 32)

    def open_with(opened: bytes, answer: bytes = answered, keyring: Keyring = KEYS) -> Reason:
        with pytest.raises(Malformed) as refusal:
            Channel(keyring, "physics", Side.RECEIVER, opened, answer)
        return refusal.value.reason

    assert open_with(good[:-1]) is Reason.TOO_SHORT
    assert open_with(good, answered[:-1]) is Reason.TOO_SHORT
    assert open_with(b"GET " + good[4:]) is Reason.BAD_MAGIC
    assert open_with(good, b"HTTP" + answered[4:]) is Reason.BAD_MAGIC
    assert open_with(opening(KEYS, "chemistry", b"s" * 32)) is Reason.WRONG_CLUSTER
    assert open_with(good, keyring=Keyring({2: bytes(32)}, 2)) is Reason.UNKNOWN_KEY
    assert (len(good), len(answered)) == (OPENING_BYTES, ANSWERING_BYTES)


def test_a_frame_too_long_or_too_short_is_refused_before_it_is_read():
    assert refuse(connect()[1], struct.pack("!L", FRAME_BYTES_MAX + 1)) is Reason.TOO_LONG
    assert refuse(connect()[1], struct.pack("!L", 16)) is Reason.TOO_SHORT


@pytest.mark.parametrize(
    "message",
    [
        Hello("", "cm2"),
        Hello("cm1", "x" * 65),
        Welcome(-1, 0),
        Welcome(0, 2**63),
        Snapshot(Kind.ACCOUNTING, "cm1", 1, 1, FILE_BYTES_MAX + 1, bytes(32)),
        Snapshot(Kind.ACCOUNTING, "cm1", 1, 1, -1, bytes(32)),
        Snapshot(Kind.ACCOUNTING, "cm1", 1, 1, 1, bytes(31)),
        Snapshot(Kind.ACCOUNTING, "", 1, 1, 1, bytes(32)),
        Snapshot(Kind.ACCOUNTING, "cm1", -1, 1, 1, bytes(32)),
        Snapshot("passwords", "cm1", 1, 1, 1, bytes(32)),
        Chunk(b""),
        Chunk(bytes(CHUNK_BYTES + 1)),
        Accepted(1, -1),
        Refused(Refusal.STALE, -1, 0),
    ],
)
def test_an_authentic_message_out_of_bounds_is_malformed(message):
    sender, receiver = connect()
    assert refuse(receiver, sender.seal(message)) is Reason.BAD_PAYLOAD


@settings(max_examples=300)
@given(st.binary(max_size=400), st.integers(0, 3))
def test_only_malformed_escapes_from_random_bytes(data, frames_before):
    sender, receiver = connect()
    stream = b"".join(sender.seal(Chunk(b"x")) for _ in range(frames_before)) + data
    with contextlib.suppress(Malformed):
        assert len(list(receiver.receive_untrusted(stream))) == frames_before


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_file_of_any_length_is_carried_whole(length):
    replica = make_replica("cm1", 3, 18, bytes(length))
    sender, receiver = connect()
    (snapshot,) = receiver.receive_untrusted(sender.seal(offer(replica)))
    assembly = Assembly(snapshot)
    for message in body(replica):
        (got,) = receiver.receive_untrusted(sender.seal(message))
        if isinstance(got, Chunk):
            assembly.add_untrusted(got)
    assert assembly.finish_untrusted() == replica


def test_a_file_shorter_longer_or_other_than_announced_is_refused():
    snapshot = offer(make_replica("cm1", 3, 18, b"12345"))
    short = Assembly(snapshot)
    short.add_untrusted(Chunk(b"1234"))
    with pytest.raises(Malformed, match="4 of 5 bytes") as refusal:
        short.finish_untrusted()
    assert refusal.value.reason is Reason.TOO_SHORT
    with pytest.raises(Malformed) as refusal:
        short.add_untrusted(Chunk(b"56"))
    assert refusal.value.reason is Reason.TOO_LONG
    short.add_untrusted(Chunk(b"6"))
    with pytest.raises(Malformed) as refusal:
        short.finish_untrusted()
    assert refusal.value.reason is Reason.BAD_CHECKSUM


def test_a_short_nonce_is_our_own_mistake():
    with pytest.raises(ValueError, match="nonce"):
        opening(KEYS, "physics", b"short")
    with pytest.raises(ValueError, match="nonce"):
        answering(b"short")

"""A sealed channel's frames: nothing forged, moved, repeated or left out is believed."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.channel import (
    ANSWERING_BYTES,
    FRAME_BYTES_MAX,
    OPENING_BYTES,
    PLAIN_BYTES_MAX,
    Channel,
    Side,
    answering,
    opening,
)
from gateway.wire.errors import Malformed, Reason
from gateway.wire.seal import Keyring

KEYS = Keyring({1: bytes(range(32))}, 1)
MESSAGES = [b"hello", b"x", bytes(PLAIN_BYTES_MAX), b"bye"]


def end(side: Side, opened: bytes, answered: bytes, cluster: str = "physics", keyring: Keyring = KEYS):
    def decode(plain: bytes) -> bytes:
        if plain == b"nonsense":
            raise Malformed(Reason.BAD_PAYLOAD)
        return plain

    return Channel(keyring, cluster, side, opened, answered, encode=bytes, decode_untrusted=decode)


def connect(sender_nonce: bytes = b"s" * 32, receiver_nonce: bytes = b"r" * 32, cluster: str = "physics"):
    opened, answered = opening(KEYS, cluster, sender_nonce), answering(receiver_nonce)
    return end(Side.SENDER, opened, answered, cluster), end(Side.RECEIVER, opened, answered, cluster)


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
    stream = sender.seal(b"hello") + sender.seal(b"bye")
    assert [message for byte in stream for message in receiver.receive_untrusted(bytes((byte,)))] == [b"hello", b"bye"]


def test_every_flipped_bit_is_refused():
    frame = connect()[0].seal(b"hello")
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
    first, second = sender.seal(b"1"), sender.seal(b"2")
    assert refuse(connect()[1], second) is Reason.BAD_SEAL
    assert refuse(connect()[1], second + first) is Reason.BAD_SEAL
    assert list(receiver.receive_untrusted(first)) == [b"1"]
    assert refuse(receiver, first) is Reason.BAD_SEAL
    assert refuse(connect()[0], first) is Reason.BAD_SEAL


def test_frames_of_another_session_are_refused_whichever_nonce_is_new():
    frame = connect()[0].seal(b"hello")
    assert refuse(connect(receiver_nonce=b"x" * 32)[1], frame) is Reason.BAD_SEAL
    assert refuse(connect(sender_nonce=b"x" * 32)[1], frame) is Reason.BAD_SEAL
    assert refuse(connect(cluster="chemistry")[1], frame) is Reason.BAD_SEAL


def test_an_opening_from_strangers_is_refused_by_name():
    answered = answering(b"r" * 32)
    good = opening(KEYS, "physics", b"s" * 32)

    def open_with(opened: bytes, answer: bytes = answered, keyring: Keyring = KEYS) -> Reason:
        with pytest.raises(Malformed) as refusal:
            end(Side.RECEIVER, opened, answer, keyring=keyring)
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
    assert refuse(connect()[1], struct.pack("!L", 2**32 - 1)) is Reason.TOO_LONG
    assert refuse(connect()[1], struct.pack("!L", 16)) is Reason.TOO_SHORT


def test_an_authentic_message_that_can_not_be_decoded_is_malformed():
    sender, receiver = connect()
    assert refuse(receiver, sender.seal(b"nonsense")) is Reason.BAD_PAYLOAD


@settings(max_examples=300)
@given(st.binary(max_size=400), st.integers(0, 3))
def test_only_malformed_escapes_from_random_bytes(data, frames_before):
    sender, receiver = connect()
    stream = b"".join(sender.seal(b"x") for _ in range(frames_before)) + data
    with contextlib.suppress(Malformed):
        assert len(list(receiver.receive_untrusted(stream))) == frames_before


def test_a_short_nonce_or_a_long_message_is_our_own_mistake():
    with pytest.raises(ValueError, match="nonce"):
        opening(KEYS, "physics", b"short")
    with pytest.raises(ValueError, match="nonce"):
        answering(b"short")
    with pytest.raises(AssertionError, match="of 66049 bytes"):
        connect()[0].seal(bytes(PLAIN_BYTES_MAX + 1))

"""The stream's messages: what is decoded is within bounds, and everything that may be said fits a frame."""

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.timeline import FORKS_MAX, INCLUDED_MAX, Fork, Position, Timeline
from gateway.wire import stream as wire
from gateway.wire.channel import PLAIN_BYTES_MAX, Side, answering, opening
from gateway.wire.errors import Malformed, Reason
from gateway.wire.seal import Keyring
from gateway.wire.stream_codec import decode_untrusted, stream_channel

MOST = 2**63 - 1
AT = Position(3, 1, 100)
HISTORY = Timeline(AT, (Fork(Position(1, 4, 50), 1_800_000_000),), (Position(2, 1, 7),))
SHA = bytes(32)
CHUNK = bytes(wire.CHUNK_BYTES)
MESSAGES = [
    wire.Hello("cm1", "cm2", HISTORY),
    wire.Welcome(HISTORY, 17, (Timeline(Position(2, 1, 7)),), (Position(1, 4, 50),)),
    wire.Refused("stale", AT),
    wire.Snapshot(HISTORY, "cm1", 100),
    wire.Append(AT, b"103 a b 1\n", True),
    wire.Append(AT, CHUNK, False),
    wire.Accepted(AT),
    wire.Retell(HISTORY),
    wire.Retold(),
    wire.Fetch(AT),
    wire.Blob(0),
    wire.Missing(),
    wire.ForkOffer(AT, 10),
    wire.ForkAccepted(AT),
    wire.File("/srv/ads", 0, SHA, 0o640),
    wire.FileAccepted("/srv/ads", SHA),
    wire.Proceed(),
    wire.Declined("no room"),
    *(wire.Chunk(of, CHUNK) for of in wire.Transfer),
    wire.Done(wire.Transfer.SNAPSHOT, SHA),
    wire.Keepalive(),
]


def longest_history(term: int) -> Timeline:
    forks = tuple(Fork(Position(term - number, MOST, MOST), MOST) for number in range(FORKS_MAX, 0, -1))
    included = tuple(Position(term - number, MOST, MOST) for number in range(INCLUDED_MAX, 0, -1))
    return Timeline(Position(term, MOST, MOST), forks, included)


def test_every_message_arrives_as_it_was():
    keys = Keyring({1: bytes(range(32))}, 1)
    ends = opening(keys, "physics", b"s" * 32), answering(b"r" * 32)
    sender = stream_channel(keys, "physics", Side.SENDER, *ends)
    receiver = stream_channel(keys, "physics", Side.RECEIVER, *ends)
    assert list(receiver.receive_untrusted(b"".join(map(sender.seal, MESSAGES)))) == MESSAGES


def test_the_longest_of_what_may_be_said_fits_a_frame():
    history = longest_history(MOST)
    forks = (Position(MOST, MOST, MOST),) * wire.FORKS_TOLD_MAX
    for message in (
        wire.Hello("x" * 64, "y" * 64, history),
        wire.Welcome(history, MOST, (history,) * wire.PENDING_MAX, forks),
        wire.Append(Position(MOST, MOST, MOST), CHUNK, True),
        wire.File("/" + "x" * 4095, wire.SHIPPED_FILE_BYTES_MAX, SHA, 0o777),
        wire.Refused("x" * wire.REASON_BYTES_MAX, Position(MOST, MOST, MOST)),
    ):
        encoded = msgspec.msgpack.encode(message)
        assert len(encoded) <= PLAIN_BYTES_MAX
        assert decode_untrusted(encoded) == message


def history(
    head: Position = AT, forks: tuple[Position, ...] = (), included: tuple[Position, ...] = (), taken_s: int = 1
):
    return Timeline(head, tuple(Fork(position, taken_s) for position in forks), included)


LIES = [
    wire.Hello("", "cm2", HISTORY),
    wire.Hello("cm1", "x" * 65, HISTORY),
    wire.Hello("cm1", "cm2", history(Position(-1, 0, 0))),
    wire.Hello("cm1", "cm2", history(Position(3, 2**63, 0))),
    wire.Hello("cm1", "cm2", history(forks=(Position(2, 1, 1), Position(1, 1, 1)))),
    wire.Hello("cm1", "cm2", history(forks=(Position(1, 1, 1), Position(1, 1, 2)))),
    wire.Hello("cm1", "cm2", history(forks=(Position(3, 1, 1),))),
    wire.Hello("cm1", "cm2", history(forks=(Position(4, 1, 1),))),
    wire.Hello("cm1", "cm2", history(forks=(Position(0, 1, 1),))),
    wire.Hello("cm1", "cm2", history(forks=(Position(1, 1, 1),), taken_s=-1)),
    wire.Hello("cm1", "cm2", history(included=(Position(2, 1, 1), Position(1, 1, 1)))),
    wire.Hello("cm1", "cm2", history(included=(Position(0, 1, 1),))),
    wire.Hello("cm1", "cm2", history(Position(999, 1, 1), tuple(Position(n, 1, 1) for n in range(1, FORKS_MAX + 2)))),
    wire.Hello("cm1", "cm2", history(included=tuple(Position(n, 1, 1) for n in range(1, INCLUDED_MAX + 2)))),
    wire.Welcome(HISTORY, -1, (), ()),
    wire.Welcome(HISTORY, 0, (HISTORY,) * (wire.PENDING_MAX + 1), ()),
    wire.Welcome(HISTORY, 0, (), (AT,) * (wire.FORKS_TOLD_MAX + 1)),
    wire.Welcome(HISTORY, 0, (history(Position(-1, 0, 0)),), ()),
    wire.Welcome(HISTORY, 0, (), (Position(0, 0, -1),)),
    wire.Refused("x" * (wire.REASON_BYTES_MAX + 1), AT),
    wire.Refused("stale", Position(0, -1, 0)),
    wire.Snapshot(HISTORY, "cm1", 99),
    wire.Snapshot(HISTORY, "", 100),
    wire.Snapshot(history(Position(1, 1, 2**40)), "cm1", 2**40),
    wire.Snapshot(history(Position(1, 1, -1)), "cm1", -1),
    wire.Append(AT, b"", True),
    wire.Append(AT, CHUNK + b"x", True),
    wire.Append(Position(1, 1, -1), b"x", True),
    wire.Accepted(Position(1, -1, 1)),
    wire.Retell(history(forks=(Position(9, 1, 1),))),
    wire.Fetch(Position(-1, 1, 1)),
    wire.Blob(-1),
    wire.Blob(wire.BLOB_BYTES_MAX + 1),
    wire.ForkOffer(AT, wire.BLOB_BYTES_MAX + 1),
    wire.ForkOffer(Position(1, 1, -1), 1),
    wire.ForkAccepted(Position(1, 1, -1)),
    wire.File("srv/ads", 0, SHA, 0o644),
    wire.File("/srv/\0ads", 0, SHA, 0o644),
    wire.File("/" + "x" * 4096, 0, SHA, 0o644),
    wire.File("/srv/ads", wire.SHIPPED_FILE_BYTES_MAX + 1, SHA, 0o644),
    wire.File("/srv/ads", 0, SHA[1:], 0o644),
    wire.File("/srv/ads", 0, SHA, 0o4755),
    wire.File("/srv/ads", 0, SHA, -1),
    wire.FileAccepted("ads", SHA),
    wire.FileAccepted("/srv/ads", b""),
    wire.Declined("x" * (wire.REASON_BYTES_MAX + 1)),
    wire.Chunk(wire.Transfer.BLOB, b""),
    wire.Chunk(wire.Transfer.BLOB, CHUNK + b"x"),
    wire.Done(wire.Transfer.BLOB, SHA + b"x"),
]


@pytest.mark.parametrize("lie", LIES, ids=[f"{number}-{type(lie).__name__}" for number, lie in enumerate(LIES)])
def test_an_authentic_message_out_of_bounds_is_malformed(lie):
    with pytest.raises(Malformed) as refusal:
        decode_untrusted(msgspec.msgpack.encode(lie))
    assert refusal.value.reason is Reason.BAD_PAYLOAD
    assert str(refusal.value).startswith(f"bad-payload: {type(lie).__name__}: ")


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_only_malformed_escapes_from_bytes_that_are_no_message(data):
    with contextlib.suppress(Malformed):
        decode_untrusted(data)


@pytest.mark.parametrize(
    "plain", [["chunk", 9, b"x"], ["chunk", 1, b"x", 1], ["what"], [], {}, "hello", ["file", 1, 2, 3, 4]]
)
def test_what_is_no_message_is_malformed(plain):
    with pytest.raises(Malformed):
        decode_untrusted(msgspec.msgpack.encode(plain))

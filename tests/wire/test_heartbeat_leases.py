"""Heartbeats that carry a lease or a successor: within bounds, and readable by those that send neither."""

import msgspec
import pytest

from gateway.wire.errors import Malformed, Reason
from gateway.wire.heartbeat import decode_untrusted, encode
from gateway.wire.messages import Pulse, Resignation, VoteRequest


@pytest.mark.parametrize(
    "message",
    [Pulse(1, (), (), (), 300), VoteRequest("address", 1, False, 1, 300), Resignation("address", 1, "x", "gw2")],
)
def test_leases_and_successors_travel(message: Pulse | VoteRequest | Resignation) -> None:
    assert decode_untrusted(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Pulse(1, (), (), (), -1),
        Pulse(1, (), (), (), 3_600_001),
        VoteRequest("address", 1, False, 1, -1),
        Resignation("address", 1, "x", "x" * 65),
        Resignation("address", 1, "x", "two\nlines"),
    ],
)
def test_what_is_out_of_bounds_is_refused(message: Pulse | VoteRequest | Resignation) -> None:
    with pytest.raises(Malformed) as refusal:
        decode_untrusted(msgspec.msgpack.encode(message))
    assert refusal.value.reason is Reason.BAD_PAYLOAD


def test_a_resignation_without_a_successor_is_read_as_naming_nobody() -> None:
    short = msgspec.msgpack.encode(["resignation", "address", 1, "x"])
    assert decode_untrusted(short) == Resignation("address", 1, "x", "")

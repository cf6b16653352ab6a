"""Orders on the wire: within bounds whatever a peer sends, and nothing of a heartbeat where there are none."""

import msgspec
import pytest

from gateway.wire.errors import Malformed, Reason
from gateway.wire.heartbeat import DRAINS_MAX, VERSION_MAX, decode_untrusted, encode
from gateway.wire.messages import Drain, Orders, Pause, Pulse

NODES = tuple(f"{'n' * 63}{number}" for number in range(DRAINS_MAX))
LARGEST = Orders(
    VERSION_MAX,
    NODES[0],
    Pause("\U0001f6e0" * 200, NODES[0], 2**62),
    tuple(Drain(node, NODES[0], 2**62) for node in NODES),
    2**62,
)
PAUSED = Orders(1, "gw1", Pause("", "gw1", 1), (), 1)


@pytest.mark.parametrize("orders", [LARGEST, PAUSED, Orders(2, "gw1"), Orders(3, "gw1", None, (Drain("a", "b", 0),))])
def test_orders_come_back_as_they_were_the_largest_too(orders: Orders) -> None:
    assert decode_untrusted(encode(orders)) == orders


@pytest.mark.parametrize(
    "orders",
    [
        Orders(),
        Orders(VERSION_MAX + 1, "gw1"),
        Orders(-1, "gw1"),
        Orders(1, ""),
        Orders(1, "x" * 65),
        Orders(1, "gw1", None, (), -1),
        Orders(1, "gw1", Pause("x" * 201, "gw1", 1)),
        Orders(1, "gw1", Pause("\x1b[2J", "gw1", 1)),
        Orders(1, "gw1", Pause("", "", 1)),
        Orders(1, "gw1", Pause("", "gw1", -1)),
        Orders(1, "gw1", None, (Drain("a", "b", 0), Drain("a", "c", 0))),
        Orders(1, "gw1", None, (Drain("b", "b", 0), Drain("a", "b", 0))),
        Orders(1, "gw1", None, (Drain("", "b", 0),)),
        Orders(1, "gw1", None, (Drain("a", "b\n", 0),)),
        Orders(1, "gw1", None, tuple(Drain(f"n{number}", "b", 0) for number in range(DRAINS_MAX + 1))),
    ],
)
def test_orders_out_of_bounds_are_refused(orders: Orders) -> None:
    with pytest.raises(Malformed) as refusal:
        decode_untrusted(msgspec.msgpack.encode(orders))
    assert refusal.value.reason is Reason.BAD_PAYLOAD


@pytest.mark.parametrize("digest", [-1, 2**63])
def test_a_digest_out_of_bounds_is_refused(digest: int) -> None:
    with pytest.raises(Malformed):
        decode_untrusted(msgspec.msgpack.encode(Pulse(1, (), (), (), 0, digest)))


def test_a_heartbeat_where_nothing_was_ordered_is_one_byte_longer_and_never_more_than_nine() -> None:
    calm = encode(Pulse(1, (), (), (), 300))
    assert calm[-1:] == b"\0"
    assert len(encode(Pulse(1, (), (), (), 300, 2**62))) == len(calm) + 8

"""Bundles: messages that share a payload come back in their order, all of them or none."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.errors import Malformed, Reason
from gateway.wire.heartbeat import BUNDLE_BYTES_MAX, BUNDLE_MAX, bundle, encode, unbundle_untrusted
from gateway.wire.messages import Ack, Message, Pulse, Resignation, Standing, VoteReply, VoteRequest
from gateway.wire.seal import DATAGRAM_BYTES_MAX, PAYLOAD_BYTES_MAX

IPV6_MTU_MIN = 1280  # RFC 8200 §5
IPV6_AND_UDP_BYTES = 40 + 8

PULSE = Pulse(123_456, (("vip", 7),), (Standing("vip", True, True, 0, 0, ""),), ())
ACK = Ack(123_456, (("vip", 7), ("managers", 9)))
REQUEST = VoteRequest("vip", 8, True, 123_457)
REPLY = VoteReply("vip", 8, False, 123_457, True, 8, 250)
RESIGNATION = Resignation("vip", 7, "the node is stopping", "gw2")
KINDS: tuple[Message, ...] = (PULSE, ACK, REQUEST, REPLY, RESIGNATION)
LONG = Pulse(
    1,
    (),
    tuple(Standing(f"election-{number}", True, True, 7, 2**40, "0123456789abcdef") for number in range(16)),
    tuple(f"{number:016x}" for number in range(32)),
)
messages = st.one_of(
    st.sampled_from((*KINDS, LONG)),
    st.builds(Resignation, st.just("vip"), st.integers(0, 2**63 - 1), st.text(max_size=200)),
)


def packed(*encoded: bytes) -> bytes:
    """Return what a peer's encoder could make of any bytes."""
    return b"\xc1" + b"".join(len(one).to_bytes(2, "big") + one for one in encoded)


def refuse(payload: bytes) -> Reason:
    with pytest.raises(Malformed) as refusal:
        unbundle_untrusted(payload)
    return refusal.value.reason


@settings(deadline=None)
@given(st.lists(messages, max_size=30))
def test_bundled_messages_come_back_in_their_order(given_messages):
    payloads = bundle([encode(message) for message in given_messages])
    assert [message for payload in payloads for message in unbundle_untrusted(payload)] == given_messages
    assert all(0 < len(payload) <= PAYLOAD_BYTES_MAX for payload in payloads)


@pytest.mark.parametrize("message", [*KINDS, LONG], ids=lambda message: type(message).__name__)
def test_one_message_alone_is_sent_as_it_is(message):
    assert bundle([encode(message)]) == [encode(message)]
    assert unbundle_untrusted(encode(message)) == (message,)


def test_small_messages_share_one_payload():
    (payload,) = bundle([encode(message) for message in KINDS])
    assert payload == packed(*(encode(message) for message in KINDS))


def test_nothing_makes_no_payload():
    assert bundle([]) == []


def test_a_bundle_holds_no_more_messages_than_a_receiver_takes():
    encoded = [encode(Ack(number, ())) for number in range(BUNDLE_MAX * 2 + 1)]
    payloads = bundle(encoded)
    assert [len(unbundle_untrusted(payload)) for payload in payloads] == [BUNDLE_MAX, BUNDLE_MAX, 1]
    assert payloads[-1] == encoded[-1]


@pytest.mark.parametrize(("over", "count"), [(0, 1), (1, 2)])
def test_messages_that_fill_a_payload_share_it_and_one_byte_more_parts_them(over, count):
    first = b"a" * 600
    second = b"b" * (BUNDLE_BYTES_MAX - 600 - 4 + over)
    assert len(bundle([first, second])) == count


def test_a_bundle_is_never_fragmented_by_a_network_that_carries_ipv6():
    fullest = bundle([b"a" * 600, b"b" * (BUNDLE_BYTES_MAX - 600 - 4)])[0]
    sealing = DATAGRAM_BYTES_MAX - PAYLOAD_BYTES_MAX
    assert len(fullest) + sealing + IPV6_AND_UDP_BYTES <= IPV6_MTU_MIN


def test_a_long_message_goes_alone_and_those_beside_it_keep_their_order():
    assert len(encode(LONG)) > BUNDLE_BYTES_MAX - len(encode(ACK))
    payloads = bundle([encode(ACK), encode(REPLY), encode(LONG), encode(ACK)])
    assert [unbundle_untrusted(payload) for payload in payloads] == [(ACK, REPLY), (LONG,), (ACK,)]


def test_an_empty_bundle_is_refused():
    assert refuse(b"\xc1") is Reason.BAD_PAYLOAD


def test_a_bundle_that_is_cut_anywhere_is_refused():
    """In a length or in a message; a cut between two messages can't be told, and is the seal's to refuse."""
    whole = packed(encode(ACK), encode(REPLY))
    between = len(packed(encode(ACK)))
    for length in range(1, len(whole)):
        if length == between:
            assert unbundle_untrusted(whole[:length]) == (ACK,)
        else:
            assert refuse(whole[:length]) is Reason.BAD_PAYLOAD


def test_bytes_behind_the_last_message_of_a_bundle_are_refused():
    for more in (b"\0", b"\0\0", b"\xff\xff"):
        assert refuse(packed(encode(ACK), encode(REPLY)) + more) is Reason.BAD_PAYLOAD


def test_too_many_messages_are_refused_though_each_is_good():
    most = [encode(ACK)] * BUNDLE_MAX
    assert len(unbundle_untrusted(packed(*most))) == BUNDLE_MAX
    assert refuse(packed(*most, encode(ACK))) is Reason.BAD_PAYLOAD


@pytest.mark.parametrize(
    "bad",
    [b"", b"\xc1", encode(ACK)[:-1], encode(ACK) + b"\0", packed(encode(ACK)), b"\x91\xa6gossip"],
    ids=["empty", "marker", "cut", "extended", "nested", "unknown"],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_bad_message_among_good_ones_refuses_them_all(bad, at):
    encoded = [encode(REPLY), encode(ACK)]
    encoded.insert(at, bad)
    assert refuse(packed(*encoded)) is Reason.BAD_PAYLOAD


@given(st.binary(max_size=200))
def test_only_malformed_escapes_from_random_bytes_behind_a_bundles_marker(data):
    with contextlib.suppress(Malformed):
        unbundle_untrusted(b"\xc1" + data)

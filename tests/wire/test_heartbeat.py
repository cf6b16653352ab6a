"""Heartbeat messages: what is encoded comes back, and anything else is Malformed."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.errors import Malformed, Reason
from gateway.wire.heartbeat import (
    ELECTIONS_MAX,
    MESSAGE_BYTES_MAX,
    NUMBER_MAX,
    PRIMED_MAX,
    decode_untrusted,
    encode,
)
from gateway.wire.messages import Ack, Pulse, Resignation, Standing, VoteReply, VoteRequest

numbers = st.integers(0, NUMBER_MAX)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
leads = st.lists(st.tuples(names, numbers), max_size=4, unique_by=lambda lead: lead[0]).map(tuple)
standings = st.lists(
    st.builds(
        Standing,
        election=names,
        fit=st.booleans(),
        warm=st.booleans(),
        term=numbers,
        generation=numbers,
        instance=names | st.just(""),
    ),
    max_size=4,
    unique_by=lambda standing: standing.election,
).map(tuple)
messages = st.one_of(
    st.builds(Pulse, sent_ms=numbers, leads=leads, standings=standings, primed=st.lists(names, max_size=6).map(tuple)),
    st.builds(Ack, sent_ms=numbers, leads=leads),
    st.builds(VoteRequest, election=names, term=numbers, pre=st.booleans(), sent_ms=numbers),
    st.builds(
        VoteReply,
        election=names,
        term=numbers,
        pre=st.booleans(),
        sent_ms=numbers,
        granted=st.booleans(),
        highest_term=numbers,
        wait_ms=st.integers(0, 3_600_000),
    ),
    st.builds(Resignation, election=names, term=numbers, reason=st.text(max_size=200)),
)

PULSE = Pulse(
    sent_ms=123_456,
    leads=(("matchmaker", 7),),
    standings=(Standing("matchmaker", True, True, 7, 12, "0123456789abcdef"),),
    primed=("0123456789abcdef",),
)


def refuse(data: bytes) -> Reason:
    with pytest.raises(Malformed) as refusal:
        decode_untrusted(data)
    return refusal.value.reason


@given(messages)
def test_every_message_comes_back_as_it_was(message):
    assert decode_untrusted(encode(message)) == message


@given(messages)
def test_every_shorter_and_any_longer_message_is_refused(message):
    data = encode(message)
    for length in range(len(data)):
        assert refuse(data[:length]) is Reason.BAD_PAYLOAD
    assert refuse(data + b"\0") is Reason.BAD_PAYLOAD


@given(st.binary(max_size=200))
def test_only_malformed_escapes_from_random_bytes(data):
    with contextlib.suppress(Malformed):
        decode_untrusted(data)


@given(messages, st.integers(0, 10_000), st.integers(0, 255))
def test_only_malformed_escapes_from_a_message_with_one_byte_changed(message, position, value):
    data = bytearray(encode(message))
    data[position % len(data)] = value
    with contextlib.suppress(Malformed):
        assert encode(decode_untrusted(bytes(data)))


def test_text_that_is_not_utf8_is_malformed():
    data = encode(Resignation("matchmaker", 1, "reason")).replace(b"reason", b"\xff" * 6)
    assert refuse(data) is Reason.BAD_PAYLOAD


def test_deep_nesting_is_malformed():
    assert refuse(b"\x91" * MESSAGE_BYTES_MAX) is Reason.BAD_PAYLOAD
    assert refuse(b"\x95\xa5pulse\x01" + b"\x91" * 4000) is Reason.BAD_PAYLOAD


def test_a_long_message_is_refused_unread():
    assert refuse(bytes(MESSAGE_BYTES_MAX + 1)) is Reason.TOO_LONG


def test_unknown_kinds_and_extra_fields_are_refused():
    assert refuse(msgspec.msgpack.encode(["gossip", 1])) is Reason.BAD_PAYLOAD
    assert refuse(msgspec.msgpack.encode(["ack", 1, [], "more"])) is Reason.BAD_PAYLOAD
    assert refuse(msgspec.msgpack.encode({"type": "ack"})) is Reason.BAD_PAYLOAD


STANDING = PULSE.standings[0]


@pytest.mark.parametrize(
    "message",
    [
        Ack(-1, ()),
        Ack(2**63, ()),
        Ack(1, (("matchmaker", -1),)),
        Ack(1, (("matchmaker", 2**63),)),
        Ack(1, (("", 1),)),
        Ack(1, (("a", 1), ("a", 2))),
        Ack(1, tuple((f"e{number}", 1) for number in range(ELECTIONS_MAX + 1))),
        VoteRequest("x" * 65, 1, False, 1),
        VoteRequest("two\nlines", 1, False, 1),
        VoteRequest("matchmaker", -1, False, 1),
        VoteRequest("matchmaker", 1, False, -1),
        VoteReply("matchmaker", 1, False, 1, True, -1, 0),
        VoteReply("matchmaker", 1, False, 1, True, 1, 3_600_001),
        Resignation("matchmaker", 1, "x" * 201),
        Resignation("matchmaker", 2**63, "x"),
        msgspec.structs.replace(PULSE, sent_ms=-1),
        msgspec.structs.replace(PULSE, standings=(STANDING, STANDING)),
        msgspec.structs.replace(
            PULSE,
            standings=tuple(
                msgspec.structs.replace(STANDING, election=f"e{number}") for number in range(ELECTIONS_MAX + 1)
            ),
        ),
        msgspec.structs.replace(PULSE, standings=(msgspec.structs.replace(STANDING, term=-1),)),
        msgspec.structs.replace(PULSE, standings=(msgspec.structs.replace(STANDING, generation=2**63),)),
        msgspec.structs.replace(PULSE, standings=(msgspec.structs.replace(STANDING, instance="i" * 65),)),
        msgspec.structs.replace(PULSE, primed=("i",) * (PRIMED_MAX + 1)),
        msgspec.structs.replace(PULSE, primed=("",)),
    ],
)
def test_a_value_out_of_bounds_is_malformed_from_others_and_a_bug_of_ours(message):
    assert refuse(msgspec.msgpack.encode(message)) is Reason.BAD_PAYLOAD
    with pytest.raises(AssertionError):
        encode(message)


def test_a_usual_pulse_fits_one_frame():
    assert len(encode(PULSE)) < 200

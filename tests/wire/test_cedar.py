"""The collector's instance query: whole, byte by byte, with trailing bytes, and hostile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.cedar import parse_instance_untrusted, query_instance_request
from gateway.wire.errors import Malformed, Reason

ANSWER = bytes.fromhex("01 00000010") + b"0123456789abcdef"


def test_request_names_the_collector_so_that_shared_port_does_not_answer_for_it():
    connect = bytes.fromhex("01 00000031 000000000000004b") + b"collector\0condor-gateway\0"
    connect += bytes.fromhex("0000000000000003 0000000000000000")
    query = bytes.fromhex("01 00000008 000000000000ea8d")
    assert query_instance_request() == connect + query


def test_a_collector_that_owns_its_port_is_asked_at_once():
    assert query_instance_request(shared_port=False) == bytes.fromhex("01 00000008 000000000000ea8d")


def test_request_states_its_own_lengths():
    request = query_instance_request()
    first = int.from_bytes(request[1:5], "big")
    second = int.from_bytes(request[5 + first + 1 : 5 + first + 5], "big")
    assert 5 + first + 5 + second == len(request)


def test_whole_answer_gives_the_instance():
    assert parse_instance_untrusted(ANSWER) == "0123456789abcdef"


def test_every_beginning_of_an_answer_asks_for_more():
    assert [parse_instance_untrusted(ANSWER[:size]) for size in range(len(ANSWER))] == [None] * len(ANSWER)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ANSWER + b"x", Reason.TOO_LONG),
        (b"\x00" + ANSWER[1:], Reason.BAD_MAGIC),
        (b"HTTP/1.1 400 Bad Request\r\n", Reason.BAD_MAGIC),
        (bytes.fromhex("01 0000000f"), Reason.TOO_SHORT),
        (bytes.fromhex("01 ffffffff"), Reason.TOO_LONG),
        (ANSWER[:-1] + b"\n", Reason.BAD_PAYLOAD),
    ],
)
def test_another_answer_is_refused_by_name(answer, reason):
    with pytest.raises(Malformed) as refused:
        parse_instance_untrusted(answer)
    assert refused.value.reason is reason


@given(st.binary(max_size=64))
def test_only_malformed_escapes(data):
    try:
        instance = parse_instance_untrusted(data)
    except Malformed:
        return
    assert instance is None or len(instance) == 16

"""The scanner that goes on: however a file is cut, it finds what a scan of the whole file finds."""

import itertools
import pathlib
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.wire.accountant import Scanner, Stop, scan_untrusted
from gateway.wire.errors import Malformed, Reason

SAMPLE = (pathlib.Path(__file__).parent / "data" / "Accountantnew.log.sample").read_bytes()
HEADER = b"107 3 CreationTimestamp 1795380800\n"
NEW = b"101 Customer.alice@lab * *\n"
PRIORITY = b"103 Customer.alice@lab Priority 0.5\n"
OPENED = b"105 \n" + PRIORITY

# Lines, pieces of lines, and what only looks like the end of a transaction.
PIECES = [
    HEADER, NEW, PRIORITY, b"105 \n", b"106 \n", b"106 #why\n", b"103 k a ", b"0.5\n", b"007\n", b"102 k", b"\n",
    b"10", b"6", b" 106", b" +0106 x\n", b"1068\n", b"106", b"\t", b"junk\n", b'"', b"\0", b"\r", b"\xff",
]  # fmt: skip


def scanned(data: bytes, cuts: list[int]) -> Scanner:
    scanner = Scanner()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        scanner.feed_untrusted(data[start:end])
        expected = scan_untrusted(data[:end])
        assert scanner.scan() == expected, "at every cut, not only at the end"
        assert (scanner.closed_length, scanner.records) == (expected.closed_length, expected.records)
    return scanner


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES)).map(b"".join), st.lists(st.integers(0, 2**16), max_size=12))
@example(HEADER + b"1o3 x\n  106", [37, 41, 45])  # the end of a transaction behind a corrupt record, cut
@example(HEADER + b"1o3 x\n1068\n", [46])  # which it no longer is, one digit later
@example(HEADER + OPENED + b"106 \n" + OPENED, [40, 41])
def test_a_file_cut_anywhere_is_found_as_good_as_the_whole_one(data, cuts):
    scanned(data, cuts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(SAMPLE)), max_size=8), st.integers(0, len(SAMPLE) * 8 - 1), st.booleans())
def test_the_real_file_whole_or_with_a_flipped_bit_is_found_as_good_in_pieces(cuts, bit, flip):
    data = bytearray(SAMPLE)
    data[bit // 8] ^= (1 << bit % 8) * flip
    scanned(bytes(data), cuts)


def test_the_real_file_byte_by_byte_closes_where_its_prefixes_close():
    scanner = Scanner()
    tail = SAMPLE[-3000:]  # many transactions
    scanner.feed_untrusted(SAMPLE[:-3000])
    for number in range(len(tail)):
        scanner.feed_untrusted(tail[number : number + 1])
        if tail[number : number + 1] == b"\n":
            assert scanner.scan() == scan_untrusted(SAMPLE[: len(SAMPLE) - 3000 + number + 1])
    assert (scanner.closed_length, scanner.records) == (len(SAMPLE), 312)


@pytest.mark.parametrize(
    ("behind", "fatal"),
    [(b"", False), (b"10", False), (b"106", True), (b" +0106 x", True), (b"1068", False), (b"106 \nmore", True)],
)
def test_the_end_of_a_transaction_behind_a_corrupt_record_is_fatal_wherever_it_is_cut(behind, fatal):
    for cut in range(len(behind) + 1):
        scanner = Scanner()
        scanner.feed_untrusted(HEADER + b"1o3 x\n" + behind[:cut])
        scanner.feed_untrusted(behind[cut:])
        scan = scanner.scan()
        assert (scan.stop, scan.stop_offset, scan.fatal) == (Stop.CORRUPT, len(HEADER), fatal)


def test_what_follows_a_closed_part_moves_it_only_when_it_is_closed_itself():
    scanner = Scanner()
    scanner.feed_untrusted(HEADER + NEW)
    assert (scanner.closed_length, scanner.records) == (len(HEADER + NEW), 2)
    scanner.feed_untrusted(OPENED + b"106 ")
    assert (scanner.closed_length, scanner.scan().stop) == (len(HEADER + NEW), Stop.TORN)
    scanner.feed_untrusted(b"\n")
    assert (scanner.closed_length, scanner.records) == (len(HEADER + NEW + OPENED + b"106 \n"), 5)


def test_a_file_that_is_too_long_is_refused_at_the_piece_that_is_too_much_and_stands_before_it():
    scanner = Scanner(bytes_max=100)
    scanner.feed_untrusted(HEADER + NEW)
    with pytest.raises(Malformed) as refusal:
        scanner.feed_untrusted(PRIORITY * 2)
    assert refusal.value.reason is Reason.TOO_LONG
    scanner.feed_untrusted(PRIORITY)
    assert scanner.closed_length == len(HEADER + NEW + PRIORITY)


def test_a_transaction_that_never_ends_is_not_kept_in_memory():
    scanner = Scanner()
    piece = PRIORITY * 1000
    scanner.feed_untrusted(HEADER + b"105 \n" + piece)
    tracemalloc.start()
    try:
        for _ in range(100):
            scanner.feed_untrusted(piece)
        assert tracemalloc.get_traced_memory()[0] < len(piece)
    finally:
        tracemalloc.stop()
    assert (scanner.scan().stop, scanner.closed_length) == (Stop.OPEN, len(HEADER))


def test_a_line_that_comes_in_many_pieces_costs_no_more_than_its_length():
    scanner = Scanner()
    for _ in range(100_000):
        scanner.feed_untrusted(b"(")
    scanner.feed_untrusted(b"\n")
    assert scanner.scan().stop is Stop.CORRUPT

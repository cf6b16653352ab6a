"""The accounting file: what is called closed is what a negotiator reads without harm."""

import pathlib
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.wire import accountant
from gateway.wire.accountant import Stop, read_untrusted, scan_untrusted, verify_untrusted
from gateway.wire.errors import Malformed, Reason

# Written by the negotiator of a real pool (HTCondor 23.9.6), transactions included.
SAMPLE = (pathlib.Path(__file__).parent / "data" / "Accountantnew.log.sample").read_bytes()
HEADER = b"107 3 CreationTimestamp 1795380800\n"
NEW = b"101 Customer.alice@lab * *\n"
PRIORITY = b"103 Customer.alice@lab Priority 0.5\n"


def boundaries(data: bytes) -> list[int]:
    """Where a record ends with no transaction open, found by a slower way than the scanner's."""
    found, position, open_transaction = [0], 0, False
    for line in data.splitlines(keepends=True):  # of the sample, which has no carriage return
        position += len(line)
        open_transaction = line.startswith(b"105") or (open_transaction and not line.startswith(b"106"))
        if not open_transaction:
            found.append(position)
    return found


def test_the_real_file_is_whole():
    scan = scan_untrusted(SAMPLE)
    assert (scan.closed_length, scan.stop, scan.fatal) == (len(SAMPLE), Stop.END, False)
    assert (scan.sequence, scan.birthdate, scan.records) == (3, 1795380800, 312)


def test_the_real_file_reads_as_the_state_it_left():
    state = read_untrusted(SAMPLE)
    assert sorted(state) == ["Accountant.", "Customer.<none>", "Customer.alice@lab"]
    assert state["Customer.alice@lab"]["WeightedAccumulatedUsage"] == "2480.000000"
    assert state["Customer.alice@lab"]["PriorityFactor"] == "1000.0"


def test_the_real_file_cut_at_every_byte_leaves_its_longest_closed_prefix():
    ends = boundaries(SAMPLE)
    for cut in range(len(SAMPLE) - 3000, len(SAMPLE) + 1):  # the end holds many transactions
        scan = scan_untrusted(SAMPLE[:cut])
        assert scan.closed_length == max(end for end in ends if end <= cut)
        assert not scan.fatal


def test_a_cut_file_of_two_transactions_leaves_its_longest_closed_prefix_at_every_byte():
    data = HEADER + NEW + b"105 \n" + PRIORITY + b"106 \n" + b"105 \n" + PRIORITY + b"106 #why\n"
    ends = boundaries(data)
    for cut in range(len(data) + 1):
        scan = scan_untrusted(data[:cut])
        assert scan.closed_length == max(end for end in ends if end <= cut)
        again = scan_untrusted(data[: scan.closed_length])
        assert (again.closed_length, again.stop) == (scan.closed_length, Stop.END)


def test_why_a_scan_stopped_and_where_is_told():
    whole = HEADER + NEW
    assert scan_untrusted(whole + b"103 Customer.alice@lab Prio").stop is Stop.TORN
    open_one = scan_untrusted(whole + b"105 \n" + PRIORITY)
    assert (open_one.stop, open_one.stop_offset, open_one.closed_length) == (Stop.OPEN, len(whole), len(whole))
    torn_inside = scan_untrusted(whole + b"105 \n" + PRIORITY + b"10")
    assert (torn_inside.stop, torn_inside.closed_length) == (Stop.TORN, len(whole))
    corrupt = scan_untrusted(whole + b"1o3 x y 1\n" + PRIORITY)
    assert (corrupt.stop, corrupt.stop_offset, corrupt.closed_length) == (Stop.CORRUPT, len(whole), len(whole))


@pytest.mark.parametrize(
    "line",
    [
        b"103 Customer.alice@lab Priority",
        b"103 Customer.alice@lab Priority ",
        b"103 Customer.alice@lab Priority  ",
        b"103 Customer.alice@lab Priority 0.5 1",
        b"103 Customer.alice@lab Priority 0.5x",
        b'103 Customer.alice@lab RemoteUser "alice',
        b"103 Customer.alice@lab Priority (1",
        b"103 Customer.alice@lab Priority 1+",
        b"103 Customer.alice@lab Priority 0.5\0",
        b"101 Customer.alice@lab *",
        b"101 Customer.alice@lab * * *",
        b"101 Customer.alice@lab * * ",
        b"102 Customer.alice@lab ",
        b"102",
        b"104 Customer.alice@lab",
        b"105",
        b"105  ",
        b"106",
        b"106 #",
        b"106 comment",
        b"107 3 CreationTimestamp",
        b"107 three CreationTimestamp 1",
        b"107 3 CreationTimestamp 1 ",
        b"108 x",
        b"999 x",
        b"",
        b" 103 Customer.alice@lab Priority 0.5",
        b"\xff\xfe",
        b"102 Customer.alice@lab\r",
    ],
)
def test_a_line_that_htcondor_would_misread_is_corrupt_and_fatal_before_the_end_of_a_transaction(line):
    data = HEADER + NEW + line + b"\n"
    scan = verify_untrusted(data)
    assert (scan.stop, scan.closed_length) == (Stop.CORRUPT, len(HEADER + NEW))
    with pytest.raises(Malformed, match=f"at byte {len(HEADER + NEW)}") as refusal:
        verify_untrusted(data + b"105 \n" + PRIORITY + b"106 \n")
    assert refusal.value.reason is Reason.BAD_PAYLOAD


@pytest.mark.parametrize(
    "line",
    [
        b"101 Customer.alice@lab (empty) (empty)",
        b"101 Customer.alice@lab * ",
        b"103 Customer.alice@lab Priority -0.5",
        b"103 Customer.alice@lab Priority  0.5 ",
        b"103 Customer.alice@lab Priority inf",
        b'103 Customer.alice@lab Note "say \\"hi\\" to <none>; 1 2"',
        b'103 Customer.alice@lab Path "C:\\dir\\"',
        b"103 Customer.alice@lab Ceiling 1 + 2 * max({3, x.y[0]}) - (a ?: -1.5e+3)",
        b"103 Customer.alice@lab Flag !a && b =?= undefined || c isnt error",
        b"103 Customer.alice@lab Ad [ a = 1; b = {}; c = [] ; ]",
        b"104 Customer.alice@lab Priority",
        b"106 #committed by the negotiator",
        b"107 4 CreationTimestamp 1795380800",
    ],
)
def test_every_form_that_htcondor_writes_is_whole(line):
    data = HEADER + NEW + line + b"\n"
    assert scan_untrusted(data).closed_length == len(data)


# The first two lines were seen to stop a real negotiator (HTCondor 23.9.6); the third is no expression either.
@pytest.mark.parametrize(
    "value",
    [
        b"007", b"09", b"5.", b"1.K", b"0x1F", b"1.2.3", b"a = 1", b"{a=1}", b"is", b"(1,2)", b"1 ? 2", b"a : b",
        b"[1]", b"1(2)", b"{1,}", b"f(1,)", b".true", b"a.error", b"true()", b"error()",
        b"TRUE.x.undefined", b"()", b"x[]", b"(a}", b"a b", b"!", b"'unfinished", b"[a=1; b]",
    ],
)  # fmt: skip
def test_a_value_that_stops_a_negotiator_is_corrupt(value):
    assert scan_untrusted(HEADER + NEW + b"103 Customer.alice@lab X " + value + b"\n105 \n106 \n").fatal


# On these, or others of their form, it started; also on 9000 random expressions that this scanner takes.
@pytest.mark.parametrize(
    "value",
    [
        b"0", b"-1", b"- - 1", b"0.514293", b"inf", b"-nan", b".a", b"'a b'", b'"a\\x"', b"parent.x", b"f()", b"{}",
        b"[]", b"a ? b : c ? d : e", b"x[0].y", b"true", b"False", b"1.5e+3", b"99999999999999999999999",
    ],
)  # fmt: skip
def test_a_value_that_a_negotiator_takes_is_whole(value):
    assert scan_untrusted(HEADER + NEW + b"103 Customer.alice@lab X " + value + b"\n105 \n106 \n").stop is Stop.END


def test_an_unmatched_or_nested_transaction_mark_is_only_noise_as_it_is_to_htcondor():
    assert scan_untrusted(HEADER + b"106 \n").stop is Stop.END
    assert scan_untrusted(HEADER + b"105 \n105 \n" + PRIORITY + b"106 \n").stop is Stop.END
    assert scan_untrusted(HEADER + b"105 \n105 \n" + PRIORITY).stop_offset == len(HEADER)


def test_a_corrupt_line_that_itself_seems_to_end_a_transaction_is_fatal():
    assert scan_untrusted(HEADER + b"junk 106 \n").fatal


def test_an_empty_file_and_one_without_header_are_whole():
    assert scan_untrusted(b"").stop is Stop.END
    scan = scan_untrusted(NEW + PRIORITY)
    assert (scan.closed_length, scan.sequence, scan.birthdate) == (len(NEW + PRIORITY), 0, 0)


def test_state_follows_htcondors_replay():
    data = HEADER + NEW + PRIORITY + b"103 Customer.bob Priority 7\n" + NEW
    data += b"105 \n103 Customer.alice@lab Ceiling 5\n104 Customer.alice@lab Ceiling\n106 \n"
    data += b"101 Customer.carol * *\n102 Customer.carol\n"
    data += b"105 \n103 Customer.alice@lab Priority 99\n"  # never committed
    assert read_untrusted(data) == {"Customer.alice@lab": {"Priority": "0.5"}}


def test_other_blanks_between_the_words_change_nothing():
    data = (
        HEADER
        + NEW
        + PRIORITY
        + b"103 Customer.alice@lab Floor 1\n104 Customer.alice@lab Floor\n103 Customer.alice@lab X  a\n"
    )
    data += b"101 Customer.bob * * \n102 Customer.bob\n"
    spaced = data.replace(b" Customer", b"\t Customer").replace(
        b"103\t Customer.alice@lab X ", b"103 Customer.alice@lab X "
    )
    assert read_untrusted(spaced) == read_untrusted(data) == {"Customer.alice@lab": {"Priority": "0.5", "X": " a"}}


def test_an_attribute_has_one_spelling_that_of_its_first_mention():
    data = HEADER + NEW + PRIORITY + b"103 Customer.alice@lab PRIORITY 1\n103 Customer.alice@lab Priority 2\n"
    assert read_untrusted(data) == {"Customer.alice@lab": {"Priority": "2"}}
    assert read_untrusted(data + b"104 Customer.alice@lab priority\n") == {"Customer.alice@lab": {}}


def test_a_record_of_a_destroyed_ad_that_comes_again_is_of_the_new_one():
    data = HEADER + NEW + PRIORITY + b"102 Customer.alice@lab\n" + PRIORITY + NEW + b"103 Customer.alice@lab Floor 1\n"
    assert read_untrusted(data) == {"Customer.alice@lab": {"Floor": "1"}}


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500])
def test_long_runs_of_plain_records_are_counted_and_end_where_they_end(count):
    data = HEADER + NEW + PRIORITY * count
    scan = scan_untrusted(data + b"103 Customer.alice@lab Priority 0.5x\n" + PRIORITY)
    assert (scan.records, scan.closed_length, scan.stop) == (2 + count, len(data), Stop.CORRUPT)
    inside = scan_untrusted(data + b"105 \n" + PRIORITY * count)
    assert (inside.records, inside.closed_length, inside.stop) == (2 + count, len(data), Stop.OPEN)


def test_names_that_are_not_utf8_come_back_as_they_were():
    key = b"Customer.ren\xe9@lab"
    (name,) = read_untrusted(HEADER + b"101 " + key + b" * *\n")
    assert name.encode(errors="surrogateescape") == key


def test_a_huge_file_is_refused_unread(monkeypatch):
    monkeypatch.setattr(accountant, "FILE_BYTES_MAX", 100)
    with pytest.raises(Malformed) as refusal:
        scan_untrusted(bytes(101))
    assert refusal.value.reason is Reason.TOO_LONG


@settings(max_examples=300)
@given(st.integers(0, len(SAMPLE) * 8 - 1))
@example(37702)  # MyType becomes \ryType
@example(1205)  # the target type of a new ad becomes a newline
def test_a_flipped_bit_never_lengthens_the_closed_part_beyond_a_line_that_is_no_record(bit):
    data = bytearray(SAMPLE)
    data[bit // 8] ^= 1 << bit % 8
    scan = scan_untrusted(bytes(data))
    lines = bytes(data[: scan.closed_length]).split(b"\n")  # a carriage return ends no line: to HTCondor it is a blank
    assert all(re.match(rb"10[1-7] ", line) for line in lines if line.strip())
    # A byte that became a newline ends its own line: what is corrupt may begin right behind it.
    assert scan.stop is not Stop.CORRUPT or scan.stop_offset <= bit // 8 + 1


@given(
    st.lists(st.sampled_from([b"101 ", b"103 ", b"105 \n", b"106 \n", b"key ", b"1", b"\n", b'"', b"\0"])).map(b"".join)
)
def test_a_closed_prefix_is_a_closed_file(data):
    scan = scan_untrusted(data)
    again = scan_untrusted(data[: scan.closed_length])
    assert (again.stop, again.closed_length, again.records) == (Stop.END, scan.closed_length, scan.records)


def test_a_long_line_and_deep_brackets_cost_no_more_than_their_length():
    assert scan_untrusted(b"103 k a " + b"(" * 200_000 + b"\n").stop is Stop.CORRUPT
    assert scan_untrusted(b"103 k a " + b"(" * 50_000 + b"1" + b")" * 50_000 + b"\n").stop is Stop.END
    assert scan_untrusted(b"103 k a " + b'"' + b"\\" * 200_001 + b"\n").stop is Stop.CORRUPT
    assert scan_untrusted(b" " * 200_000 + b"\n").stop is Stop.CORRUPT
    assert scan_untrusted(b"103 k" + b" " * 200_000 + b"\n").stop is Stop.CORRUPT

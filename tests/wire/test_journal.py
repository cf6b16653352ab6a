"""A journal's format: what it gives back was written, up to the first byte that was not."""

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import journal
from gateway.wire.errors import Malformed, Reason
from gateway.wire.journal import FRAME_BYTES, MAGIC, PAYLOAD_BYTES_MAX, Mark, Reader, Writer

HEAD = b"what it is"
CONTENT = b"107 3 CreationTimestamp 1795380800\n101 Customer.alice@lab * *\n"
MORE = b"103 Customer.alice@lab Priority 0.5\n"


def written(*groups: bytes, head: bytes = HEAD) -> bytes:
    writer = Writer()
    return writer.head(head) + b"".join(frame for group in groups for frame in writer.data(group, closed=True))


def read(data: bytes, cuts: tuple[int, ...] = ()) -> tuple[Reader, bytes, Malformed | None]:
    """What a reader gives, and why it gave up."""
    reader, content = Reader(), b""
    edges = (0, *sorted(cuts), len(data))
    try:
        for start, end in itertools.pairwise(edges):
            for payload in reader.feed_untrusted(data[start:end]):
                content += payload
    except Malformed as fault:
        return reader, content, fault
    return reader, content, None


@settings(max_examples=200)
@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=6),
    st.lists(st.integers(0, 10_000), max_size=8),
)
def test_what_was_written_is_read_however_it_is_cut(groups, cuts):
    data = written(*groups)
    reader, content, fault = read(data, tuple(cut % (len(data) + 1) for cut in cuts))
    assert (content, reader.head, fault, reader.torn) == (b"".join(groups), HEAD, None, False)
    assert reader.mark == Mark(len(data), len(content), content.count(b"\n"), reader.mark.digest)


@pytest.mark.parametrize("length", [0, 1, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1, 3 * PAYLOAD_BYTES_MAX])
def test_content_of_any_length_is_cut_into_frames_of_at_most_64_kib_closed_by_the_last(length):
    content = b"x" * length
    reader, read_back, fault = read(written(content))
    assert (read_back, fault, reader.mark.length) == (content, None, length)
    writer = Writer()
    writer.head(HEAD)
    frames = list(writer.data(content, closed=True))
    assert max(map(len, frames)) <= PAYLOAD_BYTES_MAX + FRAME_BYTES
    assert [frame[0] >> 7 for frame in frames] == [0] * (len(frames) - 1) + [1]


def test_a_journal_cut_at_every_byte_ends_at_its_last_closed_frame():
    groups = [CONTENT, MORE, MORE + MORE]
    data = written(*groups)
    ends = [len(written(*groups[:count])) for count in range(1, 4)]
    for cut in range(len(data) + 1):
        reader, _, fault = read(data[:cut])
        whole = sum(end <= cut for end in ends)
        assert fault is None, "a crash is no damage"
        assert (reader.mark is None) == (whole == 0)
        if whole:
            assert reader.mark.length == len(b"".join(groups[:whole]))
        assert reader.torn == (cut not in (0, *ends))


def test_a_flipped_bit_anywhere_ends_the_journal_before_it_and_not_earlier():
    groups = [CONTENT, MORE, MORE + MORE]
    data = written(*groups)
    ends = [len(written(*groups[:count])) for count in range(1, 4)]
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        reader, content, fault = read(bytes(flipped))
        whole = sum(end <= bit // 8 for end in ends)
        assert fault is not None or reader.torn
        assert b"".join(groups).startswith(content)
        assert (0 if reader.mark is None else reader.mark.length) == len(b"".join(groups[:whole]))


def test_frames_moved_left_out_or_twice_prove_nothing():
    writer = Writer()
    opening = writer.head(HEAD)
    first, second, third = (next(writer.data(text, closed=True)) for text in (CONTENT, MORE, MORE))
    for frames in ([second, first], [first, first], [first, third], [second]):
        reader, _, fault = read(opening + b"".join(frames))
        assert fault.reason is Reason.BAD_CHECKSUM
        assert (reader.mark.length if reader.mark else 0) == (len(CONTENT) if frames[0] is first else 0)


def test_the_frames_of_another_journal_do_not_fit():
    ours, theirs = written(CONTENT), written(CONTENT, MORE, head=b"another")
    spliced = ours + theirs[len(written(CONTENT, head=b"another")) :]
    reader, _, fault = read(spliced)
    assert (fault.reason, reader.mark.length) == (Reason.BAD_CHECKSUM, len(CONTENT))


def test_a_snapshot_is_closed_by_its_last_frame_alone():
    writer = Writer()
    begun = writer.head(HEAD) + b"".join(writer.data(CONTENT * 3000, closed=False))
    reader, _, fault = read(begun)
    assert (reader.mark, fault, reader.torn) == (None, None, True)
    reader, content, _ = read(begun + b"".join(writer.data(b"", closed=True)))
    assert (reader.mark.length, content) == (len(CONTENT) * 3000, CONTENT * 3000)


def test_a_later_head_replaces_the_first_and_content_goes_on_behind_it():
    writer = Writer()
    data = writer.head(HEAD) + b"".join(writer.data(CONTENT, closed=True)) + writer.head(b"told anew")
    reader, content, fault = read(data)
    assert (reader.head, content, fault, reader.mark) == (b"told anew", CONTENT, None, writer.mark)
    again = Writer(reader.mark)
    reader, content, fault = read(data + b"".join(again.data(MORE, closed=True)))
    assert (content, fault, reader.mark) == (CONTENT + MORE, None, again.mark)


def frame(word: int, payload: bytes, digest: bytes = bytes(16)) -> bytes:
    """A frame with a right digest of its own, whatever it says."""
    return struct.pack("!L16s", word, journal._digest(digest, word, payload)) + payload


CLOSED, IS_HEAD = 1 << 31, 1 << 30


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"CGREPLI1" + bytes(100), Reason.BAD_MAGIC),
        (b"107 3 CreationTimestamp 1795380800\n", Reason.BAD_MAGIC),
        (b"\0" * 100, Reason.BAD_MAGIC),
        (MAGIC + b"\0" * 100, Reason.BAD_CHECKSUM),
        (MAGIC + b"\xff" * 100, Reason.TOO_LONG),
        (MAGIC + struct.pack("!L", PAYLOAD_BYTES_MAX + 1) + bytes(16), Reason.TOO_LONG),
        (MAGIC + frame(3 | CLOSED, b"abc"), Reason.BAD_SEQUENCE),  # no head
        (MAGIC + frame(3 | CLOSED | IS_HEAD, b"abc"), Reason.BAD_SEQUENCE),  # closed before there is anything
        (MAGIC + frame(0 | IS_HEAD, b""), Reason.BAD_SEQUENCE),
    ],
    ids=range(9),
)
def test_what_is_no_journal_is_refused_by_name_before_it_is_kept(data, reason):
    reader, content, fault = read(data)
    assert (fault.reason, reader.mark, content) == (reason, None, b"")
    # Also when it comes byte by byte: nothing is waited for that is refused.
    reader, _, fault = read(data, tuple(range(len(data))))
    assert fault.reason is reason


def test_a_head_amid_what_is_not_closed_is_refused():
    writer = Writer()
    data = writer.head(HEAD) + b"".join(writer.data(CONTENT, closed=False))
    reader, _, fault = read(data + writer.head(b"too early"))
    assert (fault.reason, reader.mark) == (Reason.BAD_SEQUENCE, None)


def test_more_content_than_an_accounting_file_may_have_is_refused(monkeypatch):
    data = written(CONTENT, MORE)
    monkeypatch.setattr(journal, "FILE_BYTES_MAX", len(CONTENT) + 1)
    reader, content, fault = read(data)
    assert (fault.reason, content, reader.mark.length) == (Reason.TOO_LONG, CONTENT, len(CONTENT))


def test_a_reader_keeps_less_than_a_frame():
    data = written(b"x" * 300_000)
    reader = Reader()
    for start in range(0, len(data), 1000):
        for _ in reader.feed_untrusted(data[start : start + 1000]):
            pass
        assert len(reader._rest) < PAYLOAD_BYTES_MAX + FRAME_BYTES


@given(st.binary(max_size=300))
def test_random_bytes_give_malformed_or_nothing(data):
    for bytes_now in (data, MAGIC + data):
        reader, content, _ = read(bytes_now)
        assert (reader.mark, content) == (None, b"")

"""The feed: where the stream may be cut, how old a byte is, and who still reads a file."""

import os

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.timeline import Position, Timeline
from gateway.matchmaker import feed as feed_module
from gateway.matchmaker.feed import Feed, Source, Version
from gateway.wire.stream import CHUNK_BYTES

START = Timeline(Position(3, 1, 0))


@pytest.fixture
def descriptor(tmp_path):
    return os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)


def source_of(closed: list[int]) -> Source:
    source = Source(START, os.open("/dev/null", os.O_RDONLY))
    for records, end in enumerate(closed, 1):
        source.grown(end, records)
    return source


async def test_a_cut_is_the_last_end_within_64_kib_or_the_next_one_behind():
    source = source_of([10, 1000, CHUNK_BYTES + 10, CHUNK_BYTES + 11, 5 * CHUNK_BYTES])
    assert [source.cut(at) for at in (0, 5, 10, 1000)] == [1000, 1000, CHUNK_BYTES + 10, CHUNK_BYTES + 11]
    assert source.cut(CHUNK_BYTES + 11) == 5 * CHUNK_BYTES
    assert source.cut(5 * CHUNK_BYTES) is None
    source.drop()


async def test_the_age_of_a_byte_is_that_of_the_growth_that_brought_it(autojump_clock):
    source = Source(START, os.open("/dev/null", os.O_RDONLY))
    begun_s = trio.current_time()
    for end in (100, 200, 300):
        await trio.sleep(1)
        source.grown(end, end // 10)
    assert [source.seen_s(at) - begun_s for at in (0, 99, 100, 299)] == [1, 1, 2, 3]
    assert [source.records_at(at) for at in (0, 100, 250, 300)] == [0, 10, 20, 30]
    source.drop()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 100_000), min_size=50, max_size=300), st.integers(8, 40))
def test_joined_marks_still_cut_the_whole_file_and_make_nothing_younger(steps, marks_max):
    before, feed_module.MARKS_MAX = feed_module.MARKS_MAX, marks_max

    async def check() -> None:
        source = Source(START, os.open("/dev/null", os.O_RDONLY))
        ends, times, total = [], [], 0
        for step in steps:
            await trio.sleep(1)
            total += step
            source.grown(total, total)
            ends.append(total)
            times.append(trio.current_time())
        at = 0
        while (end := source.cut(at)) is not None:
            assert end in ends
            assert end > at
            assert end - at <= max(CHUNK_BYTES, *steps) + feed_module.MARK_BYTES
            at = end
        assert at == total
        for end, seen_s in zip(ends, times, strict=True):
            assert source.seen_s(end - 1) <= seen_s
        source.drop()

    try:
        trio.run(check, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        feed_module.MARKS_MAX = before


async def test_a_replaced_file_is_closed_once_nobody_reads_it(tmp_path, descriptor):
    feed = Feed("cm1", Timeline(Position(3, 0, 0)))
    feed.opened(START, descriptor)
    feed.grown(1, 1)
    source = feed.source
    source.take()
    feed.opened(Timeline(Position(3, 2, 0)), os.open(tmp_path / "file", os.O_RDONLY))
    os.fstat(descriptor)
    source.drop()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert feed.timeline.head == Position(3, 2, 0)
    feed.close()
    assert feed.timeline.head == Position(3, 2, 0)


async def test_a_feed_that_would_go_back_is_a_fault_of_ours(descriptor):
    feed = Feed("cm1", Timeline(Position(3, 0, 0)))
    feed.opened(START, descriptor)
    feed.grown(10, 1)
    with pytest.raises(AssertionError, match="goes back"):
        feed.opened(START, descriptor)
    with pytest.raises(AssertionError, match="only grows"):
        feed.grown(9, 1)
    with pytest.raises(AssertionError, match="is not of"):
        feed.retell(Timeline(Position(3, 2, 0)))
    feed.close()


async def test_whoever_waits_for_news_hears_of_growth_and_of_files(tmp_path, descriptor):
    feed = Feed("cm1", Timeline(Position(3, 0, 0)))
    news, file_news = feed.news, feed.file_news
    feed.opened(START, descriptor)
    feed.grown(1, 1)
    feed.put_file(Version("/srv/a", os.open("/dev/null", os.O_RDONLY), length=0, sha256=b"", mode=0o644))
    assert news.is_set()
    assert file_news.is_set()
    assert not feed.news.is_set()
    feed.close()

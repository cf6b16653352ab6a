"""Following the leader's accounting file: closed prefixes only, each new file a generation, what is unfit told once."""

import contextlib
import os

import pytest
import trio
from stream_harness import TERM, eventually, header, record, transaction
from structlog.testing import capture_logs

from gateway.core.timeline import Fork, Position, Timeline
from gateway.kernel.inotify import FileWatch
from gateway.matchmaker import follow as follow_module
from gateway.matchmaker.feed import Feed
from gateway.matchmaker.follow import follow

STARTED = Timeline(Position(TERM, 0, 0), (Fork(Position(1, 2, 3), 4),))


class Following:
    def __init__(self, tmp_path) -> None:
        self.path = tmp_path / "Accountantnew.log"
        self.feed = Feed("cm1", STARTED)
        self.opened: list[tuple[Timeline, int, int]] = []
        self.returned: Timeline | None = None
        self.known = 0  # generations that the feed had when `opened` was awaited

    async def run(self, **chosen) -> None:
        chosen = {"resume": None, "timeline": STARTED, "watch_writes": FileWatch, **chosen}
        await follow(self.path, self.feed, opened=self._opened, **chosen)

    async def _opened(self, timeline: Timeline, inode: int, sequence: int) -> Timeline | None:
        self.known = self.feed.timeline.head.generation
        await trio.sleep(0.01)
        self.opened.append((timeline, inode, sequence))
        return self.returned

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def replace(self, data: bytes) -> None:
        fresh = self.path.with_suffix(".tmp")
        fresh.write_bytes(data)
        os.replace(fresh, self.path)

    async def at(self, generation: int, offset: int) -> None:
        await eventually(lambda: self.feed.timeline.head == Position(TERM, generation, offset))

    def content(self) -> bytes:
        source = self.feed.source
        return source.read(0, source.closed)


@pytest.fixture
def following(tmp_path):
    return Following(tmp_path)


async def test_a_file_is_told_of_with_its_history_before_the_feed_has_it(nursery, following):
    following.write(header(7) + transaction(1))
    nursery.start_soon(following.run)
    await following.at(1, len(header(7) + transaction(1)))
    timeline, inode, sequence = following.opened[0]
    assert timeline == Timeline(Position(TERM, 1, 0), STARTED.forks)
    assert (inode, sequence, following.known) == (following.path.stat().st_ino, 7, 0)
    assert following.feed.records == 5


async def test_growth_is_told_as_whole_transactions_however_it_is_written(nursery, following):
    following.write(header(1))
    nursery.start_soon(following.run)
    await following.at(1, len(header(1)))
    data = transaction(1) + transaction(2)
    ends = {len(header(1)), len(header(1) + transaction(1)), len(header(1) + data)}
    seen = set()
    for at in range(0, len(data), 7):
        following.write(data[at : at + 7])
        await trio.sleep(0.012)
        seen.add(following.feed.timeline.head.offset)
    await following.at(1, len(header(1) + data))
    assert seen <= ends


async def test_each_new_file_is_the_next_generation_and_the_old_one_stays_readable(nursery, following):
    following.write(header(1) + transaction(1))
    nursery.start_soon(following.run)
    await following.at(1, len(header(1) + transaction(1)))
    old = following.feed.source
    old.take()
    following.replace(header(2))
    await following.at(2, len(header(2)))
    assert following.content() == header(2)
    assert old.read(0, old.closed) == header(1) + transaction(1)
    old.drop()
    assert [sequence for _, _, sequence in following.opened] == [1, 2]


async def test_a_file_that_is_followed_again_is_the_same_generation(nursery, following):
    following.write(header(3))
    inode = following.path.stat().st_ino
    nursery.start_soon(lambda: following.run(resume=(inode, 5), resume_sequence=3))
    await following.at(5, len(header(3)))
    following.replace(header(4))
    await following.at(6, len(header(4)))


@pytest.mark.parametrize("other", ["inode", "sequence"])
async def test_another_file_than_before_is_a_new_generation(nursery, following, other):
    following.write(header(3))
    inode = following.path.stat().st_ino + (1 if other == "inode" else 0)
    nursery.start_soon(lambda: following.run(resume=(inode, 5), resume_sequence=2 if other == "sequence" else 3))
    await following.at(6, len(header(3)))


async def test_the_generation_goes_on_from_the_history_that_is_given(nursery, following):
    following.write(header(3))
    history = Timeline(Position(TERM, 8, 100))
    following.feed = Feed("cm1", history)
    nursery.start_soon(lambda: following.run(timeline=history))
    await following.at(9, len(header(3)))


async def test_a_history_that_a_merge_has_lengthened_is_the_feeds_from_then_on(nursery, following):
    following.write(header(1))
    nursery.start_soon(following.run)
    await following.at(1, len(header(1)))
    merged = Timeline(Position(TERM, 2, 0), STARTED.forks, (Position(2, 1, 5),))
    following.returned = merged
    following.replace(header(2))
    await following.at(2, len(header(2)))
    following.returned = None
    assert following.feed.timeline.included == merged.included
    following.replace(header(3))
    await following.at(3, len(header(3)))
    assert following.feed.timeline.included == merged.included


async def test_a_file_that_comes_later_or_is_empty_at_first_is_followed_then(nursery, following):
    nursery.start_soon(following.run)
    await trio.sleep(0.05)
    following.write(b"")
    await trio.sleep(0.05)
    assert following.opened == []
    following.write(header(1))
    await following.at(1, len(header(1)))


@pytest.mark.parametrize("what", [b"1o3 nonsense\n", b"1o3 nonsense\n105 \n106 \n", b"\n", b"103 Customer.a b \0\n"])
async def test_a_corrupt_file_yields_nothing_and_is_complained_of_once(nursery, following, what):
    with capture_logs() as logs:
        following.write(header(1) + what)
        nursery.start_soon(following.run)
        for _ in range(3):
            await trio.sleep(0.05)
            following.write(record(1))
    assert following.opened == []
    assert [entry["event"] for entry in logs] == ["accounting.unfit"]
    following.replace(header(2))
    await following.at(1, len(header(2)))


async def test_a_corrupt_record_in_what_is_appended_ends_the_growth_there(nursery, following):
    following.write(header(1))
    nursery.start_soon(following.run)
    await following.at(1, len(header(1)))
    with capture_logs() as logs:
        following.write(transaction(1) + b"1o3\n" + transaction(2))
        await following.at(1, len(header(1) + transaction(1)))
        following.write(transaction(3))
        await trio.sleep(0.1)
    assert following.feed.timeline.head.offset == len(header(1) + transaction(1))
    assert [entry["event"] for entry in logs].count("accounting.unfit") == 1


async def test_a_file_that_has_shrunk_yields_nothing_more(nursery, following):
    following.write(header(1) + transaction(1))
    nursery.start_soon(following.run)
    await following.at(1, len(header(1) + transaction(1)))
    with capture_logs() as logs:
        os.truncate(following.path, 10)
        await eventually(lambda: logs)
        following.write(transaction(2) * 10)
        await trio.sleep(0.1)
    assert "shrunk" in logs[0]["fault"]
    assert following.feed.timeline.head.offset == len(header(1) + transaction(1))
    following.replace(header(2))
    await following.at(2, len(header(2)))


async def test_a_long_file_can_be_cut_every_64_kib(nursery, following):
    following.write(header(1) + b"".join(transaction(number, 500) for number in range(2_000)))
    nursery.start_soon(following.run)
    await following.at(1, following.path.stat().st_size)
    source = following.feed.source
    at = 0
    while (end := source.cut(at)) is not None:
        assert end - at <= 64 * 1024
        at = end
    assert at == source.closed


async def test_a_file_that_nobody_writes_to_is_not_looked_at(nursery, following, monkeypatch):
    monkeypatch.setattr(follow_module, "LOOK_MS_MAX", 600_000)
    looks = []
    look = follow_module._look
    monkeypatch.setattr(follow_module, "_look", lambda path, known: looks.append(path) or look(path, known))
    following.write(header(1))
    nursery.start_soon(following.run)
    await following.at(1, len(header(1)))
    await trio.sleep(0.2)
    assert len(looks) == 1


@pytest.mark.parametrize("how", ["deaf", "refused", "none"])
async def test_growth_is_seen_where_nobody_tells_of_it(nursery, following, monkeypatch, how):
    class Deaf(FileWatch):
        async def changed(self):
            await trio.sleep_forever()

    def refused(path):
        raise OSError("no space left on device")

    monkeypatch.setattr(follow_module, "LOOK_MS_MAX", 50)
    following.write(header(1))
    watch_writes = {"deaf": Deaf, "refused": refused, "none": None}[how]
    nursery.start_soon(lambda: following.run(watch_writes=watch_writes))
    await following.at(1, len(header(1)))
    following.write(transaction(1))
    await following.at(1, len(header(1) + transaction(1)))


async def test_an_ended_follower_gives_its_descriptors_back(following):
    def open_files() -> list[str]:
        found = []
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/self/fd/{number}"))
        return [name for name in found if str(following.path.parent) in name or "inotify" in name]

    before = open_files()
    following.write(header(1))
    async with trio.open_nursery() as inner:
        inner.start_soon(following.run)
        await following.at(1, len(header(1)))
        assert len(open_files()) > len(before)
        inner.cancel_scope.cancel()
    following.feed.close()
    assert open_files() == before

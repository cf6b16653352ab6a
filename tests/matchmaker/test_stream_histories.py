"""Histories that no leader has, and contents at forks: brought to who needs them, whole, while records pass."""

import hashlib
from pathlib import Path

import pytest
import trio
from stream_harness import TERM, Impostor, Leader, Standby, eventually, header, record, transaction

from gateway.core.timeline import Position, Timeline
from gateway.matchmaker.journal import Store
from gateway.wire import stream as wire

BASE = header(1) + transaction(1)
OWN = header(1) + b"".join(transaction(number, 1000) for number in range(200))  # written while cut off, at term 2


class Wanting:
    """Wants every history once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.got: list[tuple[str, Timeline, Path, Path | None]] = []
        self.is_ready = True
        self.asked = 0

    def wanted(self, standby: str, pending: Timeline) -> bool:
        self.asked += 1
        return self.is_ready and all(timeline != pending for _, timeline, _, _ in self.got)

    def room(self, standby: str, name: str) -> Path:
        return self.folder / f"{standby}-{name}"

    async def fetched(self, standby: str, pending: Timeline, path: Path, base: Path | None) -> None:
        self.got.append((standby, pending, path, base))


def plain(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
async def returned(nursery, tmp_path):
    """It had received BASE of term 1, led alone in term 2, and comes back to a leader of term 3."""
    standby = Standby("cm2", tmp_path)
    await standby.store.load()
    base = Timeline(Position(1, 1, 0))
    await standby.store.adopt(plain(tmp_path / "base", BASE), base, "cm1", 0)
    forked = standby.store.held.timeline
    await standby.store.keep_fork()
    own = forked.taken_over(2, now_s=100)
    await standby.store.adopt(plain(tmp_path / "own", OWN), own.at(Position(2, 1, 0)), "cm2", 0)
    await nursery.start(standby.run)
    return standby


@pytest.fixture
async def leader(nursery, tmp_path):
    """It had received BASE of term 1 as well, and leads in term 3."""
    leader = Leader(tmp_path, timeline=Timeline(Position(1, 1, len(BASE))).taken_over(TERM, now_s=200))
    leader.histories = Wanting(tmp_path / "room")
    leader.write(BASE + record(7))
    await leader.store.load()
    nursery.start_soon(leader.follow)
    return leader


async def exported(path: Path, upto: int | None = None) -> bytes:
    store = Store(path.parent / "reading")
    await store.load()
    target = path.parent / "plain"
    await store.export(path, upto, target)
    return target.read_bytes()


async def test_a_history_of_a_returned_manager_is_fetched_with_its_base(nursery, returned, leader):
    nursery.start_soon(leader.ship_to, returned)
    shipped = await leader.shipped("cm2")
    await eventually(lambda: leader.histories.got)
    ((standby, pending, path, base),) = leader.histories.got
    assert (standby, pending.head) == ("cm2", Position(2, 1, len(OWN)))
    assert await exported(path) == OWN
    assert await exported(base, len(BASE)) == BASE
    assert await returned.content() == leader.path.read_bytes()
    assert [one.timeline for one in returned.store.pending] == [pending]
    assert shipped.connections_total == 1


async def test_a_base_that_the_leader_has_is_not_fetched(nursery, returned, leader, tmp_path):
    await leader.store.adopt(plain(tmp_path / "again", BASE), Timeline(Position(1, 1, 0)), "cm1", 0)
    await leader.store.keep_fork()
    nursery.start_soon(leader.ship_to, returned)
    await eventually(lambda: leader.histories.got)
    assert leader.histories.got[0][3] is None


async def test_a_history_is_fetched_once_the_leader_wants_it(nursery, returned, leader):
    leader.histories.is_ready = False
    nursery.start_soon(leader.ship_to, returned)
    await leader.shipped("cm2")
    await eventually(lambda: leader.histories.asked > 0)
    assert leader.histories.got == []
    leader.histories.is_ready = True
    await eventually(lambda: leader.histories.got)


async def test_a_history_that_was_merged_is_not_pending_any_more(nursery, returned, leader):
    nursery.start_soon(leader.ship_to, returned)
    await leader.shipped("cm2")
    pending = returned.store.pending[0].timeline
    leader.feed.retell(leader.feed.timeline.merged_with(pending))
    leader.compact(header(2) + record(9))
    await leader.shipped("cm2")
    assert returned.store.pending == ()
    assert returned.store.held.timeline.holds(pending.head)


async def test_records_are_shipped_while_a_history_is_on_its_way(nursery, leader):
    async def conversation(session) -> None:
        """The history never ends."""
        while True:
            for message in await session.receive():
                match message:
                    case wire.Fetch():
                        await session.send(wire.Blob(1_000_000))
                        await session.send(wire.Chunk(wire.Transfer.BLOB, b"x"))
                    case wire.Snapshot(timeline=timeline):
                        await session.send(wire.Accepted(timeline.head))
                    case wire.Append(start=start, data=data):
                        end = Position(start.term, start.generation, start.offset + len(data))
                        await session.send(wire.Accepted(end))

    welcome = wire.Welcome(Timeline(), 0, (Timeline(Position(2, 1, 10)),), ())
    impostor = Impostor(conversation, welcome=welcome)
    await nursery.start(impostor.run)
    nursery.start_soon(leader.ship_to, impostor)
    for number in range(3):
        leader.write(transaction(number))
        await leader.shipped("cm2")
    assert leader.histories.got == []


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ([wire.Blob(10), wire.Chunk(wire.Transfer.BLOB, b"x" * 11)], "too-long"),
        ([wire.Blob(10), wire.Done(wire.Transfer.BLOB, bytes(32))], "too-short"),
        (
            [wire.Blob(1), wire.Chunk(wire.Transfer.BLOB, b"x"), wire.Done(wire.Transfer.BLOB, bytes(32))],
            "bad-checksum",
        ),
        ([wire.Chunk(wire.Transfer.BLOB, b"x")], "instead of a Blob"),
        ([wire.Blob(1), wire.Blob(1)], "instead of a Chunk"),
    ],
)
async def test_a_history_that_is_not_what_was_announced_is_told_to_nobody(nursery, leader, answers, complaint):
    async def conversation(session) -> None:
        while True:
            for message in await session.receive():
                if isinstance(message, wire.Fetch):
                    for answer in answers:
                        await session.send(answer)

    pending = Timeline(Position(2, 1, 10))
    impostor = Impostor(conversation, welcome=wire.Welcome(Timeline(), 0, (pending,), ()))
    await nursery.start(impostor.run)
    nursery.start_soon(leader.ship_to, impostor)
    lost = await leader.until(lambda shipped: bool(shipped.reason))
    assert complaint in lost.reason
    assert leader.histories.got == []


async def test_a_history_that_is_gone_is_asked_for_no_more(nursery, leader):
    fetches = 0

    async def conversation(session) -> None:
        nonlocal fetches
        while True:
            for message in await session.receive():
                if isinstance(message, wire.Fetch):
                    fetches += 1
                    await session.send(wire.Missing())
            await session.send(wire.Keepalive())

    welcome = wire.Welcome(Timeline(), 0, (Timeline(Position(2, 1, 10)),), ())
    impostor = Impostor(conversation, welcome=welcome)
    await nursery.start(impostor.run)
    nursery.start_soon(leader.ship_to, impostor)
    await eventually(lambda: fetches)
    await trio.sleep(1.5)
    assert (fetches, leader.histories.got) == (1, [])


async def test_a_content_at_a_fork_that_the_standby_lacks_is_offered_once_it_has_caught_up(nursery, leader, tmp_path):
    await leader.store.adopt(plain(tmp_path / "again", BASE), Timeline(Position(1, 1, 0)), "cm1", 0)
    await leader.store.keep_fork()
    fork = Position(1, 1, len(BASE))
    standby = Standby("cm2", tmp_path)
    await nursery.start(standby.run)
    nursery.start_soon(leader.ship_to, standby)
    await leader.shipped("cm2")
    await eventually(lambda: standby.store.forks == (fork,))
    assert await exported(standby.store.path_of(fork), len(BASE)) == BASE
    leftovers = [path.name for path in standby.directory.iterdir() if "coming" in path.name]
    assert leftovers == []


async def test_a_fork_that_is_no_journal_is_declined_and_the_stream_goes_on(nursery, leader, tmp_path):
    junk = plain(tmp_path / "junk", b"not a journal")

    class Lying:
        def path_of(self, position: Position) -> Path:
            return junk

    leader.store = Lying()
    standby = Standby("cm2", tmp_path)
    await nursery.start(standby.run)
    nursery.start_soon(leader.ship_to, standby)
    await leader.shipped("cm2")
    await eventually(lambda: standby.store.refused.total() == 1)
    leader.write(transaction(3))
    shipped = await leader.shipped("cm2")
    assert shipped.connections_total == 1
    assert standby.store.forks == ()
    assert hashlib.sha256(await standby.content()).digest() == hashlib.sha256(leader.path.read_bytes()).digest()

"""The store: what was acknowledged is there, what is refused has a name, what is damaged costs no more than itself."""

import contextlib
import hashlib
import os
import stat
import tracemalloc
from pathlib import Path

import pytest

from gateway.core.timeline import Fork, Position, Timeline
from gateway.matchmaker import accounting_file, archive, disk, journal_files, shelf
from gateway.matchmaker.accounting_file import BEFORE_KEPT
from gateway.matchmaker.archive import ARCHIVE_KEPT
from gateway.matchmaker.journal import JournalRefused, Lead, Refusal, Store
from gateway.matchmaker.shelf import FORKS_KEPT, FORKS_OLDEST_KEPT, PENDING_KEPT
from gateway.wire.journal import Writer
from tests.support.stopped_disk import OtherCalls

HEADER = b"107 3 CreationTimestamp 1795380800\n"
BASE = HEADER + b"101 Customer.alice@lab * *\n"
MORE = b"105 \n103 Customer.alice@lab Priority 0.5\n106 \n"
OTHER = b"103 Customer.alice@lab Priority 9.5\n"
CORRUPT = b"1o3 corrupt\n105 \n106 \n"
THIRD = Timeline(Position(3, 1, 0), forks=(Fork(Position(2, 1, 50), 7),))
NEXT = Timeline(Position(3, 2, 0), forks=THIRD.forks)
FOURTH = Timeline(Position(4, 1, 0), forks=THIRD.forks)  # knows nothing of the third term


async def loaded(directory: Path) -> Store:
    store = Store(directory)
    await store.load()
    return store


async def snapshot(store: Store, timeline: Timeline, data: bytes, sha256: bytes | None = None) -> Position:
    writer = await store.open_snapshot(timeline, "cm1", len(data))
    await writer.write(data)
    return await writer.commit(sha256 or hashlib.sha256(data).digest())


async def holding(directory: Path, data: bytes = BASE) -> Store:
    store = await loaded(directory)
    await snapshot(store, THIRD, data)
    return store


async def content(store: Store, position: Position | None = None) -> bytes:
    position = position or store.held.timeline.head
    target = store.directory.parent / "exported"
    await store.export(store.path_of(position), position.offset, target)
    return target.read_bytes()


@contextlib.contextmanager
def refused(store: Store, reason: Refusal, match: str | None = None):
    """Refused by name, counted, and nothing that is held has changed."""
    held, forks, count = store.held, store.forks, store.refused[reason]
    with pytest.raises(JournalRefused, match=match) as refusal:
        yield
    assert refusal.value.reason is reason
    assert store.refused[reason] == count + 1
    assert (store.held, store.forks) == (held, forks)


def journal_of(timeline: Timeline, data: bytes) -> bytes:
    """A journal that a careless writer has made."""
    writer = Writer()
    head = journal_files.encode_head(journal_files.Head(timeline=timeline, origin="cm9", ended_s=0, made_s=0))
    return writer.head(head) + b"".join(writer.data(data, closed=True))


@pytest.fixture
def unsynced(monkeypatch):
    """Hundreds of files, and no machine that stops: the disk need not be waited for."""
    OtherCalls(fsync=lambda _: None, fdatasync=lambda _: None).patch(monkeypatch)


# -- what is held


async def test_a_new_store_holds_nothing(tmp_path):
    store = await loaded(tmp_path / "a" / "b")
    assert (store.held.timeline, store.held.records, store.pending, store.forks, store.lead) == (
        Timeline(),
        0,
        (),
        (),
        None,
    )
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


async def test_what_was_appended_is_read_by_the_next_process_byte_by_byte(tmp_path):
    store = await holding(tmp_path / "state")
    head = store.held.timeline.head
    assert head == Position(3, 1, len(BASE))
    for count in range(1, 4):
        head = await store.append(head, MORE)
        assert head == Position(3, 1, len(BASE + MORE * count))
    again = await loaded(tmp_path / "state")
    assert again.held == store.held
    assert (again.held.timeline, again.held.origin, again.held.records) == (THIRD.at(head), "cm1", 11)
    assert await content(again) == BASE + MORE * 3
    assert stat.S_IMODE((tmp_path / "state" / "accounting.journal").stat().st_mode) == 0o600


async def test_more_than_a_frame_is_appended_at_once(tmp_path):
    store = await holding(tmp_path)
    await store.append(store.held.timeline.head, OTHER * 10_000)
    again = await loaded(tmp_path)
    assert again.held == store.held
    assert await content(again) == BASE + OTHER * 10_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"103 Customer.alice@lab Priority 0.5", Refusal.NOT_CLOSED),
        (b"105 \n103 Customer.alice@lab Priority 0.5\n", Refusal.NOT_CLOSED),
        (MORE + b"105 \n", Refusal.NOT_CLOSED),
        (b"1o3 corrupt\n", Refusal.CORRUPT_RECORD),
        (MORE + CORRUPT, Refusal.CORRUPT_RECORD),
        (b"103 Customer.alice@lab Priority 0\0\n", Refusal.CORRUPT_RECORD),
        (b"103 Customer.alice@lab Priority 007\n", Refusal.CORRUPT_RECORD),
    ],
)
async def test_what_a_negotiator_would_not_read_is_not_appended(tmp_path, data, reason):
    store = await holding(tmp_path)
    with refused(store, reason):
        await store.append(store.held.timeline.head, data)
    await store.append(store.held.timeline.head, MORE)
    assert await content(await loaded(tmp_path)) == BASE + MORE


async def test_records_that_do_not_begin_where_what_is_held_ends_are_refused(tmp_path):
    store = await loaded(tmp_path)
    with refused(store, Refusal.NOT_HELD):
        await store.append(Position(3, 1, 0), MORE)
    await snapshot(store, THIRD, BASE)
    head = store.held.timeline.head
    for start in (Position(3, 1, head.offset - 1), Position(3, 2, head.offset), Position(4, 1, head.offset)):
        with refused(store, Refusal.OUT_OF_ORDER, f"records at {start}, {head} is held"):
            await store.append(start, MORE)


async def test_a_journal_grows_to_the_length_of_an_accounting_file_and_no_further(tmp_path, monkeypatch):
    store = await holding(tmp_path)
    monkeypatch.setattr(shelf, "FILE_BYTES_MAX", len(BASE + MORE))
    await store.append(store.held.timeline.head, MORE)
    with refused(store, Refusal.TOO_LONG):
        await store.append(store.held.timeline.head, MORE)
    with refused(store, Refusal.TOO_LONG):
        await store.open_snapshot(NEXT, "cm1", len(BASE + MORE) + 1)


async def test_a_file_that_somebody_else_has_changed_is_proven_again_before_more_is_written(tmp_path):
    store = await holding(tmp_path)
    path = tmp_path / "accounting.journal"
    path.write_bytes(path.read_bytes() + b"something else")
    with refused(store, Refusal.BAD_JOURNAL):
        await store.append(store.held.timeline.head, MORE)
    await store.append(store.held.timeline.head, MORE)
    assert await content(store) == BASE + MORE


# -- snapshots


async def test_a_snapshot_takes_the_place_of_what_is_held_which_stays_reachable(tmp_path):
    store = await holding(tmp_path / "state")
    before = store.held.timeline.head
    assert await snapshot(store, NEXT, BASE + OTHER) == Position(3, 2, len(BASE + OTHER))
    for store_now in (store, await loaded(tmp_path / "state")):
        assert await content(store_now) == BASE + OTHER
        assert await content(store_now, before) == BASE
    # The head of a snapshot may be told with its length as well.
    assert await snapshot(store, Timeline(Position(3, 3, len(BASE)), THIRD.forks), BASE) == Position(3, 3, len(BASE))
    assert store.path_of(before) is None


async def test_nothing_of_a_snapshot_is_shown_before_it_is_whole(tmp_path):
    store = await holding(tmp_path)
    writer = await store.open_snapshot(NEXT, "cm1", len(BASE + OTHER))
    await writer.write(BASE)
    assert (await loaded(tmp_path)).held == store.held
    await store.append(store.held.timeline.head, MORE)  # of the generation before
    with refused(store, Refusal.OUT_OF_ORDER):
        await store.open_snapshot(Timeline(Position(3, 2, 5), THIRD.forks), "cm1", 6)


@pytest.mark.parametrize(
    ("data", "length", "sha256", "reason"),
    [
        (BASE, len(BASE) + 1, b"", Refusal.TOO_SHORT),
        (BASE, len(BASE) - 1, b"", Refusal.TOO_LONG),
        (BASE, len(BASE), bytes(32), Refusal.BAD_CHECKSUM),
        (BASE + b"105 \n", len(BASE) + 5, b"", Refusal.NOT_CLOSED),
        (BASE + b"103 k", len(BASE) + 5, b"", Refusal.NOT_CLOSED),
        (BASE + CORRUPT, len(BASE + CORRUPT), b"", Refusal.CORRUPT_RECORD),
        (b"\0" * 100, 100, b"", Refusal.NOT_CLOSED),
        (b"\0" * 99 + b"\n", 100, b"", Refusal.CORRUPT_RECORD),
    ],
)
async def test_a_snapshot_that_is_not_what_was_announced_or_not_whole_is_refused(
    tmp_path, data, length, sha256, reason
):
    store = await holding(tmp_path)
    writer = await store.open_snapshot(NEXT, "cm1", length)
    with refused(store, reason):
        await writer.write(data)
        await writer.commit(sha256 or hashlib.sha256(data).digest())
    with refused(store, Refusal.OUT_OF_ORDER):
        await writer.commit(hashlib.sha256(data).digest())
    assert sorted(os.listdir(tmp_path)) == ["accounting.journal"]
    await snapshot(store, NEXT, BASE + MORE)


async def test_a_corrupt_snapshot_is_refused_before_all_of_it_has_come(tmp_path):
    store = await holding(tmp_path)
    writer = await store.open_snapshot(NEXT, "cm1", 50_000_000)
    with refused(store, Refusal.CORRUPT_RECORD, "no record at byte 35"):
        await writer.write(HEADER + b"junk\n" * 300_000)


async def test_a_snapshot_that_lacks_what_is_held_is_refused(tmp_path):
    store = await holding(tmp_path, BASE + MORE)
    stale = (
        THIRD.at(Position(3, 1, len(BASE))),
        FOURTH,
        Timeline(Position(4, 1, 0), forks=(Fork(Position(3, 1, len(BASE)), 9),)),
    )
    for timeline in stale:
        with refused(store, Refusal.STALE):
            await store.open_snapshot(timeline, "cm2", len(BASE))


async def test_a_snapshot_that_was_overtaken_by_records_is_refused_in_the_end(tmp_path):
    store = await holding(tmp_path)
    writer = await store.open_snapshot(THIRD, "cm1", len(BASE))
    await writer.write(BASE)
    await store.append(store.held.timeline.head, MORE)
    with refused(store, Refusal.STALE):
        await writer.commit(hashlib.sha256(BASE).digest())


async def test_a_second_snapshot_ends_the_first_and_a_discarded_one_leaves_nothing(tmp_path):
    store = await holding(tmp_path)
    first = await store.open_snapshot(NEXT, "cm1", len(BASE))
    second = await store.open_snapshot(NEXT, "cm1", len(BASE))
    with refused(store, Refusal.OUT_OF_ORDER):
        await first.commit(hashlib.sha256(BASE).digest())
    await first.discard()
    await second.write(BASE)
    await second.discard()
    with refused(store, Refusal.OUT_OF_ORDER):
        await second.commit(hashlib.sha256(BASE).digest())
    assert os.listdir(tmp_path) == ["accounting.journal"]
    third = await store.open_snapshot(NEXT, "cm1", 0)
    await third.commit(hashlib.sha256(b"").digest())
    await third.discard()
    assert (await loaded(tmp_path)).held.timeline.head == Position(3, 2, 0)


# -- damage


async def damaged_store(directory: Path) -> tuple[Path, bytes]:
    """A store that holds BASE+MORE, then MORE and MORE, and before that BASE."""
    store = await holding(directory)
    await snapshot(store, NEXT, BASE + MORE)
    for _ in range(2):
        await store.append(store.held.timeline.head, MORE)
    path = directory / "accounting.journal"
    return path, path.read_bytes()


async def test_a_bit_that_flips_costs_what_is_behind_it_and_in_the_snapshot_all_of_that(tmp_path, unsynced):
    path, whole = await damaged_store(tmp_path / "state")
    group = len(MORE) + 20
    for byte in [*range(0, len(whole) - 2 * group, 11), *range(len(whole) - 2 * group, len(whole), 2)]:
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << byte % 8
        path.write_bytes(flipped)
        before = (tmp_path / "state" / "accounting.journal.previous").read_bytes()
        store = await loaded(tmp_path / "state")
        left = (len(whole) - 1 - byte) // group  # groups behind it
        if left < 2:
            assert await content(store) == BASE + MORE * (2 - left)
            assert path.read_bytes() == whole[: len(whole) - (left + 1) * group]
            await store.append(store.held.timeline.head, MORE)  # it goes on
        else:
            assert store.held.timeline == THIRD.at(Position(3, 1, len(BASE)))
            assert await content(store) == BASE
            await snapshot(store, NEXT, BASE)
        if store.damaged:
            assert (tmp_path / "state" / "accounting.journal.damaged").read_bytes() == flipped, "for a person"
        else:
            assert (byte - len(whole)) % group < 4, "a length that is too long looks torn"
        (tmp_path / "state" / "accounting.journal.previous").write_bytes(before)


async def test_a_journal_torn_at_any_byte_is_cut_off_at_its_last_whole_transactions(tmp_path, unsynced):
    path, whole = await damaged_store(tmp_path / "state")
    group = len(MORE) + 20
    for cut in [*range(len(whole) - 2 * group, len(whole), 3), len(whole) - group, len(whole)]:
        path.write_bytes(whole[:cut])
        store = await loaded(tmp_path / "state")
        groups = (cut - (len(whole) - 2 * group)) // group
        assert await content(store) == BASE + MORE * (1 + groups)
        assert path.stat().st_size == len(whole) - (2 - groups) * group
        assert store.damaged == 0, "a crash is no damage"


@pytest.mark.parametrize("junk", [b"", b"\0" * 5000, b"\xff" * 5000, b"CGREPLI1" + bytes(5000), HEADER, b"CGJOURN1"])
async def test_what_is_no_journal_is_passed_over_wherever_it_lies(tmp_path, junk):
    await damaged_store(tmp_path)
    for name in ("accounting.journal", "pending-3.1.5.journal", "fork-3.1.5.journal", "lead", "accounting.replica"):
        (tmp_path / name).write_bytes(junk)
    store = await loaded(tmp_path)
    assert (store.held.timeline.head, store.pending, store.forks, store.lead) == (
        Position(3, 1, len(BASE)),
        (),
        (),
        None,
    )
    assert store.damaged == 4
    (tmp_path / "accounting.journal").write_bytes(junk)
    (tmp_path / "accounting.journal.previous").unlink(missing_ok=True)
    store = await loaded(tmp_path)
    assert store.held.timeline == Timeline()
    await snapshot(store, THIRD, BASE)


async def test_a_fifo_or_a_folder_in_a_files_place_holds_nobody_up(tmp_path):
    await damaged_store(tmp_path)
    (tmp_path / "accounting.journal").unlink()
    os.mkfifo(tmp_path / "accounting.journal")
    (tmp_path / "pending-3.1.5.journal").mkdir()
    os.mkfifo(tmp_path / "fork-3.1.5.journal")
    os.mkfifo(tmp_path / "lead")
    store = await loaded(tmp_path)
    assert store.held.timeline.head == Position(3, 1, len(BASE))


async def test_a_file_of_a_gigabyte_is_refused_before_memory_is_taken(tmp_path):
    path, whole = await damaged_store(tmp_path / "state")
    huge = tmp_path / "huge"
    huge.write_bytes(whole)
    os.truncate(huge, 2**30)
    tracemalloc.start()
    try:
        os.truncate(path, 2**30)
        store = await loaded(tmp_path / "state")
        assert (store.held.timeline.head, store.damaged) == (Position(3, 1, len(BASE)), 1)
        with refused(store, Refusal.TOO_LONG):
            await store.adopt(huge, NEXT, "cm1", 0)
        with refused(store, Refusal.TOO_LONG):
            await store.replace(tmp_path / "Accountantnew.log", huge)
        with refused(store, Refusal.TOO_LONG):
            await store.export(huge, None, tmp_path / "exported")
        with refused(store, Refusal.TOO_LONG):
            await store.add_fork(Position(3, 2, len(BASE)), huge)
        with refused(store, Refusal.TOO_LONG):
            await store.open_snapshot(NEXT, "cm1", 2**30)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "exported").exists()
    assert not (tmp_path / "Accountantnew.log").exists()


async def test_eight_megabytes_are_taken_loaded_exported_and_installed_in_pieces(tmp_path):
    data = BASE + OTHER * 230_000
    (tmp_path / "plain").write_bytes(data)
    store = await loaded(tmp_path / "state")
    del data
    tracemalloc.start()
    try:
        await store.adopt(tmp_path / "plain", THIRD, "cm1", 0)
        await store.load()
        await store.install(tmp_path / "Accountantnew.log")
        await store.export(store.path_of(store.held.timeline.head), None, tmp_path / "exported")
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    for name in ("Accountantnew.log", "exported"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "plain").read_bytes()


# -- the former format


async def test_a_replica_of_the_former_version_is_held_as_term_generation_length(tmp_path):
    from tests.matchmaker.test_store_crashes import former_replica

    (tmp_path / "accounting.replica").write_bytes(former_replica())
    (tmp_path / "accounting.replica.previous").write_bytes(b"CGREPLI1" + bytes(100))
    for _ in range(2):
        store = await loaded(tmp_path)
        assert (store.held.timeline, store.held.origin) == (Timeline(Position(3, 18, len(BASE))), "cm1")
        assert os.listdir(tmp_path) == ["accounting.journal"]


# -- adopting


async def test_the_closed_prefix_of_a_plain_file_is_adopted(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(BASE + MORE + b"105 \n103 Customer.al")
    store = await loaded(tmp_path / "state")
    assert await store.adopt(plain, THIRD, "cm2", 77) == Position(3, 1, len(BASE + MORE))
    store = await loaded(tmp_path / "state")
    assert (store.held.origin, store.held.ended_s) == ("cm2", 77)
    assert await content(store) == BASE + MORE


async def test_bytes_that_are_held_already_are_not_written_again_and_more_are_added_in_place(tmp_path):
    plain = tmp_path / "plain"
    store = await holding(tmp_path / "state", BASE + MORE)
    path = tmp_path / "state" / "accounting.journal"
    before, written = path.stat(), path.read_bytes()
    for data in (BASE + MORE, BASE):  # the shorter one is a part of what is held
        plain.write_bytes(data)
        assert await store.adopt(plain, THIRD, "cm1", 0) == Position(3, 1, len(BASE + MORE))
        assert (path.stat().st_ino, path.read_bytes()) == (before.st_ino, written)
    plain.write_bytes(BASE + MORE + OTHER * 5000)
    await store.adopt(plain, THIRD, "cm1", 78)
    assert path.stat().st_ino == before.st_ino
    store = await loaded(tmp_path / "state")
    assert (await content(store), store.held.ended_s) == (BASE + MORE + OTHER * 5000, 78)


async def test_a_plain_file_that_contradicts_lacks_or_would_stop_a_negotiator_is_not_adopted(tmp_path):
    plain = tmp_path / "plain"
    store = await holding(tmp_path / "state", BASE + MORE)
    plain.write_bytes(BASE + OTHER)
    with refused(store, Refusal.DIFFERENT):
        await store.adopt(plain, THIRD, "cm1", 0)
    with refused(store, Refusal.STALE):
        await store.adopt(plain, FOURTH, "cm1", 0)
    plain.write_bytes(BASE + MORE + CORRUPT)
    for timeline in (THIRD, NEXT):
        with refused(store, Refusal.CORRUPT_RECORD):
            await store.adopt(plain, timeline, "cm1", 0)
    with refused(store, Refusal.DISK):
        await store.adopt(tmp_path / "missing", NEXT, "cm1", 0)
    with refused(store, Refusal.BAD_JOURNAL):
        await store.adopt(plain, Timeline(Position(3, -1, 0), THIRD.forks), "cm1", 0)


async def test_what_this_node_led_is_adopted_though_its_history_has_forgotten_what_it_began_with(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(BASE + OTHER)
    store = await holding(tmp_path / "state", BASE + MORE)
    forgotten = Timeline(Position(4, 2, 0))
    with refused(store, Refusal.STALE):
        await store.adopt(plain, forgotten, "cm1", 5)
    await store.put_lead(Lead(forgotten, 7, 1))
    for store_now in (store, await loaded(tmp_path / "state")):
        await store_now.adopt(plain, forgotten, "cm1", 5)
        assert await content(store_now) == BASE + OTHER
    store = await loaded(tmp_path / "state")
    await snapshot(store, Timeline(Position(5, 1, 0), forks=(Fork(store.held.timeline.head, 9),)), BASE)
    with refused(store, Refusal.STALE):
        await store.adopt(plain, Timeline(Position(4, 3, 0)), "cm1", 5)


async def test_a_history_that_was_retold_stays_so(tmp_path):
    store = await holding(tmp_path)
    with refused(store, Refusal.OUT_OF_ORDER):
        await store.retell(NEXT)
    shorter = Timeline(store.held.timeline.head)
    await store.retell(shorter)
    await store.append(store.held.timeline.head, MORE)
    store = await loaded(tmp_path)
    assert store.held.timeline == shorter.at(Position(3, 1, len(BASE + MORE)))
    size = (tmp_path / "accounting.journal").stat().st_size
    await store.retell(store.held.timeline)
    assert (tmp_path / "accounting.journal").stat().st_size == size, "the same again is no work"


# -- making way


async def test_a_snapshot_of_a_leader_that_has_forgotten_what_everybody_holds_is_taken(tmp_path):
    store = await holding(tmp_path)
    await snapshot(store, Timeline(Position(3, 2, 0)), BASE + MORE)
    assert store.held.timeline.head.generation == 2


async def test_what_the_leader_lacks_is_pending_and_held_until_something_else_is(tmp_path):
    store = await holding(tmp_path)
    mine = store.held
    await store.make_way(mine.timeline)
    await store.make_way(NEXT)
    assert (store.held, store.pending) == (mine, ())
    await store.make_way(FOURTH)
    for store_now in (store, await loaded(tmp_path)):
        assert store_now.held == mine  # if the leader dies before its state has come, this is the best there is
        (pending,) = store_now.pending
        assert (pending.timeline, pending.origin) == (mine.timeline, "cm1")
        target = tmp_path / "exported"
        assert (await store_now.export(pending.path, None, target)) == mine
        assert target.read_bytes() == BASE
    await snapshot(store, FOURTH, BASE)
    for store_now in (store, await loaded(tmp_path)):
        assert store_now.held.timeline.head.term == 4
        (pending,) = store_now.pending
        await store_now.export(store_now.path_of(mine.timeline.head), mine.timeline.head.offset, tmp_path / "exported")
        assert (tmp_path / "exported").read_bytes() == BASE


async def test_a_history_is_made_pending_once_however_often_it_makes_way(tmp_path):
    store = await holding(tmp_path)
    await store.make_way(FOURTH)
    await store.make_way(FOURTH)
    assert len(store.pending) == 1


async def test_what_is_taken_over_is_installed_and_kept_as_a_base_at_once(tmp_path):
    store = await holding(tmp_path)
    target = tmp_path / "Accountantnew.log"
    held, installed = await store.take_over(target)
    assert target.read_bytes() == BASE
    assert (held.timeline.head, installed) == (store.held.timeline.head, store.held.timeline.head)
    assert store.forks == (held.timeline.head,)


async def test_a_pending_history_goes_to_the_archive_once_what_is_held_holds_it(tmp_path):
    store = await holding(tmp_path)
    position = store.held.timeline.head
    await store.make_way(FOURTH)
    await snapshot(store, FOURTH, BASE)
    await store.make_way(store.held.timeline)
    assert len(store.pending) == 1
    merged = Timeline(Position(4, 2, 0), FOURTH.forks, included=(position,))
    await snapshot(store, merged, BASE + OTHER)
    await store.make_way(store.held.timeline)
    assert store.pending == (await loaded(tmp_path)).pending == ()
    archived = tmp_path / "archive" / f"history-{position}" / "accounting.journal"
    await store.export(archived, None, tmp_path / "exported")
    assert (tmp_path / "exported").read_bytes() == BASE


async def test_a_bounded_number_of_pending_histories_is_kept_and_the_oldest_is_archived(tmp_path):
    store = await loaded(tmp_path)
    for term in range(3, 3 + PENDING_KEPT + 1):
        await snapshot(store, Timeline(Position(term, 1, 0)), BASE)
        await store.make_way(Timeline(Position(term + 1, 1, 0)))
    assert [one.timeline.head.term for one in store.pending] == list(range(4, 4 + PENDING_KEPT))
    assert os.listdir(tmp_path / "archive") == [f"history-3.1.{len(BASE)}"]


async def test_an_archive_that_can_not_be_written_delays_no_records(tmp_path):
    store = await holding(tmp_path)
    position = store.held.timeline.head
    await store.make_way(FOURTH)
    (tmp_path / "archive").write_bytes(b"in the way")
    await snapshot(store, Timeline(Position(4, 2, 0), FOURTH.forks, included=(position,)), BASE)
    await store.make_way(store.held.timeline)
    assert [one.timeline.head for one in store.pending] == [position], "nothing is lost"


# -- forks


async def test_a_fork_is_read_as_it_was_while_its_file_goes_on_and_after_it_was_replaced(tmp_path):
    store = await loaded(tmp_path / "state")
    assert await store.keep_fork() is None
    await snapshot(store, THIRD, BASE)
    fork = await store.keep_fork()
    assert await store.keep_fork() == fork, "once is enough"
    await store.append(store.held.timeline.head, MORE)
    later = await store.keep_fork()
    await snapshot(store, NEXT, BASE + OTHER)
    await snapshot(store, Timeline(Position(3, 3, 0), THIRD.forks), BASE)
    for store_now in (store, await loaded(tmp_path / "state")):
        assert store_now.forks == (fork, later)
        assert await content(store_now, fork) == BASE
        assert await content(store_now, later) == BASE + MORE
        held = await store_now.export(store_now.path_of(fork), fork.offset, tmp_path / "exported")
        assert (held.timeline, held.records) == (THIRD.at(fork), 2)


async def test_a_fork_that_was_retold_later_is_told_as_it_was(tmp_path):
    store = await holding(tmp_path / "state")
    fork = await store.keep_fork()
    await store.append(store.held.timeline.head, MORE)
    await store.retell(Timeline(store.held.timeline.head))
    held = await store.export(store.path_of(fork), fork.offset, tmp_path / "exported")
    assert held.timeline == THIRD.at(fork)


async def test_forks_that_nobody_needs_go_and_a_bounded_number_stays(tmp_path):
    store = await holding(tmp_path)
    kept = [await store.keep_fork()]
    for _ in range(FORKS_KEPT + 2):
        await store.append(store.held.timeline.head, MORE)
        kept.append(await store.keep_fork())
    assert store.forks == (*kept[:FORKS_OLDEST_KEPT], *kept[FORKS_OLDEST_KEPT - FORKS_KEPT :])
    await store.prune_forks(Timeline(kept[-1], forks=(Fork(kept[-3], 9), Fork(kept[0], 9))))
    for store_now in (store, await loaded(tmp_path)):
        assert store_now.forks == (kept[0], kept[-3], kept[-1])
    assert len(list(tmp_path.glob("fork-*"))) == 3


async def test_a_fork_that_a_pending_history_needs_as_its_base_stays(tmp_path):
    store = await holding(tmp_path)
    fork = await store.keep_fork()
    await snapshot(store, store.held.timeline.taken_over(4, 9), BASE + OTHER)
    await store.make_way(Timeline(Position(5, 1, 0), forks=(Fork(Position(2, 1, 50), 7),)))
    await store.prune_forks(Timeline(Position(5, 1, 0)))
    assert store.forks == (fork,)


async def test_a_fork_from_elsewhere_is_kept_once_it_is_proven(tmp_path, unsynced):
    other = await holding(tmp_path / "other")
    await other.append(other.held.timeline.head, MORE)
    came = other.path_of(other.held.timeline.head)
    whole = came.read_bytes()
    store = await holding(tmp_path / "state")
    await store.make_way(FOURTH)
    fork = Position(3, 1, len(BASE))
    with refused(store, Refusal.OUT_OF_ORDER):
        await store.add_fork(Position(3, 2, len(BASE)), came)
    with refused(store, Refusal.NOT_HELD):
        await store.add_fork(Position(3, 1, len(BASE + MORE) + 1), came)
    with refused(store, Refusal.NOT_CLOSED):
        await store.add_fork(Position(3, 1, len(BASE) + 7), came)
    came.write_bytes(journal_of(THIRD, BASE + CORRUPT))
    with refused(store, Refusal.CORRUPT_RECORD):
        await store.add_fork(Position(3, 1, len(BASE + CORRUPT)), came)
    for byte in range(0, len(whole) - len(MORE) - 40, 5):
        flipped = bytearray(whole)
        flipped[byte] ^= 4
        came.write_bytes(flipped)
        with pytest.raises(JournalRefused):
            await store.add_fork(fork, came)
    assert store.forks == ()
    came.write_bytes(whole[:-5])  # what is torn behind it is nobody's business
    await store.add_fork(fork, came)
    came.unlink()
    for store_now in (store, await loaded(tmp_path / "state")):
        assert store_now.forks == (fork,)
        assert await content(store_now, fork) == BASE


async def test_the_content_at_a_position_is_found_where_a_file_reaches_it(tmp_path):
    store = await holding(tmp_path, BASE + MORE)
    assert store.path_of(Position(3, 1, len(BASE))) == tmp_path / "accounting.journal"
    for position in (Position(3, 1, len(BASE + MORE) + 1), Position(3, 2, 0), Position(2, 1, 50), Position(0, 0, 0)):
        assert store.path_of(position) is None


# -- exporting


async def test_an_export_is_for_its_owner_only_proven_and_told(tmp_path):
    store = await holding(tmp_path / "state")
    await store.append(store.held.timeline.head, MORE)
    target = tmp_path / "exported"
    target.write_bytes(b"something longer that was there before" * 100)
    path = store.path_of(store.held.timeline.head)
    assert await store.export(path, None, target) == store.held
    assert target.read_bytes() == BASE + MORE
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    nothing = await store.export(path, 0, target)
    assert (target.read_bytes(), nothing.timeline, nothing.records) == (b"", THIRD, 0)


async def test_no_flipped_bit_is_exported(tmp_path, unsynced):
    store = await holding(tmp_path / "state")
    await store.append(store.held.timeline.head, MORE)
    path = store.path_of(store.held.timeline.head)
    whole = path.read_bytes()
    for byte in range(len(whole)):
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << byte % 8
        path.write_bytes(flipped)
        with pytest.raises(JournalRefused):
            await store.export(path, len(BASE + MORE), tmp_path / "exported")
        assert not (tmp_path / "exported").exists()


async def test_an_export_of_what_a_negotiator_would_not_read_or_of_no_journal_is_refused(tmp_path):
    store = await holding(tmp_path / "state")
    path, target = tmp_path / "came", tmp_path / "exported"
    for data, reason in (
        (journal_of(THIRD, BASE + CORRUPT), Refusal.CORRUPT_RECORD),
        (journal_of(THIRD, BASE + b"105 \n"), Refusal.NOT_CLOSED),
        (journal_of(THIRD, BASE)[:-1], Refusal.BAD_JOURNAL),
        (b"CGREPLI1" + bytes(1000), Refusal.BAD_JOURNAL),
        (b"", Refusal.BAD_JOURNAL),
    ):
        path.write_bytes(data)
        with refused(store, reason):
            await store.export(path, None, target)
        assert not target.exists()


# -- HTCondor's file


async def test_an_installed_journal_has_the_bytes_the_owner_and_the_mode_and_the_old_file_is_kept(tmp_path):
    accountant_log = tmp_path / "spool" / "Accountantnew.log"
    accountant_log.parent.mkdir()
    accountant_log.write_bytes(BASE)
    store = await holding(tmp_path / "state", BASE + MORE)
    assert await store.install(accountant_log, os.getuid(), os.getgid()) == store.held.timeline.head
    assert accountant_log.read_bytes() == BASE + MORE
    assert (stat.S_IMODE(accountant_log.stat().st_mode), accountant_log.stat().st_uid) == (0o600, os.getuid())
    assert (tmp_path / "state" / "Accountantnew.log.before-3").read_bytes() == BASE
    assert os.listdir(accountant_log.parent) == ["Accountantnew.log"]  # condor_preen deletes what it does not know


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
async def test_an_installed_journal_belongs_to_htcondors_user(tmp_path):
    store = await holding(tmp_path / "state")
    await store.install(tmp_path / "Accountantnew.log", 12345, 23456)
    status = (tmp_path / "Accountantnew.log").stat()
    assert (status.st_uid, status.st_gid) == (12345, 23456)


async def test_to_install_what_is_there_already_or_nothing_changes_nothing(tmp_path):
    accountant_log = tmp_path / "Accountantnew.log"
    accountant_log.write_bytes(BASE)
    before = accountant_log.stat()
    store = await loaded(tmp_path / "state")
    assert await store.install(accountant_log) is None
    await snapshot(store, THIRD, BASE)
    assert await store.install(accountant_log) is None
    assert accountant_log.stat().st_ino == before.st_ino
    assert not list((tmp_path / "state").glob("*.before-*"))
    accountant_log.write_bytes(BASE.replace(b"alice", b"malic"))  # of the same length
    assert await store.install(accountant_log) == store.held.timeline.head
    assert accountant_log.read_bytes() == BASE


async def test_a_bit_that_flips_after_the_start_leads_to_the_good_part_or_to_what_was_held_before(tmp_path):
    accountant_log = tmp_path / "Accountantnew.log"
    path, whole = await damaged_store(tmp_path / "state")
    store = await loaded(tmp_path / "state")
    path.write_bytes(whole[:-5] + bytes((whole[-5] ^ 1,)) + whole[-4:])
    assert await store.install(accountant_log) == Position(3, 2, len(BASE + MORE * 2))
    assert accountant_log.read_bytes() == BASE + MORE * 2
    path.write_bytes(bytes(len(whole)))
    assert await store.install(accountant_log) == Position(3, 1, len(BASE))
    assert accountant_log.read_bytes() == BASE
    assert store.held.timeline.head == Position(3, 1, len(BASE))


async def test_a_journal_that_would_stop_a_negotiator_is_not_installed(tmp_path):
    accountant_log = tmp_path / "Accountantnew.log"
    accountant_log.write_bytes(BASE)
    (tmp_path / "accounting.journal").write_bytes(journal_of(THIRD, BASE + CORRUPT))  # as a bug of ours would
    store = await loaded(tmp_path)
    with refused(store, Refusal.CORRUPT_RECORD):
        await store.install(accountant_log)
    assert accountant_log.read_bytes() == BASE
    assert not (tmp_path / ".Accountantnew.log.install").exists()


async def test_a_merged_file_takes_htcondors_place_only_if_it_is_whole(tmp_path):
    accountant_log, merged = tmp_path / "Accountantnew.log", tmp_path / "merged"
    accountant_log.write_bytes(BASE)
    store = await holding(tmp_path / "state", BASE)
    await store.put_lead(Lead(Timeline(Position(5, 1, 0)), 7, 1))
    for data, reason in ((BASE + CORRUPT, Refusal.CORRUPT_RECORD), (BASE + b"105 \n", Refusal.NOT_CLOSED)):
        merged.write_bytes(data)
        with refused(store, reason):
            await store.replace(accountant_log, merged)
        assert accountant_log.read_bytes() == BASE
    merged.write_bytes(BASE + MORE)
    await store.replace(accountant_log, merged, os.getuid(), os.getgid())
    assert accountant_log.read_bytes() == BASE + MORE
    assert (tmp_path / "state" / "Accountantnew.log.before-5").read_bytes() == BASE
    assert sorted(os.listdir(tmp_path)) == ["Accountantnew.log", "merged", "state"]


async def test_a_symbolic_link_planted_in_the_spool_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".Accountantnew.log.install").symlink_to(victim)
    store = await holding(tmp_path / "state")
    await store.install(tmp_path / "Accountantnew.log")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "Accountantnew.log").read_bytes() == BASE


async def test_a_file_that_is_a_symbolic_link_is_replaced_and_what_it_led_to_is_kept(tmp_path):
    (tmp_path / "elsewhere").write_bytes(BASE)
    (tmp_path / "Accountantnew.log").symlink_to(tmp_path / "elsewhere")
    store = await holding(tmp_path / "state", BASE + MORE)
    await store.install(tmp_path / "Accountantnew.log")
    assert (tmp_path / "state" / "Accountantnew.log.before-3").read_bytes() == BASE
    assert (tmp_path / "elsewhere").read_bytes() == BASE
    assert (tmp_path / "Accountantnew.log").read_bytes() == BASE + MORE


async def test_replaced_files_are_kept_on_another_file_system_too_never_overwritten_and_not_for_ever(
    tmp_path, monkeypatch
):
    def elsewhere(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    accountant_log = tmp_path / "Accountantnew.log"
    store = await holding(tmp_path / "state")
    for number in range(BEFORE_KEPT + 3):
        if number == 4:
            monkeypatch.setattr(accounting_file, "link", elsewhere)
        accountant_log.unlink(missing_ok=True)
        accountant_log.write_bytes(b"%d" % number)
        await store.install(accountant_log)
    kept = sorted((tmp_path / "state").glob("*.before-*"), key=lambda path: path.stat().st_ctime_ns)
    assert [path.read_bytes() for path in kept] == [b"%d" % number for number in range(3, BEFORE_KEPT + 3)]


# -- the lead, the archive, the disk


def test_a_file_that_gets_the_name_that_it_has_already_gets_no_third_one(tmp_path):
    (tmp_path / "held").write_bytes(BASE)
    for _ in range(2):  # rename(2) of one name of a file to another does nothing
        disk.link(tmp_path / "held", tmp_path / "previous")
    assert sorted(os.listdir(tmp_path)) == ["held", "previous"]


async def test_what_this_node_leads_is_there_after_a_restart_and_believed_only_whole(tmp_path, unsynced):
    store = await loaded(tmp_path)
    lead = Lead(THIRD, 1234567, 3, bytes(32), NEXT)
    await store.put_lead(lead)
    assert (await loaded(tmp_path)).lead == store.lead == lead
    whole = (tmp_path / "lead").read_bytes()
    for byte in range(len(whole)):
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << byte % 8
        (tmp_path / "lead").write_bytes(flipped)
        store = await loaded(tmp_path)
        assert (store.lead, store.damaged) == (None, 1)
    await store.put_lead(lead)
    await store.put_lead(None)
    assert (await loaded(tmp_path)).lead is store.lead is None


async def test_an_archive_holds_copies_of_what_may_change_and_stays_bounded(tmp_path, unsynced, monkeypatch):
    store = await holding(tmp_path / "state")
    changing = tmp_path / "Accountantnew.log"
    changing.write_bytes(BASE)
    files = {"ours": changing, "theirs.journal": store.path_of(store.held.timeline.head)}
    folder = await store.archive("merge-3", files)
    assert folder == tmp_path / "state" / "archive" / "merge-3"
    changing.write_bytes(b"changed")
    assert (folder / "ours").read_bytes() == BASE
    assert (await store.archive("merge-3", files)).name == "merge-3.2", "nothing is overwritten"
    for bad in ("", "..", "a/b", ".new", "a\0b"):
        with refused(store, Refusal.BAD_NAME):
            await store.archive(bad, files)
        with refused(store, Refusal.BAD_NAME):
            await store.archive("good", {bad: changing})
    with refused(store, Refusal.DISK):
        await store.archive("good", {"missing": tmp_path / "missing"})
    for number in range(ARCHIVE_KEPT):
        await store.archive(f"later-{number}", files)
    assert {path.name for path in folder.parent.iterdir()} == {f"later-{number}" for number in range(ARCHIVE_KEPT)}
    monkeypatch.setattr(archive, "ARCHIVE_BYTES_MAX", 1)
    await store.archive("too-large-for-another", files)
    assert [path.name for path in folder.parent.iterdir()] == ["too-large-for-another"]


async def test_a_full_disk_has_a_name_and_loses_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    store = await holding(tmp_path / "state")
    for name in ("write", "pwrite", "fsync", "fdatasync"):
        with pytest.MonkeyPatch.context() as patch:
            OtherCalls(**{name: full}).patch(patch)
            if name in ("pwrite", "fdatasync"):
                with refused(store, Refusal.NO_SPACE):
                    await store.append(store.held.timeline.head, MORE)
                with refused(store, Refusal.NO_SPACE):
                    await store.retell(Timeline(store.held.timeline.head))
            else:
                with refused(store, Refusal.NO_SPACE):
                    await snapshot(store, NEXT, BASE)
                with refused(store, Refusal.NO_SPACE):
                    await store.install(tmp_path / "Accountantnew.log")
                with refused(store, Refusal.NO_SPACE):
                    await store.put_lead(Lead(THIRD, 1, 1))
        assert store.lead is None
        assert (await loaded(tmp_path / "state")).held == store.held
        assert not list((tmp_path / "state").glob("*.new"))
    await store.append(store.held.timeline.head, MORE)
    assert await content(await loaded(tmp_path / "state")) == BASE + MORE
    monkeypatch.setattr(shelf, "space_left", lambda _: 10_000)
    with refused(store, Refusal.NO_SPACE):
        await store.open_snapshot(NEXT, "cm1", 100)

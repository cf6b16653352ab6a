"""Journal files: what is read from them is what was last said of them, and the former version's are proven too."""

import hashlib
from pathlib import Path

import pytest

from gateway.core.timeline import Fork, Position, Timeline
from gateway.matchmaker.journal import Store
from tests.matchmaker.test_store_crashes import BASE, MORE, THIRD, former_replica, loaded, snapshot


async def retold(directory: Path, *, at_once: bool = False) -> tuple[Store, Timeline]:
    """A store that held BASE and MORE, and then heard of another history of that, perhaps of BASE already."""
    store = await loaded(directory)
    await snapshot(store, THIRD, BASE)
    if not at_once:
        await store.append(store.held.timeline.head, MORE)
    await store.retell(Timeline(store.held.timeline.head, forks=(Fork(Position(1, 1, 5), 3),)))
    return store, store.held.timeline


@pytest.mark.parametrize("at_once", [False, True], ids=["appended", "behind the snapshot"])
async def test_an_export_tells_what_was_last_said_of_the_bytes_that_it_holds(tmp_path, at_once):
    store, timeline = await retold(tmp_path / "state", at_once=at_once)
    path = store.path_of(timeline.head)
    for upto in (None, timeline.head.offset):
        assert (await store.export(path, upto, tmp_path / "exported")).timeline == timeline
    await store.append(timeline.head, MORE)
    assert (await store.export(path, timeline.head.offset, tmp_path / "exported")).timeline == timeline
    if not at_once:  # the bytes before it were called something else when they were all that there was
        begun = await store.export(path, len(BASE), tmp_path / "exported")
        assert begun.timeline == THIRD.at(Position(3, 1, len(BASE)))


async def test_a_fork_from_elsewhere_keeps_what_was_last_said_of_it(tmp_path):
    other, timeline = await retold(tmp_path / "other")
    store = await loaded(tmp_path / "state")
    await store.add_fork(timeline.head, other.path_of(timeline.head))
    exported = await store.export(store.path_of(timeline.head), timeline.head.offset, tmp_path / "exported")
    assert exported.timeline == timeline
    assert (tmp_path / "exported").read_bytes() == BASE + MORE


async def test_what_is_damaged_behind_the_bytes_that_are_asked_for_is_nobodys_business(tmp_path):
    store, timeline = await retold(tmp_path / "state", at_once=True)
    path = store.path_of(timeline.head)
    whole = path.read_bytes()
    await store.append(timeline.head, MORE)
    path.write_bytes(whole + b"\xff" * 500)
    assert (await store.export(path, timeline.head.offset, tmp_path / "exported")).timeline == timeline


async def test_no_flipped_bit_of_a_former_replica_is_held(tmp_path):
    whole = former_replica()
    for byte in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << byte % 8
        (tmp_path / "accounting.replica").write_bytes(flipped)
        store = await loaded(tmp_path)
        assert (store.held.timeline, store.damaged) == (Timeline(), 0)
        assert (tmp_path / "accounting.replica").exists(), "for a person"


async def test_a_former_replica_that_was_nearly_in_place_is_taken(tmp_path):
    (tmp_path / "accounting.replica.new").write_bytes(former_replica())
    store = await loaded(tmp_path)
    assert store.held.timeline.head == Position(3, 18, len(BASE))
    await store.export(store.path_of(store.held.timeline.head), None, tmp_path / "exported")
    assert hashlib.sha256((tmp_path / "exported").read_bytes()).digest() == hashlib.sha256(BASE).digest()

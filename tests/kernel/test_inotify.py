"""Inotify: each way in which a file comes to have other content ends the wait; what happens beside it does not."""

import os

import pytest
import trio
import trio.testing

from gateway.kernel.inotify import FileWatch

WAIT_S = 10  # for what happens at once
QUIET_S = 0.1  # for what must not happen


@pytest.fixture
def watched(tmp_path):
    """Return a file that is there, in a folder of its own, and its watch."""
    path = tmp_path / "spool" / "watched.log"
    path.parent.mkdir()
    path.write_bytes(b"first\n")
    watch = FileWatch(str(path))
    yield path, watch
    watch.close()


async def told(watch: FileWatch) -> None:
    with trio.fail_after(WAIT_S):
        await watch.changed()


async def quiet(watch: FileWatch) -> bool:
    with trio.move_on_after(QUIET_S):
        await watch.changed()
        return False
    return True


def append(path) -> None:
    with path.open("ab") as file:
        file.write(b"more\n")


async def test_an_append_ends_the_wait(watched, nursery):
    path, watch = watched
    written = trio.Event()

    async def wait() -> None:
        await told(watch)
        assert path.read_bytes() == b"first\nmore\n"
        written.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    append(path)
    with trio.fail_after(WAIT_S):
        await written.wait()


async def test_what_was_written_before_the_wait_ends_it_once(watched):
    path, watch = watched
    append(path)
    append(path)
    await told(watch)
    assert await quiet(watch)


async def test_every_append_ends_a_wait(watched):
    path, watch = watched
    for _ in range(5):
        append(path)
        await told(watch)


async def test_a_replacement_by_rename_ends_the_wait_and_the_new_file_is_watched(watched):
    path, watch = watched
    fresh = path.with_suffix(".tmp")
    fresh.write_bytes(b"compacted\n")
    assert await quiet(watch)
    os.replace(fresh, path)
    await told(watch)
    assert await quiet(watch)
    append(path)
    await told(watch)


async def test_a_truncation_ends_the_wait(watched):
    path, watch = watched
    os.truncate(path, 0)
    await told(watch)


@pytest.mark.parametrize("how", ["written", "linked"])
async def test_a_file_that_is_made_later_ends_the_wait(tmp_path, how):
    path = tmp_path / "watched.log"
    other = tmp_path / "other.log"
    other.write_bytes(b"first\n")
    watch = FileWatch(str(path))
    try:
        assert await quiet(watch)
        if how == "written":
            path.write_bytes(b"")
        else:
            os.link(other, path)
        await told(watch)
        append(path)
        await told(watch)
    finally:
        watch.close()


async def test_changes_of_other_files_in_the_folder_do_not_end_the_wait(watched):
    path, watch = watched
    for name in ("job_queue.log", "watched.log.tmp", "watched.lo", "a" * 200):
        other = path.with_name(name)
        other.write_bytes(b"new\n")
        append(other)
        os.replace(other, path.with_name("moved"))
    assert await quiet(watch)
    assert not watch.lost


async def test_a_change_among_many_others_ends_the_wait(watched):
    path, watch = watched
    for number in range(50):
        path.with_name(f"before {number}").write_bytes(b"new\n")
    append(path)
    for number in range(50):
        path.with_name(f"after {number}").write_bytes(b"new\n")
    await told(watch)


async def test_a_read_does_not_end_the_wait(watched):
    path, watch = watched
    path.read_bytes()
    os.stat(path)
    assert await quiet(watch)


async def test_a_folder_that_is_removed_ends_the_wait_and_the_watch(watched):
    path, watch = watched
    path.unlink()
    assert not watch.lost
    path.parent.rmdir()
    await told(watch)
    assert watch.lost


async def test_a_folder_that_is_moved_away_ends_the_wait_and_the_watch(watched):
    """Another may be made in its place, and this watch would never see it."""
    path, watch = watched
    path.parent.rename(path.parent.with_name("moved"))
    await told(watch)
    assert watch.lost


def test_a_missing_folder_is_refused_and_costs_no_descriptor(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FileWatch(str(tmp_path / "nowhere" / "watched.log"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_watch_gives_its_descriptor_back_once(watched):
    before = len(os.listdir("/proc/self/fd"))
    watch = FileWatch(str(watched[0]))
    watch.close()
    watch.close()
    assert len(os.listdir("/proc/self/fd")) == before

"""The leader's accounting file: each closed state of it is shown soon, and nothing else."""

import contextlib
import functools
import os

import pytest
import trio

from gateway.kernel.inotify import FileWatch
from gateway.matchmaker import watch as watch_module
from gateway.matchmaker.watch import watch

HEADER = b"107 3 CreationTimestamp 1795380800\n"
NEW = b"101 Customer.alice@lab * *\n"


@pytest.fixture(params=[None, FileWatch], ids=["looks", "is-told"])
def watching(request):
    """Return how to watch: by looking again and again, or when the kernel says that something is written."""
    return functools.partial(following_changes, request.param)


@contextlib.asynccontextmanager
async def following_changes(watch_writes, path, generation=0):
    """Collect changes in the background; give a function that waits for the next one."""
    shown, found = trio.open_memory_channel(100)
    async with trio.open_nursery() as nursery:

        async def collect():
            changes = watch(path, interval_ms=10, generation=generation, watch_writes=watch_writes)
            async with contextlib.aclosing(changes) as watched:
                async for change in watched:
                    shown.send_nowait(change)

        async def following():
            with trio.fail_after(5):
                return await found.receive()

        nursery.start_soon(collect)
        yield following
        nursery.cancel_scope.cancel()


def append(path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def nothing(following) -> bool:
    with trio.move_on_after(0.2):
        await following()
        return False
    return True


async def test_the_file_is_shown_at_once_and_after_each_change(tmp_path, watching):
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with watching(path, generation=7) as following:
        first = await following()
        assert (first.generation, first.data, first.scan.sequence) == (8, HEADER, 3)
        append(path, NEW)
        second = await following()
        assert (second.generation, second.data) == (9, HEADER + NEW)
        replica = second.replica("cm1", 4)
        assert (replica.version, replica.origin, replica.data) == ((4, 9), "cm1", HEADER + NEW)


async def test_a_compaction_is_shown(tmp_path, watching):
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER + NEW)
    async with watching(path) as following:
        await following()
        fresh = tmp_path / "Accountantnew.log.tmp"
        fresh.write_bytes(HEADER.replace(b"107 3", b"107 4"))
        os.replace(fresh, path)
        assert (await following()).scan.sequence == 4


async def test_an_open_transaction_is_shown_only_when_it_has_ended(tmp_path, watching):
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with watching(path) as following:
        await following()
        for part in (b"105 \n" + NEW, b"106 "):
            append(path, part)
            assert await nothing(following)
        append(path, b"\n")
        change = await following()
        assert (change.generation, change.data) == (2, HEADER + b"105 \n" + NEW + b"106 \n")


async def test_a_touched_file_is_not_a_change(tmp_path, watching):
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with watching(path) as following:
        await following()
        os.utime(path)
        path.write_bytes(HEADER)
        assert await nothing(following)


async def test_a_file_that_comes_later_is_shown_then(tmp_path, watching):
    path = tmp_path / "Accountantnew.log"
    async with watching(path) as following:
        assert await nothing(following)
        path.write_bytes(HEADER)
        assert (await following()).data == HEADER


async def test_a_corrupt_file_is_not_shown_until_it_is_good_again(tmp_path, watching):
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with watching(path) as following:
        await following()
        for corrupt in (HEADER + NEW + b"1o3 corrupt\n", HEADER + b"1o3 corrupt\n105 \n106 \n"):
            path.write_bytes(corrupt)
            assert await nothing(following)
        path.write_bytes(HEADER + NEW)
        change = await following()
        assert (change.generation, change.data) == (2, HEADER + NEW)


async def test_an_unchanged_file_is_not_read_again(tmp_path, watching, monkeypatch):
    reads = []
    scan = watch_module.scan_untrusted
    monkeypatch.setattr(watch_module, "scan_untrusted", lambda data: reads.append(len(data)) or scan(data))
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with watching(path) as following:
        await following()
        assert await nothing(following)
    assert reads == [len(HEADER)]


async def told(path, watch_writes):
    """Return a watch that has shown the file once, and looks again only if it is told to."""
    changes = watch(path, interval_ms=10, watch_writes=watch_writes)
    with trio.fail_after(5):
        await anext(changes)
    return changes


async def test_a_change_is_shown_long_before_the_next_look_that_nobody_asks_for(tmp_path, monkeypatch):
    monkeypatch.setattr(watch_module, "LOOK_MS_MAX", 600_000)
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with contextlib.aclosing(await told(path, FileWatch)) as changes:
        for number in range(1, 4):
            append(path, NEW)
            with trio.fail_after(10):
                assert (await anext(changes)).data == HEADER + number * NEW


async def test_a_file_that_nobody_writes_to_is_not_even_looked_at(tmp_path, monkeypatch):
    looks = []
    look = watch_module._look
    monkeypatch.setattr(watch_module, "_look", lambda path, seen: looks.append(path) or look(path, seen))
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with contextlib.aclosing(await told(path, FileWatch)) as changes:
        with trio.move_on_after(0.2):
            await anext(changes)
    assert len(looks) == 1


async def test_a_change_that_nobody_tells_of_is_shown_at_the_next_look(tmp_path, monkeypatch):
    """Another host writes to a shared folder."""

    class Deaf(FileWatch):
        async def changed(self):
            await trio.sleep_forever()

    monkeypatch.setattr(watch_module, "LOOK_MS_MAX", 50)
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with contextlib.aclosing(await told(path, Deaf)) as changes:
        append(path, NEW)
        with trio.fail_after(10):
            assert (await anext(changes)).data == HEADER + NEW


@pytest.mark.parametrize("how", ["removed", "moved"])
async def test_a_folder_that_is_made_anew_is_watched_again(tmp_path, monkeypatch, how):
    monkeypatch.setattr(watch_module, "LOOK_MS_MAX", 600_000)
    path = tmp_path / "spool" / "Accountantnew.log"
    path.parent.mkdir()
    path.write_bytes(HEADER)
    async with contextlib.aclosing(await told(path, FileWatch)) as changes:
        if how == "removed":
            path.unlink()
            path.parent.rmdir()
        else:
            path.parent.rename(tmp_path / "moved")
        path.parent.mkdir()
        path.write_bytes(HEADER + NEW)
        with trio.fail_after(10):
            assert (await anext(changes)).data == HEADER + NEW
        append(path, NEW)
        with trio.fail_after(10):
            assert (await anext(changes)).data == HEADER + NEW + NEW


async def test_an_ended_watch_gives_the_kernels_watch_back(tmp_path):
    made = []
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)

    class Kept(FileWatch):
        def close(self):
            made.remove(self)
            super().close()

    changes = await told(path, lambda path: made.append(Kept(path)) or made[-1])
    assert len(made) == 1
    await changes.aclose()
    assert made == []


async def test_a_folder_without_a_watch_is_looked_at_all_the_time(tmp_path):
    """The folder comes later, or the limits of inotify are reached."""

    def refused(path):
        raise OSError("no space left on device")

    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with contextlib.aclosing(await told(path, refused)) as changes:
        append(path, NEW)
        with trio.fail_after(10):
            assert (await anext(changes)).data == HEADER + NEW

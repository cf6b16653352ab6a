"""The leader's accounting file: each closed state of it is shown soon, and nothing else."""

import contextlib
import os

import trio

from gateway.matchmaker import watch as watch_module
from gateway.matchmaker.watch import watch

HEADER = b"107 3 CreationTimestamp 1795380800\n"
NEW = b"101 Customer.alice@lab * *\n"


@contextlib.asynccontextmanager
async def watching(path, generation=0):
    """Collect changes in the background; give a function that waits for the next one."""
    shown, changes = trio.open_memory_channel(100)
    async with trio.open_nursery() as nursery:

        async def collect():
            async with contextlib.aclosing(watch(path, interval_ms=10, generation=generation)) as watched:
                async for change in watched:
                    shown.send_nowait(change)

        async def following():
            with trio.fail_after(5):
                return await changes.receive()

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


async def test_the_file_is_shown_at_once_and_after_each_change(tmp_path):
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


async def test_a_compaction_is_shown(tmp_path):
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER + NEW)
    async with watching(path) as following:
        await following()
        fresh = tmp_path / "Accountantnew.log.tmp"
        fresh.write_bytes(HEADER.replace(b"107 3", b"107 4"))
        os.replace(fresh, path)
        assert (await following()).scan.sequence == 4


async def test_an_open_transaction_is_shown_only_when_it_has_ended(tmp_path):
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


async def test_a_touched_file_is_not_a_change(tmp_path):
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with watching(path) as following:
        await following()
        os.utime(path)
        path.write_bytes(HEADER)
        assert await nothing(following)


async def test_a_file_that_comes_later_is_shown_then(tmp_path):
    path = tmp_path / "Accountantnew.log"
    async with watching(path) as following:
        assert await nothing(following)
        path.write_bytes(HEADER)
        assert (await following()).data == HEADER


async def test_a_corrupt_file_is_not_shown_until_it_is_good_again(tmp_path):
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


async def test_an_unchanged_file_is_not_read_again(tmp_path, monkeypatch):
    reads = []
    scan = watch_module.scan_untrusted
    monkeypatch.setattr(watch_module, "scan_untrusted", lambda data: reads.append(len(data)) or scan(data))
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with watching(path) as following:
        await following()
        assert await nothing(following)
    assert reads == [len(HEADER)]

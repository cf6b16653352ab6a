"""The leader's accounting file: each closed state of it is shown soon, and nothing else."""

import contextlib
import os

import trio

from gateway.matchmaker.watch import watch

HEADER = b"107 3 CreationTimestamp 1795380800\n"
NEW = b"101 Customer.alice@lab * *\n"


@contextlib.asynccontextmanager
async def watching(path, generation=0):
    async with contextlib.aclosing(watch(path, interval_ms=10, generation=generation)) as changes:

        async def following():
            with trio.fail_after(5):
                return await anext(changes)

        yield following


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
        for part in (b"105 \n" + NEW, b"106 ", b"\n"):
            append(path, part)
            await trio.sleep(0.1)
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
    async with trio.open_nursery() as nursery, watching(path) as following:

        async def negotiator_starts():
            await trio.sleep(0.1)
            path.write_bytes(HEADER)

        nursery.start_soon(negotiator_starts)
        assert (await following()).data == HEADER


async def test_a_corrupt_file_is_not_shown_until_it_is_good_again(tmp_path):
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(HEADER)
    async with trio.open_nursery() as nursery, watching(path) as following:
        await following()
        path.write_bytes(HEADER + b"1o3 corrupt\n" + NEW)

        async def repair():
            await trio.sleep(0.1)
            path.write_bytes(HEADER + NEW)

        nursery.start_soon(repair)
        change = await following()
        assert (change.generation, change.data) == (2, HEADER + NEW)

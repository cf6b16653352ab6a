"""What is kept, and counted once, where a disk fails, a process is exchanged, or HTCondor's file has gone on alone."""

import errno
import functools
import time
from pathlib import Path

import msgspec
import pytest
import trio
from managers import Manager, running, until
from staging import by_hand, followed, led, merged, replace_put_lead, resumed, settled, store_of

from gateway.control import accounting, own_file
from gateway.control.swaps import SwapUnsafe, Work
from gateway.core.timeline import NOWHERE
from gateway.matchmaker import accounting_file, delivery
from gateway.matchmaker import shelf as shelf_module
from gateway.matchmaker.journal import JournalRefused, Lead, Refusal

# -- disks --------------------------------------------------------------------------------------------------------


async def test_a_file_that_cannot_be_installed_does_not_lead_in_the_place_of_the_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with running(tmp_path) as managers:
        stale = b"107 1 CreationTimestamp 1\n101 Accountant. * *\n103 Accountant. LastUpdateTime 5\n"
        managers["cm2"].spool.write_bytes(stale)
        leader = await led(managers, "cm1", "cm2", "cm3")
        leader.die()
        with monkeypatch.context() as patch:
            patch.setattr(shelf_module, "put_in_place", full)
            with pytest.raises(JournalRefused):
                await managers.elect("cm2", "cm3")
        assert managers["cm2"].spool.read_bytes() == stale
        second = await managers.elect("cm2", "cm3")  # there is room again
        assert second.writer.usage("alice@x") == 100.0


async def test_records_that_a_slow_disk_still_writes_at_the_takeover_are_counted_once(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        under_way = trio.Event()
        shelf = store_of(managers["cm2"])._shelf
        append = shelf.append

        def append_slowly(*arguments: object) -> object:
            shelf.append = append
            trio.from_thread.run_sync(under_way.set)
            time.sleep(0.3)
            return append(*arguments)

        shelf.append = append_slowly
        leader.writer.charge("alice@x", 10.0)
        await until(under_way.is_set, "cm2 writes it")
        leader.die()
        second = await managers.elect("cm2", "cm3")
        assert second.writer.usage("alice@x") == 110.0
        second.writer.charge("alice@x", 1.0)
        await managers.start("cm1")
        managers.tell("cm2", managers.term, "cm1")
        await settled(second, managers["cm1"])
        assert second.writer.usage("alice@x") == 111.0


async def test_what_a_flipped_bit_has_cost_comes_back_from_who_has_it(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        leader.writer.charge("bob@x", 50.0)
        await followed(leader, "cm2", "cm3")
        leader.die()
        path = store_of(managers["cm2"]).directory / "accounting.journal"
        data = bytearray(path.read_bytes())
        data[data.rindex(b"bob@x")] ^= 1
        path.write_bytes(data)
        second = await managers.elect("cm2", "cm3")
        await merged(second)
        assert (second.writer.usage("alice@x"), second.writer.usage("bob@x")) == (100.0, 50.0)


async def test_a_leader_whose_disk_is_full_says_so_and_keeps_what_was_written(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        put = store_of(leader).put_lead

        async def full(lead: Lead) -> None:
            raise JournalRefused(Refusal.NO_SPACE, "on the disk")

        replace_put_lead(leader, full)
        leader.writer.stop()
        leader.writer.start()  # it compacts: the new generation can't be kept
        await until(lambda: bool(leader.failures), "it can't go on")
        assert "no-space" in leader.failures[0]
        leader.writer.charge("alice@x", 1.0)
        replace_put_lead(leader, put)
        await leader.give_up()
        again = await managers.elect("cm1", "cm2", "cm3")
        assert again.writer.usage("alice@x") == 101.0
        await followed(again, "cm2", "cm3")


async def test_a_disk_that_is_full_for_a_moment_when_a_leader_stops_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounting, "OWED_S", 0.05)
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2", "cm3")
        first.writer.charge("alice@x", 10.0)
        with monkeypatch.context() as patch:
            patch.setattr(shelf_module, "space_left", lambda directory: 0)
            await first.give_up(at_once=True)
        managers.tell("cm2", managers.term, "cm1")
        await merged(second)
        assert second.writer.usage("alice@x") == 110.0


async def test_a_disk_that_fails_behind_the_exchange_of_files_makes_nothing_merged_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2", "cm3")
        await followed(second, "cm3")
        first.writer.charge("alice@x", 10.0)
        await first.give_up(at_once=True)
        sync, failed = accounting_file.sync, []

        def failing(path: Path) -> None:
            if path == second.spool.parent:
                failed.append(path)
                raise OSError(errno.EIO, "Input/output error")
            sync(path)

        with monkeypatch.context() as patch:
            patch.setattr(accounting_file, "sync", failing)
            managers.tell("cm2", managers.term, "cm1")
            await until(lambda: failed and second.swaps, "the disk fails")
            await settled(second, managers["cm1"], managers["cm3"])
        assert second.writer.usage("alice@x") == 110.0
        second.die()
        third = await managers.elect("cm3", "cm1")
        third.writer.charge("alice@x", 1.0)
        await settled(third, managers["cm1"])
        assert third.writer.usage("alice@x") == 111.0


async def test_a_merged_file_whose_history_cannot_be_kept_gets_no_negotiator_and_is_known_at_the_next_start(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second, unsafe = managers["cm2"], trio.Event()

        async def swap(work: Work) -> int:
            second.writer.stop()
            try:
                await work()
            except SwapUnsafe:
                unsafe.set()
                raise
            second.writer.start()  # any other outcome
            return 1

        second._swap = swap
        put = store_of(second).put_lead

        async def full_behind_the_exchange(lead: Lead) -> None:
            if lead.timeline.included and not lead.merging:
                raise JournalRefused(Refusal.NO_SPACE, "on the disk")
            await put(lead)

        replace_put_lead(second, full_behind_the_exchange)
        await managers.elect("cm2", "cm3")
        first.writer.charge("alice@x", 10.0)
        await first.give_up(at_once=True)
        managers.tell("cm2", managers.term, "cm1")
        await until(unsafe.is_set, "no negotiator may run")
        second.die()
        await managers.start("cm2")
        again = await managers.elect("cm2", "cm1", "cm3")
        await settled(again, managers["cm1"], managers["cm3"])
        assert again.writer.usage("alice@x") == 110.0


# -- another process, the same pool -------------------------------------------------------------------------------


async def test_who_goes_on_with_a_term_does_not_replace_the_file_of_that_term(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        await first.give_up()
        second = await managers.elect("cm2", "cm1", "cm3")
        second.writer.charge("alice@x", 10.0)
        second.writer.stop()  # the negotiator died meanwhile
        await resumed(managers, second, 2)
        second.accounting.follow("cm2", 2)
        await second.take_over(2)
        assert second.writer.usage("alice@x") == 110.0


async def test_replication_that_is_turned_on_while_a_negotiator_runs_begins_with_its_file(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = managers["cm1"]
        leader.writer.start()
        leader.writer.charge("alice@x", 5.0)
        await managers.start("cm2")
        await resumed(managers, leader, 4)
        managers.tell("cm1", 4, "cm1", "cm2")
        await leader.accounting.take_over(4, running=True)
        leader.accounting.lead(leader._swap, leader.failures.append)
        await followed(leader, "cm2")
        leader.die()
        second = await managers.elect("cm2", term=5)
        assert second.writer.usage("alice@x") == 5.0


async def test_a_standby_that_made_way_and_holds_nothing_new_yet_follows_after_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2", "cm3")
        first.writer.charge("alice@x", 10.0)
        await first.give_up(at_once=True)
        with monkeypatch.context() as patch:
            patch.setattr(delivery.Delivery, "_send_snapshot", _never)
            managers.tell("cm2", managers.term, "cm1")
            await until(lambda: bool(store_of(first).pending), "cm1 has made way")
            first.die()
        await resumed(managers, first, None)
        managers.tell("cm2", managers.term, "cm1")
        await merged(second)
        await followed(second, "cm1")
        assert second.writer.usage("alice@x") == 110.0


async def test_a_reload_amid_a_takeover_leaves_the_takeover_to_the_next_process(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        leader.die()
        second, under_way = managers["cm2"], trio.Event()

        async def take_over(*_: object) -> None:
            under_way.set()
            await trio.sleep_forever()  # a large file on a slow disk

        store_of(second).take_over = take_over
        managers.tell("cm2", 2, "cm2", "cm3")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(second.accounting.take_over, 2, running=False))
            await until(under_way.is_set, "it takes over")
            nursery.cancel_scope.cancel()
        await resumed(managers, second, 2)
        second.accounting.follow("cm2", 2)
        assert not second.accounting.took_over(2), "a negotiator must not start on the old file"
        await second.take_over(2)
        assert second.writer.usage("alice@x") == 100.0


# -- HTCondor's file goes on alone --------------------------------------------------------------------------------


async def test_a_file_that_was_gone_on_with_by_hand_again_and_again_is_never_replaced_by_an_older_one(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        await leader.give_up()
        leader.die()
        with leader.spool.open():  # so that its number is not used again
            by_hand(leader, 10.0)
            await managers.start("cm1")
            leader.die()
            with leader.spool.open():
                by_hand(leader, 10.0)
                await managers.start("cm1")
        again = await managers.elect("cm1", "cm2", "cm3")
        assert again.writer.usage("alice@x") == 120.0


async def test_a_file_with_the_inode_number_of_a_former_one_is_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        await leader.give_up()
        leader.die()
        by_hand(leader, 1.0)
        by_hand(leader, 1.0)  # after two compactions ext4 gives the number of the first file again
        lead, identity = store_of(leader).lead, own_file.identity
        assert lead is not None
        monkeypatch.setattr(own_file, "identity", lambda path: (lead.inode, identity(path)[1]))
        await managers.start("cm1")
        again = await managers.elect("cm1", "cm2", "cm3")
        assert again.writer.usage("alice@x") == 102.0


async def test_a_file_that_went_on_while_replication_was_off_is_not_replaced_when_it_is_on_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = managers["cm2"]  # it holds cm1's
        second.die()
        with_replication = second._settings
        _turn_off(second)
        for _ in range(2):  # what was put aside stays there
            await managers.start("cm2")
            by_hand(second, 7.0)
            second.die()
        assert (second.state_dir / "replica" / "managers.before" / "accounting.journal").exists()
        second._settings = with_replication
        first.die()
        await managers.start("cm2")
        assert second.accounting.history.head == NOWHERE
        await managers.elect("cm2")
        assert second.writer.usage("alice@x") == 14.0


def _turn_off(manager: Manager) -> None:
    (backend,) = manager._settings.backends
    off = msgspec.structs.replace(backend, replicate_accounting=False)
    manager._settings = msgspec.structs.replace(manager._settings, backends=(off,))


async def _never(*_: object) -> None:
    await trio.sleep_forever()

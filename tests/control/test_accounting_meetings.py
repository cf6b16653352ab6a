"""Histories that meet again at bad moments, in bad orders, or of unequal length: each is counted once, none is lost."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from managers import Manager, running, until
from staging import Gate, followed, led, merged, settled, store_of

from gateway.control import reconciliation
from gateway.core.reconcile import Pool
from gateway.core.timeline import Position, Timeline
from gateway.matchmaker import delivery, offers
from gateway.matchmaker.condor import CondorHost
from gateway.matchmaker.journal import Store
from gateway.matchmaker.merger import MergeFailed, MergeReason


async def test_who_made_way_for_a_snapshot_that_never_came_can_lead_with_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2")
        first.die()
        first.writer.start()
        first.writer.charge("alice@x", 1.0)  # nobody receives this
        first.writer.stop()
        second = await managers.elect("cm2")
        second.writer.charge("alice@x", 20.0)
        with monkeypatch.context() as patch:
            patch.setattr(delivery.Delivery, "_send_snapshot", _never)
            await managers.start("cm1")
            managers.tell("cm2", managers.term, "cm1")
            await until(lambda: bool(store_of(first).pending), "cm1 has made way")
            second.die()
        third = await managers.elect("cm1")
        assert third.writer.usage("alice@x") == 101.0
        await managers.start("cm2")
        managers.tell("cm1", managers.term, "cm2")
        await merged(third)
        assert third.writer.usage("alice@x") == 121.0


async def test_a_leader_that_went_on_in_the_same_file_brings_the_base_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers.Offers, "run", _never)  # cm2 is gone before it gives cm3 what it took over
    async with running(tmp_path) as managers:
        await managers.start()
        first = await managers.elect("cm1", "cm2")
        first.writer.charge("alice@x", 100.0)
        await followed(first, "cm2")
        second = await managers.elect("cm2", "cm3")
        first.writer.charge("alice@x", 5.0)
        await followed(second, "cm3")
        await first.give_up(at_once=True)
        second.die()
        third = await managers.elect("cm3", "cm1")
        await merged(third)
        assert third.writer.usage("alice@x") == 105.0


@pytest.mark.parametrize("compacts", [False, True])
async def test_a_leader_that_returns_after_its_standby_adds_only_what_that_had_not(
    tmp_path: Path, compacts: bool
) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2")  # cm1 and cm3 are on the other side
        first.writer.charge("alice@x", 10.0)
        await followed(first, "cm3")
        managers.tell("cm2", managers.term, "cm3")
        await merged(second)
        assert second.writer.usage("alice@x") == 110.0
        await _go_on(first, compacts=compacts)
        await first.give_up(at_once=True)
        managers.tell("cm2", managers.term, "cm1")
        await settled(second, managers["cm1"], managers["cm3"])
        assert second.writer.usage("alice@x") == 115.0
        assert second.accounting.status()["unmerged"] == []


@pytest.mark.parametrize("compacts", [False, True])
async def test_a_leader_and_its_standby_that_return_at_once_are_counted_once(tmp_path: Path, compacts: bool) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2")
        first.writer.charge("alice@x", 10.0)
        await followed(first, "cm3")
        managers.tell("nobody", managers.term, "cm3")
        await _go_on(first, compacts=compacts)
        await first.give_up(at_once=True)
        managers.tell("cm2", managers.term, "cm1", "cm3")
        await settled(second, managers["cm1"], managers["cm3"])
        assert second.writer.usage("alice@x") == 115.0
        assert second.accounting.status()["unmerged"] == []


async def test_a_history_that_waits_while_a_longer_one_brings_it_along_is_part_of_ours_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody holds the merged state before its turn has come: what came before must not be forgotten yet."""
    merge = reconciliation._Merge.run
    late = []

    async def run(self: reconciliation._Merge) -> object:
        if self._found.origin == "cm3":
            late.append(self._found.timeline.head)
            await trio.sleep(1.0)  # the state before is forgotten within a fraction of that, if it is
        return await merge(self)

    monkeypatch.setattr(reconciliation._Merge, "run", run)
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2")
        first.writer.charge("alice@x", 10.0)
        await followed(first, "cm3")
        managers.tell("nobody", managers.term, "cm3")
        await _go_on(first, compacts=True)
        await first.give_up(at_once=True)
        managers.tell("cm2", managers.term, "cm1", "cm3")
        await settled(second, managers["cm1"], managers["cm3"])
        await until(lambda: not second.accounting.status()["waiting"], "all histories had their turn")
        assert second.writer.usage("alice@x") == 115.0
        assert second.accounting.status()["unmerged"] == []
    assert late


async def _go_on(leader: Manager, *, compacts: bool) -> None:
    """Charge once more, in the same file or in another one."""
    if compacts:
        before = leader.accounting.history.head.generation
        leader.writer.stop()
        leader.writer.start()
        await until(lambda: leader.accounting.history.head.generation > before, "it is followed")
    leader.writer.charge("alice@x", 5.0)


async def test_a_compaction_while_the_base_is_being_forgotten_is_followed(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        await first.give_up()
        gate = Gate(managers["cm2"], lambda lead: not lead.timeline.forks)
        second = await managers.elect("cm2", "cm1", "cm3")
        await until(gate.reached.is_set, "what everybody holds is being forgotten")
        leading = second.accounting._leading
        assert leading is not None
        generation = leading.lead.timeline.head.generation
        second.writer.stop()
        second.writer.start()
        second.writer.charge("alice@x", 1.0)
        await until(
            lambda: leading._changing.statistics().tasks_waiting or leading.lead.timeline.head.generation > generation,
            "the new file is seen",
        )
        await gate.open()
        await followed(second, "cm1", "cm3")
        assert second.failures == []
        second.die()
        third = await managers.elect("cm3", "cm1")
        assert third.writer.usage("alice@x") == 101.0


async def test_a_history_that_is_taken_note_of_while_a_compaction_is_made_durable_stays_noted(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        generation = leader.accounting.history.head.generation
        gate = Gate(leader, lambda lead: lead.timeline.head.generation > generation)
        leader.writer.stop()
        leader.writer.start()
        await until(gate.reached.is_set, "a compaction is being made durable")
        leading, other = leader.accounting._leading, Timeline(Position(7, 1, 50))
        assert leading is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leading._include, other)
            await until(
                lambda: leading._changing.statistics().tasks_waiting or leading.lead.timeline.included, "it is noted"
            )
            await gate.open()
        await until(lambda: leading.lead.timeline.head.generation > generation, "the new file is followed")
        assert leading.lead.timeline.holds(other.head)
        assert store_of(leader).lead == leading.lead


async def test_a_standby_that_missed_what_was_forgotten_keeps_nothing_aside(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        await first.give_up()
        gate = Gate(managers["cm2"], lambda lead: not lead.timeline.forks)
        second = await managers.elect("cm2", "cm1", "cm3")
        await until(gate.reached.is_set, "what everybody holds is being forgotten")
        managers["cm3"].die()
        await gate.open()
        await until(lambda: not second.accounting.history.forks, "it is forgotten")
        assert managers["cm3"].accounting.history.forks, "cm3 was not told"
        second.writer.charge("alice@x", 1.0)
        await managers.start("cm3")
        managers.tell("cm2", managers.term, "cm3")
        await followed(second, "cm3")
        assert managers["cm3"].accounting.status()["pending"] == []


async def test_a_merge_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "AGAIN_MS", 50)
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2", "cm3")
        first.writer.charge("alice@x", 10.0)
        await first.give_up(at_once=True)
        pool_of = _Once(second.accounting._reconciler._pool_of)
        second.accounting._reconciler._pool_of = pool_of
        managers.tell("cm2", managers.term, "cm1")
        await merged(second)
        assert pool_of.asked == 2
        assert second.writer.usage("alice@x") == 110.0


async def test_histories_that_nobody_can_merge_hide_no_other(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        cm1 = managers["cm1"]
        store = Store(cm1.state_dir / "replica" / "managers")
        await store.load()
        text = tmp_path / "of another time"
        text.write_bytes(b"107 1 CreationTimestamp 1\n101 Accountant. * *\n103 Accountant. LastUpdateTime 5\n")
        for term in (901, 902, 903, 904, 905):  # cm1 goes on from the last one
            await store.adopt(text, Timeline(Position(term, 1, 0)), "cm1", 0)
            await store.make_way(Timeline(Position(999, 1, 0)))
        managers.term = 1000
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2", "cm3")
        first.writer.charge("alice@x", 10.0)
        await first.give_up(at_once=True)
        managers.tell("cm2", managers.term, "cm1")
        await until(lambda: second.accounting.status()["merges_total"] == 1, "what cm1 wrote last is merged")
        assert len(store_of(first).pending) >= 4
        assert second.writer.usage("alice@x") == 110.0
        assert {one["reason"] for one in second.accounting.status()["unmerged"]} == {"unrelated"}


class _Once:
    """Fails at the first time, as on a machine that is too busy."""

    def __init__(self, pool_of: Callable[[CondorHost], Awaitable[Pool]]) -> None:
        self._pool_of = pool_of
        self.asked = 0

    async def __call__(self, host: CondorHost) -> Pool:
        self.asked += 1
        if self.asked == 1:
            raise MergeFailed(MergeReason.TOO_SLOW, "the merge took longer than 120000 ms")
        return await self._pool_of(host)


async def _never(*_: object) -> None:
    await trio.sleep_forever()

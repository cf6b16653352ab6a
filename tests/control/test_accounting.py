"""What becomes of usage and edits when leaders die, return, are cut off from each other, and meet again."""

import json
from pathlib import Path

import trio
from managers import Manager, Managers, caught_up, running, until

from gateway.core.timeline import Position
from gateway.wire.messages import Standing


async def led(managers: Managers, name: str, *followers: str) -> Manager:
    """Start all, elect one, and wait until the others have what it has."""
    await managers.start()
    leader = await managers.elect(name, *followers)
    leader.writer.charge("alice@x", 100.0)
    for follower in followers:
        await until(lambda follower=follower: caught_up(leader, follower), f"{follower} has all of {name}'s")
    return leader


def merges(manager: Manager) -> int:
    return manager.accounting.status()["merges_total"]


async def test_who_takes_over_has_every_record_that_the_leader_wrote(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        leader.writer.set("alice@x", "PriorityFactor", "77.000000")
        await until(lambda: caught_up(leader, "cm2"), "the edit is on cm2")
        wrote = leader.writer.state()
        leader.die()
        second = await managers.elect("cm2", "cm3")
        assert second.writer.state() == wrote


async def test_what_is_written_last_before_a_handover_is_not_lost(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        leader.writer.charge("alice@x", 5.0)  # and at once:
        await leader.give_up()
        second = await managers.elect("cm2", "cm1", "cm3")
        assert second.writer.usage("alice@x") == 105.0


async def test_records_that_nobody_had_received_come_back_with_the_dead_leader(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        leader.die()
        # Nobody ships any more: what its negotiator writes now is on its disk alone.
        leader.writer.start()
        leader.writer.set("alice@x", "PriorityFactor", "77.000000")
        leader.writer.charge("bob@x", 30.0)
        leader.writer.stop()
        second = await managers.elect("cm2", "cm3")
        second.writer.charge("alice@x", 7.0)
        await managers.start("cm1")
        managers.tell("cm2", managers.term, "cm1")
        await until(lambda: merges(second) == 1, "cm1's history is merged")
        state = second.writer.state()
        assert state["Customer.alice@x"]["PriorityFactor"] == "77.000000"
        assert (second.writer.usage("alice@x"), second.writer.usage("bob@x")) == (107.0, 30.0)


async def test_a_leader_that_returns_with_nothing_new_costs_no_swap(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        leader.die()
        second = await managers.elect("cm2", "cm3")
        second.writer.charge("alice@x", 7.0)
        await managers.start("cm1")
        managers.tell("cm2", managers.term, "cm1")
        await until(lambda: caught_up(second, "cm1"), "cm1 follows")
        assert (second.swaps, merges(second)) == (0, 0)
        assert second.writer.usage("alice@x") == 107.0


async def test_both_sides_of_a_partition_are_merged_when_they_meet(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        # Cut: cm1 goes on by itself, cm2 takes over for itself and cm3.
        second = await managers.elect("cm2", "cm3")
        first.writer.charge("alice@x", 10.0)
        first.writer.charge("onlyhere@x", 3.0)
        second.writer.charge("alice@x", 20.0)
        second.writer.set("alice@x", "Ceiling", "4")
        # Heal: the later term goes on, the other one stops first.
        await first.give_up(at_once=True)
        managers.tell("cm2", managers.term, "cm1")
        await until(lambda: merges(second) == 1, "the histories are merged")
        assert second.writer.usage("alice@x") == 130.0
        assert second.writer.usage("onlyhere@x") == 3.0
        assert second.writer.state()["Customer.alice@x"]["Ceiling"] == "4"
        await until(lambda: caught_up(second, "cm1") and caught_up(second, "cm3"), "all have the merged one")


async def test_both_originals_and_the_report_are_in_the_archive(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2", "cm3")
        first.writer.set("alice@x", "PriorityFactor", "1.000000")
        second.writer.set("alice@x", "PriorityFactor", "2.000000")
        first.writer.charge("alice@x", 10.0)
        await first.give_up(at_once=True)
        managers.tell("cm2", managers.term, "cm1")
        await until(lambda: merges(second) == 1, "the histories are merged")
        last = second.accounting.status()["last_merge"]
        archive = second.state_dir / "replica" / "managers" / "archive" / last["archive"]
        assert {"ours.log", "theirs.log", "base.log", "merged.log", "report.txt", "report.json"} <= {
            path.name for path in archive.iterdir()
        }
        assert last["conflicts"] == 1
        assert b"1.000000" in (archive / "theirs.log").read_bytes()
        assert json.loads((archive / "report.json").read_text())


async def test_a_merged_history_is_not_merged_again_by_the_next_leader(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2", "cm3")
        first.writer.charge("alice@x", 10.0)
        await first.give_up(at_once=True)
        managers.tell("cm2", managers.term, "cm1")
        await until(lambda: merges(second) == 1 and caught_up(second, "cm3"), "merged, and on cm3")
        second.die()
        third = await managers.elect("cm3", "cm1")
        await until(lambda: caught_up(third, "cm1"), "cm1 follows cm3")
        assert merges(third) == 0
        assert third.writer.usage("alice@x") == 110.0


async def test_a_leader_that_dies_before_it_merged_leaves_that_to_the_next(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2", "cm3")
        await until(lambda: caught_up(second, "cm3"), "cm3 has what cm2 has")
        first.writer.charge("alice@x", 10.0)
        await first.give_up(at_once=True)
        second.die()
        third = await managers.elect("cm3", "cm1")
        await until(lambda: merges(third) == 1, "cm3 merges what cm1 kept aside")
        assert third.writer.usage("alice@x") == 110.0


async def test_three_sides_are_merged_into_one(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        second = await managers.elect("cm2")
        third = await managers.elect("cm3")
        for amount, manager in ((1.0, first), (20.0, second), (300.0, third)):
            manager.writer.charge("alice@x", amount)
        await first.give_up(at_once=True)
        await second.give_up(at_once=True)
        managers.tell("cm3", managers.term, "cm1", "cm2")
        await until(lambda: merges(third) == 2, "both are merged")
        assert third.writer.usage("alice@x") == 421.0
        assert third.accounting.status()["unmerged"] == []


async def test_a_restarted_leader_goes_on_with_what_its_negotiator_wrote(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        leader.die()
        leader.writer.start()
        leader.writer.charge("alice@x", 10.0)
        leader.writer.stop()
        await managers.start("cm1")
        again = await managers.elect("cm1", "cm2", "cm3")
        assert again.writer.usage("alice@x") == 110.0
        await until(lambda: caught_up(again, "cm2") and caught_up(again, "cm3"), "the standbys follow")


async def test_a_file_that_was_gone_on_with_by_hand_is_not_replaced_by_an_older_one(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        await leader.give_up()
        leader.die()
        leader.writer.start()  # an administrator has stopped condor-gateway, and runs HTCondor as ever
        leader.writer.charge("alice@x", 10.0)
        leader.writer.stop()
        await managers.start("cm1")
        again = await managers.elect("cm1", "cm2", "cm3")
        assert again.writer.usage("alice@x") == 110.0


async def test_a_lost_file_is_restored_from_what_was_received(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        await leader.give_up()
        leader.die()
        leader.spool.unlink()
        await managers.start("cm1")
        again = await managers.elect("cm1", "cm2", "cm3")
        assert again.writer.usage("alice@x") == 100.0


async def test_a_stale_manager_that_must_lead_says_how_much_may_be_missing(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        await managers.start("cm1", "cm2")
        leader = await managers.elect("cm1", "cm2")
        leader.writer.charge("alice@x", 100.0)
        await until(lambda: caught_up(leader, "cm2"), "cm2 has it")
        managers["cm2"].accounting.heard(leader_standing(leader, more=12))
        leader.die()
        second = await managers.elect("cm2")
        assert second.accounting.status()["missing_at_takeover"]["records_min"] == 12


def leader_standing(leader: Manager, more: int) -> Standing:
    mine = leader.accounting.freshness
    return Standing("managers", True, True, mine.term, mine.generation, "", mine.records + more)


async def test_what_everybody_holds_is_forgotten_as_a_base(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        await first.give_up()
        second = await managers.elect("cm2", "cm1", "cm3")
        kept = second.state_dir / "replica" / "managers"
        await until(lambda: caught_up(second, "cm1") and caught_up(second, "cm3"), "all follow")
        await until(lambda: not second.accounting.history.forks, "the history is short again")
        await until(lambda: not [*kept.glob("fork-*")], "no base is kept any more")


async def test_a_base_is_kept_while_a_manager_is_away(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        first = await led(managers, "cm1", "cm2", "cm3")
        first.die()
        second = await managers.elect("cm2", "cm3")
        second.writer.charge("alice@x", 1.0)
        await until(lambda: caught_up(second, "cm3"), "cm3 follows")
        await trio.sleep(0.2)
        assert [fork.position.term for fork in second.accounting.history.forks] == [1]


async def test_histories_without_a_common_base_are_archived_and_said_not_merged(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        await managers.start()
        first = await managers.elect("cm1")
        first.writer.charge("alice@x", 1.0)
        second = await managers.elect("cm2")
        second.writer.charge("alice@x", 2.0)
        await first.give_up(at_once=True)
        managers.tell("cm2", managers.term, "cm1", "cm3")
        await until(lambda: bool(second.accounting.status()["unmerged"]), "it is said")
        one = second.accounting.status()["unmerged"][0]
        assert one["reason"] == "unrelated"
        archive = second.state_dir / "replica" / "managers" / "archive" / one["archive"]
        assert (archive / "theirs.journal").exists()
        assert second.writer.usage("alice@x") == 2.0


async def test_from_a_node_that_does_not_lead_nothing_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        await managers.start()
        leader = await managers.elect("cm1", "cm3")
        managers.tell("cm3", managers.term, "cm2")  # cm2 follows another one
        leader.writer.charge("alice@x", 1.0)
        await until(lambda: caught_up(leader, "cm3"), "cm3 follows")
        assert managers["cm2"].accounting.history.head == Position(0, 0, 0)


async def test_a_charge_that_was_only_announced_is_left_to_the_next_negotiator(tmp_path: Path) -> None:
    """It writes LastUpdateTime first: who goes on from there would never charge what was before it."""
    async with running(tmp_path) as managers:
        leader = await led(managers, "cm1", "cm2", "cm3")
        charged = leader.writer.state()["Accountant."]
        leader.writer.append("103 Accountant. LastUpdateTime 2000000000")
        await trio.sleep(0.2)
        leader.die()
        second = await managers.elect("cm2", "cm3")
        assert second.writer.state()["Accountant."] == charged

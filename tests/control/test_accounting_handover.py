"""What a standby lacks, by the leader's word: a handover waits for nothing else."""

from pathlib import Path

import msgspec

from tests.control.managers import caught_up, running, until


async def test_a_standby_lacks_nothing_once_it_has_acknowledged_what_was_written_by_then(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        await managers.start("cm1", "cm2")
        leader = await managers.elect("cm1", "cm2")
        leader.writer.charge("alice@lab", 10)
        await until(lambda: caught_up(leader, "cm2"), "cm2 has it")
        accounting = leader.accounting
        position = accounting.position
        assert accounting.lacking("cm2", position) == ""
        further = msgspec.structs.replace(position, offset=position.offset + 1)
        assert accounting.lacking("cm2", further) == "it lacks 1 record of the accounting"
        assert accounting.lacking("cm3", position).startswith("it is not supplied with the accounting")
        managers["cm2"].die()
        leader.writer.charge("alice@lab", 10)
        await until(lambda: accounting.position > position, "the leader has read its own file")
        assert accounting.lacking("cm2", accounting.position) != ""


async def test_who_does_not_lead_knows_of_nothing_that_is_lacking(tmp_path: Path) -> None:
    async with running(tmp_path) as managers:
        await managers.start("cm1", "cm2")
        await managers.elect("cm1", "cm2")
        standby = managers["cm2"].accounting
        assert standby.lacking("cm1", standby.position) == ""

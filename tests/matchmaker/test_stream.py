"""Streaming over real sockets: what the negotiator writes is on every living standby's disk soon, byte by byte."""

import pytest
from stream_harness import Leader, Standby, header, record, transaction


@pytest.fixture
async def standby(nursery, tmp_path):
    standby = Standby("cm2", tmp_path)
    await nursery.start(standby.run)
    return standby


@pytest.fixture
async def leader(nursery, tmp_path):
    leader = Leader(tmp_path)
    nursery.start_soon(leader.follow)
    return leader


async def test_each_write_is_on_the_standbys_disk_when_it_is_reported(nursery, standby, leader):
    leader.write(header(1))
    nursery.start_soon(leader.ship_to, standby)
    for number in range(5):
        leader.write(transaction(number))
        shipped = await leader.shipped("cm2")
        assert await standby.content() == leader.path.read_bytes()
        assert (shipped.lag_ms, shipped.lag_records, shipped.records) == (0, 0, 2 + 3 * (number + 1))
    assert shipped.snapshots_total == 1


async def test_a_compaction_is_another_generation_and_comes_whole(nursery, standby, leader):
    leader.write(header(1) + transaction(1))
    nursery.start_soon(leader.ship_to, standby)
    await leader.shipped("cm2")
    leader.compact(header(2) + record(2))
    await leader.shipped("cm2")
    leader.write(transaction(3))
    shipped = await leader.shipped("cm2")
    assert await standby.content() == leader.path.read_bytes()
    assert (shipped.position.generation, shipped.snapshots_total) == (2, 2)
    assert [sequence for _, _, sequence in leader.generations] == [1, 2]

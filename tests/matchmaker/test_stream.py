"""Streaming over real sockets: what the negotiator writes is on every living standby's disk soon, byte by byte."""

import contextlib
import os
import signal
import socket

import pytest
import trio
from stream_harness import (
    TERM,
    Child,
    Impostor,
    Leader,
    Standby,
    eventually,
    header,
    material,
    peer,
    record,
    transaction,
)

from gateway.config.settings import Endpoint
from gateway.core.timeline import Fork, Position, Timeline
from gateway.matchmaker import delivery
from gateway.matchmaker.journal import Store
from gateway.wire import stream as wire


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


async def again(nursery, standby, tmp_path) -> Standby:
    """The same node, restarted."""
    standby.stop()
    restarted = Standby(standby.name, tmp_path)
    restarted.endpoint = standby.endpoint
    await nursery.start(restarted.run)
    return restarted


async def test_each_write_is_on_the_standbys_disk_when_it_is_reported(nursery, standby, leader):
    leader.write(header(1))
    nursery.start_soon(leader.ship_to, standby)
    for number in range(5):
        leader.write(transaction(number))
        shipped = await leader.shipped("cm2")
        assert await standby.content() == leader.path.read_bytes()
        assert (shipped.lag_ms, shipped.lag_records, shipped.records) == (0, 0, 2 + 3 * (number + 1))
    assert shipped.snapshots_total == 1
    assert standby.changes >= 5


async def test_an_open_transaction_is_not_shipped_before_its_end(nursery, standby, leader):
    leader.write(header(1))
    nursery.start_soon(leader.ship_to, standby)
    shipped = await leader.shipped("cm2")
    leader.write(transaction(1)[:-5])
    await trio.sleep(0.2)
    assert standby.store.held.timeline.head == shipped.position
    leader.write(transaction(1)[-5:])
    await leader.shipped("cm2")


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


async def test_a_joiner_gets_a_long_file_whole_and_then_the_stream(nursery, standby, leader):
    leader.write(header(1) + b"".join(transaction(number, 10_000) for number in range(300)))
    nursery.start_soon(leader.ship_to, standby)
    await leader.shipped("cm2")
    leader.write(transaction(1000))
    shipped = await leader.shipped("cm2")
    assert await standby.content() == leader.path.read_bytes()
    assert (shipped.snapshots_total, shipped.appends_total) == (1, 1)


async def test_a_standby_that_restarts_gets_what_it_lacks_and_no_more(nursery, standby, leader, tmp_path):
    leader.write(header(1) + transaction(1, 100_000))
    nursery.start_soon(leader.ship_to, standby)
    before = await leader.shipped("cm2")
    for number in range(3):
        standby.stop()
        leader.write(b"".join(transaction(100 * number + more, 1000) for more in range(100)))
        standby = await again(nursery, standby, tmp_path)
        shipped = await leader.shipped("cm2")
        assert await standby.content() == leader.path.read_bytes()
    assert shipped.snapshots_total == 1
    assert shipped.bytes_total == before.bytes_total + leader.path.stat().st_size - before.position.offset


async def test_a_standby_that_was_away_during_compactions_gets_the_last_file_alone(nursery, standby, leader, tmp_path):
    leader.write(header(1) + transaction(1))
    nursery.start_soon(leader.ship_to, standby)
    await leader.shipped("cm2")
    standby.stop()
    for sequence in (2, 3, 4):
        leader.compact(header(sequence) + record(sequence))
        await eventually(lambda sequence=sequence: len(leader.generations) == sequence)
    standby = await again(nursery, standby, tmp_path)
    shipped = await leader.shipped("cm2")
    assert await standby.content() == header(4) + record(4)
    assert (shipped.position.generation, shipped.snapshots_total) == (4, 2)


async def test_a_long_transaction_comes_in_pieces_and_is_kept_as_one(nursery, standby, leader):
    leader.write(header(1))
    nursery.start_soon(leader.ship_to, standby)
    await leader.shipped("cm2")
    leader.write(transaction(1, 1_000_000))
    shipped = await leader.shipped("cm2")
    assert await standby.content() == leader.path.read_bytes()
    assert shipped.snapshots_total == 1


async def test_a_transaction_too_long_for_memory_comes_in_a_snapshot(nursery, standby, leader, monkeypatch):
    monkeypatch.setattr(delivery, "TRANSACTION_BYTES_MAX", 200_000)
    leader.write(header(1))
    nursery.start_soon(leader.ship_to, standby)
    await leader.shipped("cm2")
    leader.write(transaction(1, 1_000_000))
    shipped = await leader.shipped("cm2")
    assert await standby.content() == leader.path.read_bytes()
    assert shipped.snapshots_total == 2


async def test_a_new_leader_takes_over_where_the_standby_is_and_its_place_is_kept(nursery, standby, leader, tmp_path):
    leader.write(header(1) + transaction(1))
    async with trio.open_nursery() as inner:
        inner.start_soon(leader.ship_to, standby)
        taken = (await leader.shipped("cm2")).position
        inner.cancel_scope.cancel()
    history = standby.store.held.timeline.taken_over(4, now_s=1)
    other = Leader(tmp_path, "cm3", history)
    other.write(header(2) + record(1))
    nursery.start_soon(other.follow)
    standby.leader = ("cm3", 4)
    nursery.start_soon(other.ship_to, standby)
    await other.shipped("cm2")
    held = standby.store.held
    assert (held.timeline.forks, held.origin) == ((Fork(taken, 1),), "cm3")
    assert standby.store.forks == (taken,)
    assert standby.store.pending == ()


async def test_a_shortened_history_is_told_to_the_standby(nursery, standby, tmp_path):
    forks = tuple(Fork(Position(term, 1, 100), term) for term in (1, 2))
    leader = Leader(tmp_path, timeline=Timeline(Position(TERM, 0, 0), forks))
    leader.write(header(1) + transaction(1))
    nursery.start_soon(leader.follow)
    nursery.start_soon(leader.ship_to, standby)
    await leader.shipped("cm2")
    assert standby.store.held.timeline.forks == forks
    leader.feed.retell(leader.feed.timeline.forgotten(Position(2, 1, 100)))
    await eventually(lambda: standby.store.held.timeline.forks == forks[1:])
    leader.write(transaction(2))
    await leader.shipped("cm2")
    assert await standby.content() == leader.path.read_bytes()


async def test_a_standby_killed_again_and_again_under_load_ends_byte_equal_and_loses_nothing_acknowledged(
    nursery, leader, tmp_path
):
    """A process of its own, and SIGKILL; 1,000 records a second meanwhile, and compactions."""
    child = Child(tmp_path)
    await child.start()
    leader.write(header(1))
    try:
        nursery.start_soon(leader.ship_to, child)
        async with trio.open_nursery() as load:
            load.start_soon(write_a_thousand_a_second, leader)
            acknowledged = Position(0, 0, 0)
            for _ in range(5):
                await leader.until(lambda shipped, before=acknowledged: shipped.position > before)
                await trio.sleep(0.1)
                child.kill()
                acknowledged = max(shipped.position for shipped in leader.reports)
                assert await head_of(child) >= acknowledged
                await child.start()
            load.cancel_scope.cancel()
        await leader.shipped("cm2")
        child.kill()
        assert await child.content() == leader.path.read_bytes()
        assert len(leader.generations) >= 2
    finally:
        child.kill()


async def write_a_thousand_a_second(leader: Leader) -> None:
    number, begun_s = 0, trio.current_time()
    while True:
        await trio.sleep(0.005)
        while number < 1000 * (trio.current_time() - begun_s):
            number += 1
            leader.write(record(number))
            if number % 1500 == 0:
                leader.compact(header(1 + number // 1500) + record(number))


async def head_of(child: Child) -> Position:
    store = Store(child.directory)
    await store.load()
    return store.held.timeline.head


def black_hole() -> tuple[socket.socket, list[socket.socket], Endpoint]:
    """A listener with a full backlog: a SYN to it is never answered, as from a host that is cut off."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    clients = []
    for _ in range(3):
        client = socket.socket()
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(listener.getsockname())
        clients.append(client)
    return listener, clients, Endpoint(*listener.getsockname())


@pytest.mark.parametrize("trouble", ["dead", "black-holed", "deaf", "hung"])
async def test_a_standby_in_trouble_costs_the_others_nothing(nursery, standby, leader, tmp_path, trouble):
    child = Child(tmp_path, "cm3")
    leader.write(header(1))
    async with trio.open_nursery() as inner:
        with contextlib.ExitStack() as stack:
            stack.callback(child.kill)
            if trouble == "dead":
                bad = Endpoint("127.0.0.1", 1)
            elif trouble == "black-holed":
                listener, clients, bad = black_hole()
                for each in (listener, *clients):
                    stack.callback(each.close)
            elif trouble == "deaf":  # its kernel accepts, nobody answers
                listener = stack.enter_context(socket.socket())
                listener.bind(("127.0.0.1", 0))
                listener.listen(50)
                bad = Endpoint(*listener.getsockname())
            else:
                await child.start()
                bad = child.endpoint
            inner.start_soon(leader.ship_to, peer("cm3", bad))
            inner.start_soon(leader.ship_to, standby)
            if trouble == "hung":
                await leader.shipped("cm3")
                child.process.send_signal(signal.SIGSTOP)
            for number in range(30):
                leader.write(transaction(number, 100_000))
                shipped = await leader.shipped("cm2", within_s=5)
                assert shipped.lag_ms == 0
            inner.cancel_scope.cancel()
    assert await standby.content() == leader.path.read_bytes()


async def test_a_frozen_standby_is_told_of_as_lost_with_a_growing_lag_and_supplied_again_when_it_thaws(
    nursery, leader, tmp_path
):
    child = Child(tmp_path, "cm3")
    leader.write(header(1))
    try:
        await child.start()
        nursery.start_soon(leader.ship_to, child)
        await leader.shipped("cm3")
        child.process.send_signal(signal.SIGSTOP)
        leader.write(transaction(1, 300_000))
        lost = await leader.until(lambda shipped: not shipped.connected)
        assert "silent" in lost.reason
        assert lost.lag_ms > 1_000
        assert lost.lag_records > 500
        child.process.send_signal(signal.SIGCONT)
        await leader.shipped("cm3")
        nursery.cancel_scope.cancel()
    finally:
        child.kill()


async def test_what_is_under_way_is_bounded_whatever_the_file_grows_to(nursery, leader):
    """A standby that takes everything and acknowledges nothing."""
    got = 0

    async def conversation(session) -> None:
        nonlocal got
        while True:
            for message in await session.receive():
                match message:
                    case wire.Snapshot(timeline=timeline):
                        await session.send(wire.Accepted(timeline.head))
                    case wire.Append(data=data):
                        got += len(data)
                    case wire.Keepalive():
                        await session.send(wire.Keepalive())

    impostor = Impostor(conversation)
    await nursery.start(impostor.run)
    leader.write(header(1))
    nursery.start_soon(leader.ship_to, impostor)
    await leader.until(lambda shipped: shipped.connected and shipped.position.offset > 0)
    for number in range(40):
        leader.write(transaction(number, 100_000))
    await trio.sleep(0.5)
    most = delivery.WINDOW_BYTES + wire.CHUNK_BYTES + 2 * 100_000
    assert delivery.WINDOW_BYTES <= got <= most
    await leader.until(lambda shipped: shipped.lag_records > 4000)


async def test_a_standby_that_does_not_answer_for_half_a_minute_is_given_up(nursery, leader, monkeypatch):
    """Its process lives and says so; its disk does not."""
    monkeypatch.setattr(delivery, "STORE_MS", 500)

    async def conversation(session) -> None:
        while True:
            await session.send(wire.Keepalive())
            await trio.sleep(0.2)

    impostor = Impostor(conversation)
    await nursery.start(impostor.run)
    leader.write(header(1))
    nursery.start_soon(leader.ship_to, impostor)
    lost = await leader.until(lambda shipped: bool(shipped.reason))
    assert "nothing was acknowledged" in lost.reason


async def test_an_idle_connection_stays_and_a_file_without_a_name_is_not_kept_open(nursery, standby, leader):
    leader.write(header(1))
    nursery.start_soon(leader.ship_to, standby)
    await leader.shipped("cm2")
    leader.compact(header(2))
    await leader.shipped("cm2")
    await trio.sleep(3.5)  # longer than the silence that ends a connection
    leader.write(record(1))
    shipped = await leader.shipped("cm2")
    assert shipped.connections_total == 1
    named = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if is_open(number)]
    assert [name for name in named if str(leader.path) in name and name.endswith("(deleted)")] == []


def is_open(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


async def test_a_standby_that_is_not_there_yet_is_supplied_when_it_comes(nursery, leader, tmp_path):
    standby = Standby("cm2", tmp_path)
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    standby.endpoint = Endpoint(*reserved.getsockname())
    leader.write(header(1))
    nursery.start_soon(leader.ship_to, standby)
    lost = await leader.until(lambda shipped: bool(shipped.reason))
    assert not lost.connected
    reserved.close()
    await nursery.start(standby.run)
    await leader.shipped("cm2")


@pytest.mark.parametrize(
    "mine",
    [
        material("cm1", cluster="chemistry"),
        material("stranger"),
        material("cm2"),
        material("cm1", peers=frozenset({"cm1", "cm9"})),
    ],
    ids=["other cluster", "stranger", "the receiver's own name", "control"],
)
async def test_strangers_are_not_served(nursery, standby, leader, mine):
    leader.write(header(1))
    nursery.start_soon(leader.ship_to, standby, mine)
    if mine.me == "cm1" and mine.cluster == "physics":
        await leader.shipped("cm2")
        return
    await leader.until(lambda shipped: bool(shipped.reason))
    assert standby.store.held.timeline == Timeline()
    assert sum(standby.refused.values()) >= 1

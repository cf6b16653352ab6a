"""The stream under attack, by strangers and by peers: a named refusal, counted; what was held is held, byte by byte."""

import contextlib
import hashlib

import pytest
import trio
from stream_harness import (
    TERM,
    Impostor,
    Intruder,
    Leader,
    Standby,
    header,
    material,
    record,
    transaction,
)

from gateway.control import door
from gateway.core.timeline import Fork, Position, Timeline
from gateway.matchmaker import intake, stream
from gateway.matchmaker.stream import call
from gateway.wire import stream as wire
from gateway.wire.seal import Keyring

GOOD = header(1) + transaction(1)
AT_GOOD = Position(TERM, 1, len(GOOD))
MORE = transaction(2)


@pytest.fixture
async def standby(nursery, tmp_path):
    """It holds GOOD, received as usual."""
    standby = Standby("cm2", tmp_path)
    await nursery.start(standby.run)
    async with Intruder.at(standby) as honest:
        await honest.snapshot(GOOD)
        assert await honest.hear() == wire.Accepted(AT_GOOD)
    return standby


async def still_good(standby: Standby, tmp_path) -> None:
    """What it held is there, in memory and on the disk."""
    assert standby.store.held.timeline.head == AT_GOOD
    assert await standby.content() == GOOD
    again = Standby(standby.name, tmp_path)
    await again.store.load()
    assert again.store.held.timeline == standby.store.held.timeline


async def end_of(intruder: Intruder) -> str:
    """The reason it was refused with; "" where the connection was closed without a word."""
    heard = await intruder.hear()
    assert heard is None or isinstance(heard, wire.Refused), heard
    return "" if heard is None else heard.reason


def snapshot_of(length: int, timeline: Timeline | None = None) -> wire.Snapshot:
    return wire.Snapshot(timeline or Timeline(Position(TERM, 2, length)), "cm1", length)


def chunk(data: bytes) -> wire.Chunk:
    return wire.Chunk(wire.Transfer.SNAPSHOT, data)


def done(data: bytes) -> wire.Done:
    return wire.Done(wire.Transfer.SNAPSHOT, hashlib.sha256(data).digest())


NEXT = header(2) + record(2)
LIES = {
    "append with a hole": ([wire.Append(Position(TERM, 1, len(GOOD) + 1), MORE, True)], "out-of-order"),
    "append again": ([wire.Append(Position(TERM, 1, 0), GOOD, True)], "out-of-order"),
    "append to another generation": ([wire.Append(Position(TERM, 2, len(GOOD)), MORE, True)], "out-of-order"),
    "append of another term": ([wire.Append(Position(TERM - 1, 1, len(GOOD)), MORE, True)], "out-of-order"),
    "append that is not closed": ([wire.Append(AT_GOOD, MORE[:-4], True)], "not-closed"),
    "append of a record that stops a negotiator": (
        [wire.Append(AT_GOOD, b"105 \n1o3 nonsense\n106 \n", True)],
        "corrupt-record",
    ),
    "append with a NUL": ([wire.Append(AT_GOOD, b"103 Customer.a Note \0\n106 \n", True)], "corrupt-record"),
    "chunk of no snapshot": ([chunk(b"x")], "out-of-order"),
    "end of no snapshot": ([done(b"")], "out-of-order"),
    "snapshot amid a transaction": ([wire.Append(AT_GOOD, MORE[:-4], False), snapshot_of(10)], "out-of-order"),
    "snapshot in a snapshot": ([snapshot_of(10), snapshot_of(10)], "out-of-order"),
    "append in a snapshot": ([snapshot_of(10), wire.Append(AT_GOOD, MORE, True)], "out-of-order"),
    "snapshot longer than said": ([snapshot_of(10), chunk(NEXT)], "too-long"),
    "snapshot shorter than said": ([snapshot_of(len(NEXT) + 1), chunk(NEXT), done(NEXT)], "too-short"),
    "snapshot of other bytes": ([snapshot_of(len(NEXT)), chunk(NEXT), done(GOOD)], "bad-checksum"),
    "snapshot that is not closed": (
        [snapshot_of(len(NEXT) - 1), chunk(NEXT[:-1]), done(NEXT[:-1])],
        "not-closed",
    ),
    "snapshot that stops a negotiator": (
        [snapshot_of(len(NEXT) + 14), chunk(NEXT + b"1o3\n105 \n106 \n"), done(NEXT + b"1o3\n105 \n106 \n")],
        "corrupt-record",
    ),
    "snapshot of an earlier time": (
        [wire.Snapshot(Timeline(Position(TERM, 1, 5)), "cm1", 5)],
        "stale",
    ),
    "snapshot of another term": (
        [wire.Snapshot(Timeline(Position(TERM + 1, 1, len(NEXT))), "cm1", len(NEXT))],
        "out-of-order",
    ),
    "history of another file": ([wire.Retell(Timeline(Position(TERM, 2, 0)))], "out-of-order"),
    "history of another term": ([wire.Retell(Timeline(Position(TERM + 1, 1, 0)))], "out-of-order"),
    "a standby's words": ([wire.Accepted(AT_GOOD)], ""),
    "second hello": ([wire.Hello("cm1", "cm2", Timeline(Position(TERM, 1, 0)))], ""),
    "chunk of no offer": ([wire.Chunk(wire.Transfer.OFFER, b"x")], ""),
    "chunk of no fetch": ([wire.Chunk(wire.Transfer.BLOB, b"x")], ""),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_peer_that_lies_is_refused_by_name_and_changes_nothing(standby, tmp_path, lie):
    messages, reason = LIES[lie]
    async with Intruder.at(standby) as intruder:
        await intruder.say(*messages)
        assert await end_of(intruder) == reason
    counted = standby.refused + standby.store.refused
    assert counted[reason or "bad-sequence"] == 1
    assert counted.total() == 1
    await still_good(standby, tmp_path)
    async with Intruder.at(standby) as honest:
        await honest.say(wire.Append(AT_GOOD, MORE, True))
        assert isinstance(await honest.hear(), wire.Accepted)


async def test_a_snapshot_that_breaks_off_changes_nothing(standby, tmp_path):
    async with Intruder.at(standby) as intruder:
        await intruder.say(snapshot_of(len(NEXT)), chunk(NEXT[:20]))
    await trio.sleep(0.1)
    await still_good(standby, tmp_path)
    async with Intruder.at(standby) as honest:
        await honest.snapshot(NEXT, Timeline(Position(TERM, 2, len(NEXT))))
        assert isinstance(await honest.hear(), wire.Accepted)
    assert await standby.content() == NEXT


async def test_a_transaction_without_end_is_refused_before_it_fills_the_memory(standby, tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "TRANSACTION_BYTES_MAX", 300_000)
    async with Intruder.at(standby) as intruder:
        offset = len(GOOD)
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(10):
                data = b"x" * wire.CHUNK_BYTES
                await intruder.say(wire.Append(Position(TERM, 1, offset), data, False))
                offset += len(data)
        assert await end_of(intruder) in ("too-long", "")
    assert standby.refused["too-long"] == 1
    await still_good(standby, tmp_path)


async def test_who_is_not_the_leader_is_refused_whatever_it_wants(standby, tmp_path):
    standby.leader = ("cm3", TERM + 1)
    async with Intruder.at(standby, hello=False) as intruder:
        await intruder.say(wire.Hello("cm1", "cm2", Timeline(Position(TERM, 1, 0))))
        assert await intruder.hear() == wire.Refused("not-leader", AT_GOOD)
    assert standby.refused == {"not-leader": 1}
    await still_good(standby, tmp_path)


@pytest.mark.parametrize("what", ["append", "snapshot", "end of a snapshot", "history"])
async def test_a_leader_that_is_deposed_is_refused_from_then_on(standby, tmp_path, what):
    async with Intruder.at(standby) as intruder:
        if what == "end of a snapshot":
            await intruder.say(snapshot_of(len(NEXT)), chunk(NEXT))
            await trio.sleep(0.1)
        standby.leader = ("cm3", TERM + 1)
        match what:
            case "append":
                await intruder.say(wire.Append(AT_GOOD, MORE, True))
            case "snapshot":
                await intruder.say(snapshot_of(len(NEXT)))
            case "end of a snapshot":
                await intruder.say(done(NEXT))
            case _:
                await intruder.say(wire.Retell(Timeline(Position(TERM, 1, 0), (Fork(Position(1, 1, 1), 1),))))
        assert await end_of(intruder) == "not-leader"
    await still_good(standby, tmp_path)


async def test_what_is_not_in_the_leaders_history_is_kept_apart_before_anything_is_taken(standby):
    standby.leader = ("cm1", TERM + 1)
    history = Timeline(Position(TERM + 1, 0, 0), (Fork(Position(TERM, 1, 10), 1),))  # it had received 10 bytes only
    async with Intruder.at(standby, hello=False) as intruder:
        await intruder.say(wire.Hello("cm1", "cm2", history))
        welcome = await intruder.hear()
    assert welcome.held.head == AT_GOOD  # until the leader's state has come
    assert [pending.head for pending in welcome.pending] == [AT_GOOD]


async def test_a_leader_that_has_not_read_its_own_file_yet_moves_nothing(standby, tmp_path):
    async with Intruder.at(standby, hello=False) as leader:
        await leader.say(wire.Hello("cm1", "cm2", Timeline(Position(TERM, 0, 0))))
        assert (await leader.hear()).held.head == AT_GOOD
    assert standby.store.pending == ()
    await still_good(standby, tmp_path)


async def test_a_sender_that_connects_again_ends_its_former_connection(standby, monkeypatch):
    monkeypatch.setattr(stream, "SILENCE_MS", 600_000)
    async with Intruder.at(standby) as former, Intruder.at(standby) as later:
        assert await former.hear() is None
        await later.say(wire.Append(AT_GOOD, MORE, True))
        assert isinstance(await later.hear(), wire.Accepted)


@pytest.mark.parametrize(
    ("mine", "reason"),
    [
        (material("cm1", cluster="chemistry"), "wrong-cluster"),
        (material("cm1", keyring=Keyring({1: bytes(32)}, 1)), "bad-seal"),
        (material("cm1", keyring=Keyring({2: bytes(range(32))}, 2)), "unknown-key"),
        (material("stranger"), "unknown-peer"),
        (material("cm2"), "unknown-peer"),
    ],
    ids=["other cluster", "other key", "unknown key id", "stranger", "the receiver's own name"],
)
async def test_strangers_are_counted_by_what_is_wrong_with_them(nursery, standby, tmp_path, mine, reason):
    leader = Leader(tmp_path)
    leader.write(GOOD)
    nursery.start_soon(leader.follow)
    nursery.start_soon(leader.ship_to, standby, mine)
    await leader.until(lambda shipped: bool(shipped.reason))
    await trio.sleep(0.1)
    assert set(standby.refused) == {reason}
    assert leader.reports[-1].position == Position(0, 0, 0)
    await still_good(standby, tmp_path)


async def test_a_session_meant_for_another_node_is_not_served(standby, tmp_path):
    async with Intruder.at(standby, hello=False) as intruder:
        await intruder.say(wire.Hello("cm1", "cm3", Timeline(Position(TERM, 1, 0))))
        assert await intruder.hear() is None
    assert standby.refused == {"bad-sequence": 1}
    await still_good(standby, tmp_path)


class Tap:
    """Between a leader and a standby: records, and changes what it is told to."""

    def __init__(self, standby: Standby, change=lambda data: data) -> None:
        self._standby = standby
        self._change = change
        self.recorded = bytearray()
        self.name = standby.name

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.endpoint = type(self._standby.endpoint)("127.0.0.1", listeners[0].socket.getsockname()[1])
        task_status.started()
        await trio.serve_listeners(self._carry, listeners)

    async def _carry(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self._standby.endpoint.port)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with client, server, trio.open_nursery() as both:
                both.start_soon(self._up, client, server, both.cancel_scope)
                async for data in server:
                    await client.send_all(data)
                both.cancel_scope.cancel()

    async def _up(self, client, server, scope: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in client:
                self.recorded.extend(data)
                if not (changed := self._change(bytes(data))):
                    break
                await server.send_all(changed)
        scope.cancel()


async def test_a_recorded_session_played_back_changes_nothing(nursery, tmp_path):
    standby = Standby("cm2", tmp_path)
    await nursery.start(standby.run)
    tap = Tap(standby)
    await nursery.start(tap.run)
    leader = Leader(tmp_path)
    leader.write(GOOD)
    async with trio.open_nursery() as inner:
        inner.start_soon(leader.follow)
        inner.start_soon(leader.ship_to, tap)
        await leader.shipped("cm2")
        inner.cancel_scope.cancel()
    fresh = Standby("cm2", tmp_path / "fresh")  # the same node with an empty disk
    await nursery.start(fresh.run)
    async with await trio.open_tcp_stream("127.0.0.1", fresh.endpoint.port) as replayed:
        await replayed.send_all(tap.recorded)
        with trio.move_on_after(5):
            async for _ in replayed:
                pass
    await trio.sleep(0.1)
    assert fresh.store.held.timeline == Timeline()
    assert fresh.refused == {"bad-seal": 1}


@pytest.mark.parametrize("how", ["flipped", "reordered", "truncated", "repeated"])
async def test_a_stream_that_is_meddled_with_is_cut_and_what_was_taken_stays(nursery, standby, tmp_path, how):
    meddled = 0

    def meddle(data: bytes) -> bytes:
        nonlocal meddled
        if len(data) < 3_000 or meddled >= 3:
            return data
        meddled += 1
        match how:
            case "flipped":
                at = 40 + 97 * meddled
                return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
            case "reordered":
                return data[1000:2000] + data[:1000] + data[2000:]
            case "truncated":
                return b""
            case _:
                return data + data

    tap = Tap(standby, meddle)
    await nursery.start(tap.run)
    leader = Leader(tmp_path)
    leader.write(GOOD)
    nursery.start_soon(leader.follow)
    nursery.start_soon(leader.ship_to, tap)
    await leader.shipped("cm2")
    for number in range(6):
        leader.write(transaction(number, 20_000))
        await leader.shipped("cm2")
    assert meddled == 3
    assert await standby.content() == leader.path.read_bytes()
    if how in ("flipped", "reordered"):
        assert standby.refused.total() == 3


async def test_junk_and_silence_at_the_port_do_not_keep_the_leader_out(nursery, tmp_path, monkeypatch):
    monkeypatch.setattr(door, "HANDSHAKE_MS", 200)
    monkeypatch.setattr(door, "CONNECTIONS_MAX", 8)
    standby = Standby("cm2", tmp_path)
    await nursery.start(standby.run)
    streams = [await trio.open_tcp_stream("127.0.0.1", standby.endpoint.port) for _ in range(12)]
    await trio.sleep(0.05)  # they are taken in one after the other
    for junk in streams[:6]:
        with contextlib.suppress(trio.BrokenResourceError):
            await junk.send_all(b"GET / HTTP/1.1\r\nHost: cm2\r\n\r\n" + bytes(200))
    leader = Leader(tmp_path)
    leader.write(GOOD)
    nursery.start_soon(leader.follow)
    nursery.start_soon(leader.ship_to, standby)
    await leader.shipped("cm2")
    assert standby.refused["full"] >= 1
    for junk in streams:
        await trio.aclose_forcefully(junk)


async def test_a_peer_that_falls_silent_is_let_go(standby, monkeypatch):
    monkeypatch.setattr(stream, "SILENCE_MS", 300)
    async with await trio.open_tcp_stream("127.0.0.1", standby.endpoint.port) as connection:
        session = await call(connection, material("cm1"))
        await session.send(wire.Hello("cm1", "cm2", Timeline(Position(TERM, 1, 0))))
        with trio.fail_after(5):
            async for _ in connection:
                pass


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (wire.Accepted(Position(TERM, 1, 10_000_000)), "acknowledges"),
        (wire.Accepted(Position(TERM, 9, 1)), "acknowledges"),
        (wire.Accepted(Position(TERM + 1, 1, 1)), "acknowledges"),
        (wire.Hello("cm2", "cm1", Timeline()), "does not say Hello"),
        (wire.Proceed(), "no offer"),
        (wire.Blob(1), "nobody fetches"),
        (wire.Chunk(wire.Transfer.SNAPSHOT, b"x"), "nobody fetches"),
        (wire.Refused("disk", Position(0, 0, 0)), "refused: disk"),
    ],
)
async def test_a_standby_that_lies_is_left_and_called_again(nursery, tmp_path, said, complaint):
    async def conversation(session) -> None:
        while not any(isinstance(message, wire.Done) for message in await session.receive()):
            pass
        await session.send(said)
        await trio.sleep(1)

    leader = Leader(tmp_path)
    impostor = Impostor(conversation)
    await nursery.start(impostor.run)
    leader.write(GOOD)
    nursery.start_soon(leader.follow)
    nursery.start_soon(leader.ship_to, impostor)
    lost = await leader.until(lambda shipped: bool(shipped.reason))
    assert complaint in lost.reason
    assert lost.position == Position(0, 0, 0)
    await leader.until(lambda shipped: shipped.connections_total >= 2)

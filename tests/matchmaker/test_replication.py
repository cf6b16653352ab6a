"""Replication over real sockets: each change is on every living standby's disk soon, whatever the others do."""

import contextlib
import hashlib
import itertools
import os
import signal
import socket
import subprocess
import sys

import pytest
import trio

from gateway.config.settings import Endpoint, Peer, Role
from gateway.matchmaker import replication
from gateway.matchmaker.replication import Material, Newest, Shipped, serve, ship
from gateway.matchmaker.spool import ReplicaStore
from gateway.wire import replica as wire
from gateway.wire.replica import make_replica
from gateway.wire.seal import Keyring

KEYS = Keyring({1: bytes(range(32))}, 1)
NAMES = frozenset({"cm1", "cm2", "cm3"})
HEADER = b"107 3 CreationTimestamp 1795380800\n"
SOON_S = 10  # generous: the machine may be busy; the promise is one second
_nonces = itertools.count(1)


def file(number: int, length: int = 0) -> bytes:
    record = b'103 Customer.alice@lab Note "%s"\n' % (b"x" * 500)
    return HEADER + b"101 Customer.alice@lab * *\n" + record * (length // len(record)) + b"102 k%d\n" % number


def material(me: str, **changes) -> Material:
    return Material(**{"cluster": "physics", "keyring": KEYS, "me": me, "peers": NAMES, **changes})


def peer(name: str, endpoint: Endpoint) -> Peer:
    return Peer(name=name, endpoint=endpoint, roles=frozenset({Role.MANAGER}))


class Standby:
    """A receiver in this process, with what it was told and holds."""

    def __init__(self, name: str, directory) -> None:
        self.name = name
        self.store = ReplicaStore(directory / name)
        self.leader = ("cm1", 3)
        self.stored: list[tuple[int, int]] = []
        self.endpoint = Endpoint("127.0.0.1", 0)
        self.nursery: trio.Nursery

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        await self.store.load()
        async with trio.open_nursery() as self.nursery:
            self.endpoint = await self.nursery.start(self._serve)
            task_status.started()

    async def _serve(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        await serve(
            self.endpoint,
            material(self.name),
            self.store,
            accept=lambda sender, term: (sender, term) == self.leader,
            on_stored=lambda replica: self.stored.append(replica.version),
            task_status=task_status,
        )

    def stop(self) -> None:
        self.nursery.cancel_scope.cancel()


class Leader:
    """The shipping side: what was reported."""

    def __init__(self) -> None:
        self.newest = Newest()
        self.reports: list[Shipped] = []
        self._changed = trio.Event()

    def report(self, shipped: Shipped) -> None:
        self.reports.append(shipped)
        event, self._changed = self._changed, trio.Event()
        event.set()

    async def reported(self, standby: str, generation: int) -> Shipped:
        with trio.fail_after(SOON_S):
            while True:
                for shipped in self.reports:
                    if (shipped.standby, shipped.generation) == (standby, generation):
                        return shipped
                await self._changed.wait()

    def publish(self, generation: int, *, term: int = 3, length: int = 0) -> None:
        self.newest.publish(make_replica("cm1", term, generation, file(generation, length)))

    async def ship_to(self, standby: Peer, mine: Material | None = None) -> None:
        await ship(standby, mine or material("cm1"), self.newest, report=self.report)


@pytest.fixture
async def standby(nursery, tmp_path):
    standby = Standby("cm2", tmp_path)
    await nursery.start(standby.run)
    return standby


@pytest.fixture
def leader():
    return Leader()


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


async def test_each_change_is_on_the_standbys_disk_when_it_is_reported(nursery, standby, leader, tmp_path):
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    for generation in (1, 2, 3):
        leader.publish(generation)
        shipped = await leader.reported("cm2", generation)
        assert (shipped.term, shipped.lag_ms < 5_000) == (3, True)
        on_disk = ReplicaStore(tmp_path / "cm2")
        assert (await on_disk.load()).version == (3, generation)
    assert standby.stored == [(3, 1), (3, 2), (3, 3)]
    assert (await standby.store.read()).data == file(3)


async def test_a_big_file_arrives_whole(nursery, standby, leader):
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    leader.publish(1, length=3_000_000)
    await leader.reported("cm2", 1)
    assert (await standby.store.read()).data == file(1, 3_000_000)


async def test_intermediate_changes_are_skipped_while_a_standby_is_away(nursery, leader, tmp_path):
    standby = Standby("cm2", tmp_path)
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    standby.endpoint = Endpoint(*reserved.getsockname())
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    for generation in range(1, 50):
        leader.publish(generation)
        await trio.sleep(0.005)
    reserved.close()
    await nursery.start(standby.run)
    await leader.reported("cm2", 49)
    assert standby.stored == [(3, 49)]


async def test_a_standby_that_restarts_gets_the_newest_without_a_new_change(nursery, standby, leader, tmp_path):
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    leader.publish(1)
    await leader.reported("cm2", 1)
    standby.stop()
    leader.publish(2)
    await trio.sleep(0.1)
    again = Standby("cm2", tmp_path)
    again.endpoint = standby.endpoint
    await nursery.start(again.run)
    await leader.reported("cm2", 2)
    assert again.stored == [(3, 2)]


async def test_a_standby_that_holds_it_already_is_not_sent_it_again(nursery, standby, leader):
    await standby.store.put(make_replica("cm1", 3, 5, file(5)))
    leader.publish(5)
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    await leader.reported("cm2", 5)
    assert standby.stored == []


@pytest.mark.parametrize("trouble", ["dead", "black-holed", "deaf", "hung"])
async def test_a_standby_in_trouble_costs_the_others_nothing(nursery, standby, leader, tmp_path, trouble):
    async with trio.open_nursery() as inner:
        with contextlib.ExitStack() as stack:
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
                bad = stack.enter_context(hung_receiver(tmp_path))
            inner.start_soon(leader.ship_to, peer("cm3", bad))
            inner.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
            for generation in range(1, 20):
                leader.publish(generation, length=200_000)
                shipped = await leader.reported("cm2", generation)
                assert shipped.lag_ms < 2_000
            inner.cancel_scope.cancel()
    assert not [shipped for shipped in leader.reports if shipped.standby == "cm3"]


RECEIVER = """
import sys, trio
from gateway.config.settings import Endpoint
from gateway.matchmaker.replication import Material, serve
from gateway.matchmaker.spool import ReplicaStore
from gateway.wire.seal import Keyring

async def main():
    store = ReplicaStore(sys.argv[1])
    await store.load()
    keys = Keyring({1: bytes(range(32))}, 1)
    async with trio.open_nursery() as nursery:
        endpoint = await nursery.start(lambda task_status: serve(
            Endpoint("127.0.0.1", 0), Material(cluster="physics", keyring=keys, me="cm3", peers=frozenset({"cm1"})),
            store, accept=lambda sender, term: True, on_stored=lambda replica: None, task_status=task_status))
        print(endpoint.port, flush=True)

trio.run(main)
"""


@contextlib.contextmanager
def hung_receiver(tmp_path, *, stop: bool = True):
    """A real receiver in a process of its own, stopped by SIGSTOP."""
    process = subprocess.Popen(
        [sys.executable, "-c", RECEIVER, str(tmp_path / "cm3")], stdout=subprocess.PIPE, text=True
    )
    try:
        endpoint = Endpoint("127.0.0.1", int(process.stdout.readline()))
        if stop:
            process.send_signal(signal.SIGSTOP)
        yield endpoint if stop else (endpoint, process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_a_standby_frozen_amid_a_transfer_is_supplied_again_when_it_thaws(nursery, leader, tmp_path, monkeypatch):
    monkeypatch.setattr(replication, "STALL_MS", 300)
    monkeypatch.setattr(replication, "HANDSHAKE_MS", 300)
    with hung_receiver(tmp_path, stop=False) as (endpoint, process):
        nursery.start_soon(leader.ship_to, peer("cm3", endpoint))
        leader.publish(1)
        await leader.reported("cm3", 1)
        process.send_signal(signal.SIGSTOP)
        leader.publish(2, length=20_000_000)  # more than the sockets' buffers hold
        await trio.sleep(1.5)
        assert [shipped.generation for shipped in leader.reports] == [1]
        process.send_signal(signal.SIGCONT)
        await leader.reported("cm3", 2)
        nursery.cancel_scope.cancel()


async def test_a_stale_leader_is_refused_and_what_is_held_stays(nursery, standby, leader):
    await standby.store.put(make_replica("cm3", 4, 1, file(41)))
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    leader.publish(99)
    await trio.sleep(0.5)
    assert (leader.reports, standby.stored, standby.store.held.version) == ([], [], (4, 1))


async def test_a_stale_or_deposed_leader_is_refused_before_it_sends_its_file(nursery, standby, leader, monkeypatch):
    async def never(session, snapshot):
        pytest.fail("a file is on its way that nobody wants")

    monkeypatch.setattr(replication, "_assemble", never)
    await standby.store.put(make_replica("cm1", 3, 5, file(5)))
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    leader.publish(4)
    await trio.sleep(0.2)
    standby.leader = ("cm3", 4)
    leader.publish(6)
    await trio.sleep(0.5)
    assert leader.reports == []


async def test_a_sender_that_is_not_the_leader_is_refused_until_the_standby_learns_of_it(nursery, standby, leader):
    standby.leader = ("cm3", 2)
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    leader.publish(1)
    await trio.sleep(0.3)
    assert standby.stored == []
    standby.leader = ("cm1", 3)
    await leader.reported("cm2", 1)


async def test_a_leader_deposed_during_a_transfer_is_not_acknowledged(nursery, standby, leader, monkeypatch):
    assemble = replication._assemble

    async def slow(session, snapshot):
        standby.leader = ("cm3", 4)
        return await assemble(session, snapshot)

    monkeypatch.setattr(replication, "_assemble", slow)
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    leader.publish(1)
    await trio.sleep(0.3)
    assert (leader.reports, standby.store.held) == ([], None)


async def test_a_corrupt_file_is_refused_and_the_connection_still_serves_the_next(nursery, standby, leader):
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    leader.newest.publish(make_replica("cm1", 3, 1, HEADER + b"1o3\n105 \n106 \n"))
    await trio.sleep(0.3)
    assert standby.store.held is None
    leader.publish(2)
    await leader.reported("cm2", 2)


@pytest.mark.parametrize(
    "mine",
    [
        material("cm1", cluster="chemistry"),
        material("cm1", keyring=Keyring({1: bytes(32)}, 1)),
        material("cm1", keyring=Keyring({2: bytes(range(32))}, 2)),
        material("stranger"),
        material("cm2"),
    ],
    ids=["other cluster", "other key", "unknown key id", "stranger", "the receiver's own name"],
)
async def test_strangers_are_not_served(nursery, standby, leader, mine):
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint), mine)
    leader.publish(1)
    await trio.sleep(0.3)
    assert (leader.reports, standby.store.held) == ([], None)


async def test_a_session_meant_for_another_node_is_not_served(nursery, standby, leader):
    nursery.start_soon(leader.ship_to, peer("cm3", standby.endpoint))
    leader.publish(1)
    await trio.sleep(0.3)
    assert (leader.reports, standby.store.held) == ([], None)


async def test_a_recorded_session_played_back_changes_nothing(nursery, standby, leader, tmp_path):
    recorded = bytearray()

    async def tap(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", standby.endpoint.port)
        async with client, server, trio.open_nursery() as both:

            async def up() -> None:
                async for data in client:
                    recorded.extend(data)
                    await server.send_all(data)
                both.cancel_scope.cancel()

            both.start_soon(up)
            async for data in server:
                await client.send_all(data)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, tap, [listener])
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as inner:
        inner.start_soon(leader.ship_to, peer("cm2", Endpoint("127.0.0.1", port)))
        leader.publish(1)
        await leader.reported("cm2", 1)
        inner.cancel_scope.cancel()
    fresh = Standby("cm2", tmp_path / "fresh")  # the same node with an empty disk
    await nursery.start(fresh.run)
    async with await trio.open_tcp_stream("127.0.0.1", fresh.endpoint.port) as stream:
        await stream.send_all(recorded)
        with trio.move_on_after(0.5):
            async for _ in stream:
                pass
    assert (fresh.stored, fresh.store.held) == ([], None)


async def test_junk_and_silence_at_the_port_do_not_keep_the_leader_out(nursery, standby, leader, monkeypatch):
    monkeypatch.setattr(replication, "HANDSHAKE_MS", 200)
    monkeypatch.setattr(replication, "CONNECTIONS_MAX", 8)
    streams = [await trio.open_tcp_stream("127.0.0.1", standby.endpoint.port) for _ in range(12)]
    for stream, junk in zip(
        streams, (b"", b"GET / HTTP/1.0\r\n\r\n", b"\0" * 10_000, os.urandom(200)) * 3, strict=True
    ):
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(junk or b"C")
    nursery.start_soon(leader.ship_to, peer("cm2", standby.endpoint))
    leader.publish(1)
    await leader.reported("cm2", 1)
    for stream in streams:
        with trio.fail_after(SOON_S), contextlib.suppress(trio.BrokenResourceError):
            async for _ in stream:  # ends when the receiver has closed it
                pass
        await stream.aclose()


async def test_a_second_connection_of_a_sender_ends_its_first(nursery, standby):
    async def greet() -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", standby.endpoint.port)
        opened = wire.opening(KEYS, "physics", hashlib.sha256(b"%d" % next(_nonces)).digest())
        await stream.send_all(opened)
        answered = await replication._receive_exactly(stream, wire.ANSWERING_BYTES)
        channel = wire.Channel(KEYS, "physics", wire.Side.SENDER, opened, answered)
        await stream.send_all(channel.seal(wire.Hello("cm1", "cm2")))
        assert await stream.receive_some(1000)
        return stream

    with trio.fail_after(SOON_S):
        first = await greet()
        second = await greet()
        assert await first.receive_some(1000) == b""
        await first.aclose()
        await second.aclose()


async def test_a_port_in_use_is_told_at_once(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        standby = Standby("cm2", tmp_path)
        standby.endpoint = Endpoint(*taken.getsockname())
        with pytest.RaisesGroup(OSError, flatten_subgroups=True, allow_unwrapped=True):
            await standby.run()


def test_a_replica_that_goes_back_is_a_bug_of_ours():
    newest = Newest()

    async def main() -> None:
        newest.publish(make_replica("cm1", 3, 2, b""))
        with pytest.raises(AssertionError):
            newest.publish(make_replica("cm1", 3, 2, b""))

    trio.run(main)

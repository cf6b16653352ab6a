"""A leader and standbys for the tests of the stream: real sockets, real crypto, real stores, a file that grows."""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import trio

from gateway.config.settings import Endpoint, Peer, Role
from gateway.control.door import Door
from gateway.core.timeline import Position, Timeline
from gateway.kernel.inotify import FileWatch
from gateway.matchmaker.feed import Feed
from gateway.matchmaker.follow import follow
from gateway.matchmaker.journal import Store
from gateway.matchmaker.receive import receiver
from gateway.matchmaker.ship import Shipped, ship
from gateway.matchmaker.stream import Lost, Material, Session, answer, call
from gateway.wire import stream as wire
from gateway.wire.channel import STREAM_MAGIC
from gateway.wire.seal import Keyring

KEYS = Keyring({1: bytes(range(32))}, 1)
NAMES = frozenset({"cm1", "cm2", "cm3"})
TERM = 3
SOON_S = 20  # generous: the machine may be busy


def header(sequence: int) -> bytes:
    return b"107 %d CreationTimestamp 1795380800\n101 Customer.alice@lab * *\n" % sequence


def record(number: int) -> bytes:
    return b"103 Customer.alice@lab AccumulatedUsage %d.000000\n" % number


def transaction(number: int, bytes_min: int = 0) -> bytes:
    text = b'103 Customer.alice@lab Note "%s"\n' % (b"x" * 500)
    return b"105 \n" + text * (bytes_min // len(text)) + record(number) + b"106 \n"


def material(me: str, **changes) -> Material:
    return Material(**{"cluster": "physics", "keyring": KEYS, "me": me, "peers": NAMES, **changes})


def peer(name: str, endpoint: Endpoint) -> Peer:
    return Peer(name=name, endpoint=endpoint, roles=frozenset({Role.MANAGER}))


async def eventually(condition) -> None:
    with trio.fail_after(SOON_S):
        while not condition():  # noqa: ASYNC110 (what it looks at tells nobody)
            await trio.sleep(0.01)


class NoHistories:
    """Nobody wants anything."""

    def wanted(self, standby: str, pending: Timeline) -> bool:
        return False

    def room(self, standby: str, name: str) -> Path:
        raise AssertionError("nothing was wanted")

    async def fetched(self, standby: str, pending: Timeline, path: Path, base: Path | None) -> None:
        raise AssertionError("nothing was wanted")


class Standby:
    """A receiver in this process."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory / name
        self.store = Store(self.directory)
        self.leader = ("cm1", TERM)
        self.refused: Counter[str] = Counter()
        self.files: tuple[str, ...] = ()
        self.installed: list[str] = []
        self.changes = 0
        self.endpoint = Endpoint("127.0.0.1", 0)
        self.nursery: trio.Nursery

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        await self.store.load()
        async with trio.open_nursery() as self.nursery:
            self.endpoint = await self.nursery.start(self._serve)
            task_status.started()

    async def _serve(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        handler = receiver(
            material(self.name),
            self.store,
            accept=lambda sender, term: (sender, term) == self.leader,
            changed=self._changed,
            install_file=self.install_file,
            files=self.files,
            scratch=self.directory,
            refused=self.refused,
        )
        door = Door(self.endpoint, self.refused)
        door.open_to(STREAM_MAGIC, handler)
        await door.run(task_status=task_status)

    def _changed(self) -> None:
        self.changes += 1

    async def install_file(self, name: str, staged: Path) -> None:
        self.installed.append(name)
        os.replace(staged, name)

    def stop(self) -> None:
        self.nursery.cancel_scope.cancel()

    async def content(self) -> bytes:
        """What it holds, proven, as plain bytes."""
        target = self.directory / "exported"
        await self.store.export(self.store.path_of(self.store.held.timeline.head), None, target)
        return target.read_bytes()


class Leader:
    """A growing file, followed and shipped."""

    def __init__(self, directory: Path, name: str = "cm1", timeline: Timeline | None = None) -> None:
        self.name = name
        self.directory = directory / f"{name}-leads"
        self.directory.mkdir(parents=True)
        self.path = self.directory / "Accountantnew.log"
        self.timeline = timeline or Timeline(Position(TERM, 0, 0))
        self.feed = Feed(name, self.timeline)
        self.store = Store(self.directory / "store")
        self.histories = NoHistories()
        self.generations: list[tuple[Timeline, int, int]] = []
        self.reports: list[Shipped] = []
        self._reported = trio.Event()

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def compact(self, data: bytes) -> None:
        fresh = self.path.with_suffix(".tmp")
        fresh.write_bytes(data)
        os.replace(fresh, self.path)

    async def follow(self, resume: tuple[int, int] | None = None, resume_sequence: int | None = None) -> None:
        await follow(
            self.path,
            self.feed,
            timeline=self.timeline,
            resume=resume,
            opened=self._opened,
            watch_writes=FileWatch,
            resume_sequence=resume_sequence,
        )

    async def _opened(self, timeline: Timeline, inode: int, sequence: int) -> None:
        self.generations.append((timeline, inode, sequence))

    def report(self, shipped: Shipped) -> None:
        self.reports.append(shipped)
        event, self._reported = self._reported, trio.Event()
        event.set()

    async def ship_to(self, standby, mine: Material | None = None) -> None:
        where = standby if isinstance(standby, Peer) else peer(standby.name, standby.endpoint)
        await ship(
            where, mine or material(self.name), self.feed, self.store, report=self.report, histories=self.histories
        )

    async def until(self, fits, within_s: float = SOON_S) -> Shipped:
        """Wait for a report that `fits`; return it."""
        seen = 0
        with trio.fail_after(within_s):
            while True:
                for shipped in self.reports[seen:]:
                    if fits(shipped):
                        return shipped
                seen, event = len(self.reports), self._reported
                await event.wait()

    async def shipped(self, standby: str, within_s: float = SOON_S) -> Shipped:
        """Wait until all that the file holds now is on that standby's disk."""
        length = self.path.stat().st_size
        inode = self.path.stat().st_ino

        def fits(shipped: Shipped) -> bool:
            if not self.generations or self.generations[-1][1] != inode or shipped.standby != standby:
                return False
            head = self.generations[-1][0].head
            return shipped.connected and shipped.position >= Position(head.term, head.generation, length)

        return await self.until(fits, within_s)


CHILD = """
import sys, structlog, trio
from collections import Counter
from pathlib import Path
from gateway.config.settings import Endpoint
from gateway.matchmaker.journal import Store
from gateway.control.door import Door
from gateway.matchmaker.receive import receiver
from gateway.matchmaker.stream import Lost, Material, Session, answer, call
from gateway.wire import stream as wire
from gateway.wire.seal import Keyring

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    directory, port = Path(sys.argv[1]), int(sys.argv[2])
    store = Store(directory)
    await store.load()
    keys = Keyring({1: bytes(range(32))}, 1)
    async with trio.open_nursery() as nursery:
        async def serving(task_status):
            door = Door(Endpoint("127.0.0.1", port))
            door.open_to(b"CGS1", receiver(
                Material(cluster="physics", keyring=keys, me=sys.argv[3], peers=frozenset({"cm1"})), store,
                accept=lambda sender, term: True, changed=lambda: None, install_file=None))
            await door.run(task_status=task_status)
        endpoint = await nursery.start(serving)
        print(endpoint.port, flush=True)

trio.run(main)
"""


class Child:
    """A receiver in a process of its own, that can really be killed."""

    def __init__(self, directory: Path, name: str = "cm2") -> None:
        self.name = name
        self.directory = directory / f"{name}-child"
        self.endpoint = Endpoint("127.0.0.1", 0)
        self.process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(self.directory), str(self.endpoint.port), self.name],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    async def start(self) -> None:
        self.begin()
        port = int(await trio.to_thread.run_sync(self.process.stdout.readline))
        self.endpoint = Endpoint("127.0.0.1", port)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    async def content(self) -> bytes:
        store = Store(self.directory)
        await store.load()
        target = self.directory / "exported"
        await store.export(store.path_of(store.held.timeline.head), None, target)
        return target.read_bytes()


class Intruder:
    """A peer with the right key that says what it likes: as a leader, to a standby."""

    def __init__(self, stream: trio.SocketStream, session: Session) -> None:
        self.stream = stream
        self.session = session

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, standby, *, timeline: Timeline | None = None, hello: bool = True):
        async with await trio.open_tcp_stream("127.0.0.1", standby.endpoint.port) as stream:
            intruder = cls(stream, await call(stream, material("cm1")))
            if hello:
                await intruder.say(wire.Hello("cm1", standby.name, timeline or Timeline(Position(TERM, 1, 0))))
                assert isinstance(await intruder.hear(), wire.Welcome)
            yield intruder

    async def say(self, *messages: wire.Message) -> None:
        for message in messages:
            await self.session.send(message)

    async def hear(self) -> wire.Message | None:
        """The next message but for keepalives; None where the connection was closed."""
        with trio.fail_after(SOON_S):
            while True:
                try:
                    messages = await self.session.receive()
                except (Lost, trio.BrokenResourceError):
                    return None
                for message in messages:
                    if not isinstance(message, wire.Keepalive):
                        return message

    async def snapshot(self, data: bytes, timeline: Timeline | None = None, sha256: bytes | None = None) -> None:
        timeline = timeline or Timeline(Position(TERM, 1, len(data)))
        await self.say(wire.Snapshot(timeline, "cm1", timeline.head.offset))
        for start in range(0, len(data), wire.CHUNK_BYTES):
            await self.say(wire.Chunk(wire.Transfer.SNAPSHOT, data[start : start + wire.CHUNK_BYTES]))
        await self.say(wire.Done(wire.Transfer.SNAPSHOT, sha256 or hashlib.sha256(data).digest()))


class Impostor:
    """A standby with the right key that says what it likes. `conversation` is called with each leader that calls."""

    def __init__(self, conversation, name: str = "cm2", welcome: wire.Welcome | None = None) -> None:
        self.name = name
        self._conversation = conversation
        self._welcome = welcome or wire.Welcome(Timeline(), 0, (), ())
        self.endpoint = Endpoint("127.0.0.1", 0)

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.endpoint = Endpoint("127.0.0.1", listeners[0].socket.getsockname()[1])
        task_status.started()
        await trio.serve_listeners(self._handle, listeners)

    async def _handle(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(Lost, trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                session = await answer(stream, material(self.name))
                assert isinstance((await session.receive())[0], wire.Hello)
                await session.send(self._welcome)
                await self._conversation(session)

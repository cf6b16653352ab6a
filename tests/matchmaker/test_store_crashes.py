"""The store and a machine that stops anywhere: what was acknowledged is there, the rest is as before or as after."""

import hashlib
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from gateway.core.timeline import Fork, Position, Timeline
from gateway.matchmaker.journal import Lead, Store
from gateway.matchmaker.journal_files import Contents
from tests.support.stopped_disk import SURVIVALS, OtherCalls, Stop, StoppedDisk

HEADER = b"107 3 CreationTimestamp 1795380800\n"
BASE = HEADER + b"101 Customer.alice@lab * *\n"
MORE = b"105 \n103 Customer.alice@lab Priority 0.5\n106 \n"
MUCH = b"103 Customer.alice@lab Priority 0.5\n" * 2000  # two frames
THIRD = Timeline(Position(3, 1, 0), forks=(Fork(Position(2, 1, 50), 7),))


def after(timeline: Timeline, generation: int) -> Timeline:
    return Timeline(Position(timeline.head.term, generation, 0), timeline.forks, timeline.included)


async def snapshot(store: Store, timeline: Timeline, data: bytes) -> None:
    writer = await store.open_snapshot(timeline, "cm1", len(data))
    await writer.write(data)
    await writer.commit(hashlib.sha256(data).digest())


async def fork_from_elsewhere(store: Store, root: Path) -> None:
    other = Store(root.parent / f"{root.name}-elsewhere")
    await other.load()
    await snapshot(other, Timeline(Position(2, 1, 0)), BASE + MORE)
    await store.add_fork(Position(2, 1, len(BASE)), other.path_of(Position(2, 1, len(BASE))))


FOURTH = Timeline(Position(4, 1, 0), forks=(Fork(Position(2, 1, 50), 7),))
MERGED = Timeline(Position(4, 2, 0), forks=FOURTH.forks, included=(Position(3, 2, len(BASE + MUCH)),))
STEPS = {
    "first snapshot": lambda store, _: snapshot(store, THIRD, BASE),
    "append": lambda store, _: store.append(store.held.timeline.head, MORE),
    "keep a fork": lambda store, _: store.keep_fork(),
    "append two frames": lambda store, _: store.append(store.held.timeline.head, MUCH),
    "second snapshot": lambda store, _: snapshot(store, after(THIRD, 2), BASE + MUCH),
    "retell": lambda store, _: store.retell(after(Timeline(THIRD.head), 2)),
    "first lead": lambda store, _: store.put_lead(Lead(THIRD, 7, 1)),
    "second lead": lambda store, _: store.put_lead(Lead(THIRD, 8, 2, b"merging", FOURTH)),
    "no lead": lambda store, _: store.put_lead(None),
    "make way": lambda store, _: store.make_way(FOURTH),
    "snapshot of another": lambda store, _: snapshot(store, FOURTH, BASE),
    "merged": lambda store, _: snapshot(store, MERGED, BASE + MORE),
    "archive what was merged": lambda store, _: store.make_way(MERGED.at(Position(4, 2, len(BASE + MORE)))),
    "a fork from elsewhere": fork_from_elsewhere,
    "prune forks": lambda store, _: store.prune_forks(MERGED),
    "adopt": lambda store, root: adopt(store, root, BASE),
    "adopt more": lambda store, root: adopt(store, root, BASE + MUCH),
}


async def adopt(store: Store, root: Path, data: bytes) -> None:
    (root / "spool" / "plain").write_bytes(data)
    timeline = MERGED.at(Position(4, 2, len(BASE + MORE))).taken_over(5, 9)
    await store.adopt(root / "spool" / "plain", after(timeline, 1), "cm2", 77)


class State:
    """What a store shows, its contents included."""

    def __init__(self, store: Store) -> None:
        held = store.held
        self.lead = store.lead
        self.held = (held, self._content(store.path_of(held.timeline.head), held.timeline.head.offset))
        self.pending = {one.timeline.head: self._content(one.path, one.timeline.head.offset) for one in store.pending}
        self.forks = {one: self._content(store.path_of(one), one.offset) for one in store.forks}
        self.archived = {path.name for path in (store.directory / "archive").glob("*")}

    def _content(self, path: Path | None, length: int) -> bytes:
        return b"" if path is None else b"".join(Contents(path, length))


async def loaded(directory: Path) -> Store:
    store = Store(directory)
    await store.load()
    return store


def fresh_root(path: Path, model: Path | None = None) -> Path:
    if model is not None:
        shutil.copytree(model, path)
    else:
        (path / "state").mkdir(parents=True)
        (path / "spool").mkdir()
    return path


@pytest.fixture
def unsynced(monkeypatch):
    """What stops the machine here notes what is on the disk; the real one need not be waited for."""
    OtherCalls(fsync=lambda _: None, fdatasync=lambda _: None).patch(monkeypatch)


async def test_a_store_survives_a_stop_at_each_call_of_each_operation_and_a_loss_of_power_there(tmp_path, unsynced):
    done = fresh_root(tmp_path / "0")
    stops = 0
    for number, (name, step) in enumerate(STEPS.items(), 1):
        before = State(await loaded(done / "state"))
        whole = fresh_root(tmp_path / str(number), done)
        store = await loaded(whole / "state")
        await step(store, whole)
        last = State(store)
        calls = 0
        while True:  # ends when no call is the last one
            root = fresh_root(tmp_path / "stopped", done)
            store = await loaded(root / "state")
            disk = StoppedDisk(root, calls)
            with pytest.MonkeyPatch.context() as patch:
                disk.patch(patch)
                try:
                    await step(store, root)
                    stopped = False
                except Stop:
                    stopped = True
            for survival in SURVIVALS:
                found = tmp_path / "found"
                disk.survive(found, survival)
                what = f"{name}, {survival}, stopped behind {disk.calls}"
                again = await loaded(found / "state")
                check(State(again), before, last, stopped, what)
                assert again.damaged == 0, f"{what}: a stop is no damage"
                if again.held.origin:
                    await again.append(again.held.timeline.head, MORE)  # it goes on
                shutil.rmtree(found)
            shutil.rmtree(root)
            shutil.rmtree(tmp_path / "stopped-elsewhere", ignore_errors=True)
            if not stopped:
                break
            calls += 1
            stops += 1
        done = whole
    assert stops > 100, "the disk was not stopped where it should have been"


def check(found: State, before: State, last: State, stopped: bool, what: str) -> None:
    allowed = (before, last) if stopped else (last,)
    assert found.lead in [state.lead for state in allowed], what
    moved = [state.held for state in allowed]
    assert found.held in moved, what
    for position, content in found.pending.items():
        assert any(state.pending.get(position) == content for state in allowed), what
    for position, content in found.forks.items():
        assert any(state.forks.get(position) == content for state in allowed), what
    assert before.forks.keys() & last.forks.keys() <= found.forks.keys(), what
    # No history is lost: it is held, pending, or in the archive.
    for position in (*before.pending, before.held[0].timeline.head):
        known = found.held[0].timeline.holds(position) or position in found.pending
        assert known or f"history-{position}" in found.archived, f"{what}: {position} is lost"


@pytest.mark.parametrize("state", ["torn", "flipped", "flipped in the snapshot", "former", "as it should be"])
async def test_a_store_survives_a_stop_at_each_call_while_it_recovers(tmp_path, unsynced, state):
    model = fresh_root(tmp_path / "model")
    store = await loaded(model / "state")
    if state == "former":
        (model / "state" / "accounting.replica").write_bytes(former_replica())
        good = [(Position(3, 18, len(BASE)), BASE)]
    else:
        await snapshot(store, THIRD, BASE)
        await snapshot(store, after(THIRD, 2), BASE + MORE)
        await store.append(store.held.timeline.head, MORE)
        good = [(Position(3, 2, len(BASE + MORE)), BASE + MORE)]
        path = model / "state" / "accounting.journal"
        data = bytearray(path.read_bytes())
        if state == "torn":
            path.write_bytes(data[:-5])
        elif state == "flipped":
            data[-5] ^= 1
            path.write_bytes(data)
        elif state == "flipped in the snapshot":
            data[150] ^= 1
            path.write_bytes(data)
            good = [(Position(3, 1, len(BASE)), BASE)]
        else:
            good = [(Position(3, 2, len(BASE + MORE + MORE)), BASE + MORE + MORE)]
    for calls in range(100):
        root = fresh_root(tmp_path / "stopped", model)
        disk = StoppedDisk(root, calls)
        with pytest.MonkeyPatch.context() as patch:
            disk.patch(patch)
            try:
                await loaded(root / "state")
                stopped = False
            except Stop:
                stopped = True
        for survival in SURVIVALS:
            found = tmp_path / "found"
            disk.survive(found, survival)
            again = State(await loaded(found / "state"))
            assert (again.held[0].timeline.head, again.held[1]) in good, f"{survival}, stopped behind {disk.calls}"
            shutil.rmtree(found)
        shutil.rmtree(root)
        if not stopped:
            return
    pytest.fail("recovery does more calls than were tried")


def former_replica() -> bytes:
    """The file that a version before this one kept."""
    head = msgspec.msgpack.encode(["accounting", "cm1", 3, 18, hashlib.sha256(BASE).digest()])
    rest = struct.pack("!L", len(head)) + head + BASE
    return b"CGREPLI1" + hashlib.sha256(rest).digest() + rest


async def test_an_install_that_is_stopped_at_any_call_leaves_the_old_file_or_the_new_one(tmp_path, unsynced):
    model = fresh_root(tmp_path / "model")
    store = await loaded(model / "state")
    await snapshot(store, THIRD, BASE + MORE)
    (model / "spool" / "Accountantnew.log").write_bytes(BASE)
    (model / "spool" / "merged").write_bytes(BASE + MORE)
    for use in ("install", "replace"):
        for calls in range(100):
            root = fresh_root(tmp_path / "stopped", model)
            store = await loaded(root / "state")
            target = root / "spool" / "Accountantnew.log"
            disk = StoppedDisk(root, calls)
            with pytest.MonkeyPatch.context() as patch:
                disk.patch(patch)
                try:
                    if use == "install":
                        await store.install(target)
                    else:
                        await store.replace(target, root / "spool" / "merged")
                    stopped = False
                except Stop:
                    stopped = True
            for survival in SURVIVALS:
                found = tmp_path / "found"
                disk.survive(found, survival)
                content = (found / "spool" / "Accountantnew.log").read_bytes()
                assert content in ((BASE, BASE + MORE) if stopped else (BASE + MORE,)), f"{survival} {disk.calls}"
                if content != BASE:
                    kept = [path.read_bytes() for path in (found / "state").glob("Accountantnew.log.before-3*")]
                    assert kept == [BASE], f"{survival}, stopped behind {disk.calls}"
                again = await loaded(found / "state")
                await again.install(found / "spool" / "Accountantnew.log")
                assert (found / "spool" / "Accountantnew.log").read_bytes() == BASE + MORE
                kept = [path.read_bytes() for path in (found / "state").glob("Accountantnew.log.before-3*")]
                assert kept == [BASE], "once"
                shutil.rmtree(found)
            shutil.rmtree(root)
            if not stopped:
                break
        else:
            pytest.fail("more calls than were tried")


async def test_what_a_killed_process_has_written_is_on_the_disk_before_it_is_shown(tmp_path):
    root = fresh_root(tmp_path / "root")
    await snapshot(await loaded(root / "state"), THIRD, BASE)
    disk = StoppedDisk(root, 100)
    synced = []
    with pytest.MonkeyPatch.context() as patch:
        disk.patch(patch)
        disk._note = lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        await loaded(root / "state")
    assert synced == ["accounting.journal", "state"]


async def test_a_new_folder_is_on_the_disk_with_all_that_lead_to_it(tmp_path):
    disk = StoppedDisk(tmp_path, 100)
    synced = []
    with pytest.MonkeyPatch.context() as patch:
        disk.patch(patch)
        disk._note = lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        await loaded(tmp_path / "replica" / "pool")
    assert synced == [tmp_path.name, "replica", "pool"]


_APPENDER = """
import sys, trio
from pathlib import Path
from gateway.matchmaker.journal import Store

async def main():
    store = Store(Path(sys.argv[1]))
    await store.load()
    head = store.held.timeline.head
    while True:
        head = await store.append(head, b"103 Customer.alice@lab Priority 0.5\\n" * 5)
        print(head.offset, flush=True)

trio.run(main)
"""


def killed_appender(directory: Path, lines_max: int) -> int:
    """Run a process that appends; kill it; return how far it said that it was."""
    with subprocess.Popen([sys.executable, "-c", _APPENDER, directory], stdout=subprocess.PIPE, text=True) as child:
        lines = [child.stdout.readline() for _ in range(lines_max)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines(keepends=True)
    return max(int(line) for line in lines if line.endswith("\n"))


async def test_what_a_killed_process_has_acknowledged_is_there(tmp_path):
    store = await loaded(tmp_path)
    await snapshot(store, THIRD, BASE)
    for kill in range(3):
        acknowledged = await trio.to_thread.run_sync(killed_appender, tmp_path, 50 + 7 * kill)
        store = await loaded(tmp_path)
        assert store.held.timeline.head.offset >= acknowledged
        assert store.damaged == 0

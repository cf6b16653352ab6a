"""The replica on disk: what was acknowledged survives a crash at any step, and nothing bad is ever installed."""

import os
import stat
from pathlib import Path

import pytest

from gateway.matchmaker import spool
from gateway.matchmaker.spool import BEFORE_KEPT, ReplicaCorrupt, ReplicaStale, ReplicaStore
from gateway.wire.replica import make_replica

HEADER = b"107 3 CreationTimestamp 1795380800\n"
GOOD = HEADER + b"101 Customer.alice@lab * *\n105 \n103 Customer.alice@lab Priority 0.5\n106 \n"
OTHER = GOOD + b"103 Customer.alice@lab PriorityFactor 10.0\n"
THIRD = OTHER + b"102 Customer.alice@lab\n"
FATAL = HEADER + b"1o3 corrupt\n105 \n106 \n"


class Crash(BaseException):
    """The machine stopped here."""


class Disk:
    """Lets a number of changing file operations happen, then stops the machine; notes their order."""

    def __init__(self, monkeypatch, operations_max: int = 1_000) -> None:
        self.operations: list[str] = []
        self._left = operations_max
        for name in ("replace", "fsync", "fchown", "open"):
            monkeypatch.setattr(spool.os, name, self._counted(name, getattr(os, name)))
        monkeypatch.setattr(spool.shutil, "copyfileobj", self._counted("write", self._copy))
        monkeypatch.setattr(Path, "unlink", self._counted("unlink", Path.unlink))

    def _copy(self, source, target, _length) -> None:
        data = source.read()
        target.write(data[: len(data) // 2])
        target.flush()
        self._spend("write")  # a crash in the middle of a write
        target.write(data[len(data) // 2 :])

    def _spend(self, name: str) -> None:
        self.operations.append(name)
        self._left -= 1
        if self._left < 0:
            raise Crash(name)

    def _counted(self, name: str, function):
        def counted(*args, **kwargs):
            if not (name == "open" and args[1] == os.O_RDONLY | os.O_CLOEXEC):
                self._spend(name)
            return function(*args, **kwargs)

        return counted


async def loaded(directory) -> ReplicaStore:
    store = ReplicaStore(directory)
    await store.load()
    return store


async def test_what_was_put_is_read_by_the_next_process(tmp_path):
    store = await loaded(tmp_path / "state")
    assert await store.read() is None
    replica = make_replica("cm1", 3, 18, GOOD)
    await store.put(replica)
    again = await loaded(tmp_path / "state")
    assert again.held.version == (3, 18)
    assert await again.read() == replica


async def test_replicas_are_for_their_owner_only(tmp_path):
    store = await loaded(tmp_path / "state")
    await store.put(make_replica("cm1", 3, 18, GOOD))
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "accounting.replica").stat().st_mode) == 0o600


async def test_an_older_replica_never_replaces_a_newer_one_also_after_a_restart(tmp_path):
    store = await loaded(tmp_path)
    await store.put(make_replica("cm1", 3, 18, GOOD))
    for store_now in (store, await loaded(tmp_path)):
        for term, generation, data in ((3, 17, GOOD), (2, 99, GOOD), (3, 18, OTHER)):
            with pytest.raises(ReplicaStale):
                await store_now.put(make_replica("cm2", term, generation, data))
        await store_now.put(make_replica("cm1", 3, 18, GOOD))  # the same again is fine
        assert (await store_now.read()).data == GOOD
    await store.put(make_replica("cm2", 4, 1, OTHER))
    assert store.held.version == (4, 1)


async def test_a_replica_that_would_stop_a_negotiator_is_not_kept(tmp_path):
    store = await loaded(tmp_path)
    await store.put(make_replica("cm1", 3, 18, GOOD))
    with pytest.raises(ReplicaCorrupt, match="at byte 35"):
        await store.put(make_replica("cm1", 3, 19, FATAL))
    assert (await store.read()).version == (3, 18)


@pytest.mark.parametrize("name", ["accounting.replica", "accounting.replica.previous"])
async def test_a_flipped_bit_on_the_disk_leads_to_the_other_copy(tmp_path, name):
    store = await loaded(tmp_path)
    await store.put(make_replica("cm1", 3, 18, GOOD))
    await store.put(make_replica("cm1", 3, 19, OTHER))
    path = tmp_path / name
    whole = path.read_bytes()
    for bit in range(0, len(whole) * 8, 7):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        replica = await store.read()
        assert replica.data == (GOOD if name == "accounting.replica" else OTHER)
        assert store.held.version == replica.version
    path.write_bytes(whole[:-1])
    assert (await store.read()).data == (GOOD if name == "accounting.replica" else OTHER)
    path.write_bytes(b"")
    assert (await store.read()).data == (GOOD if name == "accounting.replica" else OTHER)


async def test_a_store_survives_a_crash_at_each_step_and_a_crash_while_it_recovers(tmp_path):
    for first in range(40):
        for second in (*range(8), 1_000):
            directory = tmp_path / f"{first}-{second}"
            store = await loaded(directory)
            await store.put(make_replica("cm1", 3, 1, GOOD))
            await store.put(make_replica("cm1", 3, 2, OTHER))
            known, crashed = 2, False
            for limit, generation in ((first, 3), (second, 4)):
                with pytest.MonkeyPatch.context() as patch:
                    Disk(patch, limit)
                    try:
                        again = await loaded(directory)
                        assert again.held.generation >= known, "an acknowledged replica was lost"
                        known = again.held.generation
                        if known < generation:
                            await again.put(make_replica("cm1", 3, generation, THIRD))
                        known = generation
                    except Crash:
                        crashed = True
            last = await loaded(directory)
            assert last.held.generation >= known, "an acknowledged replica was lost"
            await last.put(make_replica("cm1", 3, 5, THIRD))
            assert (await loaded(directory)).held.generation == 5
        if not crashed:
            return  # every step has been the last one
    pytest.fail("put does more file operations than were tried")


async def test_a_replica_is_on_the_disk_before_its_name_and_its_name_before_the_acknowledgement(tmp_path, monkeypatch):
    store = await loaded(tmp_path)
    await store.put(make_replica("cm1", 3, 1, GOOD))
    disk = Disk(monkeypatch)
    await store.put(make_replica("cm1", 3, 2, OTHER))
    assert disk.operations == ["unlink", "open", "write", "write", "fsync", "replace", "replace", "fsync"]


async def test_what_a_crash_left_half_done_is_on_the_disk_before_it_is_shown(tmp_path, monkeypatch):
    store = await loaded(tmp_path)
    await store.put(make_replica("cm1", 3, 1, GOOD))
    await store.put(make_replica("cm1", 3, 2, OTHER))
    (tmp_path / "accounting.replica").rename(tmp_path / "accounting.replica.new")
    disk = Disk(monkeypatch)
    assert (await loaded(tmp_path)).held.version == (3, 2)
    assert disk.operations == ["fsync", "replace", "fsync"]


async def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    store = await loaded(tmp_path)
    await store.put(make_replica("cm1", 3, 1, GOOD))
    with pytest.MonkeyPatch.context() as patch:

        def full(*_):
            raise OSError(28, "No space left on device")

        patch.setattr(spool.shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="No space left"):
            await store.put(make_replica("cm1", 3, 2, OTHER))
    assert store.held.version == (3, 1)
    assert (await loaded(tmp_path)).held.version == (3, 1)
    await store.put(make_replica("cm1", 3, 2, OTHER))
    assert (await store.read()).data == OTHER


async def test_an_installed_replica_has_the_bytes_the_owner_and_the_mode_and_the_old_file_is_kept(tmp_path):
    accountant_log = tmp_path / "spool" / "Accountantnew.log"
    accountant_log.parent.mkdir()
    accountant_log.write_bytes(GOOD)
    store = await loaded(tmp_path / "state")
    await store.put(make_replica("cm1", 3, 1, OTHER))
    installed = await store.install(accountant_log, os.getuid(), os.getgid())
    assert installed == store.held
    assert accountant_log.read_bytes() == OTHER
    assert (stat.S_IMODE(accountant_log.stat().st_mode), accountant_log.stat().st_uid) == (0o600, os.getuid())
    assert (tmp_path / "state" / "Accountantnew.log.before-3").read_bytes() == GOOD
    assert os.listdir(accountant_log.parent) == ["Accountantnew.log"]  # condor_preen deletes what it does not know


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
async def test_an_installed_replica_belongs_to_htcondors_user(tmp_path):
    store = await loaded(tmp_path / "state")
    await store.put(make_replica("cm1", 3, 1, OTHER))
    await store.install(tmp_path / "Accountantnew.log", 12345, 23456)
    status = (tmp_path / "Accountantnew.log").stat()
    assert (status.st_uid, status.st_gid) == (12345, 23456)


async def test_installing_what_is_there_already_or_nothing_changes_nothing(tmp_path):
    accountant_log = tmp_path / "Accountantnew.log"
    accountant_log.write_bytes(GOOD)
    before = accountant_log.stat()
    store = await loaded(tmp_path / "state")
    assert await store.install(accountant_log) is None
    await store.put(make_replica("cm1", 3, 1, GOOD))
    assert await store.install(accountant_log) is None
    assert accountant_log.stat().st_ino == before.st_ino
    assert not list((tmp_path / "state").glob("*.before-*"))


async def test_a_corrupt_replica_is_not_installed_by_name(tmp_path, monkeypatch):
    accountant_log = tmp_path / "Accountantnew.log"
    accountant_log.write_bytes(GOOD)
    store = await loaded(tmp_path / "state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "verify_untrusted", lambda _: None)  # as an older version might have kept it
        await store.put(make_replica("cm1", 3, 1, FATAL))
    with pytest.raises(ReplicaCorrupt, match=r"3\.1 of cm1 is not installed"):
        await store.install(accountant_log)
    assert accountant_log.read_bytes() == GOOD


async def test_a_torn_tail_is_not_installed(tmp_path):
    store = await loaded(tmp_path / "state")
    await store.put(make_replica("cm1", 3, 1, GOOD + b"105 \n103 Customer.al"))
    await store.install(tmp_path / "Accountantnew.log")
    assert (tmp_path / "Accountantnew.log").read_bytes() == GOOD


async def test_an_install_that_crashes_at_any_step_leaves_the_old_file_or_the_new_one(tmp_path):
    for limit in range(40):
        directory = tmp_path / str(limit)
        directory.mkdir()
        accountant_log = directory / "Accountantnew.log"
        accountant_log.write_bytes(GOOD)
        store = await loaded(directory / "state")
        await store.put(make_replica("cm1", 3, 1, OTHER))
        crashed = False
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, limit)
            try:
                await store.install(accountant_log)
            except Crash:
                crashed = True
        content = accountant_log.read_bytes()
        assert content in (GOOD, OTHER)
        if content == OTHER:
            assert [path.read_bytes() for path in (directory / "state").glob("*.before-3")] == [GOOD]
        await store.install(accountant_log)
        assert accountant_log.read_bytes() == OTHER
        if not crashed:
            return  # every step has been the last one
    pytest.fail("install does more file operations than were tried")


async def test_a_symbolic_link_planted_in_the_spool_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".Accountantnew.log.install").symlink_to(victim)
    store = await loaded(tmp_path / "state")
    await store.put(make_replica("cm1", 3, 1, GOOD))
    await store.install(tmp_path / "Accountantnew.log")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "Accountantnew.log").read_bytes() == GOOD


async def test_replaced_files_are_never_overwritten_and_a_bounded_number_is_kept(tmp_path):
    accountant_log = tmp_path / "Accountantnew.log"
    store = await loaded(tmp_path / "state")
    await store.put(make_replica("cm1", 3, 1, GOOD))
    for number in range(BEFORE_KEPT + 3):
        accountant_log.write_bytes(b"%d" % number)
        await store.install(accountant_log)
    kept = sorted((tmp_path / "state").glob("*.before-*"), key=lambda path: path.stat().st_mtime_ns)
    assert [path.read_bytes() for path in kept] == [b"%d" % number for number in range(3, BEFORE_KEPT + 3)]

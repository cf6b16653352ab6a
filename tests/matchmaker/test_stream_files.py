"""Replicated files: what changes on the leader is soon at the same place on the standbys, whole."""

import hashlib
import os
import stat

import pytest
import trio
from stream_harness import TERM, Intruder, Leader, Standby, eventually, header, transaction

from gateway.core.timeline import Position
from gateway.kernel.inotify import FileWatch
from gateway.matchmaker import files
from gateway.matchmaker.files import follow_files, install_file
from gateway.wire import stream as wire


def offer(name: str, data: bytes, mode: int = 0o644) -> wire.File:
    return wire.File(name, len(data), hashlib.sha256(data).digest(), mode)


def pieces(data: bytes) -> list[wire.Chunk | wire.Done]:
    chunks = [
        wire.Chunk(wire.Transfer.OFFER, data[at : at + wire.CHUNK_BYTES])
        for at in range(0, len(data), wire.CHUNK_BYTES)
    ]
    return [*chunks, wire.Done(wire.Transfer.OFFER, hashlib.sha256(data).digest())]


class Pair:
    """A leader and a standby on one machine: the standby's files are elsewhere, under the same configured names."""

    def __init__(self, nursery, tmp_path, count: int = 1) -> None:
        self.nursery = nursery
        self.tmp_path = tmp_path
        self.here = [tmp_path / "here" / f"file{number}" for number in range(count)]
        self.there = [tmp_path / "there" / f"file{number}" for number in range(count)]
        self.names = tuple(map(str, self.here))
        self.leader = Leader(tmp_path)
        self.standby = Standby("cm2", tmp_path)
        (tmp_path / "here").mkdir()
        (tmp_path / "there").mkdir()

    async def start(self, allowed: tuple[str, ...] | None = None) -> None:
        self.standby.files = self.names if allowed is None else allowed

        async def elsewhere(name, staged) -> None:
            await install_file(str(self.there[self.names.index(name)]), staged)
            self.standby.installed.append(name)

        self.standby.install_file = elsewhere
        await self.nursery.start(self.standby.run)
        self.leader.write(header(1))
        self.nursery.start_soon(self.leader.follow)
        self.nursery.start_soon(self.leader.ship_to, self.standby)
        self.nursery.start_soon(self._follow_files)
        await self.leader.shipped("cm2")

    async def _follow_files(self) -> None:
        await follow_files(self.names, self.leader.feed, scratch=self.tmp_path, watch_writes=FileWatch, interval_ms=50)


@pytest.fixture(autouse=True)
def _not_there_yet(monkeypatch):
    """On one machine the leader's file is at its place on the standby as well."""
    from gateway.matchmaker import offered

    monkeypatch.setattr(offered, "_holds", lambda offer: False)


def content(path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


async def test_a_file_is_shipped_when_it_appears_and_whenever_it_changes(nursery, tmp_path):
    pair = Pair(nursery, tmp_path)
    await pair.start()
    for data in (b"first", b"", b"x" * 300_000):
        pair.here[0].write_bytes(data)
        await eventually(lambda data=data: content(pair.there[0]) == data)
    shipped = await pair.leader.until(lambda shipped: shipped.files_behind == 0)
    assert shipped.connections_total == 1


async def test_a_file_written_again_with_the_same_bytes_is_not_shipped_again(nursery, tmp_path):
    pair = Pair(nursery, tmp_path)
    pair.here[0].write_bytes(b"same")
    await pair.start()
    await eventually(lambda: content(pair.there[0]) == b"same")
    pair.here[0].write_bytes(b"same")
    os.utime(pair.here[0], (1, 1))
    await trio.sleep(0.5)
    assert pair.standby.installed == [pair.names[0]]


async def test_sixteen_files_are_shipped_and_records_pass_meanwhile(nursery, tmp_path):
    pair = Pair(nursery, tmp_path, 16)
    for number, path in enumerate(pair.here):
        path.write_bytes(b"%d" % number * 100_000)
    await pair.start()
    pair.leader.write(transaction(1))
    await pair.leader.shipped("cm2")
    await eventually(
        lambda: all(content(one) == content(other) for one, other in zip(pair.here, pair.there, strict=True))
    )


async def test_a_file_that_is_removed_on_the_leader_stays_on_the_standby(nursery, tmp_path):
    pair = Pair(nursery, tmp_path)
    pair.here[0].write_bytes(b"precious")
    await pair.start()
    await eventually(lambda: content(pair.there[0]) == b"precious")
    pair.here[0].unlink()
    await trio.sleep(0.3)
    assert pair.there[0].read_bytes() == b"precious"


async def test_a_file_above_the_limit_is_not_shipped_and_the_others_are(nursery, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SHIPPED_FILE_BYTES_MAX", 1000)
    pair = Pair(nursery, tmp_path, 2)
    pair.here[0].write_bytes(b"x" * 1001)
    pair.here[1].write_bytes(b"x" * 1000)
    await pair.start()
    await eventually(lambda: content(pair.there[1]) is not None)
    assert content(pair.there[0]) is None


async def test_a_file_that_the_standby_does_not_name_is_declined_and_the_stream_goes_on(nursery, tmp_path):
    pair = Pair(nursery, tmp_path)
    pair.here[0].write_bytes(b"unwanted")
    await pair.start(allowed=())
    await pair.leader.until(lambda shipped: shipped.files_behind == 1)
    await trio.sleep(0.2)
    pair.leader.write(transaction(1))
    shipped = await pair.leader.shipped("cm2")
    assert (shipped.connections_total, pair.standby.installed, content(pair.there[0])) == (1, [], None)


async def test_a_file_that_can_not_be_put_in_its_place_is_declined_and_offered_again(nursery, tmp_path, monkeypatch):
    from gateway.matchmaker import offers

    monkeypatch.setattr(offers, "AGAIN_MS", 100)
    pair = Pair(nursery, tmp_path)
    pair.here[0].write_bytes(b"data")
    (tmp_path / "there").rmdir()
    await pair.start()
    await trio.sleep(0.3)
    (tmp_path / "there").mkdir()
    await eventually(lambda: content(pair.there[0]) == b"data")
    assert pair.leader.reports[-1].connections_total == 1


LIES = {
    "longer": (pieces(b"12345678901"), "too-long"),
    "shorter": (pieces(b"123456789"), "too-short"),
    "other bytes": (pieces(b"0987654321"), "bad-checksum"),
    "other sum at the end": ([*pieces(b"1234567890")[:-1], wire.Done(wire.Transfer.OFFER, bytes(32))], "bad-checksum"),
    "another offer": ([offer("/srv/ads", b"1234567890")], ""),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_file_that_is_not_what_was_announced_is_refused_by_name(nursery, tmp_path, lie):
    messages, reason = LIES[lie]
    standby = Standby("cm2", tmp_path)
    standby.files = ("/srv/ads",)
    await nursery.start(standby.run)
    async with Intruder.at(standby) as intruder:
        await intruder.say(offer("/srv/ads", b"1234567890"))
        assert await intruder.hear() == wire.Proceed()
        await intruder.say(*messages)
        heard = await intruder.hear()
        assert heard == (wire.Refused(reason, Position(0, 0, 0)) if reason else None)
    assert standby.refused == {reason or "bad-sequence": 1}
    assert standby.installed == []
    assert [path.name for path in standby.directory.iterdir() if "coming" in path.name] == []


async def test_no_file_is_taken_but_those_that_the_node_itself_names(nursery, tmp_path):
    standby = Standby("cm2", tmp_path)
    standby.files = ("/srv/ads",)
    await nursery.start(standby.run)
    async with Intruder.at(standby) as intruder:
        for name in ("/etc/passwd", "/srv/ads/../../etc/passwd", "/srv/ads/", "//srv/ads"):
            await intruder.say(offer(name, b"root::0:0"))
            assert isinstance(await intruder.hear(), wire.Declined)
    assert standby.installed == []


async def test_a_deposed_leader_installs_no_file(nursery, tmp_path):
    standby = Standby("cm2", tmp_path)
    standby.files = ("/srv/ads",)
    await nursery.start(standby.run)
    async with Intruder.at(standby) as intruder:
        await intruder.say(offer("/srv/ads", b"1234567890"))
        assert await intruder.hear() == wire.Proceed()
        standby.leader = ("cm2", TERM + 1)  # this node itself
        await intruder.say(*pieces(b"1234567890"))
        assert await intruder.hear() == wire.Refused("not-leader", Position(0, 0, 0))
    assert standby.installed == []


async def test_an_installed_file_keeps_owner_and_mode_of_the_one_before(tmp_path):
    target, staged = tmp_path / "ads", tmp_path / "staged"
    staged.write_bytes(b"new")
    staged.chmod(0o644)
    await install_file(str(target), staged, os.getuid(), os.getgid())
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"new", 0o644)
    target.chmod(0o640)
    if os.getuid() == 0:
        os.chown(target, 12345, 12346)
    before = target.stat()
    staged.write_bytes(b"newer")
    await install_file(str(target), staged, 1, 1)
    after = target.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert target.read_bytes() == b"newer"
    assert after.st_ino != before.st_ino


async def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path):
    target, staged, secret = tmp_path / "ads", tmp_path / "staged", tmp_path / "secret"
    staged.write_bytes(b"new")
    secret.write_bytes(b"secret")
    target.symlink_to(secret)
    with pytest.raises(OSError, match="not a regular file"):
        await install_file(str(target), staged)
    (tmp_path / ".ads.replicated").symlink_to(secret)
    target.unlink()
    await install_file(str(target), staged)
    assert (target.read_bytes(), secret.read_bytes()) == (b"new", b"secret")


async def test_an_install_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path, monkeypatch):
    target, staged = tmp_path / "ads", tmp_path / "staged"
    staged.write_bytes(b"new")
    target.write_bytes(b"old")

    def full(descriptor: int, data: bytes) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(files.disk, "write_all", full)
    with pytest.raises(OSError, match="no space"):
        await install_file(str(target), staged)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ads", "staged"]

"""Votes on stable storage: what was written is read, a crash leaves the last vote, damage is not believed."""

import os
import zlib
from pathlib import Path

import pytest

from gateway.control import votes as module
from gateway.control.votes import COPY_BYTES, FILE_BYTES, SLOT_BYTES, VoteFileBroken, VoteFiles
from gateway.core.node import SavedVote


def voted(folder: Path, count: int) -> VoteFiles:
    """Return files in which gw<n> has been voted for in term n, up to `count`."""
    votes = VoteFiles(folder)
    for term in range(1, count + 1):
        votes.write("vip", term, f"gw{term}")
    return votes


def write_old(folder: Path, term: int, vote: str) -> Path:
    checksum = zlib.crc32(repr((1, "vip", term, vote)).encode())
    path = folder / "vote-vip.json"
    path.write_text(f'{{"format":1,"election":"vip","term":{term},"vote":"{vote}","checksum":{checksum}}}\n')
    return path


def test_a_node_that_never_voted_has_no_vote(tmp_path: Path) -> None:
    assert VoteFiles(tmp_path).read("vip") == SavedVote(0, None)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 17])
def test_the_last_vote_written_is_read(tmp_path: Path, count: int) -> None:
    voted(tmp_path, count)
    assert VoteFiles(tmp_path).read("vip") == SavedVote(count, f"gw{count}")


def test_elections_have_votes_of_their_own(tmp_path: Path) -> None:
    votes = VoteFiles(tmp_path)
    votes.write("vip", 3, "gw1")
    votes.write("managers", 9, "cm1")
    assert votes.read("vip") == SavedVote(3, "gw1")
    os.rename(votes.path("managers"), votes.path("vip"))
    with pytest.raises(VoteFileBroken):
        votes.read("vip")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_damaged_byte_costs_nothing(tmp_path: Path, count: int) -> None:
    """Every record is there twice."""
    votes = voted(tmp_path, count)
    whole = votes.path("vip").read_bytes()
    for position in (copy + at for copy in range(0, FILE_BYTES, COPY_BYTES) for at in (*range(130), 511, 2047)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x01
        votes.path("vip").write_bytes(damaged)
        assert votes.read("vip") == SavedVote(count, f"gw{count}")


def test_damage_to_both_copies_of_a_vote_is_noticed(tmp_path: Path) -> None:
    votes = voted(tmp_path, 3)
    whole = votes.path("vip").read_bytes()
    for slot in (0, 1):
        for position in range(0, 100, 3):
            damaged = bytearray(whole)
            for copy in (0, 1):
                damaged[slot * SLOT_BYTES + copy * COPY_BYTES + position] ^= 0x01
            votes.path("vip").write_bytes(damaged)
            with pytest.raises(VoteFileBroken, match="neither copy"):
                votes.read("vip")


@pytest.mark.parametrize("length", [0, 1, SLOT_BYTES, FILE_BYTES - 1, FILE_BYTES + 1])
def test_a_file_of_another_length_is_noticed(tmp_path: Path, length: int) -> None:
    votes = voted(tmp_path, 2)
    whole = votes.path("vip").read_bytes()
    votes.path("vip").write_bytes((whole + b"\0")[:length])
    with pytest.raises(VoteFileBroken, match="8192 bytes"):
        votes.read("vip")


@pytest.mark.parametrize("slot", [0, 1])
def test_a_slot_that_reads_as_zeros_is_noticed(tmp_path: Path, slot: int) -> None:
    votes = voted(tmp_path, 4)
    with open(votes.path("vip"), "r+b") as opened:
        opened.seek(slot * SLOT_BYTES)
        opened.write(bytes(SLOT_BYTES))
    with pytest.raises(VoteFileBroken, match=f"neither copy in slot {slot}"):
        votes.read("vip")


def test_a_lost_write_between_two_others_is_noticed(tmp_path: Path) -> None:
    votes = voted(tmp_path, 2)
    before = votes.path("vip").read_bytes()
    votes.write("vip", 3, "gw3")
    votes.write("vip", 4, "gw4")
    after = votes.path("vip").read_bytes()
    votes.path("vip").write_bytes(after[:SLOT_BYTES] + before[SLOT_BYTES:])  # vote 3 never reached the disk
    with pytest.raises(VoteFileBroken, match="vote 1 stands beside vote 4"):
        votes.read("vip")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_write_torn_at_any_byte_leaves_the_vote_before_it_or_itself(tmp_path: Path, count: int) -> None:
    votes = voted(tmp_path, count)
    before = votes.path("vip").read_bytes()
    votes.write("vip", 9, "gw9")
    after = votes.path("vip").read_bytes()
    start = 0 if before[:SLOT_BYTES] != after[:SLOT_BYTES] else SLOT_BYTES
    found = set()
    for torn in (*range(0, 140, 3), *range(140, COPY_BYTES, 300), *range(COPY_BYTES, COPY_BYTES + 140, 3), SLOT_BYTES):
        written = after[start : start + torn]
        votes.path("vip").write_bytes(before[:start] + written + before[start + torn :])
        found.add(votes.read("vip").term)
    assert found == {count, 9}


def test_a_vote_after_a_torn_one_is_read(tmp_path: Path) -> None:
    votes = voted(tmp_path, 3)
    before = votes.path("vip").read_bytes()
    votes.write("vip", 4, "gw4")
    torn = bytearray(votes.path("vip").read_bytes())
    torn[COPY_BYTES:SLOT_BYTES] = before[COPY_BYTES:SLOT_BYTES]
    torn[10] ^= 0xFF  # the first copy is half written, the second not yet
    votes.path("vip").write_bytes(torn)
    assert votes.read("vip") == SavedVote(3, "gw3")
    votes.write("vip", 5, "gw5")
    assert votes.read("vip") == SavedVote(5, "gw5")


def test_a_vote_is_synced_before_write_returns_and_never_touches_the_newest(tmp_path: Path, monkeypatch) -> None:
    votes = voted(tmp_path, 2)
    done: list[tuple[str, int]] = []
    pwrite, fdatasync = os.pwrite, os.fdatasync
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: (done.append(("write", at)), pwrite(fd, data, at))[1])
    monkeypatch.setattr(os, "fdatasync", lambda fd: (done.append(("sync", 0)), fdatasync(fd))[1])
    for term in (3, 4, 5):
        votes.write("vip", term, "gw1")
    assert done == [("write", SLOT_BYTES), ("sync", 0), ("write", 0), ("sync", 0), ("write", SLOT_BYTES), ("sync", 0)]


def test_a_first_vote_that_was_cut_off_leaves_no_vote(tmp_path: Path) -> None:
    VoteFiles(tmp_path).path("vip").with_suffix(".new").write_bytes(bytes(100))
    assert VoteFiles(tmp_path).read("vip") == SavedVote()
    VoteFiles(tmp_path).write("vip", 1, "gw1")
    assert VoteFiles(tmp_path).read("vip") == SavedVote(1, "gw1")


def test_a_vote_of_the_older_format_is_read_and_replaced(tmp_path: Path) -> None:
    old = write_old(tmp_path, 7, "gw2")
    votes = VoteFiles(tmp_path)
    assert votes.read("vip") == SavedVote(7, "gw2")
    votes.write("vip", 8, "gw1")
    assert votes.read("vip") == SavedVote(8, "gw1")
    assert not old.exists()


def test_the_older_file_goes_only_when_the_new_name_is_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    old = write_old(tmp_path, 7, "gw2")
    there_at_sync = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (there_at_sync.append(old.exists()), fsync(fd))[1])
    VoteFiles(tmp_path).write("vip", 8, "gw1")
    assert there_at_sync == [True, True]  # the file, then its folder


def test_every_damaged_byte_of_an_older_file_is_noticed(tmp_path: Path) -> None:
    path = write_old(tmp_path, 3, "gw1")
    whole = path.read_bytes()
    for position in range(len(whole) - 1):  # the last byte is a newline
        damaged = bytearray(whole)
        damaged[position] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(VoteFileBroken):
            VoteFiles(tmp_path).read("vip")


def test_the_longest_names_fit_into_a_sector(tmp_path: Path) -> None:
    votes = VoteFiles(tmp_path)
    for term in (2**63 - 2, 2**63 - 1):
        votes.write("e" * 64, term, "n" * 64)
    assert votes.read("e" * 64) == SavedVote(2**63 - 1, "n" * 64)
    assert module.RECORD_BYTES_MAX == 512

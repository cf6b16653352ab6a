"""Votes on stable storage: what was written is read, and what is damaged is not believed."""

from pathlib import Path

import pytest

from gateway.control.votes import VoteFileBroken, VoteFiles
from gateway.core.node import SavedVote


def test_a_node_that_never_voted_has_no_vote(tmp_path: Path) -> None:
    assert VoteFiles(tmp_path).read("vip") == SavedVote(0, None)


def test_the_last_vote_written_is_read(tmp_path: Path) -> None:
    VoteFiles(tmp_path).write("vip", 3, "gw1")
    VoteFiles(tmp_path).write("vip", 4, "gw2")
    assert VoteFiles(tmp_path).read("vip") == SavedVote(4, "gw2")


def test_elections_have_votes_of_their_own(tmp_path: Path) -> None:
    votes = VoteFiles(tmp_path)
    votes.write("vip", 3, "gw1")
    votes.write("managers", 9, "cm1")
    assert votes.read("vip") == SavedVote(3, "gw1")


def test_every_damaged_byte_of_a_vote_file_is_noticed(tmp_path: Path) -> None:
    votes = VoteFiles(tmp_path)
    votes.write("vip", 3, "gw1")
    whole = votes.path("vip").read_bytes()
    for position in range(len(whole) - 1):  # the last byte is a newline
        damaged = bytearray(whole)
        damaged[position] ^= 0x01
        votes.path("vip").write_bytes(damaged)
        with pytest.raises(VoteFileBroken):
            votes.read("vip")


def test_a_torn_write_leaves_the_old_vote(tmp_path: Path) -> None:
    votes = VoteFiles(tmp_path)
    votes.write("vip", 3, "gw1")
    votes.path("vip").with_suffix(".new").write_bytes(b'{"format":1,"ele')
    assert votes.read("vip") == SavedVote(3, "gw1")

"""Hostile files in the place of accounting files: each is refused by name, at once; nothing is written or changed."""

import os
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import run_command_line
from gateway.core.reconcile import Pool
from gateway.matchmaker.histories import BYTES_MAX, History
from gateway.matchmaker.merge_letters import Begin, MergeFailed, MergeReason, Story
from gateway.matchmaker.merge_work import Work
from gateway.wire.accountant import State
from gateway.wire.compacted import compact
from tests.core.negotiating import START_S, Negotiator, new_state

MIB = 1024 * 1024


def state_of(name: str) -> State:
    one = Negotiator(new_state())
    one.customer("alice@lab").update(Priority="5.000000", WeightedAccumulatedUsage="3600.000000")
    if name != "base":
        one.update(START_S + 60)
        one.customer(f"{name}@lab").update(WeightedAccumulatedUsage="60.000000", Ceiling="3")
    return one.state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("base", "ours", "theirs"):
        (tmp_path / name).write_bytes(b"".join(compact(state_of(name), 3, 1_700_000_000)))
    return tmp_path


def sparse(path: Path) -> None:
    """1 GB that takes no room on the disk, behind a good beginning."""
    os.truncate(path, 1024 * MIB)


def sparse_within_bounds(path: Path) -> None:
    os.truncate(path, 200 * MIB)


def nul(path: Path) -> None:
    path.write_bytes(bytes(4096))


def one_long_line(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"103 Customer.alice@lab Priority " + b"1" * 16 * MIB)


def nul_in_the_midst(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data + bytes(512) + b"\n105 \n106 \n")


def end_before_beginning(path: Path) -> None:
    """The first lines are the last: the head of the file is no more its head."""
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([b"".join(rest).replace(b"LastUpdateTime", b"LastUpdateTim"), first]))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def endless_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def socket_file(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def bit_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"103 Customer")] ^= 0x40
    path.write_bytes(data)


def nonsense(path: Path) -> None:
    path.write_bytes(b"\x7fELF\n" + os.urandom(4096).replace(b"\0", b"") + b"\n")


HOSTILE = [
    (sparse, MergeReason.TOO_LONG, f"has more than {BYTES_MAX} bytes: no accounting file is so long"),
    (nul, MergeReason.UNREADABLE, "has no LastUpdateTime in its 0 good bytes"),
    (nul_in_the_midst, MergeReason.CORRUPT, "is corrupt at byte"),
    (end_before_beginning, MergeReason.UNREADABLE, "has no LastUpdateTime"),
    (pipe, MergeReason.UNREADABLE, "is no file"),
    (directory, MergeReason.UNREADABLE, "is no file"),
    (device, MergeReason.UNREADABLE, "is no file"),
    (endless_link, MergeReason.UNREADABLE, "cannot be read: Too many levels of symbolic links"),
    (socket_file, MergeReason.UNREADABLE, "cannot be read: No such device or address"),
    (bit_flipped, MergeReason.CORRUPT, "is corrupt at byte"),
    (nonsense, MergeReason.CORRUPT, "is corrupt at byte 0"),
]


def held(folder: Path) -> dict[str, object]:
    """What is there: bytes of the small files, kinds and sizes of the others."""
    found = {}
    for path in folder.iterdir():
        status = path.lstat()
        plain = stat.S_ISREG(status.st_mode) and status.st_size < MIB
        found[path.name] = path.read_bytes() if plain else (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def work_on(folder: Path) -> Work:
    ours, theirs = Story(name="cm1", path=str(folder / "ours")), Story(name="cm2", path=str(folder / "theirs"))
    return Work(Begin(str(folder / "base"), ours, [theirs], str(folder / "out"), Pool()))


@pytest.mark.parametrize("name", ["base", "ours", "theirs"])
@pytest.mark.parametrize(("spoil", "reason", "said"), HOSTILE, ids=[spoil.__name__ for spoil, _, _ in HOSTILE])
def test_a_hostile_file_is_refused_by_name_and_nothing_is_written(folder, capsys, name, spoil, reason, said):
    spoil(folder / name)
    before = held(folder)
    with pytest.raises(MergeFailed) as failed:
        work_on(folder).finish()
    assert failed.value.reason is reason
    assert f"'{folder / name}' {said}" in failed.value.detail
    paths = [str(folder / one) for one in ("base", "ours", "theirs")]
    assert run_command_line(["merge", *paths, "-o", str(folder / "out")]) == 1
    assert failed.value.detail in capsys.readouterr().err
    assert held(folder) == before


@pytest.mark.parametrize("spoil", [sparse_within_bounds, one_long_line])
def test_what_is_unfinished_is_left_out_however_long_it_is(folder, spoil):
    work = work_on(folder)
    work.finish()
    whole = (folder / "out").read_bytes()
    spoil(folder / "theirs")
    work_on(folder).finish()
    assert (folder / "out").read_bytes() == whole


def test_a_gigabyte_is_refused_without_being_read(folder):
    sparse(folder / "theirs")
    code = (
        "import sys; from pathlib import Path; from gateway.matchmaker.histories import History, MergeFailed\n"
        f"try: History(Path({str(folder / 'theirs')!r}))\n"
        "except MergeFailed as error: print(error.reason)"
    )

    def little_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (256 * MIB, 256 * MIB))

    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=little_memory, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "too-long\n"


def test_a_file_cut_anywhere_is_merged_up_to_there_or_refused(folder):
    whole = (folder / "theirs").read_bytes()
    outcomes = set()
    for length in range(0, len(whole), 3):
        (folder / "theirs").write_bytes(whole[:length])
        try:
            work_on(folder).finish()
            outcomes.add("merged")
        except MergeFailed as failure:
            outcomes.add(failure.reason)
        assert (folder / "theirs").read_bytes() == whole[:length]
    assert outcomes == {"merged", MergeReason.UNREADABLE}


def test_lines_in_any_other_order_are_never_more_than_a_named_refusal(folder):
    lines = (folder / "theirs").read_bytes().splitlines(keepends=True)
    for first in range(len(lines)):
        for second in range(first):
            swapped = list(lines)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            (folder / "theirs").write_bytes(b"".join(swapped))
            work = work_on(folder)
            try:
                work.finish()
            except MergeFailed:
                work.forget()
    assert not (folder / ".out.merging").exists()


def test_a_file_that_grows_while_it_is_read_is_read_up_to_the_limit(folder, monkeypatch):
    """As a log that somebody else writes into, faster than it can be read."""
    monkeypatch.setattr("gateway.matchmaker.histories.BYTES_MAX", (folder / "ours").stat().st_size + 10)
    real = os.fstat

    def before_it_grew(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        with (folder / "ours").open("ab") as file:
            file.write(b"103 Customer.alice@lab Floor 1\n")
        return found

    monkeypatch.setattr(os, "fstat", before_it_grew)
    with pytest.raises(MergeFailed, match="too-long"):
        History(folder / "ours")


def test_a_tail_too_long_is_refused(folder, monkeypatch):
    work = work_on(folder)
    work.rehearse()
    os.truncate(folder / "ours", 1024 * MIB)
    before = held(folder)
    with pytest.raises(MergeFailed) as failed:
        work.finish()
    work.forget()
    assert failed.value.reason is MergeReason.TOO_LONG
    before.pop(".out.merging")
    assert held(folder) == before


def test_a_draft_does_not_follow_a_link_that_was_put_in_its_place(folder, tmp_path):
    """Whoever may write into the folder must not choose which file root writes."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (folder / ".out.merging").symlink_to(precious)
    (folder / "out").symlink_to(precious)
    work_on(folder).finish()
    assert precious.read_bytes() == b"precious"
    assert not (folder / "out").is_symlink()


def test_no_descriptor_is_left_open_by_any_refusal(folder):
    def number() -> int:
        return len(os.listdir("/proc/self/fd"))

    opened = number()
    for spoil in (nul, pipe, directory):
        spoil(folder / "theirs")
        with pytest.raises(MergeFailed):
            work_on(folder).rehearse()
        assert number() == opened
        if spoil is pipe:
            (folder / "theirs").unlink()
            (folder / "theirs").write_bytes(b"")


def test_a_draft_that_could_not_be_written_leaves_no_descriptor_open(folder):
    work = work_on(folder)
    (folder / "out").mkdir()
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MergeFailed, match=r"not-written: .* cannot be written: Is a directory"):
        work.finish()
    work.forget()
    assert len(os.listdir("/proc/self/fd")) == opened
    assert not (folder / ".out.merging").exists()

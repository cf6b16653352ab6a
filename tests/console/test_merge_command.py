"""condor-gateway merge: one file out of several, or one sentence and no file."""

import argparse
import json
import os
import stat
from pathlib import Path

import pytest

from gateway.cli import run_command_line
from gateway.console import merge_options
from gateway.core.reconcile import Pool
from gateway.matchmaker import histories
from gateway.wire.accountant import State, read_untrusted, scan_untrusted
from gateway.wire.compacted import compact
from tests.core.negotiating import START_S, Negotiator, new_state

ALICE, BOB = "alice@lab", "bob@lab"


def write(path: Path, state: State, sequence: int = 3, birthdate_s: int = 1_700_000_000) -> Path:
    path.write_bytes(b"".join(compact(state, sequence, birthdate_s)))
    return path


def history(**changed: dict[str, str]) -> State:
    one = Negotiator(new_state())
    one.customer(ALICE).update(Priority="5.000000", WeightedAccumulatedUsage="3600.000000", PriorityFactor="1000.0")
    if changed:
        one.update(START_S + 60)
        for name, attributes in changed.items():
            one.customer(f"{name}@lab").update(attributes)
    return one.state


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write(tmp_path / "base", history())
    write(tmp_path / "ours", history(alice={"WeightedAccumulatedUsage": "7200.000000", "PriorityFactor": "5.0"}))
    write(
        tmp_path / "theirs", history(bob={"WeightedAccumulatedUsage": "1800.000000"}, alice={"PriorityFactor": "9.0"})
    )
    return tmp_path


def merge(folder: Path, *options: str, out: str = "out") -> int:
    names = [str(folder / name) for name in ("base", "ours", "theirs")]
    return run_command_line(["merge", *names, "-o", str(folder / out), *options])


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *options: str, out: str = "out") -> str:
    """Merge what must be refused: return the sentence, and see that nothing was written."""
    before = {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()}
    assert merge(folder, *options, out=out) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("condor-gateway: ")
    assert said.err.count("\n") == 1
    assert {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()} == before
    return said.err.replace(str(folder), "").strip()


def test_two_histories_become_one_file_that_a_negotiator_reads(files, capsys):
    assert merge(files, "--terms", "4,5") == 0
    data = (files / "out").read_bytes()
    scan = scan_untrusted(data)
    assert (scan.closed_length, scan.sequence, scan.birthdate) == (len(data), 4, 1_700_000_000)
    state = read_untrusted(data)
    assert state["Customer.alice@lab"]["WeightedAccumulatedUsage"] == "7200.000000"
    assert state["Customer.bob@lab"]["WeightedAccumulatedUsage"] == "1800.000000"
    said = capsys.readouterr().out
    assert "2 histories merged, theirs survives" in said
    assert "1 conflict decided by rule" in said
    assert "balance: exact" in said


def test_nothing_else_is_left_in_the_folder(files):
    merge(files)
    assert sorted(path.name for path in files.iterdir()) == ["base", "ours", "out", "theirs"]


@pytest.mark.parametrize(("terms", "factor"), [("4,5", "9.0"), ("5,4", "5.0"), ("5,0", "5.0")])
def test_the_higher_term_wins_a_conflict(files, terms, factor):
    merge(files, "--terms", terms)
    assert read_untrusted((files / "out").read_bytes())["Customer.alice@lab"]["PriorityFactor"] == factor


def test_the_order_of_the_files_changes_no_byte(files):
    merge(files, "--terms", "4,5", out="one")
    names = [str(files / name) for name in ("base", "theirs", "ours")]
    run_command_line(["merge", *names, "-o", str(files / "other"), "--terms", "5,4"])
    assert (files / "one").read_bytes() == (files / "other").read_bytes()


def test_three_histories_are_merged_at_once(files, capsys):
    write(files / "third", history(carol={"WeightedAccumulatedUsage": "900.000000"}))
    names = [str(files / name) for name in ("base", "ours", "third", "theirs")]
    assert run_command_line(["merge", *names, "-o", str(files / "out")]) == 0
    state = read_untrusted((files / "out").read_bytes())
    assert {"Customer.alice@lab", "Customer.bob@lab", "Customer.carol@lab"} <= state.keys()
    assert "3 histories merged" in capsys.readouterr().out


def test_the_report_shows_conflicts_first_then_edits_and_every_charge(files, capsys):
    merge(files, "--report", "--terms", "4,5")
    said = capsys.readouterr().out
    conflict, usage = said.index("CONFLICTS"), said.index("Usage, weighted slot-hours")
    assert conflict < usage
    (line,) = [line for line in said[conflict:usage].splitlines() if "alice@lab" in line]
    assert line.split() == [
        "alice@lab",
        "PriorityFactor",
        "1000.0",
        "theirs:",
        "9.0;",
        "ours:",
        "5.0",
        "9.0",
        "(theirs)",
    ]
    (line,) = [line for line in said[usage:].splitlines() if "alice@lab" in line]
    assert line.split()[:7] == ["alice@lab", "1.0", "0.0", "1.0", "0.0", "0.0", "2.0"]


def test_a_long_table_is_cut_and_says_so(files, capsys):
    many = {f"u{number}": {"WeightedAccumulatedUsage": "60.000000"} for number in range(100)}
    write(files / "theirs", history(**many))
    merge(files, "--report")
    assert "and 61 more: --json has all" in capsys.readouterr().out


def test_a_name_in_a_file_moves_no_cursor(files, capsys):
    write(files / "theirs", history(**{"\x1b[2J\udce9": {"WeightedAccumulatedUsage": "60.000000"}}))
    assert merge(files, "--report") == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "?[2J\\udce9@lab" in said


def test_the_json_report_has_every_amount_and_balances(files, capsys):
    merge(files, "--json", "--terms", "4,5")
    report = json.loads(capsys.readouterr().out)
    total = report["weighted"]
    assert total["merged"] == total["base"] + sum(total["charged"].values()) - total["forgotten"]
    assert [edit["conflict"] for edit in report["edits"] if edit["attribute"] == "PriorityFactor"] == [True]


def test_equal_files_need_no_merge_and_say_so(files, capsys):
    (files / "theirs").write_bytes((files / "base").read_bytes())
    assert merge(files) == 0
    assert "only ours went on from the base" in capsys.readouterr().out
    assert read_untrusted((files / "out").read_bytes()) == read_untrusted((files / "ours").read_bytes())


def test_a_gap_before_a_take_over_is_taken_off(files, capsys):
    key = "Resource.slot1@h@<h:1>"
    base = Negotiator(new_state())
    base.cycle(START_S + 60, {key: (ALICE, 1_000_000)})
    ours, theirs = Negotiator(base.state), Negotiator(base.state)
    for cycle in range(2, 12):
        ours.cycle(START_S + 60 * cycle, {key: (ALICE, 1_000_000)})
    theirs.update(START_S + 360)
    theirs.cycle(START_S + 360, {})
    theirs.update(START_S + 660)
    for name, one in (("base", base), ("ours", ours), ("theirs", theirs)):
        write(files / name, one.state)
    merge(files, "--took-over", f"0,{START_S + 360}")
    used = read_untrusted((files / "out").read_bytes())["Customer.alice@lab"]["WeightedAccumulatedUsage"]
    assert used == "600.000000"


def test_the_merged_file_is_as_owned_and_readable_as_ours(files):
    os.chmod(files / "ours", 0o640)
    if os.geteuid() == 0:
        os.chown(files / "ours", 1234, 4321)
    merge(files)
    ours, out = (files / "ours").stat(), (files / "out").stat()
    assert (out.st_uid, out.st_gid, stat.S_IMODE(out.st_mode)) == (ours.st_uid, ours.st_gid, 0o640)


def test_the_matches_of_a_side_are_charged_until_its_negotiator_was_stopped(files):
    key = "Resource.slot1@h@<h:1>"
    base = Negotiator(new_state())
    base.cycle(START_S, {key: (ALICE, 1_000_000)})
    ours, theirs = Negotiator(base.state), Negotiator(base.state)
    ours.cycle(START_S + 60, {key: (ALICE, 1_000_000)})
    theirs.cycle(START_S + 20, {})
    theirs.update(START_S + 70)
    for name, one in (("base", base), ("ours", ours), ("theirs", theirs)):
        write(files / name, one.state)
    used = []
    for ended in ("0,0", f"{START_S + 100},0"):
        assert merge(files, "--terms", "1,2", "--ended", ended, "--force") == 0
        state = read_untrusted((files / "out").read_bytes())
        used.append(float(state["Customer.alice@lab"]["WeightedAccumulatedUsage"]))
    assert used[1] - used[0] == 40


def default_written(files: Path, user: str, factor: str) -> Path:
    """Theirs has a factor that ours does not know of."""
    write(files / "base", history(**{user: {}}))
    write(files / "ours", history(**{user: {"Floor": "3"}}))
    write(files / "theirs", history(**{user: {"PriorityFactor": factor}}))
    return files


def edited_factors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    report = json.loads(capsys.readouterr().out)
    return [edit["key"] for edit in report["edits"] if edit["attribute"] == "PriorityFactor"]


@pytest.mark.parametrize(
    ("options", "edits"),
    [
        ((), ["Customer.phys.hep.dan@lab"]),
        (("--group-factor", "phys=7"), []),
        (("--group-factor", "phys=9", "--group-factor", "phys.hep=7"), []),
        (("--group-factor", "chem=7"), ["Customer.phys.hep.dan@lab"]),
        (("--default-factor", "7"), []),
    ],
)
def test_the_factor_of_a_group_is_no_edit_where_it_was_only_read(files, capsys, options, edits):
    default_written(files, "phys.hep.dan", "7.000000")
    assert merge(files, "--json", *options) == 0
    assert edited_factors(capsys) == edits


def a_host_that_says(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int = 0) -> None:
    (folder / "bin").mkdir()
    tool = folder / "bin" / "condor_config_val"
    tool.write_text(f"#!/bin/sh\ncat <<.\n{answer}\n.\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


def test_this_hosts_htcondor_is_asked_for_the_pools_values(files, capsys, monkeypatch):
    default_written(files, "phys.hep.dan", "7.000000")
    a_host_that_says(files, monkeypatch, "GROUP_PRIO_FACTOR_phys = 7")
    assert merge(files, "--json", "--from-host") == 0
    assert edited_factors(capsys) == []
    assert merge(files, "--json", "--from-host", "--group-factor", "phys=8", "--force") == 0
    assert edited_factors(capsys) == ["Customer.phys.hep.dan@lab"]


def test_what_is_written_outweighs_what_the_host_says():
    def pool(*options: str) -> Pool:
        parser = argparse.ArgumentParser()
        merge_options.add_arguments(parser)
        return merge_options.pool_of(parser.parse_args(["base", "ours", "theirs", "-o", "out", *options]))

    assert pool() == Pool()
    assert pool("--lifetime", "1000") == Pool(lifetime_s=1000, stale_s=700)
    assert pool("--update-interval", "100") == Pool(stale_s=800)
    assert pool("--lifetime", "10", "--update-interval", "60") == Pool(lifetime_s=10, stale_s=0)
    assert pool("--half-life", "60", "--default-factor", "2") == Pool(half_life_s=60.0, factor_default=2.0)


def test_a_host_that_cannot_be_asked_is_one_sentence(files, capsys, monkeypatch):
    a_host_that_says(files, monkeypatch, "", status=3)
    said = refusal(files, capsys, "--from-host")
    assert said.startswith(
        "condor-gateway: this host's HTCondor cannot be asked (--from-host): condor_config_val: exit"
    )


def test_the_help_says_what_each_file_is(capsys):
    with pytest.raises(SystemExit):
        run_command_line(["merge", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for part in ("all sides started from", "the Accountantnew.log of one side", "that of another side", "only read"):
        assert part in said


# -- what is warned of, and done --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "what"),
    [(b"103 Customer.alice@lab Prio", "record"), (b"105 \n103 Customer.alice@lab Priority 9\n", "transaction")],
)
def test_an_unfinished_end_is_left_out_with_a_warning(files, capsys, rest, what):
    whole = (files / "ours").read_bytes()
    merge(files, out="before")
    (files / "ours").write_bytes(whole + rest)
    assert merge(files) == 0
    assert f"ours' ends in an unfinished {what}: its last {len(rest)} bytes are left out" in capsys.readouterr().err
    assert (files / "out").read_bytes() == (files / "before").read_bytes()


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_corrupt_record_is_refused_with_its_file_byte_and_line(files, capsys):
    whole = (files / "theirs").read_bytes()
    (files / "theirs").write_bytes(whole + b"103 Customer.alice@lab Priority 0x7\n103 Customer.alice@lab Priority 1\n")
    assert refusal(files, capsys) == (
        f"condor-gateway: '/theirs' is corrupt at byte {len(whole)}: "
        "'103 Customer.alice@lab Priority 0x7' is no accounting record"
    )


def test_a_flipped_bit_anywhere_is_never_a_traceback(files, capsys):
    whole = (files / "theirs").read_bytes()
    for bit in range(0, len(whole) * 8, 31):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        (files / "theirs").write_bytes(data)
        assert merge(files, "--force") in (0, 1)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "'/base' is empty: no negotiator has ever charged on it"),
        (b"107 1 CreationTimestamp 5\n", "'/base' has no LastUpdateTime in its 26 good bytes"),
        (b"\x7fELF", "'/base' has no LastUpdateTime in its 0 good bytes"),
    ],
)
def test_a_file_on_which_nobody_charged_is_refused(files, capsys, content, said):
    (files / "base").write_bytes(content)
    assert said in refusal(files, capsys)


def test_a_missing_file_is_refused(files, capsys):
    (files / "ours").unlink()
    assert refusal(files, capsys) == "condor-gateway: '/ours' does not exist"


def test_a_folder_in_the_place_of_a_file_is_refused(files, capsys):
    (files / "ours").unlink()
    (files / "ours").mkdir()
    assert "'/ours' is no file" in refusal(files, capsys)


def test_a_device_in_the_place_of_a_file_is_refused(files, capsys):
    (files / "ours").unlink()
    os.mkfifo(files / "ours")
    assert "'/ours' is no file" in refusal(files, capsys)


def test_a_file_too_long_is_refused_and_not_read_whole(files, capsys, monkeypatch):
    monkeypatch.setattr(histories, "BYTES_MAX", 50)
    assert "'/base' has more than 50 bytes" in refusal(files, capsys)


def test_a_merge_too_long_to_be_read_again_is_refused(files, capsys, monkeypatch):
    longest = max(path.stat().st_size for path in files.iterdir())
    monkeypatch.setattr(histories, "BYTES_MAX", longest)
    assert "the merged file would be too long for any reader" in refusal(files, capsys)


def test_the_history_of_another_pool_is_refused(files, capsys):
    write(files / "theirs", history(bob={}), birthdate_s=5)
    assert "'theirs' is the history of another file than 'base': born 5, not 1700000000" in refusal(files, capsys)


def test_a_side_older_than_the_base_is_refused(files, capsys):
    write(files / "theirs", history(bob={}), sequence=2)
    assert "'theirs' is older than 'base': compacted 2 times, not 3" in refusal(files, capsys)


def test_one_file_given_twice_is_refused(files, capsys):
    (files / "theirs").unlink()
    os.link(files / "ours", files / "theirs")
    assert "'/theirs' is given twice" in refusal(files, capsys)


def test_a_file_that_is_there_is_not_replaced_without_force(files, capsys):
    (files / "out").write_bytes(b"precious")
    assert "'/out' exists: name another one with -o, or replace it with --force" in refusal(files, capsys)
    assert merge(files, "--force") == 0
    assert (files / "out").read_bytes().startswith(b"107 ")


def test_an_input_is_never_replaced(files, capsys):
    assert "'/ours' is one of the files to merge" in refusal(files, capsys, "--force", out="ours")


def test_an_output_that_cannot_be_written_is_refused(files, capsys):
    assert "cannot be written: No such file or directory" in refusal(files, capsys, out="missing/out")
    (files / "folder").mkdir()
    assert "'/folder' is a directory" in refusal(files, capsys, "--force", out="folder")


def test_what_does_not_read_back_is_not_given_its_name(files, capsys, monkeypatch):
    monkeypatch.setattr(histories, "compact", lambda *_: iter([b"107 1 CreationTimestamp 5\n103 k a\n"]))
    assert "the merged file does not read back whole" in refusal(files, capsys)
    monkeypatch.setattr(histories, "compact", lambda *_: iter([b"107 4 CreationTimestamp 1700000000\n"]))
    assert "the merged file does not read back whole" in refusal(files, capsys)


@pytest.mark.parametrize(
    "options",
    [
        ("--terms", "1"),
        ("--terms", "1,x"),
        ("--took-over", "0,0,0"),
        ("--half-life", "0"),
        ("--half-life", "nan"),
        ("--ended", "1"),
        ("--ended", "-1,0"),
        ("--ended", "1" * 5000 + ",0"),
        ("--group-factor", "phys"),
        ("--group-factor", "=3"),
        ("--group-factor", "phys=-1"),
        ("--group-factor", "phys=x"),
        ("--lifetime", "-1"),
        ("--default-factor", "inf"),
    ],
)
def test_a_wrong_command_line_is_said_to_be_one(files, capsys, options):
    with pytest.raises(SystemExit) as left:
        merge(files, *options)
    assert left.value.code == 2
    assert not (files / "out").exists()

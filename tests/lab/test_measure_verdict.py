"""What is asked of a series, and the table of a partition."""

import json

import msgspec
import pytest

from gateway.lab.errors import LabError
from gateway.lab.measure import command, partition_command, partition_records
from gateway.lab.measure.audit import Used
from gateway.lab.measure.partition_records import PartitionResult, SideFigures
from gateway.lab.measure.records import Result
from gateway.lab.measure.verdict import verdict
from gateway.lab.topology import Kind, System, Topology
from tests.lab.test_measure_results import chosen

GOOD = Result(
    scenario="manager-kill", system="ours", repeat=1, healthy_before=True, elected_s=0.3, first_match_s=0.4,
    jobs_per_minute_before=100.0, jobs_per_minute_after=100.0, slot_wait_before_s=1.5, slot_wait_after_s=1.5,
    updates_rejected=0, jobs_lost=0, usage_error_s=2.0, usage_bound_s=8.0, edits_lost=(), edits_lost_after_return=(),
    last_edit_kept=True, last_edit_kept_after_return=True,
)  # fmt: skip


def test_good_series_is_all_yes():
    assert "NO" not in verdict([GOOD] * 3)
    assert verdict([GOOD] * 3).count("  yes ") == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"first_match_s": 0.6}, "first match, median"),
        ({"jobs_per_minute_after": 97.0}, "jobs per minute"),
        ({"slot_wait_after_s": 1.7}, "slot wait"),
        ({"updates_rejected": 1}, "updates rejected"),
        ({"jobs_lost": 1}, "jobs lost"),
        ({"usage_error_s": -8.1}, "usage wrongly charged"),
        ({"edits_lost": ("-setfactor x 1",)}, "edits lost"),
        ({"edits_lost_after_return": ("-setfactor x 1",)}, "edits lost"),
    ],
)
def test_each_thing_that_is_asked_is_refused_when_it_is_not_so(change, said):
    lines = [line for line in verdict([msgspec.structs.replace(GOOD, **change)] * 2).splitlines() if "NO" in line]
    assert len(lines) >= 1
    assert said in lines[0]


def test_one_slow_match_of_three_spoils_the_95th_and_not_the_median():
    slow = msgspec.structs.replace(GOOD, first_match_s=9.0)
    lines = verdict([GOOD, slow, GOOD]).splitlines()
    assert any("95th" in line and "NO" in line for line in lines)
    assert any("median" in line and "yes" in line for line in lines)


def test_series_that_gets_worse_is_a_drift():
    worse = msgspec.structs.replace(GOOD, jobs_per_minute_after=90.0, first_match_s=1.2)
    lines = [line for line in verdict([GOOD, GOOD, worse]).splitlines() if "drift" in line]
    assert [("NO" in line) for line in lines] == [True, True]


def test_figure_that_is_missing_is_neither_yes_nor_no():
    assert "  -    jobs lost" in verdict([msgspec.structs.replace(GOOD, jobs_lost=None)])


def test_other_scenarios_are_asked_nothing():
    assert verdict([msgspec.structs.replace(GOOD, scenario="gateway-kill")]) == ""


SIDE = SideFigures(leader="cm1", led_s=0.3, matches=20, starts=18, charged_s=200.0)
HEALED = PartitionResult(
    system="ours", repeat=1, healthy_before=True, on_partition="serve", at=1.0, cut_s=60.0, sides=(SIDE, SIDE),
    one_leader_s=0.7, merged_s=1.4, negotiator_gap_s=1.2, negotiators_after=1, usage_error_s=1.0, usage_bound_s=6.0,
    usage={"ann@pool": Used(charged_s=401.0, seen_s=400.0, claimed_s=350.0)}, edits_made=9, edits_lost=(),
    conflict_value=1501, conflict_reported=True, jobs_lost=0,
)  # fmt: skip


def test_partition_that_lost_nothing_is_all_yes():
    assert "NO" not in partition_records.verdict([HEALED])
    assert "9/9" in partition_records.table([HEALED])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sides": (SIDE, msgspec.structs.replace(SIDE, matches=0))}, "both sides matched"),
        ({"negotiators_after": 2}, "one negotiator"),
        ({"merged_s": None}, "merged"),
        ({"usage_error_s": -6.5}, "usage"),
        ({"edits_lost": ("-delete x",)}, "one-sided edit"),
        ({"conflict_value": None}, "one of its values"),
        ({"conflict_reported": False}, "is reported"),
        ({"jobs_lost": 1}, "no job lost"),
    ],
)
def test_each_thing_that_a_partition_is_asked_is_refused_when_it_is_not_so(change, said):
    found = partition_records.verdict([msgspec.structs.replace(HEALED, **change)])
    assert [said in line for line in found.splitlines() if "NO" in line] == [True]


def test_lost_edits_are_named_beneath_their_repeat():
    lost = msgspec.structs.replace(HEALED, edits_lost=("-delete leaver1a@pool",))
    assert "lost: condor_userprio -delete leaver1a@pool" in partition_records.table([lost])
    assert "8/9" in partition_records.table([lost])


def test_daemons_that_stood_still_in_a_partition_are_named_beneath_their_repeat():
    stuck = msgspec.structs.replace(SIDE, stood_still=("exec2, for a request of submit1, until 20.0 s after the cut",))
    assert "stood still: exec2, for" in partition_records.table([msgspec.structs.replace(HEALED, sides=(SIDE, stuck))])


def test_json_line_of_a_partition_has_every_key_also_when_it_was_refused():
    refused = PartitionResult(system="had", repeat=2, healthy_before=False, refused=("why",))
    keys = [set(json.loads(partition_records.json_line(one))) for one in (HEALED, refused)]
    assert keys[0] == keys[1] == set(PartitionResult.__struct_fields__)


def test_both_halves_of_a_partitions_lab_have_one_of_everything():
    for system in (System.OURS, System.HAD):
        topology = partition_command.topology_of(Topology(name="l"), chosen(["partition"]), system)
        kinds = {Kind.MANAGER, Kind.SUBMIT, Kind.EXECUTE} | ({Kind.GATEWAY} if system is System.OURS else set())
        for half in topology.halves:
            assert {topology.host(name).kind for name in half} == kinds
        assert set(topology.halves[0]) | set(topology.halves[1]) == {host.name for host in topology.hosts}


async def test_partition_under_hold_is_refused_before_a_lab_is_made():
    with pytest.raises(LabError, match="at most one side serves"):
        await command.measure(chosen(["partition", "--on-partition", "hold"]))

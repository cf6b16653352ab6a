"""Figures from recorded logs, JSON lines, the table."""

import json
from pathlib import Path

import pytest

from gateway.lab.errors import LabError
from gateway.lab.measure import command, evidence, had, scenarios
from gateway.lab.measure.evidence import Evidence, Fault
from gateway.lab.measure.ledger import Ledger
from gateway.lab.measure.logs import iso_time
from gateway.lab.measure.records import Result, json_line, spread
from gateway.lab.measure.table import table
from gateway.lab.topology import System, Topology

DATA = Path(__file__).parent / "data"

# The keys that later scenarios may add to, and never rename.
KEYS = {
    "scenario", "system", "repeat", "healthy_before", "elected_s", "first_match_s", "jobs_per_minute_before",
    "jobs_per_minute_after", "slot_wait_before_s", "slot_wait_after_s", "updates_rejected", "jobs_lost", "blackout_ms",
    "two_owner_ms",
}  # fmt: skip

AT = iso_time("2026-11-22 23:22:56")  # in the middle of the excerpts


def fault(**change) -> Fault:
    given = {
        "scenario": "manager-kill", "system": "ours", "repeat": 1, "victim": "cm1", "at": AT, "window_s": 6.0,
        "election": "managers",
    }  # fmt: skip
    return Fault(**given | change)


def recorded(**change) -> Evidence:
    ledger = Ledger()
    ledger.read((DATA / "job-events.log").read_text())
    given = {
        "until": AT + 60.0, "nodes": {}, "negotiators": {"cm2": (DATA / "NegotiatorLog").read_text()},
        "startds": {"exec1": (DATA / "StartLog").read_text()}, "clients": {}, "collectors": {}, "ledger": ledger,
        "lost": 0, "restarted": 0, "probe": None,
    }  # fmt: skip
    return Evidence(**given | change)


def won(at: float, election: str = "managers") -> str:
    return json.dumps({"at": at, "event": "election.won", "election": election, "term": 4}) + "\n"


def test_figures_of_a_real_excerpt():
    found = evidence.result(fault(), recorded())
    assert found.first_match_s == pytest.approx(0.572, abs=0.002)
    assert found.first_execute_s == pytest.approx(0.593, abs=0.002)
    assert found.jobs_per_minute_before == 20.0  # two jobs in six seconds
    assert found.jobs_per_minute_after == 30.0
    assert found.slot_wait_before_s is None  # no wait was over by then
    assert (found.updates_rejected, found.jobs_lost) == (0, 0)


def test_successor_is_the_first_other_node_that_wins_the_same_election():
    nodes = {
        "cm1": won(AT + 0.1),
        "cm2": won(AT - 9) + won(AT + 0.5),
        "cm3": won(AT + 0.7),
        "gw1": won(AT + 0.2, "pool-vip"),
    }
    found = evidence.result(fault(), recorded(nodes=nodes))
    assert (found.elected_s, found.successor) == (pytest.approx(0.5), "cm2")


def test_nobody_elected_is_null():
    found = evidence.result(fault(), recorded())
    assert (found.elected_s, found.successor) == (None, None)


def test_condor_had_is_elected_when_it_starts_the_other_negotiator():
    line = "11/22/26 23:24:54.100 ** condor_negotiator (CONDOR_NEGOTIATOR) STARTING UP\n"
    found = evidence.result(fault(system="had", election=None), recorded(negotiators={"cm2": line}))
    assert (found.elected_s, found.successor) == (pytest.approx(118.1), "cm2")


def test_updates_rejected_before_the_fault_are_not_counted():
    lines = [f"11/22/26 23:22:{second} SECMAN: Server rejected our session id\n" for second in ("50.0", "56.1", "58.0")]
    assert evidence.result(fault(), recorded(clients={"exec1/StartLog": "".join(lines)})).updates_rejected == 2


MEASURED = Result(
    scenario="manager-kill", system="ours", repeat=1, healthy_before=True, elected_s=0.3104, first_match_s=0.5,
    jobs_per_minute_before=62.0, jobs_per_minute_after=61.0, updates_rejected=0, jobs_lost=0, blackout_ms=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    "result",
    [MEASURED, Result(scenario="gateway-kill", system="had", repeat=2, healthy_before=False, refused=("why",))],
)
def test_json_line_has_every_key_always(result):
    line = json_line(result)
    assert "\n" not in line
    assert set(json.loads(line)) >= KEYS


def test_json_line_is_null_where_there_is_no_figure():
    fields = json.loads(json_line(MEASURED))
    assert (fields["two_owner_ms"], fields["elected_s"]) == (None, 0.31)


def test_median_has_its_range_and_leaves_out_what_is_not_there():
    found = spread([3.0, None, 1.0, 9.0])
    assert found is not None
    assert (found.median, found.low, found.high, found.count) == (3.0, 1.0, 9.0, 3)
    assert spread([None, None]) is None


def test_table_shows_every_repeat_then_median_and_range_of_each_system():
    ours = [
        Result(scenario="manager-kill", system="ours", repeat=number, healthy_before=True, elected_s=seconds)
        for number, seconds in ((1, 0.30), (2, 0.50), (3, 0.31))
    ]
    theirs = Result(scenario="manager-kill", system="had", repeat=1, healthy_before=True, elected_s=118.14)
    lines = [line.split() for line in table([*ours, theirs]).splitlines()[2:]]
    assert [line[:4] for line in lines] == [
        ["manager-kill", "ours", "1", "0.30"],
        ["manager-kill", "ours", "2", "0.50"],
        ["manager-kill", "ours", "3", "0.31"],
        ["manager-kill", "ours", "median", "0.31"],
        ["manager-kill", "ours", "min", "0.30"],
        ["manager-kill", "ours", "max", "0.50"],
        ["manager-kill", "had", "1", "118.14"],
    ]


def test_table_says_why_a_repeat_was_not_measured():
    refused = Result(
        scenario="manager-kill", system="ours", repeat=2, healthy_before=False, refused=("no submitter ad",)
    )
    assert "not measured: no submitter ad" in table([MEASURED, refused])
    assert "median" not in table([MEASURED, refused])


def test_columns_of_the_table_stand_under_their_headings():
    lines = table([MEASURED]).splitlines()
    assert len(lines[2]) == len(lines[0])


def test_command_offers_the_scenarios_that_there_are():
    assert tuple(scenarios.SCENARIOS) == command.SCENARIO_NAMES
    assert set(command.DEMO_SCENARIOS) <= set(scenarios.SCENARIOS)


def test_both_managers_of_a_had_pool_are_told_the_same():
    topology = had.topology_of(Topology(slots=4), "labhad")
    texts = {had.manager_config(topology, host) for host in topology.hosts[:2]}
    assert topology.system is System.HAD
    assert len(texts) == 1
    assert "HAD_LIST = cm1.lab.internal:9618, cm2.lab.internal:9618" in texts.pop()


def chosen(parser_arguments):
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser.add_subparsers())
    return parser.parse_args(["measure", *parser_arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gateway-kill", "--with", "had"], "no gateway to break"),
        (["manager-kill", "--repeat", "0"], "at least once"),
        (["manager-kill", "--json", "/no/such/folder/x"], "No such file or directory"),
        (["manager-kill", "--managers", "0"], "0 managers"),
        (["manager-kill", "--name", "UPPER"], "'UPPER' cannot name a lab"),
    ],
)
async def test_senseless_measurement_is_refused_before_a_lab_is_made(arguments, said):
    with pytest.raises(LabError, match=said):
        await command.measure(chosen(arguments))

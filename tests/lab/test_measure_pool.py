"""A measurement from end to end on a real pool: figures where there is a fault, and nothing left behind."""

import argparse
import json
import os

import pytest

from gateway.lab import teardown
from gateway.lab.measure import command

pytestmark = [
    pytest.mark.pool,
    pytest.mark.timeout(290),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


async def test_demo_measures_both_faults_loses_no_job_and_leaves_nothing_behind(tmp_path, capsys):
    name, file = f"m{os.getpid()}", tmp_path / "figures.jsonl"
    parser = argparse.ArgumentParser()
    command.add_arguments(parser.add_subparsers())
    arguments = ["measure", "demo", "--name", name, "--json", str(file), "--window", "14", "--slots", "3"]
    status = await command.measure(parser.parse_args(arguments))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert (status, [line["refused"] for line in lines]) == (command.OK, [None, None])
    assert [line["scenario"] for line in lines] == list(command.DEMO_SCENARIOS)
    for line in lines:
        assert line["jobs_lost"] == 0
        assert line["elected_s"] < 5
        assert line["first_match_s"] < 15
        assert line["jobs_per_minute_after"] > 0
        assert line["slot_wait_before_s"] > 0
        # Bounds of seconds: the figures are there and sane; how good they are, `lab measure` itself shows.
        assert 0 <= line["blackout_ms"] < 5_000
        assert line["two_owner_ms"] < 1_000
    assert lines[0]["victim"].startswith("cm")
    assert lines[1]["victim"].startswith("gw")
    assert lines[1]["blackout_ms"] > 0  # the address cannot have moved without a gap
    assert "gateway-kill" in capsys.readouterr().out
    assert not teardown.exists(name)

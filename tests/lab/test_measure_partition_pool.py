"""A pool that is cut in two and healed, from end to end: both sides serve, and nobody's usage or edit is lost."""

import argparse
import json
import os

import pytest

from gateway.lab import teardown
from gateway.lab.measure import command

pytestmark = [
    pytest.mark.pool,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


async def test_two_halves_serve_apart_and_their_histories_are_one_after_the_heal(tmp_path, capsys):
    name, file = f"p{os.getpid()}", tmp_path / "figures.jsonl"
    parser = argparse.ArgumentParser()
    command.add_arguments(parser.add_subparsers())
    # HTCondor's daemons wait 20 s for the rest of a request that the cut fell into, and do nothing else meanwhile.
    arguments = ["measure", "partition", "--on-partition", "serve", "--name", name, "--json", str(file)]
    status = await command.measure(parser.parse_args([*arguments, "--window", "30", "--slots", "3"]))
    (line,) = [json.loads(text) for text in file.read_text().splitlines()]
    assert (status, line["refused"]) == (command.OK, None)
    for side in line["sides"]:
        assert side["matches"] > 0
        assert side["starts"] > 0
    assert line["one_leader_s"] < 30
    assert line["merged_s"] < 60
    assert line["negotiators_after"] == 1
    assert line["edits_lost"] == []
    assert line["conflict_value"] is not None
    assert line["conflict_reported"]
    assert line["jobs_lost"] == 0
    # Twice the bound of the measurement itself: a busy machine blurs when exactly a cycle saw what.
    assert abs(line["usage_error_s"]) <= 2 * line["usage_bound_s"]
    assert "partition" in capsys.readouterr().out
    assert not teardown.exists(name)

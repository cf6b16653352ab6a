"""The simulator itself: one seed is one run, a failure can be seen again, and the auditor sees what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from gateway.core.actions import ExtendServing, StartServing
from gateway.core.node import ElectionPlan, SavedVote
from gateway.wire.messages import Resignation, VoteReply, VoteRequest
from gateway.wire.seal import _Window
from tests.sim import campaign
from tests.sim.audit import Audit, Violation
from tests.sim.clock import SimClock
from tests.sim.network import ring
from tests.sim.run import SeedFailed, run_seed, simulate
from tests.sim.shapes import SHAPES, Shape
from tests.sim.takeover import measure
from tests.sim.world import World

ROOT = Path(__file__).parents[2]
E = "address"


def audit() -> Audit:
    return Audit(Shape(("a", "b", "c"), (ElectionPlan(E, ("a", "b", "c")),), ((50, 300),)))


def replay(seed: int, hash_seed: str, *more: str) -> str:
    """Run the command in a process of its own; return what it prints but for the time it took."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--seed", hex(seed), "--shape", "3", "--minutes", "1", *more],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_same_seed_gives_the_same_trace_in_any_process() -> None:
    one, other = (replay(11, hash_seed).split("trace ")[1].split()[0] for hash_seed in ("1", "2"))
    assert one == other == simulate(11, "3", 1).digest


def test_different_seeds_give_different_traces() -> None:
    assert len({simulate(seed, "3", 1).digest for seed in range(4)}) == 4


def test_a_verbose_run_is_the_same_run() -> None:
    lines: list[str] = []
    assert simulate(11, "3", 1, trace=lines.append).digest == simulate(11, "3", 1).digest
    assert any("start address=" in line for line in lines)
    assert any("**** heal" in line for line in lines)


def test_a_failure_names_the_command_and_the_file_that_show_it_again() -> None:
    with pytest.raises(SeedFailed) as caught:
        run_seed(1, "3", 1, mutant="half_is_a_majority")
    text = str(caught.value)
    assert "python -m tests.sim --seed 0x1 --shape 3 --minutes 1 --mutant half_is_a_majority --verbose" in text
    report = Path(text.split("report: ")[1]).read_text().splitlines()
    assert report[0].startswith("command: python -m tests.sim")
    assert report[1].startswith("commit: ")
    assert len(report) >= 100, "the last events before the failure"


def test_a_campaign_sums_its_runs_and_says_where_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    tally = campaign.run(6 / 60, jobs=2, seed=3, minutes=1)
    said = capsys.readouterr().out
    assert tally.runs.total() == 6
    assert not tally.failures
    assert re.search(r"^violations +0$", said, re.MULTILINE)
    assert "resume with --seed 0x5" in campaign.progress(tally, 1.0, 2.0, 5)


def test_a_campaign_fails_where_a_promise_is_broken() -> None:
    assert campaign.run(4 / 60, jobs=2, seed=3, minutes=1, mutant="half_is_a_majority").failures


def test_a_seeds_shape_is_its_own_affair() -> None:
    """So that a campaign goes on after an interruption with the same runs."""
    assert {campaign.shape_of(seed) for seed in range(200)} == set(SHAPES)
    assert campaign.shape_of(7) == campaign.shape_of(7)


def test_a_datagram_that_was_seen_before_is_a_violation() -> None:
    """The audit of the seal itself: one that lets replays through is caught."""

    def admit(self: object, sequence: int) -> bool:
        return True

    def caught(seed: int) -> str:
        try:
            simulate(seed, "3", 2)
        except Violation as violation:
            return str(violation)
        return ""

    sealed = [seed for seed in range(80) if World(SHAPES["3"], seed).kind == "sealed"]
    with patch.object(_Window, "admit", admit):
        assert any("twice" in caught(seed) for seed in sealed)


def test_two_leaders_of_a_term_are_seen() -> None:
    seen = audit()
    seen.start(0, StartServing(E, 1, 0), 0, 100)
    with pytest.raises(Violation, match="S1"):
        seen.start(1, StartServing(E, 1, 0), 200, 300)


def test_two_unexpired_leases_are_seen_to_the_microsecond() -> None:
    seen = audit()
    seen.start(0, StartServing(E, 1, 0), 0, 100)
    with pytest.raises(Violation, match=r"S2.* for 1 us"):
        seen.start(1, StartServing(E, 2, 0), 99, 300)
    seen = audit()
    seen.start(0, StartServing(E, 1, 0), 0, 100)
    seen.start(1, StartServing(E, 2, 0), 100, 300)


def test_a_lease_extended_into_anothers_is_seen() -> None:
    seen = audit()
    seen.start(0, StartServing(E, 1, 0), 0, 100)
    seen.stop(0, E, 1)
    seen.start(1, StartServing(E, 2, 0), 50, 300)
    with pytest.raises(Violation, match="holds None"):
        seen.extend(0, ExtendServing(E, 1, 0), 60, 200)


def test_a_vote_that_is_not_on_the_disk_is_seen() -> None:
    for message in (VoteRequest(E, 3, False, 0), VoteReply(E, 3, False, 0, True, 3, 0)):
        with pytest.raises(Violation, match="S5"):
            audit().sending(0, "b", message, {E: SavedVote(2, "a")}, 0)


def test_a_second_vote_after_a_crash_is_seen() -> None:
    seen = audit()
    vote = VoteReply(E, 3, False, 0, True, 3, 0)
    seen.sending(0, "b", vote, {E: SavedVote(3, "b")}, 0)
    with pytest.raises(Violation, match=r"S5.*votes for b and c"):
        seen.sending(0, "c", vote, {E: SavedVote(3, "c")}, 0)


def test_a_resignation_while_serving_is_seen() -> None:
    seen = audit()
    seen.start(0, StartServing(E, 1, 0), 0, 100)
    with pytest.raises(Violation, match="rule 8"):
        seen.sending(0, "b", Resignation(E, 1, ""), {}, 99)


@pytest.mark.parametrize("rate_ppm", [-10_000, -137, 0, 137, 10_000])
def test_a_clocks_reading_and_its_inverse_agree(rate_ppm: int) -> None:
    clock = SimClock(123_456_789, rate_ppm)
    for local_ms in range(clock.read_ms(10**9), clock.read_ms(10**9) + 500, 7):
        true_us = clock.true_us(local_ms)
        assert clock.read_ms(true_us) == local_ms
        assert clock.read_ms(true_us - 1) == local_ms - 1


@pytest.mark.parametrize("size", [5, 9])
def test_in_a_ring_every_host_hears_a_bare_majority(size: int) -> None:
    cut = ring(list(range(size)))
    for host in range(size):
        assert size - sum(1 for _, destination in cut if destination == host) == size // 2 + 1


def test_a_successor_serves_soon_after_its_leader_dies() -> None:
    """A promise, less what has passed of it since the last heartbeat, and a round with its writes."""
    takeovers = measure(100)
    assert takeovers.quantile(0.5) <= 330, str(takeovers)
    assert takeovers.quantile(0.99) <= 450, str(takeovers)

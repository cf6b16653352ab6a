"""Five hundred runs of ten simulated minutes over clusters of all shapes: no promise is broken in any."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from tests.sim.run import Result, run_seed
from tests.sim.shapes import WEIGHTS

MINUTES = 10
BATCH = 10
RUNS = 500
FIRST_SEED = 0x1000
BATCHES = [
    (shape, FIRST_SEED + first) for shape, weight in WEIGHTS.items() for first in range(0, RUNS * weight // 100, BATCH)
]
HOURS = RUNS * MINUTES / 60
FAULTS_PER_HOUR_MIN = 60
# What a thousand hours found, besides.
FOUND = {
    # Frozen between two timers for less than both together, a leader apart goes on before it has read of another.
    ("2-serve", 0x175): 30,
    ("2-serve", 0x294): 30,
    # A machine that goes back in time is cut off again, for all that it knows.
    ("2-serve", 0x61C): 30,
    ("2-serve", 0x77A): 30,
    # A run from a snapshot that nobody had restarted when the calm began.
    ("2-hold", 0x776): 30,
    # A host that had been unfit when its process started was said to be so after it had become fit.
    ("2-serve", 0x502): 30,
}
KINDS = (
    "crash",
    "crash-at-boundary",
    "blink",
    "restart",
    "reboot",
    "freeze",
    "freeze-at-boundary",
    "thaw",
    "suspend",
    "reload",
    "retune",
    "retuned-apart",
    "reloaded-apart",
    "isolated",
    "deaf",
    "mute",
    "halves",
    "ring",
    "pair",
    "flap-cut",
    "swizzle-cut",
    "clog",
    "stranded",
    "away",
    "courted",
    "late-resignation",
    "deaf-to-leader",
    "storm",
    "slow-disk",
    "full-disk",
    "ended-by-disk",
    "lying-disk",
    "write-lost",
    "write-unreported",
    "replay",
    "forge",
    "rotate-key",
    "rolled-back",
    "lost-datagram",
    "duplicated-datagram",
    "late-datagram",
    "corrupted-datagram",
    "slow-stop",
    "slow-timers",
    "unfit",
    "reshuffle",
    "asked-to-resign",
    "calm-restart",
    "calm-reboot",
    "calm-deaf",
    "calm-mute",
    "calm-kill",
    "calm-unfit",
    "paused",
    "resumed",
    "drained",
    "undrained",
    "paused-kill",
)

Runs = dict[tuple[str, int], list["Future[Result]"]]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Start the runs that this session asks for, on two cores, in the order in which they are waited for."""
    chosen = {item.callspec.params["batch"] for item in request.session.items if "batch" in _params(item)}
    workers = min(2, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        started: Runs = {
            batch: [pool.submit(run_seed, seed, batch[0], MINUTES) for seed in range(batch[1], batch[1] + BATCH)]
            for batch in BATCHES
            if batch in chosen
        }
        yield started
        for future in (one for futures in started.values() for one in futures):
            future.cancel()


def _params(item: pytest.Item) -> dict[str, object]:
    callspec = getattr(item, "callspec", None)
    return callspec.params if callspec is not None and item.module.__name__ == __name__ else {}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: f"{batch[0]}-{batch[1]:#x}")
def test_no_run_breaks_a_promise(runs: Runs, batch: tuple[str, int]) -> None:
    for future in runs[batch]:
        result = future.result()
        assert result.leaders >= 1, f"seed {result.seed:#x} of shape {result.shape} never had a leader"


@pytest.mark.parametrize("found", FOUND, ids=lambda found: f"{found[0]}-{found[1]:#x}")
def test_what_long_runs_have_found_stays_mended(found: tuple[str, int]) -> None:
    shape, seed = found
    assert run_seed(seed, shape, FOUND[found]).leaders >= 1


def test_every_kind_of_fault_was_reached(runs: Runs) -> None:
    if len(runs) < len(BATCHES):
        pytest.skip("only some of the runs were asked for")
    faults: Counter[str] = Counter()
    for futures in runs.values():
        for future in futures:
            if future.exception() is None:
                faults.update(future.result().faults)
    assert [kind for kind in KINDS if faults[kind] < 10] == []
    # Single datagrams that are lost are not counted as faults here, nor is what ends a fault.
    counted = sum(faults[kind] for kind in KINDS if not kind.endswith("-datagram"))
    assert counted >= HOURS * FAULTS_PER_HOUR_MIN


def test_both_sides_of_a_partition_have_served(runs: Runs) -> None:
    """Under `on-partition serve`; and the audit of every such run has passed."""
    futures = [one for (shape, _), batch in runs.items() if shape == "2-serve" for one in batch]
    results = [future.result() for future in futures if future.exception() is None]
    if not results:
        pytest.skip("no such run was asked for")
    assert sum(result.overlaps for result in results) >= len(results)


def test_the_seal_has_refused_for_every_reason_that_the_network_has(runs: Runs) -> None:
    if len(runs) < len(BATCHES):
        pytest.skip("only some of the runs were asked for")
    refused: Counter[str] = Counter()
    for futures in runs.values():
        for future in futures:
            if future.exception() is None:
                refused.update(future.result().refused)
    assert {"bad-seal", "replayed", "stale-boot", "wrong-cluster", "too-short", "unknown-version"} <= set(refused)

"""A hundred runs of ten simulated minutes over clusters of 2, 3, 5 and 9: no promise is broken in any."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from tests.sim.run import Result, run_seed

MINUTES = 10
BATCH = 5
FIRST_SEED = 0x1000
SEEDS = {2: 25, 3: 35, 5: 25, 9: 15}  # nodes -> runs
BATCHES = [(nodes, FIRST_SEED + first) for nodes, count in SEEDS.items() for first in range(0, count, BATCH)]
KINDS = (
    "crash",
    "crash-at-boundary",
    "blink",
    "restart",
    "reboot",
    "freeze",
    "freeze-at-boundary",
    "thaw",
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
    "slow-stop",
    "slow-timers",
    "unfit",
    "reshuffle",
    "asked-to-resign",
    "calm-restart",
    "calm-reboot",
    "calm-deaf",
    "calm-mute",
)

Runs = dict[tuple[int, int], list["Future[Result]"]]


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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: f"{batch[0]}-nodes-{batch[1]:#x}")
def test_no_run_breaks_a_promise(runs: Runs, batch: tuple[int, int]) -> None:
    for future in runs[batch]:
        result = future.result()
        assert result.leaders >= 1, f"seed {result.seed:#x} of {result.nodes} nodes never had a leader"


def test_every_kind_of_fault_was_reached(runs: Runs) -> None:
    if len(runs) < len(BATCHES):
        pytest.skip("only some of the runs were asked for")
    faults: Counter[str] = Counter()
    for futures in runs.values():
        for future in futures:
            if future.exception() is None:
                faults.update(future.result().faults)
    assert [kind for kind in KINDS if faults[kind] < 10] == []
    assert sum(faults[kind] for kind in KINDS) >= 100 * 60  # faults in 17 simulated hours

"""Every rule is worth its line: with any one of them broken, the simulator finds a broken promise within 100 seeds."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS
from tests.sim.run import simulate

SEEDS_MAX = 100
MINUTES = 2
# Where each was found last; looked at first, so that a good day is a short one.
FOUND_AT = {
    "acknowledges_while_bound_to_another": 13,
    "any_resignation_frees": 13,
    "forgets_that_its_stop_is_not_confirmed": 32,
    "lease_from_the_receipt": 7,
    "margin_is_negative": 7,
    "no_silence_after_start": 33,
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_a_core_with_this_fault_is_caught(mutant: str) -> None:
    first = FOUND_AT.get(mutant, 0)
    for seed in (first, *(seed for seed in range(SEEDS_MAX) if seed != first)):
        try:
            simulate(seed, (3, 5)[seed % 2], MINUTES, mutant=mutant)
        except AssertionError:
            return
    pytest.fail(f"{mutant} survived {SEEDS_MAX} seeds")

"""A series of scenarios on one pool: jobs flow all the while, one that fails does not end it, a table remains."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gateway.lab.errors import LabError
from gateway.lab.machines.contract import Pool
from gateway.lab.machines.jobs import Jobs
from gateway.lab.machines.proof import Prover
from gateway.lab.machines.records import Outcome
from gateway.lab.machines.scenarios import SCENARIOS, Scenario, play
from gateway.lab.machines.table import table

Progress = Callable[[str], None]

FIRST_S_MAX = 300.0  # a pool that has just been brought up


def chosen(names: Sequence[str]) -> tuple[Scenario, ...]:
    """Return the named scenarios in their order here; all where none is named.

    Raises:
        LabError: no such scenario.
    """
    if unknown := sorted(set(names) - set(SCENARIOS)):
        raise LabError(f"no scenario {unknown[0]!r}: there are {', '.join(SCENARIOS)}")
    return tuple(one for one in SCENARIOS.values() if not names or one.name in names)


async def run(pool: Pool, scenarios: Sequence[Scenario], say: Progress, keep: Callable[[list[Outcome]], None]) -> bool:
    """Run the scenarios; `keep` is given all outcomes so far after each. Return whether every one was good.

    Raises:
        LabError: the pool is not well before the first one.
    """
    outcomes: list[Outcome] = []
    prover = Prover(pool, say)
    await prover.prove(None, FIRST_S_MAX)
    say(f"the pool is well: {prover.slots} slots")
    async with Jobs(pool).flowing() as jobs:
        for scenario in scenarios:
            say(f"---- {scenario.name}: {scenario.text}")
            outcome = await play(scenario, pool, prover, jobs, say)
            outcomes.append(outcome)
            if outcome.refused and not outcome.victim:
                # Nothing was broken: the pool did not get well after the one before, and will not by waiting.
                outcomes += [Outcome(scenario=one.name, refused="not run") for one in scenarios[len(outcomes) :]]
                keep(outcomes)
                break
            keep(outcomes)
            for check in outcome.checks:
                say(f"{'good' if check.good else 'FAILED'}: {check.name}: {check.text}")
            say(f"{scenario.name}: {'good' if outcome.good else 'FAILED'}, {outcome.took_s:.0f} s")
    return all(one.good for one in outcomes)


def clocked(began: float, out: Callable[[str], None]) -> Progress:
    """Return a function that says lines with the minutes since `began`."""

    def say(text: str) -> None:
        passed = time.time() - began
        out(f"vagrant-lab {int(passed // 60):2d}:{passed % 60:04.1f}  {text}")

    return say


def keeper(folder: Path, heading: str) -> Callable[[list[Outcome]], None]:
    """Return a function that keeps outcomes in `folder`, as table.md and table.json."""

    def keep(outcomes: list[Outcome]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(f"{heading}\n\n{table(outcomes)}\n")
        (folder / "table.json").write_bytes(msgspec.json.format(msgspec.json.encode(outcomes), indent=2) + b"\n")

    return keep

"""`condor-gateway lab measure` for the address: which cases at which heartbeats with which system, one after the other.

A repeat that is refused is tried again, and stands in the results as refused. Exit status: 0 as many repeats were
measured as were asked for; 1 fewer, or a lab could not be had.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import TextIO

import msgspec
import trio

from gateway.config.diagnostics import did_you_mean
from gateway.lab import keepalived
from gateway.lab.errors import LabError
from gateway.lab.measure.address_scenarios import FREEZE_S, SCENARIO_NAMES, AddressRun, Case, cases_of
from gateway.lab.measure.address_table import table
from gateway.lab.measure.contenders import KEEPALIVED, OURS, Contender, contender_of
from gateway.lab.measure.records import Result, json_line
from gateway.lab.segment import Segment

Progress = Callable[[str], None]

OK, REFUSED = 0, 1
TABLE = "address-table"
HEARTBEATS_MS = {"daemon-kill": (1000, 100, 10), "daemon-term": (1000, 100, 10), "gateway-link-down": (100, 10)}
OTHER_HEARTBEATS_MS = (100,)
LEASE_BEATS = 3
REPEATS = 20
REFUSALS_MAX = 3  # in a row: what is not healthy three times will not be at the fourth
DURATION = re.compile(r"([0-9]+)(ms|s)")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured. Each heartbeat has its lease; `cases` are run at those heartbeats that they name."""

    systems: tuple[str, ...]
    cases: tuple[tuple[Case, tuple[int, ...]], ...]
    lease_ms: int | None
    repeats: int
    freeze_s: float
    heartbeats_only: bool

    @property
    def heartbeats_ms(self) -> list[int]:
        """Every heartbeat that some case names, the longest first."""
        return sorted({one for _, heartbeats in self.cases for one in heartbeats}, reverse=True)

    def lease_of(self, heartbeat_ms: int) -> int:
        """The lease at a heartbeat."""
        return self.lease_ms or LEASE_BEATS * heartbeat_ms


def duration_ms(text: str) -> int:
    """Read `100ms` or `1s`.

    Raises:
        LabError: it is neither.
    """
    found = DURATION.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise LabError(f"{text!r} is no time: write it as 100ms or 1s")
    return int(found[1]) * (1000 if found[2] == "s" else 1)


def plan_of(chosen: argparse.Namespace) -> Plan:
    """Return what the command line asks for.

    Raises:
        LabError: names or times that make no sense.
    """
    names = list(SCENARIO_NAMES) if chosen.scenario == TABLE else [chosen.scenario]
    if chosen.only:
        names = chosen.only.split(",")
    for name in names:
        if name not in SCENARIO_NAMES:
            raise LabError(f"no address scenario {name!r}{did_you_mean(name, SCENARIO_NAMES)}")
    given = tuple(map(duration_ms, chosen.heartbeat.split(","))) if chosen.heartbeat else None
    variant = chosen.victim or chosen.kind
    cases = [(case, given or HEARTBEATS_MS.get(name, OTHER_HEARTBEATS_MS)) for name in names
             for case in cases_of(name, variant)]  # fmt: skip
    both = chosen.scenario == TABLE or chosen.compare == KEEPALIVED
    repeats = REPEATS if chosen.repeat is None else chosen.repeat
    if repeats < 1:
        raise LabError("a measurement is repeated at least once: --repeat 1")
    return Plan(
        systems=(OURS, KEEPALIVED) if both else (OURS,),
        cases=tuple(cases),
        lease_ms=duration_ms(chosen.lease) if chosen.lease else None,
        repeats=repeats,
        freeze_s=chosen.freeze or FREEZE_S,
        heartbeats_only=chosen.cut == "heartbeats",
    )


async def measure(chosen: argparse.Namespace, say: Progress, json_file: TextIO | None) -> int:
    """Measure, and print the table at the end, also of a series that was broken off.

    Raises:
        LabError: a lab could not be had, or the arguments make no sense together.
    """
    plan = plan_of(chosen)
    program = None
    if KEEPALIVED in plan.systems:
        program = await trio.to_thread.run_sync(keepalived.fetch, abandon_on_cancel=True)
        say(f"compared with {await trio.to_thread.run_sync(program.version)}")
    segment = Segment(chosen.name)
    results: list[Result] = []

    def keep(result: Result) -> None:
        results.append(result)
        if json_file is not None:
            json_file.write(f"{json_line(result)}\n")
            json_file.flush()

    try:
        for heartbeat_ms in plan.heartbeats_ms:
            for system in plan.systems:
                contender = contender_of(system, segment, heartbeat_ms, plan.lease_of(heartbeat_ms), program)
                run = AddressRun(contender, say, freeze_s=plan.freeze_s, heartbeats_only=plan.heartbeats_only)
                # A new segment: what a killed contender left in the kernel is its own.
                async with segment.standing(), run.up():
                    await series(run, contender, plan, say, keep)
    finally:
        if results:
            print(f"\n{table(_in_order(plan, results))}\n")
    wanted = sum(len(heartbeats) for _, heartbeats in plan.cases) * len(plan.systems) * plan.repeats
    return OK if sum(result.healthy_before for result in results) == wanted else REFUSED


def _in_order(plan: Plan, results: Sequence[Result]) -> list[Result]:
    """Return the results in the order of the plan's cases, and by heartbeat within one."""
    order = [(case.scenario, case.variant or None) for case, _ in plan.cases]
    return sorted(
        results,
        key=lambda one: (order.index((one.scenario, one.variant)), -(one.heartbeat_ms or 0), one.system != OURS),
    )


async def series(
    run: AddressRun, contender: Contender, plan: Plan, say: Progress, keep: Callable[[Result], None]
) -> None:
    """Measure every case of this contender's heartbeat."""
    for case, heartbeats_ms in plan.cases:
        if contender.heartbeat_ms not in heartbeats_ms:
            continue
        say(f"{case.name}, {contender.name}, heartbeat {contender.heartbeat_ms} ms: {case.text}")
        repeat, refusals = 1, 0
        while repeat <= plan.repeats:  # each turn measures one, or is one of the few refusals
            found = await run.measure(case, repeat)
            keep(found)
            if found.healthy_before:
                say(f"{repeat} of {plan.repeats}: {told(found)}")
                repeat, refusals = repeat + 1, 0
                continue
            refusals += 1  # a machine that was busy for a moment is asked again
            if refusals == REFUSALS_MAX:
                say(f"given up after {REFUSALS_MAX} refusals in a row")
                break


def told(result: Result) -> str:
    """Return one repeat as a line of progress."""
    parts = [f"gap {result.blackout_ms or 0.0:.1f} ms"]
    if result.successor_ms is not None:
        parts.append(f"{result.successor} after {result.successor_ms:.1f} ms")
    if result.two_owner_ms:
        parts.append(f"two owners for {result.two_owner_ms:.0f} ms")
    if result.packets_after_lease:
        parts.append(f"{result.packets_after_lease} frames of {result.victim} after its lease")
    if result.black_holed:
        parts.append("the address is lost")
    return ", ".join(parts)

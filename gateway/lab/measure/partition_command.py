"""`lab measure partition`: a pool of two halves that both serve while they are cut, and are healed.

Exit status as for the other scenarios: 0 every repeat was measured.
"""

import argparse
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import TextIO

import trio

from gateway.config.settings import OnPartition
from gateway.lab.errors import LabError
from gateway.lab.measure import partition_edits
from gateway.lab.measure.load import Load
from gateway.lab.measure.partition import Partition
from gateway.lab.measure.partition_records import PartitionResult, json_line, table, verdict
from gateway.lab.pool import Lab
from gateway.lab.topology import Kind, System, Topology

OK, REFUSED = 0, 1
WINDOW_S = 60.0  # both sides lead for so long before the heal

Progress = Callable[[str], None]
Opener = Callable[[Topology], "contextlib.AbstractAsyncContextManager[Lab]"]


def topology_of(wanted: Topology, chosen: argparse.Namespace, system: System) -> Topology:
    """Return a pool with one of everything on each side; `wanted` tells its name, its slots and the rest.

    Raises:
        LabError: its file would say 'hold': then only one side serves, and there is nothing to merge.
    """
    policy = OnPartition(chosen.on_partition or OnPartition.SERVE)
    if policy is OnPartition.HOLD:
        raise LabError("with 'on-partition hold' at most one side serves: measure the partition with 'serve'")
    suffix = "had" if system is System.HAD else ""
    return Topology(
        name=wanted.name[: 16 - len(suffix)] + suffix,
        managers=2,
        gateways=2,
        submit=2,
        execute=2,
        slots=wanted.slots,
        forward=wanted.forward,
        suite=wanted.suite,
        system=system,
        on_partition=policy if system is System.OURS else None,
    ).checked()


async def measure(
    chosen: argparse.Namespace, wanted: Topology, open_lab: Opener, say: Progress, json_file: TextIO | None
) -> int:
    """Run the repeats of our system, then those of HTCondor's HAD where it is compared; print the table."""
    series = [(System.OURS, chosen.repeat or 1)]
    if chosen.compare == "had":
        series.append((System.HAD, chosen.had_repeat))
    results: list[PartitionResult] = []
    try:
        for system, repeats in series:
            async with open_lab(topology_of(wanted, chosen, system)) as lab, _loaded(lab) as loads:
                _fits(lab)
                partition = Partition(lab, loads, say, chosen.window or WINDOW_S)
                for repeat in range(1, repeats + 1):
                    say(f"partition, {system.value}, repeat {repeat} of {repeats}")
                    found = await partition.measure(repeat)
                    results.append(found)
                    if json_file is not None:
                        json_file.write(f"{json_line(found)}\n")
                        json_file.flush()
                    if found.refused:
                        break
    finally:
        if results:
            print(f"\n{table(results)}\n")
        if said := verdict(results):
            print(f"{said}\n")
    return OK if results and not any(one.refused for one in results) else REFUSED


def _fits(lab: Lab) -> None:
    """Refuse a lab that was up and cannot be cut in two working halves."""
    for half in lab.topology.halves:
        for kind in (Kind.MANAGER, Kind.SUBMIT, Kind.EXECUTE):
            if not any(lab.topology.host(name).kind is kind for name in half):
                raise LabError(f"lab {lab.topology.name!r} has not two {kind} hosts: both halves need one")
    if lab.topology.system is System.OURS and lab.topology.on_partition is not OnPartition.SERVE:
        raise LabError(f"the file of lab {lab.topology.name!r} does not say 'on-partition serve'")


@contextlib.asynccontextmanager
async def _loaded(lab: Lab) -> "AsyncIterator[tuple[Load, Load]]":
    """Keep both halves' submitters busy while the block runs."""
    submitters = [host.name for host in lab.topology.of_kind(Kind.SUBMIT)]
    slots = lab.topology.execute * lab.topology.slots // 2
    mark = f"{os.getpid()}-{lab.topology.name}"
    first, second = (
        Load(lab, mark, host=host, users=users, slots=slots)
        for host, users in zip((submitters[0], submitters[-1]), partition_edits.USERS, strict=True)
    )
    async with trio.open_nursery() as nursery:
        for load in (first, second):
            nursery.start_soon(load.feed)
        yield first, second
        nursery.cancel_scope.cancel()
    for load in (first, second):
        await load.remove()

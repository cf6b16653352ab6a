"""`lab measure flood`: is the pool served while one of its hosts floods its address? A table, and JSON lines.

Exit status as for the other scenarios: 0 every flood was measured. How good the figures are the reader judges.
"""

import argparse
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TextIO

import msgspec
import trio

from gateway.lab.errors import LabError
from gateway.lab.measure import flood
from gateway.lab.measure.floods import JOB_SECONDS, FloodResult, Floods, Served
from gateway.lab.measure.load import USERS_SUBMITTING, Load
from gateway.lab.pool import Lab
from gateway.lab.topology import Topology

OK = 0
SECONDS = 30.0
# What the frontend is to allow each client: more than the relay lets be silent, less than it lets speak. The 6,000
# idle ones here are one client's; a pool's host has some ten connections.
MAXCONN_SOURCE = 3_000
REST_S = 5.0  # between two floods: what is held and idle ends by the relay's own limits

Progress = Callable[[str], None]
Opener = Callable[[Topology], "AbstractAsyncContextManager[Lab]"]


def topology_of(wanted: Topology, chosen: argparse.Namespace) -> Topology:
    """Return a pool with a host that can flood it; `wanted` tells its name, its size and the way to forward."""
    return msgspec.structs.replace(
        wanted,
        submit=2,
        ip_version=chosen.ip_version,
        transparent=chosen.transparent,
        maxconn_source=MAXCONN_SOURCE,
    ).checked()


async def measure(
    chosen: argparse.Namespace, wanted: Topology, open_lab: Opener, say: Progress, json_file: TextIO | None
) -> int:
    """Run the floods that were asked for, one after the other; print the table, also of a series broken off.

    Raises:
        LabError: no such flood, or a lab could not be had.
    """
    kinds = chosen.flood.split(",") if chosen.flood else list(flood.KINDS)
    if unknown := [kind for kind in kinds if kind not in flood.KINDS]:
        raise LabError(f"no flood {unknown[0]!r}: there are {', '.join(flood.KINDS)}")
    results: list[FloodResult] = []
    try:
        async with open_lab(topology_of(wanted, chosen)) as lab, trio.open_nursery() as nursery:
            load = Load(lab, f"{os.getpid()}-flood", users=USERS_SUBMITTING[:1], seconds=JOB_SECONDS)
            nursery.start_soon(load.feed)
            floods = Floods(lab, load, say)
            for kind in kinds:
                await trio.sleep(REST_S)
                seconds = chosen.seconds or SECONDS
                found = await floods.measure(kind, seconds, seconds / 2)
                results.append(found)
                if json_file is not None:
                    json_file.write(f"{msgspec.json.encode(found).decode()}\n")
                    json_file.flush()
            nursery.cancel_scope.cancel()
    finally:
        if results:
            print(f"\n{table(results)}\n")
            for result in results:
                print(f"{result.kind}: {_line(result)}")
    return OK


def _line(result: FloodResult) -> str:
    counted = {**result.flooder, **result.counters}
    moved = "; leaders changed: " + str(result.elections) if result.elections else "; no leader changed"
    return ", ".join(f"{name} {value:g}" for name, value in counted.items()) + moved


_COLUMNS = ("flood", "way", "asked", "failed", "ms", "max", "ads", "jobs", "relay MiB", "core", "collector MiB", "core")


def table(results: list[FloodResult]) -> str:
    """Return the results as a Markdown table, two lines a flood: without it and under it."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---|---" + "|---:" * (len(_COLUMNS) - 2) + "|"]
    for result in results:
        for label, served in ((f"before {result.kind}", result.before), (result.kind, result.during)):
            lines.append(f"| {label} | {result.forward}, IPv{result.ip_version} | {' | '.join(_cells(served))} |")
    return "\n".join(lines)


def _cells(served: Served) -> list[str]:
    ms = ["-" if value is None else f"{value:.0f}" for value in (served.ask_ms_median, served.ask_ms_max)]
    rates = [f"{count / served.seconds:.1f}/s" for count in (served.ads, served.jobs)]
    costs = [
        text
        for cost in (served.relay, served.collector)
        for text in (f"{cost.kib_max / 1024:.0f}", f"{cost.cores:.2f}")
    ]
    return [str(served.asked), str(served.failed), *ms, *rates, *costs]

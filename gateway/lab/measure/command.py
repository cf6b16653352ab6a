"""`condor-gateway lab measure SCENARIO`: break a pool under load, print what it did as figures, and as JSON lines.

Exit status: 0 every repeat was measured; 1 one was refused, or a lab could not be had. Imports nothing heavy until run.
"""

import argparse
import contextlib
import functools
import importlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from gateway.lab.measure.records import Result
    from gateway.lab.pool import Lab
    from gateway.lab.topology import Topology

OK, REFUSED = 0, 1
READY_S_MAX = 120.0
DEMO_WINDOW_S = 30.0  # both scenarios within some three minutes; figures that are to be published take 60
DEMO = "demo"
DEMO_SCENARIOS = ("manager-kill", "gateway-kill")
SLOTS = 8  # of each execute host: some two jobs a second, which two cores run beside the whole cluster
HAD_SUFFIX = "had"
NAME_MAX = 16

# Named here as well as in `scenarios`, which imports trio: a test holds them together.
SCENARIO_NAMES = ("manager-kill", "manager-link-down", "gateway-kill")
# Of the address alone, on a small lab of its own without HTCondor; a test holds them together with theirs.
ADDRESS_NAMES = ("daemon-kill", "gateway-link-down", "daemon-term", "daemon-freeze", "gateway-partition")
ADDRESS_TABLE, FALSE_TAKEOVERS = "address-table", "false-takeovers"
FLOOD = "flood"
# Scenarios with figures and a table of their own: what is done, and the module that does it.
APART = {
    "partition": ("cut in two halves that both serve, and healed", "partition_command"),
    FLOOD: ("served while a host floods it?", "flood_command"),
    "switchover": ("handed over on request: is the printed gap the one that is seen?", "switchovers"),
    "reload": ("100 times under load: does anybody notice?", "reloads"),
}
POOL_LAB, ADDRESS_LAB = "lab", "vip"

Progress = Callable[[str], None]


def add_arguments(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `measure` to the commands of `lab`."""
    from gateway.lab.command import run

    text = "break a pool under load, and show how long what took"
    parser = commands.add_parser("measure", help=text, description=text)
    parser.add_argument(
        "scenario",
        choices=(*SCENARIO_NAMES, *APART, DEMO, *ADDRESS_NAMES, ADDRESS_TABLE, FALSE_TAKEOVERS),
        metavar="SCENARIO",
        help=f"what to break in a pool: {', '.join(SCENARIO_NAMES)}, "
        f"{', '.join(f'{name} ({what})' for name, (what, _) in APART.items())}, {DEMO} (a short look at two); of the "
        f"address alone: {', '.join(ADDRESS_NAMES)}, {FALSE_TAKEOVERS}, {ADDRESS_TABLE} (all, beside keepalived)",
    )
    parser.add_argument(
        "--name",
        help=f"a lab that is up, or else the one to bring up (default {POOL_LAB!r}; {ADDRESS_LAB!r} for the address, "
        "always brought up)",
    )
    parser.add_argument("--repeat", type=int, metavar="N", help="how often (default 1; 20 for the address)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one JSON line a repeat to this file")
    parser.add_argument(
        "--with",
        dest="compare",
        choices=("had", "keepalived"),
        help="then the same with HTCondor's own HAD, or of the address with keepalived",
    )
    parser.add_argument("--had-repeat", type=int, default=1, metavar="N", help="how often with HAD (default 1)")
    parser.add_argument("--keep", action="store_true", help="leave the labs up that were brought up for this")
    parser.add_argument("--on-partition", choices=("hold", "serve"), help="what the lab's file is to say of partitions")
    parser.add_argument(
        "--window", type=float, metavar="S", help="seconds before and after the fault (default 60; the demo 30)"
    )
    sizes = parser.add_argument_group("the lab to bring up, where none of that name is up")
    sizes.add_argument("--managers", type=int, default=3, metavar="N", help="central managers (default 3)")
    sizes.add_argument("--gateways", type=int, default=2, metavar="N", help="gateways (default 2)")
    sizes.add_argument("--execute", type=int, default=2, metavar="N", help="execute hosts (default 2)")
    sizes.add_argument(
        "--slots", type=int, default=SLOTS, metavar="N", help=f"slots on each of these (default {SLOTS})"
    )
    sizes.add_argument("--forward", choices=("proxy", "nat", "direct"), default="proxy")
    sizes.add_argument("--condor-suite", choices=("trixie", "sid"), default="trixie", help="whose HTCondor")
    parser.add_argument(
        "--what", choices=("matchmaker", "address"), help="of switchover: this alone (default: both in turn)"
    )
    floods = parser.add_argument_group("floods")
    floods.add_argument("--flood", metavar="KIND,...", help="silent, datagrams, idle (default: one after the other)")
    floods.add_argument("--seconds", type=float, metavar="S", help="how long each lasts (default 30)")
    floods.add_argument("--ip-version", type=int, choices=(4, 6), default=4, help="of the lab to bring up (default 4)")
    floods.add_argument("--transparent", action="store_true", help="managers see the clients' addresses")
    _add_address_arguments(parser)
    parser.set_defaults(command=run, lab_function=measure)


def _add_address_arguments(parser: argparse.ArgumentParser) -> None:
    address = parser.add_argument_group("the scenarios of the address alone")
    address.add_argument(
        "--heartbeat", metavar="T,...", help="heartbeats, as in 1s,100ms,10ms (default: the scenario's)"
    )
    address.add_argument("--lease", metavar="T", help="the lease at every heartbeat (default: three heartbeats)")
    address.add_argument("--victim", choices=("control", "service", "guard", "all"), help="what to kill or freeze")
    address.add_argument("--kind", choices=("full", "to-other", "to-holder", "isolated"), help="of the partition")
    address.add_argument("--cut", choices=("frames", "heartbeats"), default="frames", help="what a partition drops")
    address.add_argument("--freeze", type=float, metavar="S", help="how long daemon-freeze freezes (default 10)")
    address.add_argument("--only", metavar="SCENARIO,...", help=f"of {ADDRESS_TABLE}: these")
    address.add_argument("--minutes", type=float, metavar="M", help=f"of {FALSE_TAKEOVERS}, for each loss (default 30)")
    address.add_argument("--loss", metavar="PERCENT,...", help=f"of {FALSE_TAKEOVERS} (default 5)")
    address.add_argument("--ladder", action="store_true", help=f"of {FALSE_TAKEOVERS}: more and more, to the first one")


async def measure(chosen: argparse.Namespace) -> int:
    """Run what was asked for; print the table at the end, also of a series that was broken off.

    Raises:
        LabError: a lab could not be had, or the arguments make no sense together.
    """
    from gateway.lab.errors import LabError
    from gateway.lab.measure.scenarios import WINDOW_S
    from gateway.lab.measure.table import table
    from gateway.lab.measure.verdict import verdict

    if chosen.scenario in (*ADDRESS_NAMES, ADDRESS_TABLE, FALSE_TAKEOVERS):
        return await _measure_address(chosen)
    chosen.name = chosen.name or POOL_LAB
    if (chosen.repeat is not None and chosen.repeat < 1) or chosen.had_repeat < 1:
        raise LabError("a measurement is repeated at least once: --repeat 1")
    if chosen.compare == "keepalived":
        raise LabError("keepalived moves an address and knows nothing of a pool: measure daemon-kill with it")
    if chosen.scenario in APART:
        return await _measure_apart(chosen)
    chosen.repeat = chosen.repeat or 1
    names = DEMO_SCENARIOS if chosen.scenario == DEMO else (chosen.scenario,)
    window_s = chosen.window or (DEMO_WINDOW_S if chosen.scenario == DEMO else WINDOW_S)
    if chosen.compare and any(name not in ("manager-kill", "manager-link-down") for name in names):
        raise LabError("a pool with HTCondor's own HAD has no gateway to break: --with had goes with manager scenarios")
    say = _clock()
    results: list[Result] = []
    with _json_file(chosen.json) as json_file:
        try:
            async with _lab(_topology(chosen), chosen, say) as lab:
                await _series(lab, names, chosen.repeat, window_s, say, results, json_file)
            if chosen.compare == "had":
                async with _lab(_had_topology(chosen), chosen, say) as lab:
                    await _series(lab, names, chosen.had_repeat, window_s, say, results, json_file)
        finally:
            if results:
                print(f"\n{table(results)}\n")
            if said := verdict(results):
                print(f"{said}\n")
    return OK if results and all(result.healthy_before for result in results) else REFUSED


async def _measure_address(chosen: argparse.Namespace) -> int:
    """Measure the address alone, on a small lab that is brought up for it."""
    from gateway.lab.errors import LabError
    from gateway.lab.measure import address_command, takeovers

    if chosen.compare == HAD_SUFFIX:
        raise LabError("HTCondor's own HAD has no address to move: --with keepalived goes with the address")
    chosen.name = chosen.name or ADDRESS_LAB
    function = takeovers.measure if chosen.scenario == FALSE_TAKEOVERS else address_command.measure
    with _json_file(chosen.json) as json_file:
        return await function(chosen, _clock(), json_file)


async def _measure_apart(chosen: argparse.Namespace) -> int:
    """Measure a scenario that has figures and a table of its own."""
    module = importlib.import_module(f"gateway.lab.measure.{APART[chosen.scenario][1]}")
    say = _clock()
    with _json_file(chosen.json) as json_file:
        open_lab = functools.partial(_lab, chosen=chosen, say=say)
        return int(await module.measure(chosen, _topology(chosen), open_lab, say, json_file))


async def _series(
    lab: "Lab",
    names: Sequence[str],
    repeats: int,
    window_s: float,
    say: Progress,
    results: "list[Result]",
    json_file: TextIO | None,
) -> None:
    """Measure each scenario `repeats` times under one load; the first refusal ends the series."""
    import trio

    from gateway.lab.measure.load import Load
    from gateway.lab.measure.records import json_line
    from gateway.lab.measure.scenarios import SCENARIOS, Measurement

    load = Load(lab, f"{os.getpid()}-{lab.topology.name}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.feed)
        measurement = Measurement(lab, load, say, window_s)
        for name in names:
            for repeat in range(1, repeats + 1):
                say(f"{name}, {lab.topology.system.value}, repeat {repeat} of {repeats}")
                found = await measurement.measure(SCENARIOS[name], repeat)
                results.append(found)
                if json_file is not None:
                    json_file.write(f"{json_line(found)}\n")
                    json_file.flush()
                if not found.healthy_before:
                    break
        nursery.cancel_scope.cancel()
    await load.remove()


@contextlib.asynccontextmanager
async def _lab(topology: "Topology", chosen: argparse.Namespace, say: Progress) -> "AsyncIterator[Lab]":
    """Yield the lab of that name; one that is brought up for this is taken down again."""
    import trio

    from gateway.lab import teardown
    from gateway.lab.errors import LabError
    from gateway.lab.pool import Lab
    from gateway.lab.topology import System

    if teardown.exists(topology.name):
        lab = Lab.attach(topology.name)
        if lab.topology.system is System.PLAIN:
            raise LabError(
                f"lab {topology.name!r} has one manager and nobody to take over: there is nothing to measure"
            )
        if lab.topology.ip_version != 4 and chosen.scenario != FLOOD:
            raise LabError(
                f"lab {topology.name!r} speaks IPv6, and what measures sends and captures IPv4 alone: "
                "bring a lab up without --ip-version 6"
            )
        if topology.system is System.HAD and lab.topology.system is not System.HAD:
            raise LabError(f"lab {topology.name!r} is up, but without HTCondor's HAD: take it down first")
        yield lab
        return
    lab = await Lab.up(topology, say)
    try:
        await lab.wait_ready(READY_S_MAX, say)
        yield lab
    finally:
        if not chosen.keep:
            say(f"taking lab {topology.name!r} down")
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
                await lab.down()


def _topology(chosen: argparse.Namespace) -> "Topology":
    from gateway.config.settings import Forward, OnPartition
    from gateway.lab.topology import Topology

    return Topology(
        name=chosen.name,
        managers=chosen.managers,
        gateways=chosen.gateways,
        execute=chosen.execute,
        slots=chosen.slots,
        forward=Forward(chosen.forward),
        suite=chosen.condor_suite,
        on_partition=None if chosen.on_partition is None else OnPartition(chosen.on_partition),
        # The probe alone asks 200 times a second, more than one client may; what is limited is no fault's doing.
        rate_source=None if chosen.scenario == FLOOD else 0,
    ).checked()


def _had_topology(chosen: argparse.Namespace) -> "Topology":
    from gateway.lab.measure import had

    ours = _topology(chosen)
    return had.topology_of(ours, ours.name[: NAME_MAX - len(HAD_SUFFIX)] + HAD_SUFFIX).checked()


@contextlib.contextmanager
def _json_file(path: Path | None) -> Any:
    """Open the file for the results before anything is brought up: an unwritable one is known at once."""
    from gateway.lab.errors import LabError

    if path is None:
        yield None
        return
    try:
        file = path.open("w")
    except OSError as error:
        raise LabError(f"cannot write {str(path)!r}: {error.strerror}") from error
    with file:
        yield file


def _clock() -> Progress:
    """Return what prints a line of progress with the seconds since now."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", flush=True)

    return say

# ruff: noqa: ASYNC110 (what is waited for happens in other processes)
"""How often should a negotiator negotiate? First match, throughput and CPU by its interval settings, on a real pool.

Rule: one manager and no gateway: what is measured is HTCondor's own clockwork, with RESCHEDULE refused or taken.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import trio

from gateway.lab.measure.ledger import Ledger
from gateway.lab.measure.logs import matches
from gateway.lab.pool import Lab
from gateway.lab.rootfs import USER
from gateway.lab.topology import System, Topology
from gateway.matchmaker import nodefile
from tests.bench import results
from tests.bench.bench_sessions import BENCH_FILE, host_config

SLOTS = 16
PROBES = 5
LOAD_S, WARM_S = 60.0, 5.0  # a whole round of the longest interval
IDLE_S = 20.0
TICK = os.sysconf("SC_CLK_TCK")
PROBE = "universe = vanilla\nexecutable = /usr/bin/true\nshould_transfer_files = NO\nqueue 1\n"
LOAD = (
    "universe = vanilla\nexecutable = /usr/bin/sleep\narguments = $RANDOM_INTEGER(2,4)\nshould_transfer_files = NO\n"
    f"log = /home/{USER}/load.log\nqueue 400\n"
)
NEGOTIATOR_LOG = "/var/log/condor/NegotiatorLog"
# interval, cycle delay, minimum, whether RESCHEDULE is taken
SETTINGS = ((60, 20, 5, True), (60, 20, 5, False), (20, 5, 5, False), (5, 1, 1, False), (1, 0, 0, False))


async def measure(lab: Lab, setting: tuple[int, int, int, bool]) -> dict[str, Any]:
    """Return what one setting gives. The pool is idle before and after."""
    interval, delay, least, taken = setting
    text = f"NEGOTIATOR_INTERVAL = {interval}\nNEGOTIATOR_CYCLE_DELAY = {delay}\nNEGOTIATOR_MIN_INTERVAL = {least}\n"
    text += "" if taken else f"NEGOTIATOR.{nodefile.RESCHEDULE_NAME} = {nodefile.NO_METHOD}\n"
    await _run(lab, "cm1", ["sh", "-c", "cat > /etc/condor/config.d/90-intervals.config"], text)
    # A new negotiator: the schedd's session with the old one would let RESCHEDULE in, whatever is refused from now on.
    await _run(lab, "cm1", ["condor_off", "-fast", "-daemon", "negotiator"])
    await trio.sleep(2)
    await _run(lab, "cm1", ["condor_on", "-daemon", "negotiator"])
    await trio.sleep(2)
    waits = []
    for _ in range(PROBES):
        await trio.sleep(2 + random.random() * min(interval, 10))
        waits.append(await _first_match_s(lab))
    row: dict[str, Any] = {"match s median": statistics.median(waits), "match s max": max(waits)}
    row["idle cpu s/min"] = await _cpu(lab, IDLE_S) * 60 / IDLE_S
    log = lab.file("submit1", f"/home/{USER}/load.log")
    size = log.stat().st_size if log.exists() else 0
    await lab.submit(LOAD)
    await trio.sleep(WARM_S)
    begun = time.time()
    row["load cpu s/min"] = await _cpu(lab, LOAD_S) * 60 / LOAD_S
    ledger = Ledger()
    ledger.read(log.read_bytes()[size:].decode())
    row["jobs/min"] = ledger.per_minute(begun, begun + LOAD_S)
    await _run(lab, "submit1", ["condor_rm", "-all"])
    await trio.sleep(5)
    return {key: round(value, 2) for key, value in row.items()}


async def _first_match_s(lab: Lab) -> float:
    """Submit one job to the idle pool; return how long it waits for its match."""
    begun = time.time()
    cluster = int((await lab.submit(PROBE)).split(".")[0])
    with trio.fail_after(180):
        while True:
            text = lab.file("cm1", NEGOTIATOR_LOG).read_text(errors="replace")
            if found := [one.at for one in matches(text) if one.cluster == cluster]:
                return found[0] - begun
            await trio.sleep(0.2)


async def _cpu(lab: Lab, seconds: float) -> float:
    """Return the CPU-seconds that the negotiator takes in `seconds`."""

    async def ticks() -> int:
        said = await _run(lab, "cm1", ["sh", "-c", "cat /proc/$(pgrep -x condor_negotiat)/stat"])
        return sum(int(word) for word in said.rpartition(")")[2].split()[11:15])

    before = await ticks()
    await trio.sleep(seconds)
    return (await ticks() - before) / TICK


async def _run(lab: Lab, host: str, argv: Sequence[str], text: str | None = None) -> str:
    done = await lab.exec(host, argv, input=text)
    assert done.returncode == 0, f"{argv} on {host}: {done.stderr}"
    return done.stdout


async def bench(suite: str, more_slots: int) -> results.Table:
    """Bring a pool of SLOTS slots up, beside `more_slots` that take no job; return one row a setting."""
    topology = Topology(
        name=f"int{os.getpid()}", system=System.PLAIN, managers=1, gateways=0, suite=suite,
        execute=2 if more_slots else 1, slots=SLOTS,
    )  # fmt: skip
    files = {"exec2": {BENCH_FILE: host_config("tcp", more_slots // 20, 300)}} if more_slots else {}
    lab = await Lab.up(topology, print, files=files)
    table: results.Table = {}
    try:
        with trio.fail_after(180):
            while len((await _run(lab, "cm1", ["condor_status", "-af", "Name"])).split()) < SLOTS + more_slots:
                await trio.sleep(1)
        for setting in SETTINGS:
            row = await measure(lab, setting)
            print(json.dumps({"suite": suite, "slots": SLOTS + more_slots, "setting": setting, **row}), flush=True)
            interval, delay, least, taken = setting
            table[f"{interval}/{delay}/{least}" + (" RESCHEDULE" if taken else "")] = row
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
            await lab.down()
    return table


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=("trixie", "sid"), default="trixie", help="whose HTCondor")
    parser.add_argument("--more-slots", type=int, default=0, help="slots in ads that take no job; a multiple of 20")
    results.add_arguments(parser)
    chosen = parser.parse_args()
    table = trio.run(bench, chosen.suite, chosen.more_slots)
    results.report(f"intervals {chosen.suite} {SLOTS + chosen.more_slots}", table, chosen)


if __name__ == "__main__":
    main()

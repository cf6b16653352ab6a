"""What a broken standby costs the leader: its collector's longest silence, and updates that the other standby missed.

Rule: the same lab for every trial, and none begins before both standbys are warm. As root; 15 minutes with 10 each.
"""

import argparse
import os
import statistics
from typing import Any

import trio

from gateway.lab.topology import Topology
from tests.bench import results
from tests.support.labs import running
from tests.support.standby_faults import FAULTS, leader_of, trial, wait_warm

BEFORE_S, BROKEN_S = 1.5, 3.0


async def measure(lab: Any, repeat: int) -> results.Table:
    """Return the figures of each fault, in milliseconds and updates."""
    table: results.Table = {}
    for fault in FAULTS:
        trials = []
        for turn in range(repeat):
            leader = await leader_of(lab)
            await wait_warm(lab, leader, limit_s=120)
            managers = [host.name for host in lab.topology.hosts if host.name.startswith("cm") and host.name != leader]
            standby = managers[turn % len(managers)]
            # not always at the same moment of a batch of updates
            found = await trial(lab, leader, standby, fault, before_s=BEFORE_S + 0.037 * turn, broken_s=BROKEN_S)
            trials.append(found)
            print(f"{fault} {standby}: {found}", flush=True)
        stalls = [found.longest_s * 1000 for found in trials]
        lost = [found.sent - count for found in trials for count in found.others.values()]
        table[fault] = {
            "trials": repeat,
            "stall_ms_median": round(statistics.median(stalls)),
            "stall_ms_max": round(max(stalls)),
            "updates_sent": sum(found.sent for found in trials),
            "lost_at_other": sum(lost),
            "lost_at_other_max": max(lost),
        }
    return table


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=10, metavar="N", help="trials of each fault (default 10)")
    results.add_arguments(parser)
    chosen = parser.parse_args()
    topology = Topology(name=f"stall{os.getpid()}", managers=3, gateways=1, execute=1, slots=4)
    with running(topology) as lab:
        results.report("standby", trio.run(measure, lab, chosen.repeat), chosen)


if __name__ == "__main__":
    main()

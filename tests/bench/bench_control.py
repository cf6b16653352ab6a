"""What control costs: a real pool of two gateways and three managers, measured by the kernel's own accounts.

Rule: nothing is judged here; figures are saved, and `compare` puts two runs side by side.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import trio

from gateway.lab import cluster
from gateway.lab.pool import Lab
from gateway.lab.topology import Kind, Topology
from tests.bench import results

SETTLE_S = 5.0  # the first elections, primings and announcements are not the steady state


async def measure(*, seconds: float, heartbeat_ms: int, lease_ms: int) -> dict[str, dict[str, Any]]:
    """Run the pool for `seconds` and return what each control process took, by host."""
    topology = Topology(name=f"bench{os.getpid()}", execute=1, slots=1)
    config = cluster.gateway_config(topology)
    config = config.replace(f"heartbeat {cluster.HEARTBEAT}\n", f"heartbeat {heartbeat_ms}ms\n")
    config = config.replace(f"lease {cluster.LEASE}\n", f"lease {lease_ms}ms\n")
    nodes = [host.name for host in topology.hosts if host.kind in (Kind.GATEWAY, Kind.MANAGER)]
    lab = await Lab.up(topology, print, files={name: {cluster.CONFIG_FILE: config} for name in nodes})
    try:
        await lab.wait_ready(120)
        await trio.sleep(SETTLE_S)
        pids = {name: _control_pid(lab, name) for name in nodes}
        told = {name: await _status(lab, name) for name in nodes}
        begun = time.monotonic()
        before = {name: _account(pid) for name, pid in pids.items()}  # after the cost of answering `status`
        await trio.sleep(seconds)
        after = {name: _account(pid) for name, pid in pids.items()}
        lasted_s = time.monotonic() - begun
        found = {}
        for name, pid in pids.items():
            said = await _status(lab, name)
            told_beats, beats = told[name]["heartbeats"], said["heartbeats"]
            leads = [one for one, election in said["elections"].items() if election["leader"] == name]
            found[name] = {
                "leads": " ".join(leads) or "-",
                "cpu %": round((after[name]["cpu_s"] - before[name]["cpu_s"]) / lasted_s * 100, 2),
                "wake-ups/s": round((after[name]["wakeups"] - before[name]["wakeups"]) / lasted_s),
                "sent/s": round((beats["sent_total"] - told_beats["sent_total"]) / lasted_s),
                "received/s": round((beats["received_total"] - told_beats["received_total"]) / lasted_s),
                "late ms max": said.get("timer_late_ms_max"),
                **_memory(pid),
            }
        return found
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
            await lab.down()


async def _status(lab: Lab, name: str) -> dict[str, Any]:
    said = await lab.gateway_status(name)
    assert said is not None, f"{name} does not answer"
    return said


def _control_pid(lab: Lab, name: str) -> int:
    """Return the process that sends the heartbeats: neither the guard above it nor a relay below."""
    first = lab._control(name).first_process()
    assert first is not None, f"{name} is down"
    ours = [pid for pid in _descendants(first.pid) if _is_node(pid)]
    assert ours, f"{name} runs no node:\n{lab.file(name, cluster.LOG_FILE).read_text()[-2000:]}"
    return max(ours, key=lambda pid: _memory(pid)["rss MB"])


def _is_node(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"run" in command and b"gateway.relay" not in command


def _descendants(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def _account(pid: int) -> dict[str, float]:
    """Return what a process has taken of the CPU, ended threads included, and how often its main thread slept."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    slept = next(line.split()[1] for line in status if line.startswith("voluntary_ctxt_switches"))
    # In ticks, but of the scheduler's account in nanoseconds: nothing falls between two ticks.
    return {"cpu_s": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), "wakeups": int(slept)}


def _memory(pid: int) -> dict[str, float]:
    """Return resident, proportional and own memory in MB (2^20 bytes)."""
    kb = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        field, amount = line.split()[:2]
        kb[field.rstrip(":")] = int(amount)
    own = kb.get("Private_Clean", 0) + kb.get("Private_Dirty", 0)
    return {
        "rss MB": round(kb.get("Rss", 0) / 1024, 1),
        "pss MB": round(kb.get("Pss", 0) / 1024, 1),
        "uss MB": round(own / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="measure the control processes of five nodes in a real pool")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--heartbeat-ms", type=int, default=20)
    parser.add_argument("--lease-ms", type=int, default=300, help="as where the file says nothing of it")
    results.add_arguments(parser)
    chosen = parser.parse_args()

    async def run() -> dict[str, dict[str, Any]]:
        return await measure(seconds=chosen.seconds, heartbeat_ms=chosen.heartbeat_ms, lease_ms=chosen.lease_ms)

    results.report("control", trio.run(run), chosen)


if __name__ == "__main__":
    main()

# ruff: noqa: ASYNC110 (what is waited for happens in other processes)
"""How long may a collector's security sessions be? What switches lose and what authenticating costs, by duration.

Rule: what counts is clients with a session of their own, not slots: startds that hold their TCP connection, startds
that update by UDP, and clients that connect anew for each update. All are HTCondor's own code, against a real pool.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from gateway.lab import cluster
from gateway.lab.measure.logs import client_rejections, server_rejections
from gateway.lab.pool import Lab
from gateway.lab.process import namespace_key
from gateway.lab.topology import Kind, Topology
from tests.bench import results

TCP_STARTDS, UDP_STARTDS, FRESH_CLIENTS = 20, 10, 10
STARTDS = TCP_STARTDS + UDP_STARTDS
FRESH_EVERY_S = 2.0
SOON_S = 6.0  # after a switch, of the second one: what was authenticated at the first is so old
READY_S_MAX = 300
TICK = os.sysconf("SC_CLK_TCK")
HOSTS = {"tcp": "exec1", "udp": "exec2"}
BENCH_FILE = "/etc/condor/config.d/70-bench.config"
LEADER = "managers"
# Each of these counts before DEFAULT, which the node's own file sets (src/condor_io/condor_secman.cpp, getSecSetting).
LEVELS = ("READ", "WRITE", "NEGOTIATOR", "DAEMON", "ADVERTISE_STARTD", "ADVERTISE_SCHEDD", "ADVERTISE_MASTER")

CALM = "NEGOTIATOR_INTERVAL = 60\nNEGOTIATOR_CYCLE_DELAY = 20\n"

# The startds of one host: each a process of its own, with its own sessions. They run nothing.
_HOST = """\
DAEMON_LIST = MASTER SHARED_PORT {names}
DC_DAEMON_LIST = + {names}
UPDATE_INTERVAL = {update_s}
UPDATE_OFFSET = 0
UPDATE_COLLECTOR_WITH_TCP = {tcp}
NUM_CPUS = {slots}
MEMORY = {memory}
NUM_SLOTS = {slots}
NUM_SLOTS_TYPE_1 = {slots}
START = False
# Nothing is run: no programs that ask what could be.
STARTER = /usr/bin/true
HIBERNATION_PLUGIN = /usr/bin/true
STARTD_CRON_JOBLIST =
MACHINE_RESOURCE_INVENTORY_GPUS =
"""
_STARTD = """\
{name} = $(STARTD)
{name}.STARTD_NAME = {name}
{name}.STARTD_LOG = $(LOG)/StartLog.{name}
{name}.STARTD_ADDRESS_FILE = $(LOG)/.startd_address.{name}
{name}.STARTD_DAEMON_AD_FILE = $(LOG)/.startd_ad.{name}
"""

# Connects for every update, as condor_advertise does, and counts what the collector refused.
_FRESH = """\
import sys, time
try:
    import htcondor2 as htcondor, classad2 as classad
except ImportError:
    import htcondor, classad
name, every = sys.argv[1], float(sys.argv[2])
htcondor.enable_debug()  # the exception says only that it failed; the debug log says why
collector = htcondor.Collector()
while True:
    ad = classad.ClassAd({"MyType": "Machine", "Name": name, "Machine": name, "MyAddress": "<127.0.0.1:1>",
                          "State": "Unclaimed", "Activity": "Idle", "StartdIpAddr": "<127.0.0.1:1>"})
    try:
        collector.advertise([ad], "UPDATE_STARTD_AD", True)
    except Exception:
        pass
    time.sleep(every)
"""


def host_config(kind: str, slots: int, update_s: int) -> str:
    """Return the configuration of the host whose startds update by `kind`, with `slots` slots each."""
    count = TCP_STARTDS if kind == "tcp" else UDP_STARTDS
    names = [f"{kind}{number:02}" for number in range(count)]
    text = _HOST.format(names=" ".join(names), update_s=update_s, tcp=kind == "tcp", slots=slots, memory=128 * slots)
    return text + "".join(_STARTD.format(name=name) for name in names)


class Bench:
    """One pool, measured at one duration after the other."""

    def __init__(self, lab: Lab, scratch: Path, update_s: int) -> None:
        self.lab = lab
        self.scratch = scratch
        self.update_s = update_s
        self.managers = [host.name for host in lab.topology.of_kind(Kind.MANAGER)]

    async def measure(self, duration_s: int) -> dict[str, Any]:
        """Return what one duration costs, and what it loses at a switch and at another one soon after it."""
        await self._set(_durations(duration_s))
        await self._switch()  # everybody has logged in under this duration from here on
        await trio.sleep(self.update_s + 2)
        # Whole rounds of updates: since the switch all startds send theirs at the same time.
        cpu = await self._cpu(2 * self.update_s)
        logins = await self._authentications(duration_s, self.update_s)
        row: dict[str, Any] = {"logins/s": round(logins / self.update_s, 2), "cpu s/min": round(cpu * 60, 2)}
        first = await self._lost_at_switch(settle_s=SOON_S)
        again = await self._lost_at_switch(settle_s=0)
        for label, lost in (("", first), (" soon", again)):
            row |= {f"{key}{label}": value for key, value in lost.items()}
        return row

    async def _set(self, text: str) -> None:
        for name in self.managers:
            await self._run(name, ["sh", "-c", f"cat > {BENCH_FILE}"], text)
            await self._run(name, ["condor_reconfig", "-daemon", "collector"])

    async def _run(self, host: str, argv: Sequence[str], text: str | None = None) -> str:
        done = await self.lab.exec(host, argv, input=text)
        assert done.returncode == 0, f"{argv} on {host}: {done.stderr}"
        return done.stdout

    # ---- the managers

    async def _leader(self) -> str | None:
        for name in self.managers:
            said = await self.lab.gateway_status(name)
            if said and said["matchmakers"][LEADER]["negotiator_running"]:
                return name
        return None

    async def _switch(self) -> float:
        """Kill the leader; return when that was, after another one serves and the killed one is a candidate again."""
        old = await self._leader()
        assert old is not None, "no manager leads"
        at = await self.lab.kill(old)
        with trio.fail_after(READY_S_MAX):
            while await self._leader() in (None, old):
                await trio.sleep(0.2)
            await self.lab.revive(old)
            while not await self._candidate(old):
                await trio.sleep(0.2)
        return at

    async def _candidate(self, name: str) -> bool:
        said = await self.lab.gateway_status("gw1")
        seen = said["elections"][LEADER]["candidates"].get(name) if said else None
        return bool(seen and seen["fit"] and seen["warm"] and seen["heard_ms_ago"] < 300)

    def _collector(self, host: str) -> int:
        """Return the pid, as this machine counts, of the collector on `host`."""
        first = self.lab._control(host).first_process()
        assert first is not None, f"{host} is down"
        key = namespace_key(Path(f"/proc/{first.pid}/ns/pid"))
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    (path / "comm").read_text().strip() == "condor_collecto"
                    and namespace_key(path / "ns/pid") == key
                    and (path / "exe").readlink().name == "condor_collector"
                    and int((path / "stat").read_text().rpartition(")")[2].split()[1]) in _children(first.pid)
                ):
                    return int(path.name)
            except OSError:
                continue
        raise AssertionError(f"no collector on {host}")

    async def _cpu(self, seconds: float) -> float:
        """Return the CPU-seconds a second of the leader's collector, its forked query workers included."""
        leader = await self._leader()
        assert leader is not None
        pid = self._collector(leader)
        before, begun = _ticks(pid), time.monotonic()
        await trio.sleep(seconds)
        return (_ticks(pid) - before) / TICK / (time.monotonic() - begun)

    async def _authentications(self, duration_s: int, seconds: float) -> int:
        """Return how many clients authenticated in `seconds`: the collector says so in a log that costs CPU itself."""
        leader = await self._leader()
        assert leader is not None
        setting = _durations(duration_s)
        await self._set(f"{setting}COLLECTOR_DEBUG = D_SECURITY\n")
        log = self.lab.file(leader, "/var/log/condor/CollectorLog")
        begun = log.stat().st_size
        await trio.sleep(seconds)
        with log.open("rb") as file:
            file.seek(begun)
            count = file.read().count(b"added incoming session id")
        await self._set(setting)
        return count

    # ---- what is lost

    async def _lost_at_switch(self, settle_s: float) -> dict[str, int]:
        """Switch, and return what was refused, by kind of client, and how many ads stayed stale for a whole round."""
        at = await self._switch()
        until = at + 0.5 + (settle_s or self.update_s + 3)
        await trio.sleep(max(0.0, until - time.time()))
        lost = {kind: sum(found.at >= at for found in self._startds(kind)) for kind in HOSTS}
        leader = await self._leader()
        assert leader is not None
        log = self.lab.file(leader, "/var/log/condor/CollectorLog").read_text(errors="replace")
        lost["udp"] += sum(found.at >= at for found in server_rejections(log))
        lost["fresh"] = self._refused(at)
        if not settle_s:
            lost["stale"] = await self._stale(leader, at)
        return lost

    def _startds(self, kind: str) -> list[Any]:
        folder = self.lab.file(HOSTS[kind], "/var/log/condor")
        texts = [path.read_text(errors="replace") for path in sorted(folder.glob(f"StartLog.{kind}*"))]
        assert texts, f"no logs of {kind} startds in {folder}"
        return [one for text in texts for one in client_rejections(text) if one.kind == "session"]

    def _refused(self, since: float) -> int:
        texts = [path.read_text(errors="replace") for path in sorted(self.scratch.glob("fresh*.log"))]
        return sum(one.at >= since for text in texts for one in client_rejections(text) if one.kind == "session")

    async def _stale(self, leader: str, at: float) -> int:
        """Return how many slots the new leader has not heard of since the switch."""
        said = await self._run(leader, ["condor_status", "-pool", leader, "-af", "Name", "LastHeardFrom"])
        return sum(float(line.split()[1]) < int(at) for line in said.splitlines())


def _durations(seconds: int) -> str:
    return "".join(f"COLLECTOR.SEC_{level}_SESSION_DURATION = {seconds}\n" for level in LEVELS)


def _children(pid: int) -> set[int]:
    """Return `pid`'s descendants of the first two generations: the host's first process, its condor_master."""
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return set(found)


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(word) for word in fields[11:15])  # proc_pid_stat(5): utime, stime, and those of dead children


async def bench(suite: str, slots: int, durations: Sequence[int], repeat: int, scratch: Path) -> results.Table:
    """Bring a pool with `slots` slots up and measure each duration `repeat` times; return one row a duration."""
    each = round(slots / STARTDS)
    update_s = 10 if slots <= 500 else 30
    topology = Topology(name=f"ses{os.getpid()}", managers=2, gateways=1, execute=2, slots=1, suite=suite)
    files = {HOSTS[kind]: {BENCH_FILE: host_config(kind, each, update_s)} for kind in HOSTS}
    # Neither a negotiator that asks for all ads every second nor an impatient probe belongs to the question.
    config = cluster.gateway_config(topology).replace("inter 100ms fall 3", "inter 1s fall 5")
    for host in topology.hosts:
        if host.kind in (Kind.MANAGER, Kind.GATEWAY):
            files[host.name] = {cluster.CONFIG_FILE: config, "/etc/condor/config.d/71-calm.config": CALM}
    lab = await Lab.up(topology, print, files=files)
    table: results.Table = {}
    try:
        bench = Bench(lab, scratch, update_s)
        for number in range(FRESH_CLIENTS):
            await lab.spawn(
                "submit1",
                ["python3", "-c", _FRESH, f"fresh{number}", str(FRESH_EVERY_S)],
                stdout=scratch / f"fresh{number}.log",
                # A tool's own limit is 60 s; the shorter one of both sides counts.
                environment={"_CONDOR_SEC_DEFAULT_SESSION_DURATION": "86400"},
            )
        await _wait_slots(lab, each * STARTDS)
        for round_ in range(repeat):
            for duration_s in durations:
                row = await bench.measure(duration_s)
                print(json.dumps({"suite": suite, "slots": each * STARTDS, "session_s": duration_s, **row}), flush=True)
                table[f"{duration_s} s" + (f" #{round_ + 1}" if repeat > 1 else "")] = row
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
            await lab.down()
    return table


async def _wait_slots(lab: Lab, wanted: int) -> None:
    with trio.fail_after(READY_S_MAX):
        while True:
            done = await lab.exec("submit1", ["condor_status", "-af", "Name"])
            if (seen := len(done.stdout.split())) >= wanted:
                return
            print(f"{seen} of {wanted} slots seen")
            await trio.sleep(2)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=("trixie", "sid"), default="trixie", help="whose HTCondor")
    parser.add_argument("--slots", type=int, default=100)
    parser.add_argument("--durations", default="1,2,5,10,60,86400", help="in seconds, the shortest first")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--scratch", type=Path, required=True, help="an empty folder for the clients' logs")
    results.add_arguments(parser)
    chosen = parser.parse_args()
    chosen.scratch.mkdir(parents=True)
    durations = [int(word) for word in chosen.durations.split(",")]
    table = trio.run(bench, chosen.suite, chosen.slots, durations, chosen.repeat, chosen.scratch)
    results.report(f"sessions {chosen.suite} {chosen.slots}", table, chosen)


if __name__ == "__main__":
    main()

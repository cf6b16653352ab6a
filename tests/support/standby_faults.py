"""A standby that breaks under traffic, in a lab: what the leader's collector and the other standby notice of it.

Rule: figures come from the hosts themselves: answers of the leader's event loop, lines of the collectors' logs.
"""

import functools
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from gateway.lab import rootfs
from gateway.lab.pool import Lab

EXECUTE = "exec1"
COLLECTOR_LOG = "/var/log/condor/CollectorLog"
WARM_S_MAX = 60
STOP_FILE = "/tmp/traffic-ends"
ADS, EVERY_S = 8, 0.2  # fake slots, and how often all of them are sent: 40 updates/s
UPDATE = re.compile(r'MachineSlotAd: (?:Updating|Inserting) .*"< fake\d+@')

_PROBER = """
import json, sys, time
import trio
from gateway.config.settings import Endpoint
from gateway.matchmaker.probe import ProbeFailed, collector_instance

async def main():
    end = time.monotonic() + float(sys.argv[2])
    last = began = time.monotonic()
    longest, at, answers, failed = 0.0, 0.0, 0, []
    while last < end:
        try:
            await collector_instance(Endpoint(sys.argv[1], 9618), timeout_ms=60_000)
        except ProbeFailed as failure:
            failed.append(str(failure))
        now = time.monotonic()
        if now - last > longest:
            longest, at = now - last, last - began
        last, answers = now, answers + 1
        await trio.sleep(0.01)
    print(json.dumps({"longest_s": longest, "at_s": at, "answers": answers, "failed": failed}))

trio.run(main)
"""

# Slots whose machine does not exist: the negotiator passes over an Owner's. Numbered as a startd numbers its ads.
_TRAFFIC = """
import os, subprocess, sys, time

stop, ads, every_s, sequence = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), 0
started = int(time.time())
while not os.path.exists(stop) and time.time() < started + 300:
    begun, sequence = time.monotonic(), sequence + 1
    text = "".join(
        f'MyType = "Machine"\\nTargetType = "Job"\\nName = "fake{place}@{sys.argv[4]}"\\nMachine = "{sys.argv[4]}"\\n'
        f'MyAddress = "<192.0.2.1:9618>"\\nStartdIpAddr = "<192.0.2.1:9618>"\\nState = "Owner"\\nActivity = "Idle"\\n'
        f"DaemonStartTime = {started}\\nUpdateSequenceNumber = {sequence}\\n\\n"
        for place in range(ads)
    )
    command = ["condor_advertise", "-tcp", "-multiple", "UPDATE_STARTD_AD", "-"]
    subprocess.run(command, input=text.encode(), stdout=subprocess.DEVNULL, timeout=30)
    time.sleep(max(begun + every_s - time.monotonic(), 0))
"""

# A process may end between the listing and the look at it: that one was not meant.
_SIGNALLER = """
import os, signal, sys

found = False
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/comm") as name:
            if name.read().strip() != sys.argv[1]:
                continue
        os.kill(int(pid), signal.Signals[sys.argv[2]])
        found = True
    except (FileNotFoundError, ProcessLookupError):
        continue
if not found:
    sys.exit(f"no process is called {sys.argv[1]}")
"""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What one broken standby did to the others."""

    longest_s: float  # in which the leader's collector answered nobody
    warm_s: float  # from the mending until no standby lacked anything, and the leader had seen it
    answers: int
    failed: list[str]
    sent: int  # updates that reached the leader's collector
    others: dict[str, int]  # standby that was well -> how many of them reached it


async def leader_of(lab: Lab, election: str = "managers") -> str:
    """Return the manager that leads now, waiting for one."""
    with trio.fail_after(30):
        while True:
            for host in await lab.status():
                if election in host.leads:
                    return host.name
            await trio.sleep(0.1)


async def warmth(lab: Lab, leader: str) -> dict[str, Any]:
    """Return what the leader says of its standbys: the matchmaker's part of its status."""
    said = await lab.gateway_status(leader)
    return said["matchmakers"]["managers"] if said else {"standbys": {}}


async def wait_warm(lab: Lab, leader: str, limit_s: float = 60) -> dict[str, Any]:
    """Wait until the leader has seen, since this call, that no standby lacks anything; return what it says.

    But for submitters and masters: of a user without jobs no schedd speaks any more, and nobody can ask a master.
    """
    begun = trio.current_time()
    while True:
        said = await warmth(lab, leader)
        waited_s = trio.current_time() - begun
        standbys = said["standbys"].values()
        if standbys and all(_warm(one, waited_s * 1000) for one in standbys):
            return said
        assert waited_s < limit_s, f"not warm after {limit_s} s, said {leader}: {said}"
        await trio.sleep(0.2)


def _warm(standby: dict[str, Any], since_ms: float) -> bool:
    return (
        standby["primed"]
        and standby.get("looked_ms_ago", since_ms) < since_ms
        and standby["extra"] == 0
        and set(standby["lacks"]) <= {"submitter", "master"}
    )


async def signal(lab: Lab, host: str, program: str, name: str) -> None:
    """Send a signal to a program on a host, its forked workers too (its own process ids: nobody else's)."""
    done = await lab.exec(host, ["python3", "-c", _SIGNALLER, program[:15], name])
    assert done.returncode == 0, done.stderr


async def flap(lab: Lab, leader: str, standby: str) -> None:
    """Cut a standby off, again and again, also in the middle of the handshake with which the leader comes back."""
    for turn in range(4):
        await lab.cut(leader, standby)
        await trio.sleep(0.5)
        await lab.heal(leader, standby)
        await trio.sleep(0.2 + 0.15 * turn)
    await lab.cut(leader, standby)


Act = Callable[[Lab, str, str], Awaitable[Any]]
# name -> (break, mend): called with the lab, the leader and the standby
FAULTS: dict[str, tuple[Act, Act]] = {
    "dead": (lambda lab, leader, standby: lab.kill(standby), lambda lab, leader, standby: lab.revive(standby)),
    "frozen": (lambda lab, leader, standby: lab.freeze(standby), lambda lab, leader, standby: lab.thaw(standby)),
    # Its node lives and sends heartbeats; its collector's connections are open.
    "hung": (
        lambda lab, leader, standby: signal(lab, standby, "condor_collector", "SIGSTOP"),
        lambda lab, leader, standby: signal(lab, standby, "condor_collector", "SIGCONT"),
    ),
    "black-holed": (
        lambda lab, leader, standby: lab.cut(leader, standby),
        lambda lab, leader, standby: lab.heal(leader, standby),
    ),
    "flapping": (flap, lambda lab, leader, standby: lab.heal(leader, standby)),
}


async def trial(lab: Lab, leader: str, standby: str, fault: str, *, before_s: float, broken_s: float) -> Trial:
    """Break `standby` under traffic, mend it, and return what the others noticed from the beginning to the end."""
    address = lab.topology.host(leader).address
    seconds = before_s + broken_s + (7 if fault == "flapping" else 3)
    marks = {host.name: _size(lab, host.name) for host in lab.topology.hosts if host.name.startswith("cm")}
    said: dict[str, Any] = {}

    async def probe() -> None:
        environment = {"PYTHONPATH": rootfs.LIBRARY}
        command = ["python3", "-P", "-c", _PROBER, address, str(seconds)]
        done = await lab.exec(leader, command, timeout_s=seconds + 70, environment=environment)
        assert done.returncode == 0, done.stderr
        said.update(json.loads(done.stdout))

    async with trio.open_nursery() as traffic:
        # Until all is warm again: nobody but this sends the ads that the standby has missed.
        await lab.exec(EXECUTE, ["rm", "-f", STOP_FILE])
        command = ["python3", "-c", _TRAFFIC, STOP_FILE, str(ADS), str(EVERY_S), "nowhere.lab.internal"]
        traffic.start_soon(functools.partial(lab.exec, EXECUTE, command, timeout_s=330))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe)
            await trio.sleep(before_s)
            breaks, mends = FAULTS[fault]
            await breaks(lab, leader, standby)
            await trio.sleep(broken_s)
            begun = trio.current_time()
            await mends(lab, leader, standby)
            await wait_warm(lab, await leader_of(lab), WARM_S_MAX)
            warm_s = trio.current_time() - begun
        await lab.exec(EXECUTE, ["touch", STOP_FILE])
    await trio.sleep(0.5)
    got = {name: _updates(lab, name, mark) for name, mark in marks.items()}
    await _withdraw_fakes(lab)
    return Trial(
        longest_s=said["longest_s"],
        warm_s=warm_s,
        answers=said["answers"],
        failed=said["failed"],
        sent=got[leader],
        others={name: count for name, count in got.items() if name not in (leader, standby)},
    )


async def _withdraw_fakes(lab: Lab) -> None:
    """Withdraw the fake slots as a startd does: a standby that is emptied later could get them from nobody."""
    text = "\n".join(
        f'MyType = "Query"\nTargetType = "Machine"\nName = "fake{place}@nowhere.lab.internal"\n'
        'MyAddress = "<192.0.2.1:9618>"\n'
        for place in range(ADS)
    )
    done = await lab.exec(EXECUTE, ["condor_advertise", "-tcp", "-multiple", "INVALIDATE_STARTD_ADS", "-"], input=text)
    assert done.returncode == 0, done.stderr


def _size(lab: Lab, host: str) -> int:
    return lab.file(host, COLLECTOR_LOG).stat().st_size


def _updates(lab: Lab, host: str, mark: int) -> int:
    data = lab.file(host, COLLECTOR_LOG).read_bytes()
    assert len(data) >= mark, f"the log of {host}'s collector was rotated at {time.ctime()}"
    return len(UPDATE.findall(data[mark:].decode(errors="replace")))

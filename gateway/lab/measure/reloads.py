"""`lab measure reload`: the gateway that holds the address is reloaded again and again, under load. What breaks?

Each reload changes the file, so that the new process has something to apply. Flows are the pool's own: the connections
on which its daemons send their ads, open for hours in a real pool. A flow is broken when a host no longer has it.
"""

import argparse
import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TextIO

import msgspec
import trio

from gateway.lab import cluster
from gateway.lab.errors import LabError
from gateway.lab.measure.load import Load
from gateway.lab.pool import Lab
from gateway.lab.topology import Kind, Topology

OK, REFUSED = 0, 1
REPEAT = 100
RELOAD_S_MAX = 120.0
LOAD_S = 20.0  # until jobs run and every daemon has its connection
QUERY_S = 0.1  # between two queries, one after the other
TIMES = ("timeout client 1h", "timeout client 2h")  # in turn; the lab's file has neither

Progress = Callable[[str], None]
Opener = Callable[[Topology], "AbstractAsyncContextManager[Lab]"]
Flow = tuple[str, str]  # host, its own address and port


class Reloads(msgspec.Struct, kw_only=True):
    """What a series of reloads came to.

    `flows` were open before the first, `broken` of them not after the last; `reload_ms` are times of the command.
    """

    forward: str
    ip_version: int
    reloads: int = 0
    refused: list[str] = []
    changed: list[str] = []  # elections whose leader or term is another than before
    flows: int = 0
    broken: list[str] = []
    queries: int = 0
    failed: list[str] = []
    jobs: int = 0
    lost: int | None = None
    reload_ms: list[int] = []

    @property
    def kept(self) -> bool:
        """Whether nobody noticed anything."""
        return not (self.refused or self.changed or self.broken or self.failed or self.lost)


async def measure(
    chosen: argparse.Namespace, wanted: Topology, open_lab: Opener, say: Progress, json_file: TextIO | None
) -> int:
    """Reload the holder of the address as often as asked for; print what came of it.

    Raises:
        LabError: a lab could not be had.
    """
    topology = msgspec.structs.replace(wanted, ip_version=chosen.ip_version, transparent=chosen.transparent).checked()
    async with open_lab(topology) as lab, trio.open_nursery() as nursery:
        load = Load(lab, f"{os.getpid()}-reload")
        nursery.start_soon(load.feed)
        found = await _Series(lab, load, say).run(chosen.repeat or REPEAT)
        nursery.cancel_scope.cancel()
    if json_file is not None:
        json_file.write(f"{msgspec.json.encode(found).decode()}\n")
    print(f"\n{describe(found)}")
    return OK if found.kept else REFUSED


def describe(found: Reloads) -> str:
    """Return the figures as lines."""
    times = sorted(found.reload_ms) or [0]
    lines = [
        f"{found.reloads} reloads of the holder, each with a changed file; "
        f"forward {found.forward}, IPv{found.ip_version}",
        f"  flows broken    {len(found.broken)} of {found.flows} {' '.join(found.broken[:5])}",
        f"  queries failed  {len(found.failed)} of {found.queries} {' '.join(found.failed[:2])}",
        f"  jobs lost       {'not known' if found.lost is None else found.lost} of {found.jobs} that ran",
        f"  lease           {'kept' if not found.changed else 'lost: ' + ', '.join(found.changed)}",
        f"  refused         {len(found.refused)} {' '.join(found.refused[:2])}",
        f"  command         {times[len(times) // 2]} ms median, {times[-1]} ms most",
    ]
    return "\n".join(line.rstrip() for line in lines)


class _Series:
    def __init__(self, lab: Lab, load: Load, say: Progress) -> None:
        self._lab = lab
        self._load = load
        self._say = say
        self.found = Reloads(forward=lab.topology.forward.value, ip_version=lab.topology.ip_version)

    async def run(self, repeat: int) -> Reloads:
        found = self.found
        await trio.sleep(LOAD_S)
        holder, before = await self._elections()
        flows = await self._flows()
        found.flows = len(flows)
        jobs = len(self._load.look().completed_at)
        self._say(f"{holder} holds the address; {len(flows)} flows of the pool's daemons are open")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._query)
            for number in range(repeat):
                await self._reload(holder, number)
                if (number + 1) % 10 == 0:
                    self._say(f"{number + 1} reloads, {len(found.refused)} refused, {found.queries} queries")
            nursery.cancel_scope.cancel()
        left = await self._flows()
        found.broken = sorted(f"{host}:{end}" for host, end in flows - left)
        _, after = await self._elections()
        found.changed = sorted(name for name, leads in before.items() if after.get(name) != leads)
        found.jobs = len(self._load.look().completed_at) - jobs
        lost = await self._load.lost()
        found.lost = None if lost is None else len(lost)
        return found

    async def _reload(self, holder: str, number: int) -> None:
        now, then = TIMES[number % 2], TIMES[1 - number % 2]
        change = (
            f"sed -i -e '/{then}/d' -e 's/^\\( *\\)default_backend managers/\\1{now}\\n&/' {cluster.CONFIG_FILE}"
            f" && exec condor-gateway reload -f {cluster.CONFIG_FILE}"
        )
        began = time.monotonic()
        try:
            done = await self._lab.exec(holder, ["sh", "-c", change], timeout_s=RELOAD_S_MAX)
        except LabError as error:
            self.found.refused.append(str(error))
            return
        self.found.reloads += 1
        self.found.reload_ms.append(round((time.monotonic() - began) * 1000))
        if done.returncode:
            self.found.refused.append((done.stderr or done.stdout).strip())

    async def _query(self) -> None:
        """Ask the collector through the address, one tool after the other, until cancelled."""
        while True:
            try:
                done = await self._lab.exec("submit1", ["condor_status", "-schedd", "-af", "Name"])
                said = "" if done.returncode == 0 and "submit1" in done.stdout else (done.stderr or "no schedd").strip()
            except LabError as error:
                said = str(error)
            self.found.queries += 1
            if said:
                self.found.failed.append(said)
            await trio.sleep(QUERY_S)

    async def _flows(self) -> set[Flow]:
        """Return the connections from the pool's hosts to the virtual address that last: seen twice, a second apart."""
        seen = await self._connections()
        await trio.sleep(1)
        return seen & await self._connections()

    async def _connections(self) -> set[Flow]:
        topology = self._lab.topology
        found: set[Flow] = set()
        for host in (*topology.of_kind(Kind.SUBMIT), *topology.of_kind(Kind.EXECUTE)):
            listed = await self._lab.exec(
                host.name, ["ss", "-Htn", "state", "established", "dst", topology.condor_host]
            )
            found |= {(host.name, end) for end in re.findall(r"^\d+ +\d+ +(\S+)", listed.stdout, re.MULTILINE)}
        return found

    async def _elections(self) -> tuple[str, dict[str, Any]]:
        """Return who holds the address, and leader and term of each election."""
        said = await self._lab.gateway_status(self._lab.topology.of_kind(Kind.GATEWAY)[0].name)
        if said is None:
            raise LabError("a gateway does not say who leads")
        elections = {name: (one["leader"], one["term"]) for name, one in said["elections"].items()}
        holders = [one["leader"] for one in said["elections"].values() if one["kind"] == "address"]
        if not holders or holders[0] is None:
            raise LabError("nobody holds the address")
        return holders[0], elections

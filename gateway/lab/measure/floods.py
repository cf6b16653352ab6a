"""Floods from one host of a pool, and whether the pool's own connections are served meanwhile.

What is asked is what the pool's users and hosts do: condor_status through the address, ads of slots, jobs. Beside it
stands what the flood costs: memory and processor of the relay and of the elected collector.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from gateway.lab import process
from gateway.lab.errors import LabError
from gateway.lab.measure import flood
from gateway.lab.measure.load import SUBMIT_HOST, Load
from gateway.lab.measure.view import cluster_view
from gateway.lab.pool import Lab
from gateway.lab.rootfs import LIBRARY
from gateway.lab.topology import CONDOR_PORT, Kind

FLOODER = "submit2"  # a host of the pool that has nothing else to do
RATES = {flood.SILENT: 5_000, flood.DATAGRAMS: 20_000, flood.IDLE: 1_000}
# Silent ones are held open until somebody ends them; idle ones are more than the relay takes of one client or of all.
OPEN_MAX = {flood.SILENT: 50_000, flood.DATAGRAMS: 1, flood.IDLE: 6_000}
JOB_SECONDS = (1,)  # so that each slot tells the collector of itself several times a second
ASK_S, ASK_S_MAX = 0.1, 20.0  # HTCondor's own tools give up after 20 s
LOOK_S = 0.2
END_S_MAX = 20.0  # the flooder ends by itself; the machine may be slow
_FLOOD = ["/usr/bin/python3", "-S", "-E", f"{LIBRARY}/gateway/lab/measure/flood.py"]

Progress = Callable[[str], None]


class Cost(msgspec.Struct):
    """What some processes used in a span of time: the most memory at a time, and processor as a share of one core."""

    kib_max: int = 0
    cores: float = 0.0


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What the pool did in a span of time. `asked` counts calls of condor_status, `ads` updates of slots that came."""

    seconds: float
    asked: int
    failed: int
    ask_ms_median: float | None
    ask_ms_max: float | None
    ads: int
    jobs: int
    relay: Cost
    collector: Cost


class FloodResult(msgspec.Struct, frozen=True, kw_only=True):
    """One flood. `flooder` is what the generator says of itself, `counters` what the relay counted meanwhile.

    `elections` are the leaders that changed: there should be none.
    """

    kind: str
    forward: str
    ip_version: int
    before: Served
    during: Served
    flooder: dict[str, float]
    counters: dict[str, int]
    elections: dict[str, str]


class _Meter:
    """Memory and processor of the processes of a host with `mark` in their command lines."""

    def __init__(self, lab: Lab, host: str, mark: str) -> None:
        self._lab, self._host, self._mark = lab, host, mark
        self.cost = Cost()
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._pids = lab.processes(host, mark)

    def look(self) -> None:
        """Take one reading."""
        kib = 0
        for pid in self._pids:
            if (found := process.used(pid)) is not None:
                kib += found[0]
                self._first.setdefault(pid, found[1])
                self._last[pid] = found[1]
        self.cost.kib_max = max(self.cost.kib_max, kib)

    def result(self, seconds: float) -> Cost:
        """Return what was used since the first reading."""
        self.cost.cores = round(sum(self._last[pid] - self._first[pid] for pid in self._last) / seconds, 3)
        return self.cost


class Floods:
    """Floods on a lab that is up, whose `load` runs jobs of a second. One at a time."""

    def __init__(self, lab: Lab, load: Load, say: Progress) -> None:
        if FLOODER not in {host.name for host in lab.topology.of_kind(Kind.SUBMIT)}:
            raise LabError(f"lab {lab.topology.name!r} has nobody to flood it: bring one up with two submit hosts")
        self._lab = lab
        self._load = load
        self._say = say

    async def measure(self, kind: str, seconds: float, before_s: float) -> FloodResult:
        """Look at the pool for `before_s`, then flood it for `seconds` and look at it meanwhile.

        Raises:
            LabError: nobody is elected, or the flooder could not be run.
        """
        elected, holder = await self._leaders()
        self._say(f"{kind}: before it")
        before = await self._watch(before_s, elected, holder)
        counted = await self._counters(holder)
        self._say(f"{kind}: {RATES[kind]} a second for {seconds:g} s from {FLOODER}")
        said = self._lab.folder / f"flood-{kind}.json"
        flooding = await self._lab.spawn(FLOODER, self._argv(kind, seconds), stdout=said)
        try:
            during = await self._watch(seconds, elected, holder)
            with trio.move_on_after(END_S_MAX):
                await flooding.wait()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_S_MAX):
                await flooding.stop()
        now = await self._counters(holder)
        leaders = await self._leaders()
        return FloodResult(
            kind=kind,
            forward=str(self._lab.topology.forward),
            ip_version=self._lab.topology.ip_version,
            before=before,
            during=during,
            flooder=_said(said, await trio.Path(said).read_text()),
            counters={name: value - counted.get(name, 0) for name, value in now.items() if value != counted.get(name)},
            elections={was: is_now for was, is_now in zip((elected, holder), leaders, strict=True) if was != is_now},
        )

    def _argv(self, kind: str, seconds: float) -> list[str]:
        topology = self._lab.topology
        numbers = (CONDOR_PORT, RATES[kind], seconds, OPEN_MAX[kind])
        return [*_FLOOD, kind, topology.virtual_address, *map(str, numbers)]

    async def _leaders(self) -> tuple[str, str]:
        """Return the elected manager and the holder of the address."""
        for host in self._lab.topology.of_kind(Kind.GATEWAY):
            if (said := await self._lab.gateway_status(host.name)) is not None:
                view = cluster_view(said)
                if view.leader and view.holder:
                    return view.leader, view.holder
        raise LabError(f"lab {self._lab.topology.name!r} has no elected manager, or nobody holds its address")

    async def _counters(self, holder: str) -> dict[str, int]:
        """Return what the holder's relay has counted at the pool's address, TCP and UDP together."""
        said = await self._lab.gateway_status(holder)
        found: dict[str, int] = {}
        listeners: dict[str, dict[str, Any]] = (said or {}).get("relay", {}).get("listeners", {})
        for counted in listeners.values():
            for name, value in counted.items():
                if isinstance(value, int):
                    found[name] = found.get(name, 0) + value
        return found

    async def _watch(self, seconds: float, elected: str, holder: str) -> Served:
        """Use the pool for so long and return how it went."""
        relay = _Meter(self._lab, holder, "gateway.relay")
        collector = _Meter(self._lab, elected, "condor_collector")
        asked: list[float | None] = []
        numbers: list[dict[str, int]] = []
        jobs = len(self._load.look().completed_at)
        began = time.monotonic()

        async def look() -> None:
            while True:  # ends with the time
                relay.look()
                collector.look()
                await trio.sleep(LOOK_S)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            while time.monotonic() < began + seconds:
                asked.append(await self._ask(numbers))
                await trio.sleep(ASK_S)
            nursery.cancel_scope.cancel()
        took_s = time.monotonic() - began
        answered = [ms for ms in asked if ms is not None]
        return Served(
            seconds=round(took_s, 2),
            asked=len(asked),
            failed=len(asked) - len(answered),
            ask_ms_median=round(statistics.median(answered), 1) if answered else None,
            ask_ms_max=round(max(answered), 1) if answered else None,
            ads=_ads(numbers),
            jobs=len(self._load.look().completed_at) - jobs,
            relay=relay.result(took_s),
            collector=collector.result(took_s),
        )

    async def _ask(self, numbers: list[dict[str, int]]) -> float | None:
        """Ask for every slot through the address; return how many ms it took, None where no whole answer came."""
        began = time.monotonic()
        argv = ["condor_status", "-af", "Name", "UpdateSequenceNumber"]
        try:
            done = await self._lab.exec(SUBMIT_HOST, argv, timeout_s=ASK_S_MAX)
        except LabError:
            return None
        took_ms = (time.monotonic() - began) * 1_000
        pairs = [line.split() for line in done.stdout.splitlines()]
        if done.returncode != 0 or len(pairs) < self._lab.topology.execute * self._lab.topology.slots:
            return None
        numbers.append({name: int(number) for name, number in pairs})
        return took_ms


def _ads(numbers: list[dict[str, int]]) -> int:
    """Return how many updates of slots came between the first answer and the last: each ad is numbered by its slot."""
    if not numbers:
        return 0
    return sum(max(0, numbers[-1].get(name, number) - number) for name, number in numbers[0].items())


def _said(path: Path, text: str) -> dict[str, float]:
    try:
        found: dict[str, float] = json.loads(text)
    except ValueError:
        raise LabError(f"the flooder failed: {text.strip() or f'it left nothing in {str(path)!r}'}") from None
    return found

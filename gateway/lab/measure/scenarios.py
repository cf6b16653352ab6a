"""A fault, and what the pool does about it: prove health, break, watch, mend; once a repeat. Figures are `evidence`'s.

No repeat is tried again: a pool that is not healthy before the fault ends the series, and the reason is its result.
"""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import trio

from gateway.lab.errors import LabError
from gateway.lab.measure import evidence, health, observe
from gateway.lab.measure.books import Books
from gateway.lab.measure.evidence import Fault
from gateway.lab.measure.ledger import Job
from gateway.lab.measure.load import SUBMIT_HOST, Load
from gateway.lab.measure.records import Result
from gateway.lab.measure.view import ClusterView
from gateway.lab.pool import VIRTUAL_ADDRESS, Lab, Spawned
from gateway.lab.rootfs import LIBRARY
from gateway.lab.topology import CONDOR_PORT, Kind, System

Progress = Callable[[str], None]

WINDOW_S = 60.0  # jobs per minute are counted over this span before the fault and after it
LOOK_S = 0.5
SAY_S = 10.0
REPAIR_S_MAX = 60.0
PROBE_LEAD_S = 2.0
# HTCondor's own daemons give a repaired pool back within 370 s (measured); ours within seconds.
HEALTHY_S_MAX = {System.OURS: 180.0, System.HAD: 600.0, System.PLAIN: 180.0}
# After the window, how long a first match is waited for: condor_had took up to 124 s (measured), by its rules 126 s.
MATCH_S_MAX = {System.OURS: 60.0, System.HAD: 300.0, System.PLAIN: 60.0}

_PROBE = ["/usr/bin/python3", "-S", "-E", f"{LIBRARY}/gateway/lab/measure/probe.py"]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Who is broken ("leader": the elected manager, "holder": who has the address) and how."""

    name: str
    victim: str
    fault: str  # "kill" or "link_down", as `Lab` names it
    repair: str
    text: str


SCENARIOS = {
    one.name: one
    for one in (
        Scenario(
            name="manager-kill",
            victim="leader",
            fault="kill",
            repair="revive",
            text="SIGKILL every process of the elected manager",
        ),
        Scenario(
            name="manager-link-down",
            victim="leader",
            fault="link_down",
            repair="link_up",
            text="pull the cable of the elected manager",
        ),
        Scenario(
            name="gateway-kill",
            victim="holder",
            fault="kill",
            repair="revive",
            text="SIGKILL every process of the gateway that holds the address",
        ),
    )
}


class Unhealthy(Exception):  # noqa: N818 (an answer, not a mistake)
    """The pool may not be measured; `reasons` say why."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class Measurement:
    """One lab under load. `measure` runs one repeat; repeats of several scenarios may follow one another."""

    def __init__(self, lab: Lab, load: Load, say: Progress, window_s: float = WINDOW_S) -> None:
        self.lab = lab
        self.load = load
        self.say = say
        self.window_s = window_s
        self.logs = observe.Logs(lab)
        self._steady_since = time.time()  # nothing was broken or mended since
        self._lost: set[Job] = set()  # of earlier repeats: each job is lost once
        self._restarted: set[Job] = set()

    @property
    def system(self) -> System:
        """What makes this lab's matchmaker available."""
        return self.lab.topology.system

    async def measure(self, scenario: Scenario, repeat: int) -> Result:
        """Run one repeat and return its figures, or why there are none."""
        self.logs.mark()
        try:
            seen = await self._healthy()
        except Unhealthy as refusal:
            self.say(f"not measured: {refusal}")
            return Result(
                scenario=scenario.name,
                system=self.system.value,
                repeat=repeat,
                healthy_before=False,
                refused=refusal.reasons,
            )
        books = Books(self.lab, self.say) if scenario.victim == "leader" else None
        async with self._probing() as recorded:
            await trio.sleep(PROBE_LEAD_S)
            self.say(f"{scenario.text}: {self._victim(scenario, seen)[0]}")
            if books is not None:
                await books.open(self._victim(scenario, seen)[0], repeat)
            fault = self._fault(scenario, repeat, seen)
            try:
                await getattr(self.lab, scenario.fault)(fault.victim)
                await self._watch(fault)
                until = time.time()
                lost = await self.load.lost()
                if books is not None:
                    await books.close(fault.at)
            finally:
                await self._mend(scenario, fault.victim)
        figures = self._result(fault, until, lost, recorded)
        return figures if books is None else msgspec.structs.replace(figures, **await books.figures())

    def _victim(self, scenario: Scenario, seen: ClusterView) -> tuple[str, str | None]:
        """Return who is to be broken, and the election that this ends."""
        victim, election = {
            "leader": (seen.leader, seen.matchmaker_election),
            "holder": (seen.holder, seen.address_election),
        }[scenario.victim]
        assert victim is not None, "a healthy pool has a leader, and a holder where it has an address"
        return victim, election

    def _fault(self, scenario: Scenario, repeat: int, seen: ClusterView) -> Fault:
        """Name the fault; its time is taken just before it is made, so that no figure can be too small."""
        victim, election = self._victim(scenario, seen)
        return Fault(
            scenario=scenario.name,
            system=self.system.value,
            repeat=repeat,
            victim=victim,
            at=time.time(),
            window_s=self.window_s,
            election=election,
            down=frozenset({self.lab.topology.host(victim).address}),
        )

    async def _healthy(self) -> ClusterView:
        """Wait until the pool was undisturbed for a whole window and nothing speaks against it.

        Raises:
            Unhealthy: not within `HEALTHY_S_MAX`.
        """
        limit = time.time() + HEALTHY_S_MAX[self.system] + self.window_s
        await self._first_job(limit)
        steady_from = max(self._steady_since + self.window_s, time.time())
        self.say(f"jobs run for {max(0.0, steady_from - time.time()):.0f} s before anything is broken")
        await self._wait_saying(steady_from)
        reasons: tuple[str, ...] = ()
        while time.time() < limit:
            seen = await observe.view(self.lab)
            found = health.objections(await observe.snapshot(self.lab, self.load, seen, self.window_s))
            if not found:
                return seen
            if found != reasons:
                self.say(f"waiting for health: {'; '.join(found)}")
            reasons = found
            await self._wait_saying(time.time() + 3.0)
        raise Unhealthy((*reasons, *self.load.failures[-1:]))

    async def _first_job(self, limit: float) -> None:
        """Wait for the first job to complete: until then the queue is being filled, and rates mean nothing."""
        while not self.load.look().completed_at:
            if time.time() >= limit:
                raise Unhealthy(("no job has completed", *self.load.failures[-1:]))
            await trio.sleep(LOOK_S)
        self._steady_since = max(self._steady_since, self.load.ledger.completed_at[0])

    async def _watch(self, fault: Fault) -> None:
        """Watch the window after the fault go by, and longer when nothing was matched in it; say what happens."""
        elected = matched = False
        spoken = fault.at
        window_end = fault.at + self.window_s
        while time.time() < window_end + MATCH_S_MAX[self.system]:
            if not (elected and matched):
                negotiators = self._negotiators(fault.victim)
                won = evidence.winner(fault, self.logs.nodes(), negotiators)
                match = evidence.first_match(negotiators, fault.at)
                if won and not elected:
                    self.say(f"{won[1]} is elected {won[0] - fault.at:.2f} s after the fault")
                if match and not matched:
                    self.say(f"first new match {match - fault.at:.2f} s after the fault")
                elected, matched = won is not None, match is not None
            elif time.time() >= window_end:
                return
            if time.time() - spoken >= SAY_S:
                spoken = time.time()
                self._say_rate(fault.at, spoken)
            await trio.sleep(LOOK_S)
        self.say("no new match" if elected else "nobody was elected")

    def _negotiators(self, victim: str) -> dict[str, str]:
        # What a victim still writes after the fault is no match: it reaches nobody.
        return {host: text for host, text in self.logs.condor(Kind.MANAGER, "NegotiatorLog").items() if host != victim}

    async def _wait_saying(self, moment: float) -> None:
        while time.time() < moment:
            before = time.time()
            await observe.sleep_until(min(moment, before + SAY_S))
            if time.time() - before >= SAY_S:
                self._say_rate(time.time() - min(self.window_s, 30.0), time.time())

    def _say_rate(self, since: float, until: float) -> None:
        ledger = self.load.look()
        rate = ledger.per_minute(since, until)
        self.say(f"{rate:.0f} jobs per minute in the last {until - since:.0f} s, {ledger.idle} idle")

    async def _mend(self, scenario: Scenario, victim: str) -> None:
        """Undo the fault, also when this measurement is being given up."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + REPAIR_S_MAX):
            try:
                await getattr(self.lab, scenario.repair)(victim)
            except LabError as error:
                self.say(f"{victim} could not be mended: {error}")
        self._steady_since = time.time()
        self.say(f"{victim} is mended")

    @contextlib.asynccontextmanager
    async def _probing(self) -> AsyncIterator[Path | None]:
        """Probe the address from the submit host while the block runs; yields the file of what was seen."""
        if self.system is not System.OURS:
            yield None
            return
        path = self.lab.folder / f"probe-{os.getpid()}.txt"
        probe: Spawned = await self.lab.spawn(
            SUBMIT_HOST, [*_PROBE, VIRTUAL_ADDRESS, str(CONDOR_PORT), "eth0", "-"], stdout=path
        )
        try:
            yield path
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
                await probe.stop()

    def _result(self, fault: Fault, until: float, lost: set[Job] | None, recorded: Path | None) -> Result:
        ledger = self.load.look()
        found = evidence.Evidence(
            until=until,
            nodes=self.logs.nodes(),
            negotiators=self._negotiators(fault.victim),
            startds=self.logs.condor(Kind.EXECUTE, "StartLog"),
            clients=self.logs.clients(),
            collectors=self.logs.condor(Kind.MANAGER, "CollectorLog"),
            ledger=ledger,
            lost=None if lost is None else len(lost - self._lost),
            restarted=len(ledger.restarted() - self._restarted),
            probe=None if recorded is None else recorded.read_text(),
        )
        self._lost |= lost or set()
        self._restarted |= ledger.restarted()
        return evidence.result(fault, found)

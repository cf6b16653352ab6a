"""A pool cut in two halves that both go on, and healed: who led, what was matched, and what is left of both histories.

Rule: the pool is edited and loaded as two sites would; nothing of the system under measure is told of the cut.
"""

import time
from collections.abc import Callable, Mapping

import msgspec
import trio

from gateway.lab import cluster
from gateway.lab.errors import LabError
from gateway.lab.measure import accounts, logs, observe, partition_edits, usage
from gateway.lab.measure.audit import Cut, Witnesses
from gateway.lab.measure.load import SUBMIT_HOST, Load
from gateway.lab.measure.partition_edits import Plan
from gateway.lab.measure.partition_records import PartitionResult, SideFigures
from gateway.lab.measure.userprio import Prio
from gateway.lab.pool import Lab
from gateway.lab.topology import Kind, System

Progress = Callable[[str], None]

NEGOTIATOR = "condor_negotiator"
LOOK_S = 0.1
HEALTHY_S_MAX = {System.OURS: 120.0, System.HAD: 600.0, System.PLAIN: 120.0}
LED_S_MAX = {System.OURS: 30.0, System.HAD: 200.0, System.PLAIN: 30.0}  # condor_had took up to 124 s (measured)
ONE_LEADER_S_MAX = {System.OURS: 60.0, System.HAD: 180.0, System.PLAIN: 60.0}
MERGED_S_MAX = 60.0
ANSWER_S_MAX = 90.0
# A negotiator waits up to 30 s for each schedd that is cut off, and answers nobody meanwhile (seen: 52 s in all).
EDIT_S_MAX = 150.0
RECENT_S = 20.0  # a side whose jobs end rarer than this does not run
REPLICATED_S = 2.0  # what is edited before the cut is to be on both sides; whole files took up to a second
SILENT_S = 5.0  # of a queue: worth a word
SETTLE_S = 10.0  # the longest job: every slot has told the one collector of its next state
REPAIR_S_MAX = 30.0


class Refused(Exception):  # noqa: N818 (an answer, not a mistake)
    """This partition cannot be measured; `reasons` say why."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class Partition:
    """One lab under the load of both its halves. `measure` runs one repeat."""

    def __init__(self, lab: Lab, loads: tuple[Load, Load], say: Progress, window_s: float) -> None:
        self.lab = lab
        self.loads = loads
        self.say = say
        self.window_s = window_s
        self.sides = tuple(frozenset(half) for half in lab.topology.halves)
        self._lost = 0

    @property
    def system(self) -> System:
        """What makes this lab's matchmaker available."""
        return self.lab.topology.system

    async def measure(self, repeat: int) -> PartitionResult:
        """Cut, edit, heal, and return what came of it, or why nothing was measured."""
        found = PartitionResult(system=self.system.value, repeat=repeat, healthy_before=False)
        if self.lab.topology.on_partition is not None:
            found = msgspec.structs.replace(found, on_partition=self.lab.topology.on_partition.value)
        try:
            leader = await self._healthy()
            found = msgspec.structs.replace(found, healthy_before=True)
            return await self._measure(found, leader)
        except (Refused, LabError) as refusal:
            self.say(f"not measured: {refusal}")
            reasons = refusal.reasons if isinstance(refusal, Refused) else (str(refusal),)
            return msgspec.structs.replace(found, refused=reasons)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REPAIR_S_MAX):
                await self.lab.mend()

    async def _measure(self, found: PartitionResult, leader: str) -> PartitionResult:
        plan = partition_edits.plan(found.repeat)
        for edit in plan.before:
            await accounts.edit(self.lab, leader, edit)
        await trio.sleep(REPLICATED_S)
        base = await self._ask(SUBMIT_HOST)
        at = await self.lab.partition(self.lab.topology.halves[0])
        self.say(f"the pool is cut: {' '.join(sorted(self.sides[0]))} | {' '.join(sorted(self.sides[1]))}")
        self.loads[1].add_user(partition_edits.ADDED_BY_JOBS)
        led = await self._wait_led(at)
        await self._edit(plan, [name for name, _ in led])
        await observe.sleep_until(max(time.time(), at + max(seconds for _, seconds in led)) + self.window_s)
        apart = [await accounts.ask_until(self.lab, name, ANSWER_S_MAX, name) for name, _ in led]
        healed = await self.lab.mend()
        self.say(f"healed after {healed - at:.0f} s")
        one_leader_s = await self._wait_one_leader(healed)
        merged_s, merge = await self._wait_merged(plan, healed)
        await trio.sleep(SETTLE_S)
        after = await self._ask(SUBMIT_HOST)
        seen = self._witnesses(Cut(at, healed, self.sides))
        audit = seen.compare(base, after)
        return msgspec.structs.replace(
            found,
            at=at,
            cut_s=healed - at,
            sides=tuple(
                self._side(number, led[number], base, apart[number], seen, healed) for number in range(len(self.sides))
            ),
            one_leader_s=one_leader_s,
            merged_s=merged_s,
            status_merge=merge,
            negotiator_gap_s=usage.longest_cycle_s(seen.all_cycles(), healed, after.at),
            negotiators_after=len(await self.lab.running(NEGOTIATOR)),
            usage_error_s=audit.error_s,
            usage_bound_s=audit.bound_s,
            usage=audit.users,
            edits_made=len(plan.one_sided),
            edits_lost=partition_edits.lost(plan.one_sided, after),
            conflict_value=partition_edits.conflict_value(plan, after),
            conflict_reported=self._reported(at),
            jobs_lost=await self._jobs_lost(),
        )

    # ---- before the cut

    async def _healthy(self) -> str:
        """Return the leader once nothing speaks against the pool.

        Raises:
            Refused: not within `HEALTHY_S_MAX`.
        """
        limit = time.time() + HEALTHY_S_MAX[self.system]
        spoken: tuple[str, ...] = ()
        while True:  # ends with a healthy pool, or at the limit
            leader, reasons = await self._objections()
            if leader is not None and not reasons:
                return leader
            if time.time() >= limit:
                raise Refused(*reasons, *(one.failures[-1] for one in self.loads if one.failures))
            if reasons != spoken:
                self.say(f"waiting for health: {'; '.join(reasons)}")
            spoken = reasons
            await trio.sleep(1.0)

    async def _objections(self) -> tuple[str | None, tuple[str, ...]]:
        seen = await observe.view(self.lab)
        reasons = [] if seen.leader else ["no elected manager"]
        reasons += [f"not fit: {name}" for name in (*seen.managers_unfit, *seen.gateways_unfit)]
        wanted = self.lab.topology.execute * self.lab.topology.slots
        if (slots := await observe.slots_seen(self.lab)) != wanted:
            reasons.append(f"{slots} of {wanted} slots in the collector")
        now = time.time()
        for load in self.loads:
            if not any(at > now - RECENT_S for at in load.look().completed_at):
                reasons.append(f"no job of {load.host} has ended in {RECENT_S:.0f} s")
        return seen.leader, tuple(reasons)

    # ---- during the cut

    async def _wait_led(self, at: float) -> list[tuple[str, float]]:
        """Return for each side the manager that runs a negotiator, and since how long after the cut.

        Raises:
            Refused: one side has none within `LED_S_MAX`.
        """
        found: dict[int, tuple[str, float]] = {}
        while len(found) < len(self.sides):
            running = await self.lab.running(NEGOTIATOR)
            since = time.time() - at
            for number, side in enumerate(self.sides):
                if number not in found and (names := sorted(side.intersection(running))):
                    found[number] = names[0], since
                    self.say(f"{names[0]} leads its side {since:.1f} s after the cut")
            if since > LED_S_MAX[self.system]:
                raise Refused("only one side has a negotiator: does its file say 'on-partition serve'?")
            await trio.sleep(LOOK_S)
        return [found[number] for number in range(len(self.sides))]

    async def _edit(self, plan: Plan, leaders: list[str]) -> None:
        async def on_side(number: int) -> None:
            # All at once: each waits for the end of a cycle, and none touches what another one does.
            async with trio.open_nursery() as nursery:
                for edit in (*plan.sides[number], plan.conflict[number]):
                    nursery.start_soon(accounts.edit_until, self.lab, leaders[number], edit, EDIT_S_MAX)
            self.say(f"{leaders[number]} has taken its side's edits")

        async with trio.open_nursery() as nursery:
            for number in range(len(leaders)):
                nursery.start_soon(on_side, number)
        self.say(f"{len(plan.one_sided)} edits are made, one side's or the other's, and one on both")

    # ---- after it

    async def _wait_one_leader(self, healed: float) -> float | None:
        """Wait for one leader of which all nodes know, with the only negotiator; return how long that took."""
        limit = healed + ONE_LEADER_S_MAX[self.system]
        while time.time() < limit:
            running = await self.lab.running(NEGOTIATOR)
            if len(running) == 1 and await self._agreed(running[0]):
                self.say(f"{running[0]} alone leads {time.time() - healed:.1f} s after the heal")
                return time.time() - healed
            await trio.sleep(LOOK_S)
        self.say("there is no one leader")
        return None

    async def _agreed(self, leader: str) -> bool:
        if self.system is not System.OURS:
            return True
        leaders: dict[str, set[str | None]] = {}
        for host in (*self.lab.topology.of_kind(Kind.GATEWAY), *self.lab.topology.of_kind(Kind.MANAGER)):
            said = await self.lab.gateway_status(host.name)
            if said is None:
                return False
            for election in said["elections"].values():
                leaders.setdefault(election["kind"], set()).add(election["leader"])
        one_each = all(len(names) == 1 and None not in names for names in leaders.values())
        return one_each and leaders.get("matchmaker") == {leader}

    async def _wait_merged(self, plan: Plan, healed: float) -> tuple[float | None, dict[str, object] | None]:
        """Wait until what both sides edited shows through the pool's own door; return when, and what status says."""
        while time.time() < healed + MERGED_S_MAX:
            prio = await accounts.ask(self.lab, SUBMIT_HOST)
            if prio is not None and not partition_edits.lost(plan.one_sided, prio):
                self.say(f"both sides' edits show {time.time() - healed:.1f} s after the heal")
                return time.time() - healed, await self._status_merge()
            await trio.sleep(LOOK_S)
        self.say(f"the edits of both sides are not there {MERGED_S_MAX:.0f} s after the heal")
        return None, await self._status_merge()

    async def _status_merge(self) -> dict[str, object] | None:
        for host in self.lab.topology.of_kind(Kind.MANAGER):
            said = await self.lab.gateway_status(host.name) or {}
            for matchmaker in said.get("matchmakers", {}).values():
                merge = (matchmaker.get("accounting") or {}).get("last_merge")
                if isinstance(merge, dict):
                    return merge
        return None

    async def _ask(self, host: str) -> Prio:
        found = await accounts.ask_until(self.lab, host, ANSWER_S_MAX)
        if found is None:
            raise Refused(f"condor_userprio gave no answer on {host} within {ANSWER_S_MAX:.0f} s")
        return found

    def _witnesses(self, cut: Cut) -> Witnesses:
        return accounts.witnesses(self.lab, observe.Logs(self.lab), {}, cut)

    def _side(
        self, number: int, led: tuple[str, float], base: Prio, apart: Prio | None, seen: Witnesses, healed: float
    ) -> SideFigures:
        leader, led_s = led
        side, cut = self.sides[number], seen.cut
        assert cut is not None, "a partition's witnesses know of the cut"
        own = {slot for host in side & seen.slots.keys() for slot in seen.slots[host]}
        read = observe.Logs(self.lab)
        texts = read.condor(Kind.EXECUTE, "StartLog")
        begun = [start for host in side & texts.keys() for start in logs.job_starts(texts[host])]
        return SideFigures(
            leader=leader,
            led_s=led_s,
            matches=sum(
                1
                for manager in side & seen.matches.keys()
                for match in seen.matches[manager]
                if match.slot in own and cut.since + led_s <= match.at < healed
            ),
            # Of slots that were claimed in the cut: what was claimed before it needed no negotiator any more.
            starts=sum(1 for at, _, claimed in begun if claimed >= cut.since + led_s and at < healed),
            charged_s=None if apart is None else apart.usage_s - base.usage_s,
            stood_still=self._stood_still(side, {**texts, **read.condor(Kind.SUBMIT, "SchedLog")}, cut),
        )

    def _stood_still(self, side: frozenset[str], texts: Mapping[str, str], cut: Cut) -> tuple[str, ...]:
        """Say which hosts' daemons had begun to read a request of the other side's when it was cut off.

        HTCondor waits 20 s for the rest, and its daemon does nothing else: no slot of its host is had meanwhile.
        """
        others = {host.address: host.name for host in self.lab.topology.hosts if host.name not in side}
        return tuple(
            f"{name}, for a request of {others[peer]}, until {at - cut.since:.1f} s after the cut"
            for name in sorted(side & texts.keys())
            for at, peer in logs.reads_given_up(texts[name])
            if peer in others and at >= cut.since
        )

    def _reported(self, at: float) -> bool:
        """Whether a report of a merge names, among its conflicts, the user whom both sides edited."""
        user = partition_edits.SHARED
        parts: list[str] = []
        for host in self.lab.topology.of_kind(Kind.MANAGER):
            for path in self.lab.file(host.name, cluster.STATE_DIR).rglob("*report*.txt"):
                if path.is_file() and path.stat().st_mtime > at:
                    parts += path.read_text(errors="replace").split("\n\n")
        return any(part.startswith("CONFLICTS") and user in part for part in parts)

    async def _jobs_lost(self) -> int | None:
        lost = [await load.lost() for load in self.loads]
        for load in self.loads:
            if load.silent_s >= SILENT_S:
                self.say(f"the queue of {load.host} answered nobody for {load.silent_s:.0f} s")
        count = sum(len(one or ()) for one in lost)
        new, self._lost = count - self._lost, count
        return None if None in lost else new

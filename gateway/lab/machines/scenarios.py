"""The scenarios: prove the pool well, break something while jobs flow, watch, mend, prove it well again, and judge.

Each knows who plays which part and not where it runs. What is judged is in `evidence`; a scenario breaks, and mends
also when it is being given up.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from gateway.lab.errors import LabError
from gateway.lab.machines import evidence, proof
from gateway.lab.machines.contract import GATEWAY, MANAGER, SUBMIT, Pool, names_of
from gateway.lab.machines.evidence import ADDRESS, MATCHMAKER, Check, Documents
from gateway.lab.machines.jobs import Jobs
from gateway.lab.machines.proof import Prover
from gateway.lab.machines.records import Outcome
from gateway.lab.machines.watch import Watch

Progress = Callable[[str], None]

FLOW_S_MAX = 60.0  # how long a timed job is waited for, whatever the bound
FROZEN_LEASES = 1.5  # how long a host stands still, at least; and two seconds
# A host that was suspended with its clocks can't know of it before it has heard the others: what waits in its queue
# comes before that. It must give up at the first word of them.
SUSPENDED_S_MAX = 1.0
BACK_S = 6.0  # how long an old owner is watched once it is back
SILENT_AFTER_S = 1.0  # after the end of its lease a leader that is cut off sends nothing more
MEND_S_MAX = 240.0
REPLIES, REPLIES_S_MAX = 6, 10.0
COMMAND_S_MAX = 90.0


class Run:
    """One scenario while it runs: the pool, its parts, what was seen."""

    def __init__(self, pool: Pool, prover: Prover, jobs: Jobs, say: Progress) -> None:
        self.pool = pool
        self.jobs = jobs
        self.say = say
        self.watch = Watch(pool)
        self.before: Documents = {}
        self.victim = ""
        self.flow_s: float | None = 0.0
        self.healthy_s: float | None = None
        self.checks: list[Check] = []
        self._prover = prover
        self._later: list[Callable[[], Check]] = []

    @property
    def leader(self) -> str:
        """Who was the elected manager before."""
        return evidence.leaders(self.before, MATCHMAKER)[0]

    @property
    def holder(self) -> str:
        """Who held the address before."""
        return evidence.leaders(self.before, ADDRESS)[0]

    async def flow(self, fault: float) -> None:
        """Submit a job and wait until it runs; `fault` is when the fault was made."""
        found = await self.jobs.timed(fault, FLOW_S_MAX)
        self.say("no job ran" if found is None else f"a job that was submitted after it runs {found:.1f} s after it")
        if found is None or self.flow_s is None:
            self.flow_s = None
        else:
            self.flow_s = max(self.flow_s, found)

    async def well_again(self) -> Documents:
        """Prove the pool well.

        Raises:
            Unwell: it does not become so.
        """
        since = time.time()
        said = await self._prover.prove(self.jobs, self.pool.limits.healthy_s_max)
        took = time.time() - since
        self.healthy_s = max(self.healthy_s or 0.0, took)
        self.say(f"the pool is well again after {took:.0f} s")
        return said

    def judged_later(self, judge: Callable[[], Check]) -> None:
        """Have a check made when everything that was captured can be read."""
        self._later.append(judge)

    def finish(self) -> None:
        """Make the checks that had to wait."""
        self.checks += [judge() for judge in self._later]


class Scenario(msgspec.Struct, frozen=True):
    """A name, what it shows, and what it does."""

    name: str
    text: str
    play: Callable[[Run], Awaitable[None]]


class Mended:
    """What was broken is mended when the block is left, however it is left; `at` is when."""

    def __init__(self, run: Run, repair: Callable[[], Awaitable[float]], what: str) -> None:
        self._run, self._repair, self._what = run, repair, what
        self.at: float | None = None

    async def __aenter__(self) -> "Mended":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.now()

    async def now(self) -> float:
        """Mend it, once."""
        if self.at is None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + MEND_S_MAX):
                self.at = await self._repair()
                self._run.say(self._what)
        return time.time() if self.at is None else self.at


async def _power_off(run: Run, victim: str) -> None:
    """Take a host's power away, and give it back."""
    run.victim = victim

    async def switch_on() -> float:
        at = await run.pool.revive(victim)
        await run.watch.again()  # before it has booted: nothing that it says is missed
        await run.pool.reachable(victim)
        return at

    async with Mended(run, switch_on, f"{victim} is switched on again"):
        run.say(f"the power of {victim} is cut")
        fault = await run.pool.kill(victim)
        await run.flow(fault)
        await run.watch.answered(REPLIES, REPLIES_S_MAX)
    await _leaves_it(run, victim, fault)


async def _freeze(run: Run, victim: str) -> None:
    """Stop a host for longer than its lease, while its clock goes on: it may send nothing after that."""
    since, until = await _stand_still(run, victim, run.pool.freeze, run.pool.thaw)
    run.judged_later(
        lambda: evidence.silent(run.watch.frames, victim, since, until, "frozen owner silent after it goes on")
    )


async def _suspend(run: Run, victim: str) -> None:
    """Suspend a host for longer than its lease, with its clocks: it finds its lease as it left it."""
    since, until = await _stand_still(run, victim, run.pool.suspend, run.pool.resume)
    name = f"suspended owner silent within {SUSPENDED_S_MAX:g} s"
    if victim == run.holder:
        run.judged_later(lambda: evidence.soon_silent(run.watch.frames, victim, since, until, SUSPENDED_S_MAX, name))


async def _stand_still(
    run: Run, victim: str, stop: Callable[[str], Awaitable[float]], go_on: Callable[[str], Awaitable[float]]
) -> tuple[float, float]:
    """Have a host stand still for longer than its lease; return when it went on, and until when it was watched."""
    run.victim = victim
    async with Mended(run, lambda: go_on(victim), f"{victim} goes on") as mended:
        run.say(f"{victim} stands still")
        fault = await stop(victim)
        await run.flow(fault)
        enough = fault + FROZEN_LEASES * run.pool.limits.lease_s + 2.0
        await trio.sleep(max(0.0, enough - time.time()))
        thawed = await mended.now()
    await trio.sleep(BACK_S)
    return thawed, time.time()


async def _cut(run: Run, victim: str) -> None:
    """Pull a host's cable, and plug it in."""
    run.victim = victim
    async with Mended(run, lambda: run.pool.link_up(victim), f"{victim} has its cable back"):
        run.say(f"the cable of {victim} is pulled")
        fault = await run.pool.link_down(victim)
        await run.flow(fault)
        await run.watch.answered(REPLIES, REPLIES_S_MAX)
    await _leaves_it(run, victim, fault)


async def _leaves_it(run: Run, victim: str, fault: float) -> None:
    """Have it judged that a host that held the address, and is back, says nothing in its name."""
    if victim == run.holder:
        await trio.sleep(BACK_S)
        until = time.time()
        run.judged_later(lambda: evidence.left_it(run.watch.frames, victim, fault, until))


async def _switchover(run: Run) -> None:
    """Hand the matchmaker over, and then the address."""
    asked = names_of(run.pool, GATEWAY)[0]
    handed = []
    for kind in (MATCHMAKER, ADDRESS):
        at = time.time()
        done = await run.pool.exec(asked, ["condor-gateway", "switchover", kind, "--json"], timeout_s=COMMAND_S_MAX)
        try:
            answer: dict[str, Any] = msgspec.json.decode(done.stdout)
        except msgspec.DecodeError:
            answer = {}
        moved = done.returncode == 0 and answer.get("to") not in (None, answer.get("from"))
        gap_ms = answer.get("gap_ms")  # None: the node that was asked has not heard of it
        gap = "" if gap_ms is None else f", a gap of {gap_ms} ms"
        text = (
            f"{answer.get('from')} -> {answer.get('to')}{gap}" if moved else (done.stderr or done.stdout).strip()[-200:]
        )
        run.say(f"{kind}: {text}")
        run.checks.append(Check(name=f"{kind} is handed over", good=moved, text=text))
        handed.append(f"{answer.get('from')} -> {answer.get('to')}")
        # From the answer on: what the command takes to start is no fault.
        await run.flow(time.time() if moved else at)
        if kind == MATCHMAKER:
            await run.well_again()
    run.victim = ", ".join(handed)


def minority(pool: Pool, leader: str, holder: str) -> tuple[str, ...]:
    """Return the side that a partition takes away: who leads, as far as that is less than half of the votes."""
    voters = sum(1 for node in pool.nodes if node.votes)
    both = tuple(dict.fromkeys((holder, leader)))
    side = both if 2 * len(both) < voters else (holder,)
    assert not set(side) & set(names_of(pool, SUBMIT)), "who submits is on the side that goes on"
    return side


async def _partition(run: Run) -> None:
    """Cut the leaders off from all others, and heal."""
    side = minority(run.pool, run.leader, run.holder)
    run.victim = " ".join(side)
    async with Mended(run, run.pool.mend, "the network is whole again"):
        run.say(f"the network is cut: {' '.join(side)} | all others")
        fault = await run.pool.partition(side)
        await run.flow(fault)
        stopped = fault + run.pool.limits.lease_s + SILENT_AFTER_S
        await trio.sleep(max(0.0, stopped - time.time()))
        apart = await proof.documents(run.pool)
        run.checks.append(evidence.nobody_leads(apart, side, "minority does not lead"))
        await run.watch.answered(REPLIES, REPLIES_S_MAX)
    await trio.sleep(BACK_S)
    until = time.time()
    for name in side:
        run.judged_later(
            lambda name=name: evidence.silent(  # type: ignore[misc]
                run.watch.frames, name, stopped, until, "minority silent after its lease"
            )
        )


async def _rolling(run: Run) -> None:
    """Reboot every gateway and manager, one after the other."""
    names = tuple(dict.fromkeys((*names_of(run.pool, GATEWAY), *names_of(run.pool, MANAGER))))
    run.victim = " ".join(names)
    for name in names:
        run.say(f"{name} is rebooted")
        fault = time.time()
        back = trio.Event()

        async def reboot(name: str = name, back: trio.Event = back) -> None:
            await run.pool.reboot(name)
            back.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reboot)
            while True:  # whether the host is still going down, is away or boots: one job after the other
                await run.flow(fault)
                if back.is_set():
                    break
                fault = time.time()
        run.say(f"{name} is back")
        await run.watch.again()
        await run.well_again()


def _leader(play: Callable[[Run, str], Awaitable[None]]) -> Callable[[Run], Awaitable[None]]:
    return lambda run: play(run, run.leader)


def _holder(play: Callable[[Run, str], Awaitable[None]]) -> Callable[[Run], Awaitable[None]]:
    return lambda run: play(run, run.holder)


# In the order in which they are run: what is mended soon comes first, and before that what also lets every manager's
# negotiator run once, for a program that a slow guest has never run takes it seconds more.
SCENARIOS = {
    one.name: one
    for one in (
        Scenario("switchover", "matchmaker and address are handed over in good order", _switchover),
        Scenario("manager-cut", "the elected manager's cable is pulled", _leader(_cut)),
        Scenario("manager-suspend", "the elected manager is suspended with its clocks, and goes on", _leader(_suspend)),
        Scenario("owner-freeze", "the holder of the address stands still while its clock goes on", _holder(_freeze)),
        Scenario(
            "owner-suspend", "the holder of the address is suspended with its clocks, and goes on", _holder(_suspend)
        ),
        Scenario("partition-heal", "the leaders are cut off from all others, and the network heals", _partition),
        Scenario("manager-poweroff", "the elected manager's power is cut", _leader(_power_off)),
        Scenario("gateway-poweroff", "the power of the holder of the address is cut", _holder(_power_off)),
        Scenario("rolling-reboot", "every gateway and manager is rebooted, one after the other", _rolling),
    )
}


async def play(scenario: Scenario, pool: Pool, prover: Prover, jobs: Jobs, say: Progress) -> Outcome:
    """Run one scenario to its end and judge it. Never raises for what the pool does: then it is refused."""
    began = time.time()
    run = Run(pool, prover, jobs, say)
    refused = ""
    try:
        run.before = await prover.prove(jobs, pool.limits.healthy_s_max, unbroken=True)
        async with run.watch.watching():
            await run.watch.answered(2, REPLIES_S_MAX)
            whole = time.time()
            run.judged_later(lambda: evidence.heard(run.watch.frames, run.holder, whole))
            await scenario.play(run)
            after = await run.well_again()
            await _judge(run, after)
        run.finish()
    except LabError as error:
        refused = str(error)
    except ExceptionGroup as group:
        if group.split(LabError)[1] is not None:
            raise
        refused = _first_of(group)
    if refused:
        say(f"{scenario.name} was given up: {refused}")
    return Outcome(
        scenario=scenario.name,
        victim=run.victim,
        flow_s=run.flow_s,
        healthy_s=run.healthy_s,
        took_s=time.time() - began,
        checks=tuple(run.checks),
        refused=refused,
    )


def _first_of(group: "ExceptionGroup[Exception]") -> str:
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return str(error)


async def _judge(run: Run, after: Documents) -> None:
    """Make the checks that every scenario ends with."""
    replies = await run.watch.answered(REPLIES, REPLIES_S_MAX)
    holding = evidence.leaders(after, ADDRESS)
    lost = await run.jobs.lost()
    run.checks[:0] = [
        evidence.flow(run.flow_s, run.pool.limits.flow_s_max),
        evidence.lost(lost, run.jobs.load.ledger.submitted),
        evidence.one_leader(after, ADDRESS, "one holder"),
        evidence.one_leader(after, MATCHMAKER, "one elected manager"),
        evidence.one_negotiator(after),
        evidence.answered_by(replies, run.watch.macs, holding[0] if len(holding) == 1 else None),
    ]

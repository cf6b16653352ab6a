"""The scenarios of the address: what is broken, how it is mended, and one repeat from a healthy start to figures.

A figure is given only where the address was held by one gateway and answered until the fault came.
"""

import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable

import msgspec
import trio

from gateway.lab import process
from gateway.lab.errors import LabError
from gateway.lab.measure import pulse, sightings
from gateway.lab.measure.contenders import ALL, CONTROL, RESPONDER_PORT, SERVICE, Contender, is_stopped
from gateway.lab.measure.records import Result
from gateway.lab.measure.watchers import Watchers
from gateway.lab.segment import GATEWAYS, WITNESS, Pair

Progress = Callable[[str], None]

HEALTHY_S_MAX = 60.0
LOOK_S = 0.05
# A node that has just started votes only after a promise period; that is over after this many leases.
SETTLE_LEASES = 2.5
SETTLE_S = 0.7
STEADY_S_MAX = 15.0
LEAD_S = 0.4  # of answered probes before the fault, at least
LEAD_GAP_MS_MAX = 20.0
FAULT_S, FAULT_LEASES = 1.5, 2.5  # how long a fault is watched: well over the lease and an election
HEALED_S = 4.0  # the address must answer within 1 s of a heal, and for 3 s
STOPPED_S_MAX = 0.5
MEND_S_MAX = 40.0
FREEZE_S = 10.0


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One way of breaking something. `variant` is "" where the scenario has one way only."""

    scenario: str
    variant: str = ""
    text: str

    @property
    def name(self) -> str:
        """How it is called in tables."""
        return f"{self.scenario}/{self.variant}" if self.variant else self.scenario


def _cases(scenario: str, **variants: str) -> list[Case]:
    return [
        Case(scenario=scenario, variant=name.rstrip("_").replace("_", "-"), text=text)
        for name, text in variants.items()
    ]


KILL, LINK_DOWN, TERM = "daemon-kill", "gateway-link-down", "daemon-term"
FREEZE, PARTITION = "daemon-freeze", "gateway-partition"
CASES: tuple[Case, ...] = (
    *_cases(
        KILL,
        control="SIGKILL the daemon of the holder",
        service="SIGKILL the daemon of the holder and the service behind the address",
        guard="SIGKILL the parent process of the holder's daemon",
        all="SIGKILL every program of the holder, the service behind the address too",
    ),
    *_cases(LINK_DOWN, _="pull the cable of the holder"),
    *_cases(TERM, _="SIGTERM to the daemon of the holder"),
    *_cases(
        FREEZE,
        all="SIGSTOP every program of the holder, then SIGCONT",
        control="SIGSTOP the daemon of the holder, then SIGCONT",
    ),
    *_cases(
        PARTITION,
        full="no frame passes between the gateways",
        to_other="no frame passes from the holder to the other gateway",
        to_holder="no frame passes from the other gateway to the holder",
        isolated="no frame passes between the holder and the other gateway or the witness",
    ),
)
SCENARIO_NAMES = tuple(dict.fromkeys(case.scenario for case in CASES))
DEFAULT_VARIANTS = {KILL: (CONTROL, SERVICE), FREEZE: (ALL,)}  # of the others: every one


def cases_of(scenario: str, variant: str | None) -> list[Case]:
    """Return the cases of a scenario: the named one, or those that are measured where none is named.

    Raises:
        LabError: no such variant.
    """
    known = [case for case in CASES if case.scenario == scenario]
    wanted = (variant,) if variant is not None else DEFAULT_VARIANTS.get(scenario)
    found = [case for case in known if wanted is None or case.variant in wanted]
    if not found:
        names = ", ".join(case.variant for case in known if case.variant) or "no variants"
        raise LabError(f"{scenario!r} has no variant {variant!r}: it has {names}")
    return found


class Fault(msgspec.Struct):
    """One fault while it lasts."""

    case: Case
    holder: str
    at: float = 0.0  # before its first step
    struck: float = 0.0  # after its last step
    healed: float | None = None
    stopped: tuple[process.Process, ...] = ()

    @property
    def other(self) -> str:
        """The gateway that does not hold the address."""
        return next(host for host in GATEWAYS if host != self.holder)


class AddressRun:
    """One contender that is up, and the repeats that are made with it."""

    def __init__(
        self, contender: Contender, say: Progress, *, freeze_s: float = FREEZE_S, heartbeats_only: bool = False
    ) -> None:
        self.contender = contender
        self.segment = contender.segment
        self.say = say
        self.freeze_s = freeze_s
        self.heartbeats_only = heartbeats_only
        self._restarted_at = 0.0

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator["AddressRun"]:
        """Start the contender everywhere; end it everywhere."""
        await trio.to_thread.run_sync(self.contender.prepare)
        for host in self.contender.hosts:
            self.contender.start(host)
        self._restarted_at = time.time()
        try:
            yield self
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + MEND_S_MAX):
                for host in self.contender.hosts:
                    await self.contender.end(host)

    async def measure(self, case: Case, repeat: int) -> Result:
        """Run one repeat and return its figures, or why there are none."""
        holder, reasons = await self.healthy()
        if holder is None:
            return self._refused(case, repeat, reasons)
        fault = Fault(case=case, holder=holder)
        watchers = Watchers(self.segment, RESPONDER_PORT)
        try:
            async with watchers.watching():
                if not await watchers.steady(STEADY_S_MAX):
                    reason = f"the address was not answered for {pulse.STEADY_COUNT} probes in a row"
                    return self._refused(case, repeat, (reason,))
                # At any phase of the heartbeats.
                await trio.sleep(LEAD_S + random.uniform(0, self.contender.heartbeat_ms / 1000))
                try:
                    await self._break_and_watch(fault)
                finally:
                    until = time.time()
                    await self._mend_network(fault)
        except LabError as error:
            await self._mend(fault)
            return self._refused(case, repeat, (str(error),))
        seen = await trio.to_thread.run_sync(watchers.seen)
        await self._mend(fault)
        return self.judge(fault, seen, repeat, until)

    # ---- health

    async def healthy(self) -> tuple[str | None, tuple[str, ...]]:
        """Wait until one gateway holds the address and nothing speaks against it; return it, or None and why not."""
        settled_at = self._restarted_at + SETTLE_S + SETTLE_LEASES * self.contender.lease_ms / 1000
        limit = max(settled_at, time.time()) + HEALTHY_S_MAX
        reasons: tuple[str, ...] = ("nobody looked",)
        good_since: float | None = None
        last: str | None = None
        while time.time() < limit:
            holders = await self.segment.holders()
            reasons = await self.contender.objections()
            if len(holders) != 1:
                reasons = (f"the address is on {' and '.join(holders) or 'no gateway'}", *reasons)
            if reasons or holders != [last]:
                good_since = None
            if not reasons:
                last = holders[0]
                good_since = good_since or time.time()
                # The last start and the last change of the holder are both some leases ago.
                if time.time() >= max(settled_at, good_since + SETTLE_LEASES * self.contender.lease_ms / 1000):
                    return last, ()
            await trio.sleep(LOOK_S)
        return None, reasons

    def _refused(self, case: Case, repeat: int, reasons: tuple[str, ...]) -> Result:
        self.say(f"not measured: {'; '.join(reasons)}")
        return Result(
            scenario=case.scenario,
            system=self.contender.name,
            repeat=repeat,
            healthy_before=False,
            refused=reasons,
            variant=case.variant or None,
            heartbeat_ms=self.contender.heartbeat_ms,
            lease_ms=self.contender.lease_ms,
        )

    # ---- the fault

    async def _break_and_watch(self, fault: Fault) -> None:
        fault.at = fault.struck = time.time()
        window_s = FAULT_S + FAULT_LEASES * self.contender.lease_ms / 1000
        match fault.case.scenario:
            case "daemon-kill":
                self._signal(fault, self.contender.victims(fault.holder, fault.case.variant), signal.SIGKILL)
                await trio.sleep(window_s)
            case "daemon-term":
                self._signal(fault, self.contender.stopped_by(fault.holder), signal.SIGTERM)
                await trio.sleep(window_s)
            case "daemon-freeze":
                victims = self.contender.victims(fault.holder, fault.case.variant)
                fault.stopped = tuple(victims)
                self._signal(fault, victims, signal.SIGSTOP)
                await self._wait_stopped(fault)
                await trio.sleep(self.freeze_s)
                await self._mend_network(fault)
                await trio.sleep(HEALED_S)
            case "gateway-link-down":
                await self.segment.set_link(fault.holder, up=False)
                fault.struck = time.time()
                await trio.sleep(window_s)
                await self._mend_network(fault)
                await trio.sleep(HEALED_S)
            case "gateway-partition":
                await self.segment.cut(_pairs(fault), heartbeats_only=self.heartbeats_only)
                fault.struck = time.time()
                await trio.sleep(window_s)
                await self._mend_network(fault)
                await trio.sleep(HEALED_S)

    def _signal(self, fault: Fault, victims: list[process.Process], number: signal.Signals) -> None:
        if not victims:
            raise LabError(f"nothing runs on {fault.holder} that could be sent {number.name}")
        fault.at = time.time()
        for victim in victims:
            process.send(victim, number)
        fault.struck = time.time()

    async def _wait_stopped(self, fault: Fault) -> None:
        """Wait until every process is stopped: whatever it did before was still in time."""
        with trio.move_on_after(STOPPED_S_MAX):
            while not all(map(is_stopped, fault.stopped)):  # noqa: ASYNC110 (the kernel tells nobody)
                await trio.sleep(0.001)
            fault.struck = time.time()
            return
        raise LabError(f"the processes of {fault.holder} did not stop")

    async def _mend_network(self, fault: Fault) -> None:
        """Undo what can be undone without starting anything; a second time does nothing."""
        if fault.healed is not None:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + MEND_S_MAX):
            match fault.case.scenario:
                case "daemon-freeze":
                    fault.healed = time.time()
                    for one in fault.stopped:
                        process.send(one, signal.SIGCONT)
                case "gateway-link-down":
                    await self.segment.set_link(fault.holder, up=True)
                    fault.healed = time.time()
                case "gateway-partition":
                    await self.segment.heal()
                    fault.healed = time.time()

    async def _mend(self, fault: Fault) -> None:
        """Start again what was ended."""
        if fault.case.scenario not in (KILL, TERM):
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + MEND_S_MAX):
            await self.contender.end(fault.holder)
            self.contender.start(fault.holder)
            self._restarted_at = time.time()

    # ---- figures

    def judge(self, fault: Fault, seen: sightings.Sightings, repeat: int, until: float) -> Result:
        """Return the figures of a repeat, or a refusal where the address was not well until the fault came."""
        lead = (fault.at - LEAD_S * 0.75, fault.at)
        gaps = {kind: sightings.blackout_ms(seen, kind, *lead) for kind in seen.answered}
        worst = max((gap for gap in gaps.values() if gap is not None), default=None)
        if worst is None or worst > LEAD_GAP_MS_MAX:
            told = "not at all" if worst is None else f"with a gap of {worst:.0f} ms"
            return self._refused(fault.case, repeat, (f"the address was answered {told} just before the fault",))
        if (known := sightings.owners(seen, *lead)) != {fault.holder}:
            return self._refused(fault.case, repeat, (f"owners just before the fault: {', '.join(sorted(known))}",))
        return figures(
            self.contender, fault.case, fault.holder, seen, repeat, (fault.at, fault.struck, fault.healed, until)
        )


def _pairs(fault: Fault) -> list[Pair]:
    holder, other = fault.holder, fault.other
    match fault.case.variant:
        case "to-other":
            return [(holder, other)]
        case "to-holder":
            return [(other, holder)]
        case "isolated":
            return [(holder, other), (other, holder), (holder, WITNESS), (WITNESS, holder)]
    return [(holder, other), (other, holder)]


def figures(
    contender: Contender,
    case: Case,
    holder: str,
    seen: sightings.Sightings,
    repeat: int,
    times: tuple[float, float, float | None, float],
) -> Result:
    """Return the figures of a repeat. `times`: begin and end of the fault's making, the heal, the end of watching."""
    at, struck, healed, until = times
    since = at - LEAD_S / 4
    gaps = {kind: sightings.blackout_ms(seen, kind, since, until) for kind in seen.answered}
    successor = sightings.first_of_another(seen, holder, at)
    lease_end = struck + contender.lease_ms / 1000
    return Result(
        scenario=case.scenario,
        system=contender.name,
        repeat=repeat,
        healthy_before=True,
        variant=case.variant or None,
        heartbeat_ms=contender.heartbeat_ms,
        lease_ms=contender.lease_ms,
        blackout_ms=max((gap for gap in gaps.values() if gap is not None), default=None),
        blackout_udp_ms=gaps["udp"],
        blackout_icmp_ms=gaps["icmp"],
        blackout_tcp_ms=gaps["tcp"],
        two_owner_ms=sightings.two_owner_ms(seen, since, until),
        successor_ms=None if successor is None else (successor[0] - at) * 1000,
        successor=None if successor is None else successor[1],
        packets_after_lease=sightings.frames_after(seen, holder, lease_end) if case.scenario == FREEZE else None,
        black_holed=sightings.black_holed(seen, healed, until),
        probe_late_ms=sightings.late_ms(seen, since, until),
        victim=holder,
        window_s=until - at,
        at=at,
    )

"""World: hosts, network and time in one heap of events. The only place where simulated time moves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from typing import Any

from gateway.core.actions import Action, StartServing
from gateway.core.events import Event
from gateway.core.timing import Timing
from gateway.core.voter import Role
from gateway.wire.messages import Message

from .audit import Audit, Violation
from .clock import SimClock
from .host import Host
from .network import FAIR, Network
from .ordering import OrderAudit
from .report import fault_line, step_line
from .sealed import SealedPost
from .shapes import Shape

SECOND_US = 1_000_000
SUPERVISOR_US = (100_000, SECOND_US)  # until a process that has ended is started again
KINDS, KIND_WEIGHTS = ("plain", "sealed", "weak"), (85, 9, 6)  # of a hundred runs
SEALED_HEARTBEAT_MS_MIN = 50  # sealing takes its time
ORDERED_RUNS = 0.3  # in so many operators give orders
AUDIT_EVERY_STEPS = 4_096  # memory is counted so often; it could not grow past notice between


class World:
    """A cluster in virtual time.

    Args:
        shape: who is in it.
        seed: all chance comes from it.
        trace: called with one line for each event; None: no lines are made.
        timing: the cluster's periods; None: chosen among the shape's.
        plain: a run of the ordinary kind, whatever the seed says.
        ordered: whether operators give orders in it; None: the seed says.
    """

    MESSAGE, TIMER, DISK, EVENT, STOPPED, CALL, DATAGRAM = range(7)

    def __init__(
        self,
        shape: Shape,
        seed: int,
        trace: Callable[[str], None] | None = None,
        *,
        timing: Timing | None = None,
        plain: bool = False,
        ordered: bool | None = None,
    ) -> None:
        self.shape = shape
        self.rng = random.Random(seed)
        self.trace = trace
        self.timing = shape.timing(self.rng) if timing is None else timing
        self.now_us = 0
        self.steps = 0
        self.performed = 0
        self.digest = seed
        self.ending = 0  # processes that will end because a write fails
        self.faults: Counter[str] = Counter()
        self._heap: list[tuple[int, int, int, int, Any, Any]] = []
        self._sequence = 0
        self.index = {name: number for number, name in enumerate(shape.voters)}
        self.network = Network(len(shape.voters), self.rng, FAIR)
        self.kind = kind = "plain" if plain else self.rng.choices(KINDS, KIND_WEIGHTS)[0]
        # Disks may lie and machines go back in time: a term may then have two leaders (S1, S5), never two at a time.
        self.weak = kind == "weak"
        self.sealed = None if kind == "plain" else SealedPost(self)
        if self.sealed is not None and self.timing.heartbeat_ms < SEALED_HEARTBEAT_MS_MIN:
            self.timing = Timing(heartbeat_ms=SEALED_HEARTBEAT_MS_MIN, lease_ms=6 * SEALED_HEARTBEAT_MS_MIN)
        self.lease_ms_longest = self.timing.lease_ms  # that any host has had in this run
        self.audit = Audit(shape, weak=self.weak)
        self.order_audit = OrderAudit(self)
        self.orders_rng = random.Random(f"an order {seed}")
        drawn = self.orders_rng.random() < ORDERED_RUNS and not plain
        self.ordered = (drawn if ordered is None else ordered) and not self.weak  # memory and disk may both go back
        self.on_serving: Callable[[Host, StartServing], None] | None = None
        # An error of 1 % is the worst that is promised for; half of the clusters have clocks at both ends of it.
        worst = self.rng.random() < 0.5
        self.hosts = [
            Host(self, number, SimClock(self.rng.randrange(SECOND_US, 10**12), self._rate_ppm(worst)))
            for number in range(len(shape.voters))
        ]

    def _rate_ppm(self, worst: bool) -> int:
        return self.rng.choice((-10_000, 10_000)) if worst else self.rng.randint(-10_000, 10_000)

    # -- time ----------------------------------------------------------------------------------------------------

    def at(self, true_us: int, kind: int, host: int, life: Any, what: Any) -> None:
        self._sequence += 1
        heappush(self._heap, (true_us, self._sequence, kind, host, life, what))

    def later(self, delay_us: int, kind: int, host: int, life: Any, what: Any) -> None:
        self.at(self.now_us + delay_us, kind, host, life, what)

    def call(self, delay_us: int, function: Callable[[], None]) -> None:
        """Call `function` later."""
        self.at(self.now_us + delay_us, self.CALL, -1, 0, function)

    def post(self, source: Host, to: str, message: Message) -> None:
        """Carry a datagram, or lose it. What a host has sent before it died arrives all the same."""
        if self.sealed is not None:
            self.sealed.post(source, to, message)
            return
        destination, network = self.index[to], self.network
        for delay_us in network.arrivals_us(source.index, destination):
            if network.weather.corrupt and network.corrupts():
                continue
            self._sequence += 1
            heappush(
                self._heap, (self.now_us + delay_us, self._sequence, self.MESSAGE, destination, source.name, message)
            )

    def run(self, until_us: int) -> None:
        """Let time pass, event by event."""
        heap, hosts = self._heap, self.hosts
        audit_at = self.steps + AUDIT_EVERY_STEPS
        while heap and heap[0][0] <= until_us:
            self.now_us, _, kind, number, life, what = heappop(heap)
            if kind == self.MESSAGE:
                hosts[number].receive(life, what)
            elif kind == self.CALL:
                what()
            elif kind == self.DATAGRAM:
                hosts[number].receive_sealed(what)
            elif life == hosts[number].life and hosts[number].core is not None:
                self._own(kind, hosts[number], what)
            if self.steps >= audit_at:
                audit_at = self.steps + AUDIT_EVERY_STEPS
                self.check_bounds()
        self.now_us = until_us

    def _own(self, kind: int, host: Host, what: Any) -> None:
        if kind == self.TIMER:
            host.timer()
        elif kind == self.DISK:
            host.disk_done(what)
        elif kind == self.STOPPED:
            host.stopped(what)
        else:
            host.take(what)

    def restart(self, host: Host) -> None:
        if host.core is None:
            self.note("restart", host.name)
            host.start()

    # -- what hosts report ---------------------------------------------------------------------------------------

    def fuse_blown(self, host: Host) -> None:
        """A fault waited for this action boundary."""
        if host.fuse_freezes:
            host.freeze()
            self.note("freeze-at-boundary", host.name)
        else:
            host.crash()
            self.note("crash-at-boundary", host.name)

    def disk_failed(self, host: Host, life: int) -> None:
        """A vote could not be written: the process ends, and its supervisor starts it again."""
        self.ending -= 1
        if host.life == life and host.core is not None:
            self.note("ended-by-disk", host.name)
            self._end(host)

    def stopped_by_assertion(self, host: Host) -> None:
        self.note("ended-by-assertion", host.name)
        self._end(host)

    def _end(self, host: Host) -> None:
        host.crash()
        self.call(self.rng.randrange(*SUPERVISOR_US), partial(self.restart, host))

    def serving_started(self, host: Host, action: StartServing) -> None:
        if self.on_serving is not None:
            self.on_serving(host, action)

    def note(self, fault: str, detail: str = "") -> None:
        self.faults[fault] += 1
        self.digest = hash((self.digest, self.now_us, len(fault), len(detail)))
        if self.trace is not None:
            self.trace(fault_line(self.now_us, fault, detail))

    def trace_step(self, host: Host, event: Event, actions: list[Action]) -> None:
        assert self.trace is not None, "the caller has looked"
        self.trace(step_line(self.now_us, host, event, actions))

    # -- looking -------------------------------------------------------------------------------------------------

    def check_bounds(self) -> None:
        for host in self.hosts:
            if host.core is not None:
                self.audit.bounded(host.core)

    def settled(self) -> str | None:
        """Return why not every election has exactly one leader whom every host follows, or None: it has."""
        for plan in self.shape.plans:
            leaders = [
                host.name for host in self.hosts if host.core and host.core.elections[plan.name].role is Role.LEADER
            ]
            serving = [self.hosts[number].name for number in self.audit.serving(plan.name, self.now_us)]
            follows = [host.core.elections[plan.name].leader if host.core else "down" for host in self.hosts]
            if len(leaders) != 1 or serving != leaders or any(name != leaders[0] for name in follows):
                return f"{plan.name}: leaders {leaders}, serving {serving}, followed {follows}"
        return None

    def require_settled(self, promise: str) -> None:
        reason = self.settled()
        if reason is not None:
            raise Violation(f"{promise}: {reason}")

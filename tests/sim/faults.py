"""Faults: what goes wrong in a run, when and for how long; drawn from the run's seed. Never touches the core.

Each run draws which kinds it has, how often they come and how long they last ("swarm testing": a run that has every
kind reaches fewer states than many runs that have some). Periods are multiples of the lease: a fault that lasts about
one lease hurts most.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from gateway.core.actions import StartServing
from gateway.core.events import ResignationRequested
from gateway.core.node import Node
from gateway.core.timing import Timing

from .attacks import ATTACKS
from .host import Host
from .network import FAIR, Cut, Weather, isolate, ring, split
from .ordering import plan_orders, revoke_all
from .staged import STAGED
from .storage import FSYNC_US_MAX, STORAGE
from .world import SECOND_US, World

SPAN_US_MAX = 30 * SECOND_US  # no fault lasts longer: a cluster that is cut for ever shows nothing
FREEZE_US_MAX = 60 * SECOND_US


class Faults:
    """The troubles of one run.

    Args:
        world: the cluster to trouble.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = rng = world.rng
        self.lease_us = world.timing.lease_ms * 1000
        more = (*STAGED, *STORAGE, *(ATTACKS if world.sealed is not None else ()))
        kinds = [*self._kinds(), *(partial(fault, self) for fault in more)]
        if len(world.hosts) == 1:
            kinds = [kind for kind in kinds if kind not in self._between_hosts()]
        density = rng.choice((0.1, 0.3, 0.6))
        self.kinds = [kind for kind in kinds if rng.random() < density] or [rng.choice(kinds)]
        self.interval_us = int(self.lease_us * 12 ** rng.uniform(0.0, 1.0))
        self.span_us_max = min(self.interval_us * rng.choice((1, 3, 8)), SPAN_US_MAX)
        self.bursts = rng.choice((0.0, 0.2, 0.6))
        self.on_leader = rng.choice((0.2, 0.5, 0.8))
        self.weather = Weather(
            loss=rng.choice((0.0, 0.0, 0.05, 0.15, 0.3)) * rng.random(),
            duplicates=rng.choice((0.0, 0.1)),
            stragglers=rng.choice((0.0, 0.0, 0.001, 0.01)),
            delay_us=rng.choice((100, 1_000, self.lease_us // 60)),
            jitter_us=rng.choice((300, self.lease_us // 30, self.lease_us // 6, self.lease_us)),
            corrupt=rng.choice((0.0, 0.0, 0.02, 0.1)),
        )
        # how slow the hosts are on an ordinary day
        self.fsync_us = (500, rng.choice((5_000, 5_000, self.lease_us // 6, FSYNC_US_MAX)))
        self.stop_us = (0, rng.choice((20_000, self.lease_us // 3, 3 * self.lease_us)))
        if rng.random() < 0.25:
            self._only_staged()
        self.active = False
        self._era = 0  # a fault that outlives its era ends with it
        self.out_of_time: dict[
            int, Node
        ] = {}  # host -> run from a snapshot: its operator restarts it, or nobody hears it
        self._fuse_on_serving = -1
        world.on_serving = self._served

    def _kinds(self) -> tuple[Callable[[], None], ...]:
        return (
            self.crash,
            self.crash_at_boundary,
            self.crash_new_leader,
            self.blink_voter,
            self.freeze,
            self.suspend,
            self.reload,
            self.retune,
            self.freeze_at_boundary,
            self.cut_one_off,
            self.cut_halves,
            self.cut_ring,
            self.cut_pair,
            self.flap,
            self.swizzle,
            self.clog,
            self.storm,
            self.slow_stop,
            self.slow_timers,
            self.unfit,
            self.reshuffle,
            self.resign,
        )

    def _between_hosts(self) -> tuple[Callable[[], None], ...]:
        return (self.cut_one_off, self.cut_halves, self.cut_ring, self.cut_pair, self.flap, self.swizzle, self.clog)

    def _only_staged(self) -> None:
        """Make this a run of staged faults: they need a cluster that is otherwise well."""
        self.kinds = [partial(fault, self) for fault in self.rng.sample(STAGED, self.rng.randrange(1, len(STAGED) + 1))]
        self.interval_us, self.span_us_max, self.bursts = 6 * self.lease_us, 6 * self.lease_us, 0.0
        self.weather = FAIR
        self.fsync_us, self.stop_us = (500, 5_000), (0, 20_000)

    # -- eras ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """From now on things go wrong."""
        self.active = True
        self._era += 1
        self.world.network.weather = self.weather
        for host in self.world.hosts:
            host.fsync_us, host.stop_us = self.fsync_us, self.stop_us
        self._plan()
        if self.world.ordered:
            plan_orders(self)

    def end(self) -> None:
        """Heal everything: all up, awake, fit, connected and quick."""
        self.active = False
        self._era += 1
        world = self.world
        world.network.heal_all()
        world.network.weather = FAIR
        world.note("heal")
        for host in world.hosts:
            host.fuse = -1
            host.fsync_us, host.stop_us, host.timer_us = (500, 5_000), (0, 20_000), 1_000
            host.disk_full, host.synced = False, None
            if host.core is not None and self.out_of_time.pop(host.index, None) is host.core:
                host.crash()
            if host.core is None:
                host.start()
            elif host.frozen:
                host.thaw()
            for standing in list(host.standings.values()):
                if not standing.fit:
                    host.change(msgspec.structs.replace(standing, fit=True))
        if world.ordered:
            revoke_all(world)

    def _plan(self) -> None:
        if not self.active:
            return
        era = self._era
        gap_us = int(self.rng.expovariate(1 / self.interval_us)) + 1

        def strike() -> None:
            if era != self._era:
                return
            self.rng.choice(self.kinds)()
            while self.rng.random() < self.bursts:
                self.later(self.rng.randrange(self.lease_us), self.rng.choice(self.kinds))
            self._plan()

        self.world.call(gap_us, strike)

    def later(self, delay_us: int, function: Callable[[], None]) -> None:
        """Call `function` later, unless everything has been healed before."""
        era = self._era
        self.world.call(delay_us, lambda: function() if era == self._era else None)

    def span_us(self, most_us: int = SPAN_US_MAX) -> int:
        """Draw how long a fault lasts: around a lease, or anything, short ones as likely as long ones."""
        if self.rng.random() < 0.5:
            return int(self.lease_us * 4 ** self.rng.uniform(-1.0, 1.0))
        most_us = max(min(self.span_us_max, most_us), 100_000)
        return int(10_000 * (most_us / 10_000) ** self.rng.random())

    def victim(self) -> Host:
        """Draw a host; often one that leads."""
        if self.rng.random() < self.on_leader:
            election = self.rng.choice(self.world.shape.plans).name
            serving = self.world.audit.serving(election, self.world.now_us)
            if serving:
                return self.world.hosts[serving[0]]
        return self.rng.choice(self.world.hosts)

    # -- processes -----------------------------------------------------------------------------------------------

    def crash(self) -> None:
        host = self.victim()
        if host.core is not None:
            self.world.note("crash", host.name)
            host.crash()
            self.restart_later(host)

    def blink_voter(self) -> None:
        """A process dies and is back before anybody misses it: what it had promised is forgotten, not over."""
        host = self.rng.choice(self.world.hosts)
        if host.core is not None:
            self.world.note("blink", host.name)
            host.crash()
            self.later(self.rng.randrange(1_000, 50_000), lambda: self._restart(host))

    def crash_at_boundary(self) -> None:
        self._set_fuse(self.victim(), freezes=False)

    def freeze_at_boundary(self) -> None:
        self._set_fuse(self.victim(), freezes=True)

    def crash_new_leader(self) -> None:
        """Whoever leads next dies within its first actions: the moments around a change are where bugs live."""
        self._fuse_on_serving = self.rng.randrange(1, 12)

    def _served(self, host: Host, _: StartServing) -> None:
        if self._fuse_on_serving >= 0 and self.active and host.fuse < 0:
            host.fuse, self._fuse_on_serving = self._fuse_on_serving, -1
            host.fuse_freezes = self.rng.random() < 0.3
            self._watch_fuse(host)

    def _set_fuse(self, host: Host, *, freezes: bool) -> None:
        if host.running() and host.fuse < 0:
            host.fuse, host.fuse_freezes = self.rng.randrange(0, 15), freezes
            self._watch_fuse(host)

    def _watch_fuse(self, host: Host) -> None:
        """Once the fuse has blown, plan the end of its effect."""

        def look() -> None:
            if host.core is None:
                self.restart_later(host)
            elif host.frozen:
                self.later(self.span_us(FREEZE_US_MAX), lambda: self.thaw(host))
            else:
                self.later(20_000, look)

        self.later(20_000, look)

    def restart_later(self, host: Host) -> None:
        self.later(self.span_us(), lambda: self._restart(host))

    def _restart(self, host: Host) -> None:
        if host.core is not None:
            return
        if self.rng.random() < 0.3:
            host.clock.reboot(self.world.now_us, self.rng.randrange(SECOND_US, 60 * SECOND_US))
            self.world.note("reboot", host.name)
        else:
            self.world.note("restart", host.name)
        host.start()

    def freeze(self) -> None:
        host = self.victim()
        if host.running():
            self.world.note("freeze", host.name)
            host.freeze()
            self.later(self.span_us(FREEZE_US_MAX), lambda: self.thaw(host))

    def suspend(self) -> None:
        """The whole machine sleeps: its CLOCK_BOOTTIME goes on, its timers stand still, its network is deaf."""
        host = self.victim()
        if host.running():
            self.world.note("suspend", host.name)
            host.freeze(asleep=True)
            self.later(self.span_us(FREEZE_US_MAX), lambda: self.thaw(host))

    def reload(self) -> None:
        """A new process takes the place of a host's old one, and over what it had promised and held."""
        host = self.victim()
        if host.running() and host.reload():
            self.world.note("reload", host.name)

    def retune(self) -> None:
        """A host is given other periods than the others have, as when they are changed one by one."""
        host = self.victim()
        heartbeat_ms, lease_ms = self.rng.choice(self.world.shape.timings)
        if host.running() and host.reload(Timing(heartbeat_ms=heartbeat_ms, lease_ms=lease_ms)):
            self.world.note("retune", f"{host.name} {heartbeat_ms} {lease_ms}")

    def thaw(self, host: Host) -> None:
        if host.core is not None and host.frozen:
            self.world.note("thaw", host.name)
            host.thaw()

    # -- network -------------------------------------------------------------------------------------------------

    def cut(self, name: str, links: Cut, span_us: int) -> None:
        world = self.world
        world.note(name, " ".join(f"{world.shape.voters[a]}>{world.shape.voters[b]}" for a, b in links[:8]))
        world.network.cut(links)

        def heal() -> None:
            world.network.heal(links)
            world.note(f"{name}-ends")

        self.later(span_us, heal)

    def cut_one_off(self) -> None:
        hears, is_heard = self.rng.choice(((False, False), (True, False), (False, True)))
        name = {(False, False): "isolated", (True, False): "mute", (False, True): "deaf"}[hears, is_heard]
        links = isolate(len(self.world.hosts), self.victim().index, hears=hears, is_heard=is_heard)
        self.cut(name, links, self.span_us())

    def cut_halves(self) -> None:
        order = self.order()
        where = self.rng.randrange(1, len(order))
        self.cut("halves", split([order[:where], order[where:]]), self.span_us())

    def cut_ring(self) -> None:
        self.cut("ring", ring(self.order()), self.span_us())

    def cut_pair(self) -> None:
        one, other = self.order()[:2]
        links: Cut = ((one, other),) if self.rng.random() < 0.5 else ((one, other), (other, one))
        self.cut("pair", links, self.span_us())

    def order(self) -> list[int]:
        return self.rng.sample(range(len(self.world.hosts)), len(self.world.hosts))

    def flap(self) -> None:
        """A link that comes and goes around the length of a lease."""
        links = isolate(len(self.world.hosts), self.victim().index, hears=False, is_heard=False)
        period_us = int(self.lease_us * 4 ** self.rng.uniform(-1.0, 1.0))
        self.world.note("flap", f"every {period_us} us")
        for turn in range(self.rng.randrange(2, 10)):
            self.later(turn * 2 * period_us, lambda: self.cut("flap-cut", links, period_us))

    def swizzle(self) -> None:
        """Cut links one by one, and heal them one by one in another order."""
        size = len(self.world.hosts)
        links = [(one, other) for one in range(size) for other in range(size) if one != other]
        self.world.note("swizzle")
        for link in self.rng.sample(links, self.rng.randrange(1, len(links) + 1)):
            begin_us = self.rng.randrange(self.lease_us)
            self.later(begin_us, lambda link=link: self.cut("swizzle-cut", (link,), self.span_us()))

    def clog(self) -> None:
        """Some links, each way for itself, are slow for a while."""
        world = self.world
        size = len(world.hosts)
        links = [(one, other) for one in range(size) for other in range(size) if one != other]
        world.note("clog")
        slow = self.rng.sample(links, self.rng.randrange(1, len(links) + 1))
        span_us = self.span_us()
        for one, other in slow:
            self.slow_link(one, other, int(self.lease_us * self.rng.random() ** 2), span_us)

    def slow_link(self, one: int, other: int, delay_us: int, span_us: int) -> None:
        clogged_us = self.world.network.clogged_us
        clogged_us[one][other] = delay_us

        def clear() -> None:
            clogged_us[one][other] = 0

        self.later(span_us, clear)

    def storm(self) -> None:
        """Worse weather for a while."""
        world, fair = self.world, self.weather
        jitter_us = self.rng.choice((fair.jitter_us, self.lease_us, 2 * self.lease_us))
        world.network.weather = Weather(
            self.rng.uniform(0.1, 0.6), fair.duplicates, fair.stragglers, fair.delay_us, jitter_us, fair.corrupt
        )
        world.note("storm")

        def calm() -> None:
            world.network.weather = fair

        self.later(self.span_us(), calm)

    # -- slowness ------------------------------------------------------------------------------------------------

    def slow_stop(self) -> None:
        """Stopping a service takes longer than its lease: only force ends it in time."""
        host = self.victim()
        self.world.note("slow-stop", host.name)
        host.stop_us = (0, self.rng.choice((self.lease_us // 3, 3 * self.lease_us)))

        def quick() -> None:
            host.stop_us = self.stop_us

        self.later(self.span_us(), quick)

    def slow_timers(self) -> None:
        host = self.victim()
        self.world.note("slow-timers", host.name)
        host.timer_us = self.rng.choice((20_000, self.lease_us))

        def quick() -> None:
            host.timer_us = 1_000

        self.later(self.span_us(), quick)

    # -- candidates ----------------------------------------------------------------------------------------------

    def unfit(self) -> None:
        host = self.victim()
        if not host.standings or host.core is None:
            return
        standing = self.rng.choice(list(host.standings.values()))
        self.world.note("unfit", f"{host.name} {standing.election}")
        host.change(msgspec.structs.replace(standing, fit=False))

        def fit() -> None:
            if host.core is not None:
                host.change(msgspec.structs.replace(host.standings[standing.election], fit=True))
            else:
                host.standings[standing.election] = msgspec.structs.replace(standing, fit=True)

        self.later(self.span_us(), fit)

    def reshuffle(self) -> None:
        """Candidates become warmer, colder, fresher."""
        host = self.victim()
        for standing in list(host.standings.values()):
            self.world.note("reshuffle", host.name)
            host.change(
                msgspec.structs.replace(
                    standing,
                    warm=self.rng.random() < 0.6,
                    term=standing.term + self.rng.randrange(2),
                    generation=self.rng.randrange(100),
                )
            )

    def resign(self) -> None:
        host = self.victim()
        if host.running():
            election = self.rng.choice(self.world.shape.plans).name
            self.world.note("asked-to-resign", f"{host.name} {election}")
            successor = self.rng.choice(("", "", *self.world.shape.voters))
            host.take(ResignationRequested(election, "told to", successor))

"""Ordering: operators who pause, resume, drain and undrain, in the middle of everything; and who look what comes of it.

O1: a node that acts by a pause does not begin to lead, nor gives up for its health; once a majority acts by one, nobody
begins to lead. O2: a drained node does not begin to lead, and does not go on when another could follow. O3: what a node
shows is on its disk, and no node goes back to older orders. O4: all orders come to be the same; after `resume`
everything goes on.

All chance comes from a generator of its own: whether a run has orders changes nothing else in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from gateway.core import orders as core_orders
from gateway.core.actions import Action, Cause, StartServing, StopServing
from gateway.core.events import OrdersGiven
from gateway.core.node import Node
from gateway.core.orders import merge, rank_of
from gateway.core.voter import Role
from gateway.wire.messages import Orders

from .audit import Violation

if TYPE_CHECKING:
    from .faults import Faults
    from .host import Host
    from .world import World

Change = Callable[..., Orders]
LEASES_OF_OBEYING = 18  # what `obey` takes of a calm
ROUND_LEASES = 1.1  # votes are asked for and counted within a lease, on clocks that differ by 1 %
GIVE_WAY_BEATS = 3  # a drained leader looks for an heir at each of its heartbeats


class OrderAudit:
    """Judges what hosts do by what they have been ordered.

    Args:
        world: the cluster.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.acted: dict[str, Orders] = {}  # host -> the newest that it has acted by
        self.paused_us: dict[str, int] = {}  # host -> since when it acts by a pause
        self.could_follow_us: dict[tuple[str, str], int] = {}  # (drained leader, election) -> since when one could

    def began(self, host: Host, node: Node) -> None:
        """A process has begun, or has taken another's place."""
        before = self.acted.get(host.name)
        if before is not None and rank_of(node.book.orders) < rank_of(before):
            raise Violation(f"O3: {host.name} acts by {node.book.orders}, and acted by {before}")
        self._forget(host)

    def stepped(self, host: Host, node: Node, actions: list[Action]) -> None:
        """A step is over, its actions not yet carried out."""
        book, now_us = node.book, self.world.now_us
        if self.acted.get(host.name) is not book.orders:
            self.began(host, node)
            self.acted[host.name] = book.orders
            if not book.paused:
                self.paused_us.pop(host.name, None)
            else:
                self.paused_us.setdefault(host.name, now_us)
        for action in actions:
            if type(action) is StartServing:
                self._starts(host, node, action)
            elif type(action) is StopServing and book.paused and action.cause is Cause.UNFIT:
                raise Violation(f"O1: {host.name} gives up for its health while the cluster is paused: {action}")
        if book.drains_me:
            self._drained(host, node)

    def _starts(self, host: Host, node: Node, action: StartServing) -> None:
        if node.book.paused:
            raise Violation(f"O1: {host.name} begins to lead while the cluster is paused: {action}")
        if node.book.drains_me:
            raise Violation(f"O2: {host.name} begins to lead, and is drained: {action}")
        if self.world.shape.serve:
            return  # a side that has not heard of it decides for itself
        before_us = self.world.now_us - int(ROUND_LEASES * 1000 * self.world.lease_ms_longest)
        know = [name for name, since_us in self.paused_us.items() if since_us < before_us]
        if 2 * len(know) > len(self.world.hosts):
            raise Violation(f"O1: {host.name} begins to lead while {know} act by a pause: {action}")

    def _drained(self, host: Host, node: Node) -> None:
        """See that a drained leader does not stay where another could follow, by what it has itself heard."""
        now_us, now_ms = self.world.now_us, host.now_ms()
        for name, election in node.elections.items():
            heard = (
                standing
                for candidate, (standing, heard_ms) in election.ranking.heard.items()
                if candidate not in (host.name, *node.book.orders.drained)
                and now_ms - heard_ms < election.ranking.memory_ms
            )
            could = any(one.fit and (one.warm or not election.standing.warm) for one in heard)
            if election.role is not Role.LEADER or node.book.paused or not could:
                self.could_follow_us.pop((host.name, name), None)
                continue
            since_us = self.could_follow_us.setdefault((host.name, name), now_us)
            patience_ms = GIVE_WAY_BEATS * host.timing.heartbeat_ms
            if now_us - since_us > patience_ms * 1_010 and node.slowness.score == 0:
                raise Violation(f"O2: {host.name} is drained, and still leads {name}")

    def showing(self, host: Host, digest: int) -> None:
        """A heartbeat leaves."""
        if digest not in host.orders_kept:
            raise Violation(f"O3: {host.name} shows orders that are not on its disk, which has {host.orders}")

    def _forget(self, host: Host) -> None:
        for key in [key for key in self.could_follow_us if key[0] == host.name]:
            del self.could_follow_us[key]


# -- operators -----------------------------------------------------------------------------------------------------


def give(host: Host, change: Change, *words: str, **more: str) -> None:
    """Give an order at a host."""
    if host.running() and host.core is not None:
        newest = host.core.book.newest()
        host.world.note(change.__name__, " ".join((host.name, *words)))
        at_s = host.world.now_us // 1_000_000
        host.take(OrdersGiven(change(newest, *words, by=host.name, at_s=at_s, **more)))


def pause(faults: Faults) -> None:
    """The cluster is paused for a while, by an operator who comes back to where he was, or elsewhere."""
    hosts, rng = faults.world.hosts, faults.world.orders_rng
    give(rng.choice(hosts), core_orders.paused, reason="told to")
    faults.later(_span_us(faults), lambda: give(rng.choice(hosts), core_orders.resumed))


def drain(faults: Faults) -> None:
    """A host, often one that leads, is drained for a while."""
    world, rng = faults.world, faults.world.orders_rng
    serving = world.audit.serving(rng.choice(world.shape.plans).name, world.now_us)
    number = serving[0] if serving and rng.random() < 0.7 else rng.randrange(len(world.hosts))
    node = world.hosts[number].name
    give(rng.choice(world.hosts), core_orders.drained, node)
    faults.later(_span_us(faults), lambda: give(rng.choice(world.hosts), core_orders.undrained, node))


def contradict(faults: Faults) -> None:
    """Two operators give different orders at once."""
    one, other = faults.world.orders_rng.choices(faults.world.hosts, k=2)
    give(one, core_orders.paused, reason="the one")
    give(other, core_orders.drained, faults.world.orders_rng.choice(faults.world.hosts).name)
    faults.later(_span_us(faults), lambda: give(one, core_orders.resumed))


def _span_us(faults: Faults) -> int:
    return int(faults.lease_us * 16 ** faults.world.orders_rng.uniform(-0.5, 1.0))


def plan_orders(faults: Faults) -> None:
    """Give orders from now on, until everything is healed."""
    rng = faults.world.orders_rng

    def strike() -> None:
        rng.choice((pause, pause, drain, drain, contradict))(faults)
        plan_orders(faults)

    faults.later(int(rng.expovariate(1 / (8 * faults.lease_us))) + 1, strike)


def revoke_all(world: World) -> None:
    """An operator who sees every node takes everything back, at a node that runs."""
    newest = core_orders.NO_ORDERS
    for host in world.hosts:
        newest = merge(newest, host.orders)
        for orders in host.writing_orders:
            newest = merge(newest, orders)
        if host.core is not None:
            newest = merge(newest, host.core.book.newest())
    if newest.version and (newest.pause is not None or newest.drains):
        # A host may still wait to be started, for a promise of before to end.
        host = world.orders_rng.choice([host for host in world.hosts if host.core is not None])
        world.note("revoke-all", host.name)
        host.take(OrdersGiven(Orders(newest.version + 1, host.name, None, (), 0)))


def require_agreement(world: World) -> None:
    """All act by the same orders (O4), once everything was healed a while ago."""
    orders = {host.core.book.orders for host in world.hosts if host.core is not None}
    if len(orders) != 1:
        raise Violation(f"O4: nodes act by different orders: {orders}")


# -- in the calm ---------------------------------------------------------------------------------------------------


def obey(world: World) -> None:
    """See that each order does what it says where nothing else is wrong. Takes `LEASES_OF_OBEYING`."""
    lease_us, rng = world.lease_ms_longest * 1000, world.orders_rng
    _obey_drain(world, lease_us)
    # paused, a leader stays that is not well; resumed, it does not
    plan = rng.choice(world.shape.plans)
    leader = world.hosts[world.audit.serving(plan.name, world.now_us)[0]]
    _give_and_wait(world, lease_us, core_orders.paused, reason="calm")
    starts = len(world.audit.starts)
    leader.change(msgspec.structs.replace(leader.standings[plan.name], fit=False))
    world.run(world.now_us + 2 * lease_us)
    _require(world, starts, set(), "O1: an unfit leader was succeeded while the cluster was paused")
    _give_and_wait(world, lease_us, core_orders.resumed)
    _require(world, starts, {plan.name}, "O4: an unfit leader stayed after the cluster was resumed")
    leader.change(msgspec.structs.replace(leader.standings[plan.name], fit=True))
    world.run(world.now_us + lease_us)
    # paused, a leader that dies has no successor; resumed, it has one
    plan = rng.choice(world.shape.plans)
    leader = world.hosts[world.audit.serving(plan.name, world.now_us)[0]]
    led = {one.name for one in world.shape.plans if leader.index in world.audit.serving(one.name, world.now_us)}
    _give_and_wait(world, lease_us, core_orders.paused, reason="calm")
    starts = len(world.audit.starts)
    world.note("paused-kill", leader.name)
    leader.crash()
    world.run(world.now_us + 3 * lease_us)
    leader.start()
    world.run(world.now_us + 2 * lease_us)
    _require(world, starts, set(), "O1: somebody followed a dead leader while the cluster was paused")
    _give_and_wait(world, 2 * lease_us, core_orders.resumed)
    if len(world.hosts) > 2:  # of two the other has lost its majority as well
        _require(world, starts, led, "O4: nobody led what was led before the pause, after the cluster was resumed")
    world.require_settled("O4: after the cluster was resumed")
    require_agreement(world)


def _obey_drain(world: World, lease_us: int) -> None:
    plan = world.orders_rng.choice(world.shape.plans)
    leader = world.hosts[world.audit.serving(plan.name, world.now_us)[0]]
    starts = len(world.audit.starts)
    moves = set()
    for one in world.shape.plans:
        if leader.index in world.audit.serving(one.name, world.now_us):
            others = [world.hosts[world.index[name]].standings[one.name] for name in one.candidates]
            mine = leader.standings[one.name]
            if any(other is not mine and (other.warm or not mine.warm) for other in others):
                moves.add(one.name)
    _give_and_wait(world, 2 * lease_us, core_orders.drained, leader.name)
    _require(world, starts, moves, f"O2: {leader.name} was drained")
    stays = {one.name for one in world.shape.plans if leader.index in world.audit.serving(one.name, world.now_us)}
    if stays & moves:
        raise Violation(f"O2: {leader.name} was drained, and leads {stays}")
    _give_and_wait(world, lease_us, core_orders.undrained, leader.name)
    _require(world, starts, moves, f"O2: {leader.name} was undrained")


def _give_and_wait(world: World, wait_us: int, change: Change, *words: str, **more: str) -> None:
    give(world.orders_rng.choice(world.hosts), change, *words, **more)
    world.run(world.now_us + wait_us)
    require_agreement(world)


def _require(world: World, starts: int, changed: set[str], promise: str) -> None:
    """Exactly the elections of `changed` have had one new leader each since."""
    came = [name for name, _ in world.audit.starts[starts:]]
    if sorted(came) != sorted(changed):
        raise Violation(f"{promise}: then these were led: {came}, and should have been: {sorted(changed)}")

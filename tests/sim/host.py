"""Host: one simulated machine: a clock, a disk, and the shell that carries out what the real core decides.

Like the production shell it performs the actions of a step in order, writes votes in the background, and stops what it
serves when its own clock reaches the end of the lease. Unlike it, it can be killed or frozen between two actions.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gateway.core.actions import Action, ExtendServing, PersistOrders, PersistVote, Send, StartServing, StopServing
from gateway.core.events import (
    DeadlineReached,
    Event,
    MessageReceived,
    OrdersPersisted,
    ServingStopped,
    StandingChanged,
    SuspensionNoticed,
    VotePersisted,
)
from gateway.core.node import Node, SavedVote
from gateway.core.orders import NO_ORDERS, digest_of
from gateway.core.snapshot import capture, restore, unsettled
from gateway.core.timing import Timing, promise_ms_for
from gateway.wire.messages import Ack, Message, Orders, Pulse, Standing

from .audit import Violation

if TYPE_CHECKING:
    from .clock import SimClock
    from .world import World

INBOX_MAX = 1_000  # datagrams that a frozen process finds when it wakes: a socket's buffer is no longer
NEVER = 1 << 62


class Host:
    """A simulated machine.

    Args:
        world: what carries datagrams and time.
        index: its number in the cluster.
        clock: its CLOCK_BOOTTIME.
    """

    def __init__(self, world: World, index: int, clock: SimClock) -> None:
        self.world = world
        self.index = index
        self.name = world.shape.voters[index]
        self.clock = clock
        self.disk: dict[str, SavedVote] = {}
        self.synced: dict[str, SavedVote] | None = None  # what a disk that lies will have after the next crash
        self.disk_full = False
        self.writing: dict[str, PersistVote] = {}
        self.orders: Orders = NO_ORDERS  # on the disk
        self.orders_kept: set[int] = set()  # digests of all that ever were
        self.writing_orders: list[Orders] = []  # one at a time, then the newest that came meanwhile
        self.standings: dict[str, Standing] = {
            plan.name: Standing(plan.name, True, True, 0, 0, "")
            for plan in world.shape.plans
            if self.name in plan.candidates
        }
        self.timing = world.timing  # its own: periods may be changed host by host
        self.core: Node | None = None
        self.crashed_us = 0
        self.life = 0  # counts starts; what belongs to an earlier life is void
        self.frozen = False
        self.asleep_since_ms = -1
        self.inbox: list[Event | bytes] = []
        self.unperformed: list[Action] = []  # a freeze came between two actions
        self.deadline_ms = 0
        self.timer_at_us = NEVER
        self.armed_ms = NEVER  # deadline for which the timer that is out was set
        # troubles that faults switch on
        self.fuse = -1  # kill or freeze after so many more actions; -1: never
        self.fuse_freezes = False
        self.fsync_us = (500, 5_000)
        self.confirm_us = (0, 500)  # from the disk's having a vote to the core's knowing
        self.ready_us = (1_000, 100_000)  # from the start to the first health check
        self.stop_us = (0, 20_000)
        self.timer_us = 1_000  # how late a timer fires, at most

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process; later, where its periods are shorter than a promise that it may have made to another.

        A node's silence after its start (rule 4) is as long as its own promise: while periods are being changed, who
        has the shorter ones must be down for the longer promise before it is back.
        """
        assert self.core is None, "a host runs once at a time"
        world = self.world
        if self.timing.lease_ms < world.lease_ms_longest:
            back_us = self.crashed_us + promise_ms_for(world.lease_ms_longest) * 1_010
            if back_us > world.now_us:
                world.call(back_us - world.now_us, self.start_if_down)
                return
        self.life += 1
        self.frozen = False
        self.inbox.clear()
        self.unperformed = []
        self.timer_at_us = self.armed_ms = NEVER
        self.core = self._node()
        self.tell_audit()
        world.order_audit.began(self, self.core)
        world.audit.began(self.index, world.now_us, (self.timing.promise_ms - 1) * 990)
        if world.sealed is not None:
            world.sealed.boot(self)
        self.deadline_ms = self.core.deadline_ms()
        self.arm()
        for standing in self.standings.values():
            world.later(
                world.rng.randint(*self.ready_us), world.EVENT, self.index, self.life, StandingChanged(standing)
            )

    def start_if_down(self) -> None:
        if self.core is None:
            self.start()

    def _node(self) -> Node:
        world = self.world
        return Node(
            me=self.name,
            voters=world.shape.voters,
            plans=world.shape.plans,
            timing=self.timing,
            saved=dict(self.disk),
            now_ms=self.clock.read_ms(world.now_us),
            serve_apart=world.shape.serve,
            orders=self.orders,
        )

    def tell_audit(self) -> None:
        """Tell after how much silence this host may count another as cut off: a tick less, and 1 % of its clock."""
        audit = self.world.audit
        audit.apart_us[self.index] = (self.timing.apart_ms - 1) * 990
        # A freeze between two timers is noticed by the later one.
        audit.late_us[self.index] = (self.timing.heartbeat_ms + self.timing.late_ms + 1) * 1_010

    def wake_as(self, core: Node, clock_us: int) -> None:
        """Go on as an earlier run, from a snapshot of its memory and clock."""
        assert self.core is None, "a host runs once at a time"
        self.life += 1
        self.clock.reboot(self.world.now_us, clock_us)
        self.world.audit.went_back(self.index, core)
        self.timer_at_us = self.armed_ms = NEVER
        self.core, self.deadline_ms = core, core.deadline_ms()
        self.arm()
        for election in core.elections.values():
            if election.persisting is not None:
                self.persist(election.persisting)

    def reload(self, timing: Timing | None = None) -> bool:
        """Let a new process take over, with other periods perhaps; return whether the old one was free to."""
        assert self.core is not None, "only what runs is reloaded"
        if unsettled(self.core) or self.writing:
            return False
        state = capture(self.core)
        self.timing = timing or self.timing
        self.world.lease_ms_longest = max(self.world.lease_ms_longest, self.timing.lease_ms)
        self.tell_audit()
        fresh = self._node()
        restore(fresh, state)
        self.world.order_audit.began(self, fresh)
        if self.world.sealed is not None:
            self.world.sealed.boot(self)
        self.core, self.deadline_ms = fresh, fresh.deadline_ms()
        self.timer_at_us = self.armed_ms = NEVER
        self.arm()
        return True

    def crash(self) -> None:
        """The process is gone; datagrams on their way are not, nor is, perhaps, a vote that it was writing."""
        for action in self.writing.values():
            if self.world.rng.random() < 0.3:
                self.written(action)  # renamed, and never reported
                self.world.note("write-unreported", self.name)
            else:
                self.world.note("write-lost", self.name)
        self.writing.clear()
        if self.writing_orders and not self.disk_full and self.world.orders_rng.random() < 0.3:
            self._keep_orders(self.writing_orders[0])
        self.writing_orders.clear()
        self.crashed_us = self.world.now_us
        if self.synced is not None:
            self.disk, self.synced = self.synced, None
        self.core = None
        self.frozen = False
        self.fuse = -1
        self.inbox.clear()
        self.unperformed = []

    def freeze(self, *, asleep: bool = False) -> None:
        """Stop in the middle. `asleep` is the whole machine: its network hears nothing meanwhile."""
        self.frozen = True
        self.asleep_since_ms = self.now_ms() if asleep else -1
        self.fuse = -1

    def thaw(self) -> None:
        """Go on in the middle of the actions; then come the datagrams and the timers, all late."""
        self.frozen = False
        rest, self.unperformed = self.unperformed, []
        self.perform(rest)
        if self.asleep_since_ms >= 0 and self.running():
            self.step(SuspensionNoticed(self.now_ms() - self.asleep_since_ms))
        self.asleep_since_ms = -1
        while self.inbox and self.running():
            event = self.inbox.pop(0)
            if isinstance(event, MessageReceived):
                self.hear(event)
            elif isinstance(event, bytes):
                self.open(event)
            elif isinstance(event, ServingStopped):
                self.stopped(event)
            else:
                self.step(event)
        if self.running():
            self.arm()

    def running(self) -> bool:
        return self.core is not None and not self.frozen

    def leads(self) -> bool:
        """Tell whether this host serves anything, or has not confirmed that it has stopped."""
        core = self.core
        return core is not None and any(one.serving_term is not None for one in core.elections.values())

    def now_ms(self) -> int:
        return self.clock.read_ms(self.world.now_us)

    # -- events --------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        """A datagram arrives."""
        if self.core is None:
            return
        event = MessageReceived(sender, message)
        if self.frozen:
            self._keep(event)
        else:
            self.hear(event)

    def receive_sealed(self, datagram: bytes) -> None:
        """A sealed datagram arrives, or what somebody wants to be taken for one."""
        if self.frozen:
            self._keep(datagram)
        elif self.core is not None:
            self.open(datagram)

    def open(self, datagram: bytes) -> None:
        sealed = self.world.sealed
        assert sealed is not None, "a world without seals has no sealed datagrams"
        opened = sealed.open(self, datagram)
        if opened is not None:
            self.hear(MessageReceived(*opened))

    def hear(self, event: MessageReceived) -> None:
        if self.world.shape.serve:
            link = (self.index, self.world.index[event.sender])
            self.world.audit.heard_us[link] = self.world.now_us
            self.world.audit.unread_us.pop(link, None)
        self.step(event)

    def _keep(self, datagram: MessageReceived | bytes) -> None:
        if self.asleep_since_ms >= 0 or len(self.inbox) >= INBOX_MAX:
            return
        self.inbox.append(datagram)
        if isinstance(datagram, MessageReceived):  # it has arrived, whoever looks
            link = (self.index, self.world.index[datagram.sender])
            self.world.audit.unread_us.setdefault(link, self.world.now_us)

    def take(self, event: Event) -> None:
        """Something of this host's own has happened."""
        if type(event) is StandingChanged:  # a service says how it stands now, not when it was asked to
            event = StandingChanged(self.standings[event.standing.election], event.reason)
        if self.frozen:
            self.inbox.append(event)
        elif self.core is not None:
            self.step(event)

    def step(self, event: Event) -> None:
        core, world = self.core, self.world
        assert core is not None, "only who runs takes steps"
        now_us = world.now_us
        now_ms = self.clock.read_ms(now_us)
        try:
            actions = core.step(event, now_ms)
        except AssertionError:
            if not world.weak:
                raise
            world.stopped_by_assertion(self)  # as in production: it would rather end than go on
            return
        deadline_ms = core.deadline_ms()
        world.steps += 1
        world.digest = hash((world.digest, now_us, self.index, len(actions), deadline_ms))
        if world.trace is not None:
            world.trace_step(self, event, actions)
        world.audit.stepped(self.index, core, actions, now_ms, deadline_ms, now_us)
        if core.book.digest:
            world.order_audit.stepped(self, core, actions)
        self.deadline_ms = deadline_ms
        if actions:
            self.perform(actions)
        if deadline_ms < self.armed_ms and self.core is core and not self.frozen:
            self.arm()

    def arm(self) -> None:
        """Make sure that a timer fires no earlier than the deadline and, unless it is slow today, soon after it."""
        if self.deadline_ms >= self.armed_ms:
            return  # one is out that fires before, and looks again
        world, self.armed_ms = self.world, self.deadline_ms
        due_us = max(self.clock.true_us(self.deadline_ms), world.now_us)
        self.timer_at_us = due_us + int(world.rng.random() ** 2 * self.timer_us)
        world.at(self.timer_at_us, world.TIMER, self.index, self.life, None)

    def timer(self) -> None:
        """The timer fired. One timer is out at a time: where the deadline has moved on meanwhile, it is set again."""
        if self.timer_at_us != self.world.now_us:
            return  # an earlier one was set after this
        self.timer_at_us = self.armed_ms = NEVER
        if self.frozen:
            self.inbox.append(DeadlineReached())
            return
        before_ms = self.now_ms()
        if before_ms < self.deadline_ms:
            self.arm()
            return
        before = self.world.performed
        self.step(DeadlineReached())
        if self.running() and self.deadline_ms <= before_ms and self.world.performed == before:
            raise Violation(f"{self.name} has nothing to do, and a deadline in the past: a busy loop")

    # -- actions -------------------------------------------------------------------------------------------------

    def perform(self, actions: list[Action]) -> None:
        """Carry out one action after the other; a crash or a freeze may come between any two."""
        world = self.world
        world.performed += len(actions)
        for done, action in enumerate(actions):
            if self.fuse >= 0:
                self.fuse -= 1
                if self.fuse < 0:
                    world.fuse_blown(self)
                    if self.frozen:
                        self.unperformed = actions[done:]
                    return
            if type(action) is Send:
                self.send(action)
            else:
                self.act(action)

    def send(self, action: Send) -> None:
        world, message = self.world, action.message
        kind = type(message)
        if kind is not Pulse and kind is not Ack:
            world.audit.sending(self.index, action.to, message, self.disk, world.now_us)
        elif kind is Pulse and message.orders:
            world.order_audit.showing(self, message.orders)
        world.post(self, action.to, message)

    def act(self, action: Action) -> None:
        world, now_us = self.world, self.world.now_us
        world.digest = hash((world.digest, now_us, self.index, getattr(action, "term", -1)))
        match action:
            case PersistVote():
                self.persist(action)
            case PersistOrders(orders):
                self.persist_orders(orders)
            case StartServing(_, _, until_ms):
                world.audit.start(self.index, action, now_us, self.clock.true_us(until_ms))
                world.serving_started(self, action)
            case ExtendServing(_, _, until_ms):
                world.audit.extend(self.index, action, now_us, self.clock.true_us(until_ms))
            case StopServing():
                self.stop(action)

    def persist(self, action: PersistVote) -> None:
        """Write in the background: the disk takes it at some moment, the confirmation comes later."""
        world = self.world
        world.audit.persisting(self.index, action, self.disk)
        taken_us = world.rng.randint(*self.fsync_us)
        if self.disk_full:
            world.ending += 1
            world.later(taken_us, world.CALL, -1, 0, partial(world.disk_failed, self, self.life))
            return
        self.writing[action.election] = action
        confirmed_us = taken_us + world.rng.randint(*self.confirm_us)
        world.later(taken_us, world.DISK, self.index, self.life, action)
        confirmation = VotePersisted(action.election, action.term)
        world.later(confirmed_us, world.EVENT, self.index, self.life, confirmation)

    def persist_orders(self, orders: Orders) -> None:
        """Write orders in the background, of those that wait the newest; a full disk changes nothing, and says so."""
        self.writing_orders = [*self.writing_orders[:1], orders]
        if len(self.writing_orders) == 1:
            self._write_orders()

    def _keep_orders(self, orders: Orders) -> None:
        self.orders = orders
        self.orders_kept.add(digest_of(orders))

    def _write_orders(self) -> None:
        world, life, (orders, *_) = self.world, self.life, self.writing_orders

        def taken() -> None:
            if self.life != life or not self.writing_orders:
                return  # it has crashed meanwhile
            written = not self.disk_full
            if written:
                self._keep_orders(orders)
            self.writing_orders.pop(0)
            confirmed_us = world.orders_rng.randint(*self.confirm_us)
            world.later(confirmed_us, world.EVENT, self.index, life, OrdersPersisted(orders, written))
            if self.writing_orders:
                self._write_orders()

        world.call(world.orders_rng.randint(*self.fsync_us), taken)

    def written(self, action: PersistVote) -> None:
        self.disk[action.election] = SavedVote(action.term, action.vote)

    def disk_done(self, action: PersistVote) -> None:
        """The kernel has finished a write; that the process may be frozen does not matter to it."""
        del self.writing[action.election]
        self.written(action)

    def stop(self, action: StopServing) -> None:
        """Stop gracefully, which takes time, or at once, which does not; the confirmation may be late either way."""
        world = self.world
        event = ServingStopped(action.election, action.term)
        delay_us = world.rng.randint(*self.stop_us)
        if action.at_once:
            world.audit.stop(self.index, action.election, action.term)
            delay_us = min(delay_us, 2_000)
        world.later(delay_us, world.STOPPED, self.index, self.life, event)

    def stopped(self, event: ServingStopped) -> None:
        if self.frozen:
            self.inbox.append(event)  # it goes on serving, until the end of its lease, till it wakes
            return
        self.world.audit.stop(self.index, event.election, event.term)
        self.step(event)

    def change(self, standing: Standing) -> None:
        self.standings[standing.election] = standing
        self.take(StandingChanged(standing, "" if standing.fit else "told to be"))

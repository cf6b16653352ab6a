"""Host: one simulated machine: a clock, a disk, and the shell that carries out what the real core decides.

Like the production shell it performs the actions of a step in order, writes votes in the background, and stops what it
serves when its own clock reaches the end of the lease. Unlike it, it can be killed or frozen between two actions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.actions import Action, ExtendServing, PersistVote, Send, StartServing, StopServing
from gateway.core.events import (
    DeadlineReached,
    Event,
    MessageReceived,
    ServingStopped,
    StandingChanged,
    VotePersisted,
)
from gateway.core.node import Node, SavedVote
from gateway.wire.messages import Ack, Message, Pulse, Standing

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
        self.writing: dict[str, PersistVote] = {}
        self.standings: dict[str, Standing] = {
            plan.name: Standing(plan.name, True, True, 0, 0, "")
            for plan in world.shape.plans
            if self.name in plan.candidates
        }
        self.core: Node | None = None
        self.life = 0  # counts starts; what belongs to an earlier life is void
        self.frozen = False
        self.inbox: list[Event] = []
        self.unperformed: list[Action] = []  # a freeze came between two actions
        self.deadline_ms = 0
        self.timer_at_us = NEVER
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
        assert self.core is None, "a host runs once at a time"
        self.life += 1
        self.frozen = False
        self.inbox.clear()
        self.unperformed = []
        self.timer_at_us = NEVER
        world = self.world
        self.core = Node(
            me=self.name,
            voters=world.shape.voters,
            plans=world.shape.plans,
            timing=world.timing,
            saved=dict(self.disk),
            now_ms=self.clock.read_ms(world.now_us),
        )
        self.deadline_ms = self.core.deadline_ms()
        self.arm()
        for standing in self.standings.values():
            world.later(
                world.rng.randint(*self.ready_us), world.EVENT, self.index, self.life, StandingChanged(standing)
            )

    def crash(self) -> None:
        """The process is gone; datagrams on their way are not, nor is, perhaps, a vote that it was writing."""
        for action in self.writing.values():
            if self.world.rng.random() < 0.3:
                self.written(action)  # renamed, and never reported
        self.writing.clear()
        self.core = None
        self.frozen = False
        self.fuse = -1
        self.inbox.clear()
        self.unperformed = []

    def freeze(self) -> None:
        self.frozen = True
        self.fuse = -1

    def thaw(self) -> None:
        """Go on in the middle of the actions; then come the datagrams and the timers, all late."""
        self.frozen = False
        rest, self.unperformed = self.unperformed, []
        self.perform(rest)
        while self.inbox and self.running():
            event = self.inbox.pop(0)
            if isinstance(event, ServingStopped):
                self.stopped(event)
            else:
                self.step(event)
        if self.running():
            self.arm()

    def running(self) -> bool:
        return self.core is not None and not self.frozen

    def now_ms(self) -> int:
        return self.clock.read_ms(self.world.now_us)

    # -- events --------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        """A datagram arrives. Peers get the same pulse, so one event serves them all."""
        if self.core is None:
            return
        if self.frozen:
            if len(self.inbox) < INBOX_MAX:
                self.inbox.append(MessageReceived(sender, message))
            return
        self.step(MessageReceived(sender, message))

    def take(self, event: Event) -> None:
        """Something of this host's own has happened."""
        if self.frozen:
            self.inbox.append(event)
        elif self.core is not None:
            self.step(event)

    def step(self, event: Event) -> None:
        core, world = self.core, self.world
        assert core is not None, "only who runs takes steps"
        now_us = world.now_us
        now_ms = self.clock.read_ms(now_us)
        actions = core.step(event, now_ms)
        deadline_ms = core.deadline_ms()
        world.steps += 1
        world.digest = hash((world.digest, now_us, self.index, len(actions), deadline_ms))
        if world.trace is not None:
            world.trace_step(self, event, actions)
        world.audit.stepped(self.index, core, actions, now_ms, deadline_ms)
        moved = deadline_ms != self.deadline_ms
        self.deadline_ms = deadline_ms
        if actions:
            self.perform(actions)
        if moved and self.core is core and not self.frozen:
            self.arm()

    def arm(self) -> None:
        """Make sure that a timer fires no earlier than the deadline and, unless it is slow today, soon after it."""
        due_us = self.clock.true_us(self.deadline_ms)
        if due_us < self.world.now_us:
            due_us = self.world.now_us
        if due_us < self.timer_at_us:
            self.timer_at_us = due_us + int(self.world.rng.random() ** 2 * self.timer_us)
            self.world.at(self.timer_at_us, self.world.TIMER, self.index, self.life, None)

    def timer(self) -> None:
        """The timer fired. One timer is out at a time: where the deadline has moved on meanwhile, it is set again."""
        if self.timer_at_us != self.world.now_us:
            return  # an earlier one was set after this
        self.timer_at_us = NEVER
        if self.frozen:
            self.inbox.append(DeadlineReached())
            return
        if self.now_ms() < self.deadline_ms:
            self.arm()
            return
        before_ms, before = self.now_ms(), self.world.performed
        self.step(DeadlineReached())
        if self.running() and self.deadline_ms <= before_ms and self.world.performed == before:
            raise Violation(f"{self.name} has nothing to do, and a deadline in the past: a busy loop")
        if self.running():
            self.arm()

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
        world.post(self, action.to, message)

    def act(self, action: Action) -> None:
        world, now_us = self.world, self.world.now_us
        world.digest = hash((world.digest, now_us, self.index, getattr(action, "term", -1)))
        match action:
            case PersistVote():
                self.persist(action)
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
        self.writing[action.election] = action
        taken_us = world.rng.randint(*self.fsync_us)
        confirmed_us = taken_us + world.rng.randint(*self.confirm_us)
        world.later(taken_us, world.DISK, self.index, self.life, action)
        confirmation = VotePersisted(action.election, action.term)
        world.later(confirmed_us, world.EVENT, self.index, self.life, confirmation)

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

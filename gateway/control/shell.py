"""Shell: one node's core in the real world. Events in from any task, actions out to services; it decides nothing.

`post` is synchronous: an event is taken, and its actions are begun, before control returns to trio. What can't be done
in microseconds (the vote's way to the disk, stopping a negotiator) is done by a task and comes back as an event.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog
import trio

from gateway.control.heartbeats import Heartbeats
from gateway.control.votes import VoteFiles
from gateway.core.actions import (
    Action,
    AnnounceAgain,
    Cause,
    ExtendServing,
    FollowLeader,
    PersistOrders,
    PersistVote,
    Send,
    StartServing,
    StopServing,
)
from gateway.core.events import DeadlineReached, Event, MessageReceived, SuspensionNoticed, VotePersisted
from gateway.core.node import Node
from gateway.kernel.alarm import Alarm
from gateway.kernel.clock import asleep_ms, boot_ms
from gateway.wire.messages import Message, Orders

ASLEEP_MS_MIN = 50  # a sleep of the machine shorter than this is the clocks' own noise
NEVER_MS = -1
VOTES_WAITING_MAX = 16  # an election has at most one vote on its way; this is a bound on mistakes


class Service(Protocol):
    """What an election is about, on the node that wins it. None of the methods may wait."""

    def start(self, term: int, until_ms: int) -> None:
        """Begin to serve; re-read the clock before each act, and act only before `until_ms`."""

    def extend(self, until_ms: int) -> None:
        """The lease runs until `until_ms` now."""

    def stop(self, term: int, cause: Cause, *, at_once: bool) -> None:
        """Stop; then post `ServingStopped(election, term)`. May be called again with `at_once`."""

    def announce_again(self) -> None:
        """A peer is back from a silence: what was announced meanwhile may be believed by some."""


class Watcher(Protocol):
    """Who keeps the node's history. Neither method may wait."""

    def took(self, event: Event) -> None:
        """The core is about to take an event."""

    def did(self, action: Action) -> None:
        """An action is about to be begun."""


class Shell:
    """Carries a `Node` through the real world.

    Args:
        node: the core.
        heartbeats: the way to the peers.
        votes: stable storage.
        services: by election, what to start and stop when this node wins or loses it.
        follow: told of every change of a leader.
        keep_orders: brings operators' orders to the disk, and posts `OrdersPersisted`.
        on_wake: called at every wake-up, when all that it asks for has been begun.
        watcher: sees what the core takes and asks for.
    """

    def __init__(
        self,
        *,
        node: Node,
        heartbeats: Heartbeats,
        votes: VoteFiles,
        services: Mapping[str, Service],
        follow: Callable[[FollowLeader], None],
        keep_orders: Callable[[Orders], None],
        on_wake: Callable[[], None] = lambda: None,
        watcher: Watcher | None = None,
    ) -> None:
        self.node = node
        self._on_wake = on_wake
        self._watcher = watcher
        self._heartbeats = heartbeats
        self._votes = votes
        self._services = dict(services)
        self._follow = follow
        self._keep_orders = keep_orders
        self._log = structlog.get_logger()
        self._events: deque[Event] = deque()
        self._stepping = False
        self._looked = False  # for a sleep of the machine, since the last `settle`
        self._timer_for_ms = 0
        self._timer = Alarm()
        self._votes_in, self._votes_out = trio.open_memory_channel[PersistVote](VOTES_WAITING_MAX)
        self.late_ms_max = 0  # worst lateness of the timer: how loaded this host is
        self._rung = False  # the first one was due while the process was being made ready
        self._closed = False
        self._fault: Exception | None = None  # with which a step has ended before all of it was begun
        self._broken = trio.Event()
        self._asleep_ms = asleep_ms()
        self.suspensions_total = 0

    def post(self, event: Event) -> None:
        """Take an event. Events that its actions cause are taken after it, in order."""
        if self._closed:
            return
        self._events.append(event)
        if self._stepping:
            return
        self._take_events()
        self.settle()

    def _take_events(self) -> None:
        self._stepping = True
        try:
            if not self._looked:
                self._looked = True
                self._look_for_sleep()
            while self._events:
                event = self._events.popleft()
                if self._watcher is not None:
                    self._watcher.took(event)
                for action in self.node.step(event, boot_ms()):
                    self._perform(action)
        except Exception as fault:
            self._fault = fault
            self._broken.set()
            raise
        finally:
            self._stepping = False

    def settle(self) -> None:
        """Do what is due once after all events of a wake-up: messages leave, the guard hears, the timer is set."""
        if self._closed:
            return
        self._looked = False
        self._heartbeats.flush()
        self._on_wake()
        if self.node.deadline_ms() != self._timer_for_ms:
            self._set_timer()  # also where it is later: to wake up in vain costs sixty times what this costs

    def close(self) -> None:
        """Take no event any more: another process goes on with the core's state."""
        self._closed = True

    def _look_for_sleep(self) -> None:
        """Tell the core first of all when the machine has slept: the kernel's lease on the address slept with it."""
        asleep_ms_now = asleep_ms()
        if asleep_ms_now - self._asleep_ms < ASLEEP_MS_MIN:
            return
        slept_ms, self._asleep_ms = asleep_ms_now - self._asleep_ms, asleep_ms_now
        self.suspensions_total += 1
        self._log.warning("node.slept", slept_ms=slept_ms)
        self._events.appendleft(SuspensionNoticed(slept_ms))

    def deliver(self, sender: str, message: Message) -> None:
        """Take a message from the heartbeat socket, which calls `settle` after the last that arrived with it."""
        if self._closed:
            return
        self._events.append(MessageReceived(sender, message))
        self._take_events()

    def _perform(self, action: Action) -> None:
        match action:
            case Send(to, message):
                self._heartbeats.send(to, message)
            case PersistVote():
                self._votes_in.send_nowait(action)
            case PersistOrders(orders):
                self._keep_orders(orders)
            case StartServing(election, term, until_ms):
                self._log.info("election.won", election=election, term=term)
                self._watched(action)
                self._services[election].start(term, until_ms)
            case ExtendServing(election, _, until_ms):
                self._services[election].extend(until_ms)
            case StopServing(election, term, cause, detail, at_once):
                self._log.info("election.lost", election=election, term=term, cause=cause, detail=detail)
                self._watched(action)
                self._services[election].stop(term, cause, at_once=at_once)
            case AnnounceAgain(election, peer):
                self._log.info("peer.returned", election=election, peer=peer)
                self._services[election].announce_again()
            case FollowLeader(election, leader, term):
                self._log.info("leader.followed", election=election, leader=leader, term=term)
                self._follow(action)

    def _watched(self, action: Action) -> None:
        if self._watcher is not None:
            self._watcher.did(action)

    async def run_timer(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Post `DeadlineReached` whenever the core's deadline comes; ends by cancellation.

        Raises:
            Exception: what a step has ended with, whoever has posted its event: nobody may go on with half a step, and
                a command's fault is only told to whoever gave it.
        """
        self._heartbeats.pump.add(self._timer, self._ring)
        self._set_timer()
        task_status.started()
        await self._broken.wait()
        assert self._fault is not None, "what is broken has a reason"
        raise self._fault

    def _ring(self) -> None:
        if self._closed:
            self._heartbeats.pump.listen(self._timer, listen=False)
            return
        late_ms = boot_ms() - self.node.deadline_ms()
        if late_ms >= 0:
            if self._rung:
                self.late_ms_max = max(self.late_ms_max, late_ms)
            self._rung = True
            self._timer_for_ms = NEVER_MS  # it rings until it is set again
            self._heartbeats.take_waiting()
            self.post(DeadlineReached())
        else:
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer_for_ms = self.node.deadline_ms()
        self._timer.set(self._timer_for_ms)

    async def run_votes(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Bring votes to the disk, one after the other; ends by cancellation.

        A disk that fails or hangs means that this node does not vote; it serves nobody in vain.
        """
        task_status.started()
        async for vote in self._votes_out:
            try:
                await trio.to_thread.run_sync(
                    self._votes.write, vote.election, vote.term, vote.vote, abandon_on_cancel=True
                )
            except OSError as error:
                self._log.error("vote.unwritten", election=vote.election, term=vote.term, reason=str(error))
                raise  # a node that can't write its votes must not go on as if it could; its supervisor restarts it
            self.post(VotePersisted(vote.election, vote.term))

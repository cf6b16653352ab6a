"""Events: what has happened to a node. Past tense; made by the shell, read by `Node.step`, never changed."""

import msgspec

from gateway.wire.messages import Message, Orders, Standing


class MessageReceived(msgspec.Struct, frozen=True):
    """An authentic, fresh message of a peer of this cluster has arrived."""

    sender: str
    message: Message


class DeadlineReached(msgspec.Struct, frozen=True):
    """The moment that `Node.deadline_ms` named has come (or passed: timers may be late)."""


class VotePersisted(msgspec.Struct, frozen=True):
    """The term and vote of a `PersistVote` are on stable storage."""

    election: str
    term: int


class StandingChanged(msgspec.Struct, frozen=True):
    """This node's own fitness, warmth or freshness as a candidate has changed; `reason` explains unfitness."""

    standing: Standing
    reason: str = ""


class PrimedChanged(msgspec.Struct, frozen=True):
    """This node, leading the matchmaker's election, knows these collectors to hold the pool's ads."""

    instances: tuple[str, ...]


class ServingStopped(msgspec.Struct, frozen=True):
    """A `StopServing` has been carried out and can't come undone: nothing of `term` acts any more."""

    election: str
    term: int


class ResignationRequested(msgspec.Struct, frozen=True):
    """The operator, or the end of the process, asks the node to give up what it leads in this election.

    With `successor` that node may follow at once (rule 7); "" lets this node name the best it has heard.
    """

    election: str
    reason: str
    successor: str = ""


class OrdersGiven(msgspec.Struct, frozen=True):
    """An operator has told this node what the whole cluster is to do from now on (`gateway.core.orders`)."""

    orders: Orders


class OrdersPersisted(msgspec.Struct, frozen=True):
    """The orders of a `PersistOrders` are on stable storage, or could not be `written`."""

    orders: Orders
    written: bool = True


class SuspensionNoticed(msgspec.Struct, frozen=True):
    """The machine has slept for `asleep_ms`: CLOCK_BOOTTIME went on, every other clock of the kernel stood still."""

    asleep_ms: int


Event = (
    MessageReceived
    | DeadlineReached
    | VotePersisted
    | StandingChanged
    | PrimedChanged
    | ServingStopped
    | ResignationRequested
    | OrdersGiven
    | OrdersPersisted
    | SuspensionNoticed
)

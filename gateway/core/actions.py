"""Actions: what the shell must do, in this order. Imperative; the order within one step is part of the protocol."""

import enum

import msgspec

from gateway.wire.messages import Message, Orders


class Cause(enum.StrEnum):
    """Why a leader stops serving. Stable names: they stand in logs, history and metrics."""

    LEASE_EXPIRED = "lease-expired"
    SUPERSEDED = "superseded"
    UNFIT = "unfit"
    REQUESTED = "requested"
    SUSPENDED = "suspended"


class Send(msgspec.Struct, frozen=True):
    """Send `message` to one peer. May be lost; never blocks."""

    to: str
    message: Message


class PersistVote(msgspec.Struct, frozen=True):
    """Write term and vote to stable storage, then report `VotePersisted`. No message depends on it before that."""

    election: str
    term: int
    vote: str


class PersistOrders(msgspec.Struct, frozen=True):
    """Write the orders to stable storage, then report `OrdersPersisted`. Nobody acts by them or spreads them before."""

    orders: Orders


class StartServing(msgspec.Struct, frozen=True):
    """This node leads `election` in `term`: act, but never after `until_ms` unless an `ExtendServing` moves it."""

    election: str
    term: int
    until_ms: int


class ExtendServing(msgspec.Struct, frozen=True):
    """The lease of `term` now runs until `until_ms`."""

    election: str
    term: int
    until_ms: int


class StopServing(msgspec.Struct, frozen=True):
    """Stop acting for `term`, then report `ServingStopped`. With `at_once` there is no time left to be graceful."""

    election: str
    term: int
    cause: Cause
    detail: str
    at_once: bool


class FollowLeader(msgspec.Struct, frozen=True):
    """`leader` leads `election` as far as this node knows; None: nobody does, an election is under way.

    `planned`: the last leader has given up on request, in good health; what it serves still may come to its end.
    """

    election: str
    leader: str | None
    term: int
    planned: bool = False


class AnnounceAgain(msgspec.Struct, frozen=True):
    """A peer is back from a silence in which another may have led `election`, which this node leads: tell the world."""

    election: str
    peer: str


Action = Send | PersistVote | PersistOrders | StartServing | ExtendServing | StopServing | FollowLeader | AnnounceAgain

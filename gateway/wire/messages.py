"""Messages between nodes: the payload of a sealed heartbeat datagram. Values only; no rule of the election.

Times are whole milliseconds of the *sender's* CLOCK_BOOTTIME. A receiver never compares them with its own clock: it
echoes them, so that the sender can date its own lease (the leader's lease runs from the moment it sent).
"""

import msgspec


class Standing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a candidate says of itself in one election. Compared by `gateway.core.ranking.rank_key`."""

    election: str
    fit: bool  # may stand at all: its service is healthy
    warm: bool  # a manager: its collector holds the pool's ads; a gateway: always
    term: int  # freshness of its state, first by the term that wrote it
    generation: int  # then by the generation of the file in that term
    instance: str  # a manager: the collector's instance id (16 hex), "" where unknown
    records: int = 0  # then by how many records it holds of that generation


class Pulse(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="pulse"):
    """Sent by every node to every peer each heartbeat. For the elections it leads it is the leader's heartbeat."""

    sent_ms: int
    leads: tuple[tuple[str, int], ...]  # (election, term)
    standings: tuple[Standing, ...]
    primed: tuple[str, ...]  # from the matchmaker's leader: collector instances known to hold the pool's ads
    lease_ms: int = 0  # of its sender: who acknowledges is bound for so long; 0: for the receiver's own
    orders: int = 0  # digest of the orders that its sender acts by (`gateway.core.orders`); 0: there never were any


class Ack(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="ack"):
    """Answer to a leader's Pulse: a promise not to vote for another for a lease. Echoes `sent_ms`."""

    sent_ms: int
    leads: tuple[tuple[str, int], ...]  # what is acknowledged: (election, term)


class VoteRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="vote-request"):
    """A candidate asks for a vote in `term`; with `pre` it only asks whether it would get one."""

    election: str
    term: int
    pre: bool
    sent_ms: int
    lease_ms: int = 0  # as in `Pulse`


class VoteReply(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="vote-reply"):
    """Answer to a VoteRequest. `highest_term` lets a candidate with an old term catch up."""

    election: str
    term: int
    pre: bool
    sent_ms: int
    granted: bool
    highest_term: int
    wait_ms: int  # refused because of a promise: it runs out after so long


ON_REQUEST = "on request"  # begins the reason of a resignation that is a planned handover, not a failure


class Resignation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="resignation"):
    """The leader of `term` serves no more: promises made to it are void. Sent only after it has stopped serving."""

    election: str
    term: int
    reason: str
    successor: str = ""  # who may ask for votes at once; the others give it a turn


class Pause(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Nobody takes over, until somebody says so."""

    reason: str  # the operator's words; "" where none were given
    by: str  # the node at which that was ordered
    at_s: int  # when, by the wall clock of that node, for people: nothing is decided by it


class Drain(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One node that is to lead nothing."""

    node: str
    by: str  # as in `Pause`
    at_s: int


class Orders(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="orders"):
    """All that the operators have ordered for the whole cluster. What is done with it: `gateway.core.orders`."""

    version: int = 0  # of two orders the one with the higher version counts; 0: nothing was ever ordered
    origin: str = ""  # the node at which the last change was ordered
    pause: Pause | None = None
    drains: tuple[Drain, ...] = ()  # by the nodes' names
    at_s: int = 0  # when the last change was ordered, as in `Pause`

    @property
    def paused(self) -> str | None:
        """Return the reason why nobody takes over; None: the cluster is not paused."""
        return None if self.pause is None else self.pause.reason

    @property
    def drained(self) -> tuple[str, ...]:
        """Return the nodes that are to lead nothing."""
        return tuple(drain.node for drain in self.drains)


Message = Pulse | Ack | VoteRequest | VoteReply | Resignation | Orders

"""Orders: what the operators want of the whole cluster, pause and drain: the same everywhere, the last word wins. Pure.

The rules
---------
A. The orders are one small value. Whoever gives one makes the next *version* of all of them; of two the higher
   (version, origin) counts, on every node, whatever the order in which they were heard (`merge` is a maximum). Orders
   that are given on both sides of a partition at once do not add up: one side's are replaced, and its log says so.
B. A node acts by orders, shows them and tells them only once they are on its own disk. So an order that was confirmed
   by a node outlives that node's restart, and a disk that fails leaves its node with the older orders, seen by all.
C. Heartbeats carry a digest. Whoever sees that a peer's is older tells it the whole, no more often than a node that
   leads nothing beats: a new node, a healed partition and a lost datagram are mended alike.
D. *Paused*: no node stands for election, none votes for one that does, and no leader gives up because of its health.
   Once a majority has the order nobody takes over any more, even if the others have never heard of it. Leases rule as
   ever: who can't renew stops, and so does a machine that slept, or a process that is told to end.
E. *Drained*: the node stands for nothing, is voted for by nobody who knows, and says of itself that it is not fit. What
   it leads it gives up for the best of the others, in good order, as soon as there is one that is fit (and warm, where
   it is warm itself); till then it goes on. It votes and acknowledges as ever.

Safety rests on nothing of this: orders take votes away and give none (rules 1 to 4 of `gateway.core.election`).

What becomes of a leader that is told to end while the cluster is paused: it stops, says so, and nobody follows until
`resume`; it does not even follow itself when it is back. Who pauses and then reboots the host that leads wants that
nothing moves behind his back, and would be surprised by either: by another manager that has taken over, and by a host
that takes up work while he still has his hands in it. (Patroni's pause is like it: the key is released, and nobody is
promoted.) Who wants the service to go on drains the node instead; `status` says beforehand whom nobody would follow.
"""

import zlib
from typing import Any

from gateway.core.actions import Action, PersistOrders, Send
from gateway.core.timing import Timing
from gateway.wire.messages import Drain, Orders, Pause

NO_ORDERS = Orders()


def rank_of(orders: Orders) -> tuple[Any, ...]:
    """Return the sort key of orders: the greatest counts. Equal keys are equal orders.

    Behind version and origin stands the rest: a node whose disk was lost may give one version twice.
    """
    pause = () if orders.pause is None else (orders.pause.reason, orders.pause.by, orders.pause.at_s)
    drains = tuple((drain.node, drain.by, drain.at_s) for drain in orders.drains)
    return (orders.version, orders.origin, orders.at_s, pause, drains)


def merge(one: Orders, other: Orders) -> Orders:
    """Return which of two counts."""
    return max(one, other, key=rank_of)


def digest_of(orders: Orders) -> int:
    """Return the number that tells these orders from others; a later version has a greater one; 0: no orders."""
    return orders.version << 32 | zlib.crc32(repr(rank_of(orders)).encode()) if orders.version else 0


def version_of(digest: int) -> int:
    """Return the version of the orders with this digest."""
    return digest >> 32


# -- giving them ---------------------------------------------------------------------------------------------------


def paused(orders: Orders, *, by: str, at_s: int, reason: str) -> Orders:
    """Return the next orders: nobody takes over. Again while paused: the reason is the new one."""
    return Orders(orders.version + 1, by, Pause(reason, by, at_s), orders.drains, at_s)


def resumed(orders: Orders, *, by: str, at_s: int) -> Orders:
    """Return the next orders: everything goes on."""
    return Orders(orders.version + 1, by, None, orders.drains, at_s)


def drained(orders: Orders, node: str, *, by: str, at_s: int) -> Orders:
    """Return the next orders: `node` is to lead nothing."""
    others = [drain for drain in orders.drains if drain.node != node]
    drains = sorted([*others, Drain(node, by, at_s)], key=lambda drain: drain.node)
    return Orders(orders.version + 1, by, orders.pause, tuple(drains), at_s)


def undrained(orders: Orders, node: str, *, by: str, at_s: int) -> Orders:
    """Return the next orders: `node` is a candidate again."""
    drains = tuple(drain for drain in orders.drains if drain.node != node)
    return Orders(orders.version + 1, by, orders.pause, drains, at_s)


# -- keeping them --------------------------------------------------------------------------------------------------


class OrderBook:
    """The orders as one node knows them, shared by its elections.

    Args:
        me: this node's name.
        timing: the cluster's periods.
        kept: what this node's disk holds; `NO_ORDERS` for nothing.
    """

    def __init__(self, me: str, timing: Timing, kept: Orders) -> None:
        self.me = me
        self._timing = timing
        self.writing: Orders | None = None  # the newest on the way to the disk
        self.shown: dict[str, int] = {}  # peer -> digest of what it acts by
        self.told_ms: dict[str, int] = {}  # peer -> when it was last told the whole (rule C)
        self.put_in_force(kept)

    def put_in_force(self, orders: Orders) -> None:
        """Act by `orders` from now on: they are on the disk (rule B)."""
        self.orders = orders
        self.digest = digest_of(orders)
        self.paused = orders.pause is not None
        self.drained = frozenset(orders.drained)
        self.drains_me = self.me in self.drained

    def forbids(self, candidate: str) -> bool:
        """Tell whether `candidate` may not be elected (rules D and E)."""
        return self.paused or candidate in self.drained

    def newest(self) -> Orders:
        """Return the newest that this node has heard of, on its disk or not: what the next order goes on from."""
        return self.orders if self.writing is None else merge(self.orders, self.writing)

    def take(self, orders: Orders) -> list[Action]:
        """Take orders from an operator or a peer; older ones change nothing."""
        if rank_of(orders) <= rank_of(self.newest()):
            return []
        self.writing = orders
        return [PersistOrders(orders)]

    def persisted(self, orders: Orders, *, written: bool) -> bool:
        """Note the answer of the disk; return whether other orders are in force now."""
        if orders == self.writing:
            self.writing = None
        if not written or rank_of(orders) <= rank_of(self.orders):
            return False
        self.put_in_force(orders)
        return True

    def tell(self, now_ms: int, peer: str) -> list[Action]:
        """Tell the whole to a peer that shows another digest, unless its are newer or it was told a moment ago."""
        if version_of(self.shown.get(peer, 0)) > self.orders.version:
            return []  # it will tell us
        told_ms = self.told_ms.get(peer)
        if told_ms is not None and now_ms - told_ms < self._timing.idle_ms:
            return []
        self.told_ms[peer] = now_ms
        return [Send(peer, self.orders)]

    def confirmed(self, peer: str) -> bool:
        """Tell whether `peer` acts by the same orders as this node."""
        return self.shown.get(peer, 0) == self.digest

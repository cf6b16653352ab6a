"""Mutants of the orders: one of the rules of `gateway.core.orders` broken in each. Found in runs that have orders."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core import orders as core_orders
from gateway.core.actions import Action
from gateway.core.election import Election
from gateway.core.node import Node
from gateway.core.orders import NO_ORDERS, OrderBook
from gateway.core.snapshot import NodeState
from gateway.wire.messages import Orders

from . import host
from .mutants import MUTANTS, Patched, mutant

BEFORE = frozenset(MUTANTS)


@mutant
def stands_while_paused() -> list[Patched]:
    may_stand = Election.may_stand

    def patched(self: Election) -> bool:
        paused, self.book.paused = self.book.paused, False
        try:
            return may_stand(self)
        finally:
            self.book.paused = paused

    return [(Election, "may_stand", patched)]


@mutant
def votes_while_paused() -> list[Patched]:
    hear = Election.hear_vote_request

    def hear_vote_request(self: Election, *arguments: Any) -> list[Action]:
        paused, self.book.paused = self.book.paused, False
        try:
            return hear(self, *arguments)
        finally:
            self.book.paused = paused

    return [(Election, "hear_vote_request", hear_vote_request)]


@mutant
def goes_on_with_its_round_when_paused() -> list[Patched]:
    return [(Election, "orders_changed", lambda self, now_ms: [])]


@mutant
def gives_up_unfit_while_paused() -> list[Patched]:
    give_up = Election.give_up_unfit

    def give_up_unfit(self: Election, now_ms: int) -> list[Action]:
        paused, self.book.paused = self.book.paused, False
        try:
            return give_up(self, now_ms)
        finally:
            self.book.paused = paused

    return [(Election, "give_up_unfit", give_up_unfit)]


@mutant
def drained_node_stands() -> list[Patched]:
    return [(OrderBook, "forbids", lambda self, candidate: self.paused)]


@mutant
def drained_leader_stays() -> list[Patched]:
    return [(Election, "give_way", lambda self, now_ms: [])]


@mutant
def drained_leader_leaves_nobody_behind() -> list[Patched]:
    def give_way(self: Election, now_ms: int) -> list[Action]:
        return self.resign(now_ms, "drained") if not self.heir(now_ms) else []

    return [(Election, "give_way", give_way)]


@mutant
def restart_forgets_orders() -> list[Patched]:
    born = Node.__init__

    def init(self: Node, **arguments: Any) -> None:
        born(self, **{**arguments, "orders": NO_ORDERS})

    return [(Node, "__init__", init)]


@mutant
def next_process_forgets_orders() -> list[Patched]:
    capture = host.capture

    def forgetful(node: Node) -> NodeState:
        node.book.put_in_force(NO_ORDERS)
        return msgspec.structs.replace(capture(node), orders=NO_ORDERS)

    def init(self: Node, **arguments: Any) -> None:
        born(self, **{**arguments, "orders": NO_ORDERS})

    born = Node.__init__
    return [(host, "capture", forgetful), (Node, "__init__", init)]


@mutant
def acts_before_it_has_written() -> list[Patched]:
    take = OrderBook.take

    def early(self: OrderBook, orders: Orders) -> list[Action]:
        actions = take(self, orders)
        if actions:
            self.put_in_force(orders)
        return actions

    return [(OrderBook, "take", early)]


@mutant
def last_heard_wins() -> list[Patched]:
    def take(self: OrderBook, orders: Orders) -> list[Action]:
        if orders == self.newest():
            return []
        self.writing = orders
        return [core_orders.PersistOrders(orders)]

    def persisted(self: OrderBook, orders: Orders, *, written: bool) -> bool:
        if orders == self.writing:
            self.writing = None
        if written:
            self.put_in_force(orders)
        return written

    return [(OrderBook, "take", take), (OrderBook, "persisted", persisted)]


@mutant
def tells_orders_once() -> list[Patched]:
    return [(OrderBook, "tell", lambda self, now_ms, peer: [])]


@mutant
def unwritten_orders_count() -> list[Patched]:
    persisted = OrderBook.persisted
    return [(OrderBook, "persisted", lambda self, orders, *, written: persisted(self, orders, written=True))]


ORDER_MUTANTS = frozenset(MUTANTS) - BEFORE

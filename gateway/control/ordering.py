"""Ordering: operators pause and resume the cluster, drain and undrain nodes, at any node; what becomes of their orders.

Rule: an answer says what is: the order is on this node's disk, and those peers are named that do not act by it yet.
"""

import time
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final

import structlog
import trio

from gateway.control.commands import CommandRefused, Commands, Level, Request
from gateway.control.orders_file import OrdersFile
from gateway.core import orders as core
from gateway.core.election import Election
from gateway.core.events import Event, OrdersGiven, OrdersPersisted
from gateway.core.node import Node
from gateway.core.voter import Role
from gateway.kernel.clock import boot_ms
from gateway.wire.heartbeat import REASON_CHARACTERS_MAX, orders_fault
from gateway.wire.messages import Orders

DISK_S_MAX: Final = 5.0  # for this node's own disk; one that takes longer is broken
CONFIRM_S_MAX: Final = 2.0  # for the peers that are heard: one that is well shows its orders within a heartbeat
CATCH_UP_S_MAX: Final = 1.0  # for newer orders of a peer, which this node has seen the number of
LOOK_S: Final = 0.01
COMPLAIN_S: Final = 60.0  # between two lines about one failure: each peer tells the orders again every second


class Ordering:
    """The operators' orders on one node: their file, the commands that change them, what `status` tells of them.

    Args:
        file: where they are kept.
        node: the core.
        post: takes events for the core.
        tell: takes what has happened, for the history: the event's name, and its facts.
    """

    def __init__(self, file: OrdersFile, node: Node, post: Callable[[Event], None], tell: Callable[..., None]) -> None:
        self._file = file
        self._node = node
        self._post = post
        self._tell = tell
        self._wanted: Orders | None = None  # the newest that is to be written
        self._wakes = trio.Event()
        self._failure = ""  # why the last write failed
        self._complained: tuple[int, str] | None = None  # of which version and failure, since the last success
        self._complained_s = 0.0
        self._giving = trio.Lock()
        self._log = structlog.get_logger()

    def register(self, commands: Commands) -> None:
        """Add the commands."""
        commands.add("pause", self.pause, Level.ADMIN)
        commands.add("resume", self.resume, Level.ADMIN)
        commands.add("drain", self.drain, Level.ADMIN)
        commands.add("undrain", self.undrain, Level.ADMIN)

    # -- the file ------------------------------------------------------------------------------------------------

    def keep(self, orders: Orders) -> None:
        """Have orders written; of those that wait for a slow disk only the newest."""
        self._wanted = orders
        self._wakes.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Bring orders to the disk, one after the other; ends by cancellation.

        A disk that fails is said to have failed: the peers tell the orders again, and the node goes on.
        """
        task_status.started()
        while True:
            await self._wakes.wait()
            self._wakes = trio.Event()
            orders, self._wanted = self._wanted, None
            if orders is None:
                continue
            try:
                await trio.to_thread.run_sync(self._file.write, orders, abandon_on_cancel=True)
            except OSError as error:
                self._failure = error.strerror or str(error)
                self._complain(orders.version)
                self._post(OrdersPersisted(orders, written=False))
            else:
                self._failure, self._complained = "", None
                before = self._node.book.orders
                self._post(OrdersPersisted(orders))
                self._changed(before, self._node.book.orders)

    def _complain(self, version: int) -> None:
        """Log a failure: the disk that has failed may be the log's own, and full."""
        complaint = version, self._failure
        if complaint != self._complained or trio.current_time() >= self._complained_s + COMPLAIN_S:
            self._complained, self._complained_s = complaint, trio.current_time()
            self._log.error("orders.unwritten", version=version, reason=self._failure)

    def _changed(self, before: Orders, after: Orders) -> None:
        """Say what is different now."""
        if before == after:
            return
        self._log.info("orders.changed", version=after.version, by=after.origin, paused=after.paused,
                       drained=after.drained)  # fmt: skip
        if before.version == after.version:
            # Given at two nodes that did not hear each other.
            self._log.warning("orders.replaced", version=after.version, paused=before.paused, drained=before.drained)
        if after.pause is not None and after.pause != before.pause:
            self._tell("paused", by=after.pause.by, reason=after.pause.reason)
        elif after.pause is None and before.pause is not None:
            self._tell("resumed", by=after.origin)
        for drain in after.drains:
            if drain.node not in before.drained:
                self._tell("drained", drained=drain.node, by=drain.by)
        for node in before.drained:
            if node not in after.drained:
                self._tell("undrained", undrained=node, by=after.origin)

    # -- the commands --------------------------------------------------------------------------------------------

    async def pause(self, request: Request) -> dict[str, Any]:
        """Let nobody take over, and no leader give up for its health, until `resume`: {"reason"?}."""
        reason = request.get("reason", "")
        if not isinstance(reason, str) or len(reason) > REASON_CHARACTERS_MAX or not reason.isprintable():
            raise CommandRefused(
                f'"reason" is one line of at most {REASON_CHARACTERS_MAX} characters, and not {reason!r}', "malformed"
            )

        def change(orders: Orders, by: str, at_s: int) -> Orders:
            return orders if orders.paused == reason else core.paused(orders, by=by, at_s=at_s, reason=reason)

        return await self._give(change, self._notes_of_pause)

    async def resume(self, request: Request) -> dict[str, Any]:
        """Let everything go on."""

        def change(orders: Orders, by: str, at_s: int) -> Orders:
            return orders if orders.pause is None else core.resumed(orders, by=by, at_s=at_s)

        return await self._give(change, list)

    async def drain(self, request: Request) -> dict[str, Any]:
        """Let a node lead nothing: {"node"}."""
        node = self._peer_of(request)

        def change(orders: Orders, by: str, at_s: int) -> Orders:
            return orders if node in orders.drained else core.drained(orders, node, by=by, at_s=at_s)

        return await self._give(change, lambda: self._notes_of_drain(node))

    async def undrain(self, request: Request) -> dict[str, Any]:
        """Let a node be a candidate again: {"node"}."""
        node = self._peer_of(request)

        def change(orders: Orders, by: str, at_s: int) -> Orders:
            return core.undrained(orders, node, by=by, at_s=at_s) if node in orders.drained else orders

        return await self._give(change, list)

    def _peer_of(self, request: Request) -> str:
        name, voters = request.get("node"), self._node.voters
        if not isinstance(name, str) or not name:
            raise CommandRefused(f'"node" is the name of a peer: {", ".join(voters)}', "malformed")
        if name in voters or (request.get("command") == "undrain" and name in self._node.book.orders.drained):
            return name  # one that was taken out of the file while it was drained can be forgotten
        near = get_close_matches(name, voters, n=1)
        guess = f"; did you mean '{near[0]}'?" if near else ""
        raise CommandRefused(f"no peer '{name}'; peers: {', '.join(voters)}{guess}", "unknown-node")

    async def _give(
        self, change: Callable[[Orders, str, int], Orders], notes: Callable[[], list[str]]
    ) -> dict[str, Any]:
        """Give the next orders, and wait until they are on the disk, and for a while until the peers act by them."""
        book = self._node.book
        async with self._giving:
            await self._until(lambda: not any(core.version_of(one) > book.newest().version for one in
                                              book.shown.values()), CATCH_UP_S_MAX)  # fmt: skip
            before = book.newest()
            given = change(before, self._node.me, int(time.time()))
            if given != before:
                if fault := orders_fault(given):
                    raise CommandRefused(f"no more orders can be kept: {fault}", "too-many")
                self._post(OrdersGiven(given))
                await self._until(lambda: book.orders.version >= given.version or book.writing is None, DISK_S_MAX)
                self._require_kept(given)
            await self._until(lambda: not self._awaited(), CONFIRM_S_MAX)
            if book.orders != given and book.orders.version == given.version:
                raise CommandRefused(
                    f"another order was given at '{book.orders.origin}' at the same time and has replaced this one: "
                    "see 'status', and give it again",
                    "replaced",
                )
            return self.status() | {"changed": given != before, "notes": notes()}

    def _require_kept(self, given: Orders) -> None:
        book = self._node.book
        if book.orders.version >= given.version:
            return
        if book.writing is None:
            raise CommandRefused(
                f"this node can't write '{self._file.path}' ({self._failure}), so the order was not taken: "
                "mend that, or give it at another node",
                "unwritten",
            )
        raise CommandRefused(
            f"the disk of this node has not taken the order within {DISK_S_MAX:g} s: it counts once it has",
            "disk-hangs",
        )

    async def _until(self, condition: Callable[[], bool], within_s: float) -> None:
        with trio.move_on_after(within_s):
            while not condition():  # noqa: ASYNC110 (the core has no events)
                await trio.sleep(LOOK_S)

    def _missing(self) -> list[str]:
        """Return the peers that do not act by the same orders as this node, as far as it has heard."""
        node = self._node
        return [name for name in node.voters if name != node.me and not node.book.confirmed(name)]

    def _awaited(self) -> list[str]:
        """Return those of the missing that are heard: who is dead is named at once, and not waited for."""
        heard_ms, since_ms = self._node.heard_ms, boot_ms() - self._node.timing.promise_ms
        return [name for name in self._missing() if heard_ms.get(name, since_ms) > since_ms]

    # -- what is told --------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return the orders that this node acts by, which peers do as well, and what they keep from happening."""
        book, missing = self._node.book, self._missing()
        orders = book.orders
        return {
            "version": orders.version,
            "paused": orders.paused,
            "drained": list(orders.drained),
            "by": orders.origin,
            "at": orders.at_s,
            "paused_by": None if orders.pause is None else orders.pause.by,
            "paused_at": None if orders.pause is None else orders.pause.at_s,
            "drains": [{"node": one.node, "by": one.by, "at": one.at_s} for one in orders.drains],
            "confirmed": [
                name for name in self._node.voters if orders.version and name not in (self._node.me, *missing)
            ],
            "missing": missing,
            "held_up": self._held_up(),
        }

    def why_unfit(self, election: Election) -> str:
        """Say why this node is no candidate in an election; "" where it is one."""
        for drain in self._node.book.orders.drains:
            if drain.node == self._node.me:
                return f"drained by {drain.by}"
        return election.unfit_why

    def _held_up(self) -> list[str]:
        """Say what would happen but for the orders."""
        book = self._node.book
        found = []
        for election in self._node.elections.values():
            if book.paused and election.leader is None:
                found.append(f"nobody leads '{election.name}': the cluster is paused, and nobody takes over")
            elif election.role is Role.LEADER and book.paused and not election.standing.fit:
                found.append(f"'{election.name}' stays here, though {election.unfit_why}: the cluster is paused")
            elif election.role is Role.LEADER and book.drains_me:
                found.append(f"'{election.name}' stays here, though drained: {self._why_it_stays(election)}")
        return found

    def _why_it_stays(self, election: Election) -> str:
        if self._node.book.paused:
            return "the cluster is paused"
        best = election.ranking.best(boot_ms(), self._node.me, self._node.book.drained)
        if best and not election.heir(boot_ms()):
            return f"'{best}' is fit, but its collector is not warm yet"
        return "it is being handed over" if best else "no other candidate is fit"

    def _notes_of_pause(self) -> list[str]:
        """Name what nobody would follow."""
        led: dict[str, list[str]] = {}
        for election in self._node.elections.values():
            if election.leader is not None:
                led.setdefault(election.leader, []).append(f"'{election.name}'")
        return [
            f"{leader} leads {' and '.join(names)}: should it stop, nobody follows until 'resume'"
            for leader, names in led.items()
        ]

    def _notes_of_drain(self, node: str) -> list[str]:
        """Name the elections in which no candidate is left, and what the node still leads."""
        book, notes = self._node.book, []
        for election in self._node.elections.values():
            if node not in election.candidates:
                continue
            if book.drained.issuperset(election.candidates):
                notes.append(f"no candidate of '{election.name}' is left: all are drained, and who leads it goes on")
            elif election.leader == node:
                notes.append(f"{node} still leads '{election.name}': it gives up as soon as another can follow")
        return notes

"""Moves: an election is handed to another node, because an operator wants it. From any node; the leader does it.

Rule: nothing is given up before it is known that another one can go on with it; `failover` leaves that out, and says
what it may cost.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
import trio

from gateway.control.commands import CommandRefused, Commands, Level, Request
from gateway.control.link import ClusterLink, Unanswered
from gateway.control.matchmaker import MatchmakerService
from gateway.core.changes import SERVED_AGAIN
from gateway.core.election import Election
from gateway.core.events import Event, ResignationRequested
from gateway.core.handover import best_other, candidates_text, joined, objection
from gateway.core.node import Node
from gateway.kernel.clock import boot_ms

WAIT_S: Final = 30.0  # for the successor's replica and ads
WAIT_S_MAX: Final = 300.0
STOP_S_MAX: Final = 10.0  # a negotiator that does not end is killed after 0.15 s; a hung disk takes longer
FOLLOW_S_MIN: Final = 3.0
FOLLOW_LEASES: Final = 10
SERVED_S_MAX: Final = 6.0  # until the new leader has made its first cycle
LOOK_S: Final = 0.005  # the core has no events
REPLICA_LOOK_S: Final = 0.02
LAST_MS: Final = 1_000  # for what stands around the parts, on the way back


class Moves:
    """Switchover and failover of one node's elections.

    Args:
        kinds: election -> "address" or "matchmaker".
        node: the core.
        post: takes events for it.
        link: the way to the leader.
        matchmakers: those of this node, by election.
        last: the last change of an election, as this node's history has it.
    """

    def __init__(
        self,
        *,
        kinds: Mapping[str, str],
        node: Node,
        post: Callable[[Event], None],
        link: ClusterLink,
        matchmakers: Mapping[str, MatchmakerService],
        last: Callable[[str], dict[str, Any] | None],
    ) -> None:
        self._kinds = dict(kinds)
        self._node = node
        self._post = post
        self._link = link
        self._matchmakers = dict(matchmakers)
        self._last = last
        self._under_way: set[str] = set()
        self._log = structlog.get_logger()

    def register(self, commands: Commands) -> None:
        """Add the commands."""
        commands.add("switchover", self.switchover, Level.ADMIN)
        commands.add("failover", self.failover, Level.ADMIN)
        commands.add("took-over", self.took_over, Level.USER)

    # -- the commands --------------------------------------------------------------------------------------------

    async def switchover(self, request: Request) -> dict[str, Any]:
        """Hand an election over once its successor lacks nothing: {"election", "to"?, "wait_s"?}."""
        name = self._election_of(request)
        to = _text(request, "to")
        wait_s = _seconds(request, "wait_s", WAIT_S)
        return await self._at_leader(name, request, wait_s, lambda: self._switch(name, to, wait_s))

    async def failover(self, request: Request) -> dict[str, Any]:
        """Have the leader of an election resign at once, whatever that costs with `force`: {"election", "force"?}."""
        name = self._election_of(request)
        force = request.get("force") is True
        return await self._at_leader(name, request, 0, lambda: self._fail_over(name, force=force))

    async def took_over(self, request: Request) -> dict[str, Any]:
        """Tell how this node took an election over in a term, once it serves: {"election", "term"}. For the others."""
        name, term = self._election_of(request), request.get("term")
        with trio.move_on_after(SERVED_S_MAX):
            while not self._has_served(name, term):  # noqa: ASYNC110 (the history has no events for this)
                await trio.sleep(LOOK_S)
        entry = self._last(name)
        if entry is None or entry.get("term") != term:
            raise CommandRefused(f"this node knows of no change of '{name}' in term {term}", "unknown-change")
        return entry

    def _has_served(self, name: str, term: object) -> bool:
        entry = self._last(name)
        if entry is None or entry.get("term") != term:
            return False
        return SERVED_AGAIN[self._kinds[name]] in (entry.get("phases") or {})

    # -- what both have in common --------------------------------------------------------------------------------

    def _election_of(self, request: Request) -> str:
        """Return the election that is meant: by its name, or by its kind where there is one of that kind."""
        word = request.get("election")
        if isinstance(word, str) and word in self._kinds:
            return word
        named = [name for name, kind in self._kinds.items() if kind == word]
        if len(named) == 1:
            return named[0]
        known = ", ".join(f"{name} ({kind})" for name, kind in self._kinds.items())
        if named:
            raise CommandRefused(f"there are several: say which of {', '.join(named)}", "ambiguous")
        raise CommandRefused(f"no election {word!r}: there are {known}", "unknown-election")

    async def _at_leader(
        self, name: str, request: Request, wait_s: float, act: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Act if this node leads, or have the leader do it."""
        election = self._node.elections[name]
        leader = election.leader
        if leader is None:
            raise CommandRefused(
                f"nobody leads '{name}': {candidates_text(self._node, election, boot_ms())}", "no-leader"
            )
        if leader != self._node.me:
            if request.get("forwarded"):
                raise CommandRefused(f"'{leader}' leads '{name}' by now, and not this node: try again", "not-leader")
            asked = request | {"election": name, "forwarded": True}
            try:
                return await self._link.ask(leader, asked, self._longest_s(wait_s))
            except Unanswered as unanswered:
                raise CommandRefused(
                    f"{unanswered}; it leads '{name}' as far as this node knows: if it is dead, its lease ends by "
                    "itself and another one follows",
                    "unanswered",
                ) from unanswered
        if name in self._under_way:
            raise CommandRefused(f"'{name}' is being handed over already", "under-way")
        self._under_way.add(name)
        try:
            return await act()
        finally:
            self._under_way.discard(name)

    def _longest_s(self, wait_s: float) -> float:
        return wait_s + STOP_S_MAX + self._follow_s() + SERVED_S_MAX + LAST_MS / 1000

    def _follow_s(self) -> float:
        return max(FOLLOW_S_MIN, FOLLOW_LEASES * self._node.timing.lease_ms / 1000)

    def _require(self, name: str, to: str | None) -> str:
        """Return who is to follow; raise `CommandRefused` where nobody can."""
        if (found := objection(self._node, name, to, boot_ms())) is not None:
            raise CommandRefused(found.sentence, found.reason)
        return to or best_other(self._node, self._node.elections[name], boot_ms())

    # -- switchover ----------------------------------------------------------------------------------------------

    async def _switch(self, name: str, to: str | None, wait_s: float) -> dict[str, Any]:
        successor = self._require(name, to)
        began_ms = boot_ms()
        await self._await_successor(name, successor, wait_s)
        waited_ms = boot_ms() - began_ms
        self._require(name, successor)  # it may have changed meanwhile
        if (leader := self._node.elections[name].leader) != self._node.me:
            raise CommandRefused(f"'{leader}' leads '{name}' by now, and not this node: try again", "not-leader")
        return await self._hand_over(name, successor) | {"waited_ms": waited_ms}

    async def _await_successor(self, name: str, successor: str, wait_s: float) -> None:
        """Wait until the successor has the pool's ads, and all of the accounting that is written by now.

        Raises:
            CommandRefused: it has not, in time.
        """
        service = self._matchmakers.get(name)
        if service is None:
            return
        position = service.accounting_position
        lacking = ""
        with trio.move_on_after(wait_s):
            while lacking := service.lacking(successor, position):  # noqa: ASYNC110 (what it looks at tells nobody)
                await trio.sleep(REPLICA_LOOK_S)
            return
        reason = "cold" if lacking.startswith("its collector") else "lagging"
        raise CommandRefused(f"'{successor}' is not ready after {wait_s:g} s: {lacking}", reason)

    async def _hand_over(self, name: str, successor: str) -> dict[str, Any]:
        """Give the election up, wait until somebody leads it, and put together how long nobody served.

        Raises:
            CommandRefused: it did not work as ordered; the sentence says how it stands.
        """
        me, election = self._node.me, self._node.elections[name]
        old_term = election.term
        self._log.info("election.handed-over", election=name, to=successor, term=old_term)
        self._post(ResignationRequested(name, f"handed over to {successor}", successor))
        await self._until(lambda: election.serving_term is None, STOP_S_MAX)
        if election.serving_term is not None:
            raise CommandRefused(f"'{me}' has not stopped after {STOP_S_MAX:g} s: its log says why", "did-not-stop")
        await self._until(lambda: election.leader is not None, self._follow_s())
        to, term = election.leader, election.leader_term
        if to is None:
            state = candidates_text(self._node, election, boot_ms())
            raise CommandRefused(f"'{me}' has given '{name}' up, and nobody leads it yet: {state}", "nobody-followed")
        if to == me:
            raise CommandRefused(f"'{successor}' could not follow, and '{me}' leads '{name}' again", "came-back")
        kind = self._kinds[name]
        gap_ms, phases = joined(kind, self._own_ms(name, old_term), await self._entry_of(to, name, term))
        return {
            "election": name,
            "kind": kind,
            "from": me,
            "to": to,
            "wanted": successor,
            "term": term,
            "gap_ms": gap_ms,
            "phases": phases,
        }

    async def _until(self, condition: Callable[[], bool], within_s: float) -> None:
        with trio.move_on_after(within_s):
            while not condition():  # noqa: ASYNC110 (the core has no events)
                await trio.sleep(LOOK_S)

    def _own_ms(self, name: str, term: int) -> int:
        """Return how long this node took from the end of its service to saying so. An address is dropped in between."""
        service = self._matchmakers.get(name)
        return 0 if service is None else service.ended_to_told_ms(term)

    async def _entry_of(self, leader: str, name: str, term: int) -> dict[str, Any] | None:
        request = {"command": "took-over", "election": name, "term": term}
        try:
            return await self._link.ask(leader, request, SERVED_S_MAX + LAST_MS / 1000, Level.USER)
        except (Unanswered, CommandRefused) as error:
            self._log.warning("election.gap-unknown", election=name, reason=str(error))
            return None

    # -- failover ------------------------------------------------------------------------------------------------

    async def _fail_over(self, name: str, *, force: bool) -> dict[str, Any]:
        successor = self._require(name, None)
        losses = self._losses(name, successor, self._node.elections[name])
        if losses and not force:
            raise CommandRefused(
                f"'{successor}' would follow, and {'; '.join(losses)}: 'switchover' waits for that, "
                "'failover --force' does not",
                "would-lose",
            )
        return await self._hand_over(name, successor) | {"may_be_lost": losses}

    def _losses(self, name: str, successor: str, election: Election) -> list[str]:
        service = self._matchmakers.get(name)
        lacking = "" if service is None else service.lacking(successor, service.accounting_position)
        return [lacking] if lacking else []


def _text(request: Request, key: str) -> str | None:
    value = request.get(key)
    if value is None or (isinstance(value, str) and value):
        return value
    raise CommandRefused(f'"{key}" is a name, not {value!r}', "malformed")


def _seconds(request: Request, key: str, default: float) -> float:
    value = request.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= WAIT_S_MAX:
        raise CommandRefused(f'"{key}" is from 0 to {WAIT_S_MAX:g} seconds, not {value!r}', "malformed")
    return float(value)

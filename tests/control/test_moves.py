"""Switchover and failover on one node's side of it: a real core, services and a link that only stand in."""

from typing import Any

import pytest
import trio

from gateway.control import moves
from gateway.control.commands import CommandRefused
from gateway.control.link import Unanswered
from gateway.control.moves import Moves
from gateway.core.events import Event, ServingStopped
from gateway.core.timeline import NOWHERE, Position
from gateway.wire.messages import Pulse
from tests.core.playbook import TIMING, E, Script, standing

PHASES = {"lost_ms": 0, "noticed_ms": 0, "elected_ms": 5, "negotiator_ms": 30, "first_cycle_ms": 60}


class FakeLink:
    """The way to the others: answers what it is told to, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {"took-over": {"phases": PHASES}}

    async def ask(self, node: str, request: dict[str, Any], wait_s: float, level: object = None) -> dict[str, Any]:
        self.asked.append((node, request))
        answer = self.answers[request["command"]]
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeMatchmaker:
    """A matchmaker whose standbys lack what the test says."""

    accounting_position: Position = NOWHERE

    def __init__(self) -> None:
        self.lacks = ""
        self.looks = 0

    def lacking(self, standby: str, position: Position) -> str:
        self.looks += 1
        return self.lacks

    def ended_to_told_ms(self, term: int) -> int:
        return 8


class Site:
    """Node b of a, b and c, with its moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, leads: bool = True) -> None:
        self.script = Script().awake()
        if leads:
            self.script.lead()
            self.script.pulse("a")
            self.script.pulse("c")
        self.link = FakeLink()
        self.service = FakeMatchmaker()
        self.posted: list[Event] = []
        self.follower: str | None = "a"  # who leads after this node
        self.last: dict[str, Any] | None = None
        monkeypatch.setattr(moves, "boot_ms", lambda: self.script.now_ms)
        monkeypatch.setattr(moves, "FOLLOW_S_MIN", 0.05)
        monkeypatch.setattr(moves, "FOLLOW_LEASES", 0)
        monkeypatch.setattr(moves, "SERVED_S_MAX", 0.05)
        monkeypatch.setattr(moves, "STOP_S_MAX", 0.05)
        self.moves = Moves(
            kinds={E: "matchmaker", "vip": "address", "vip6": "address"},
            node=self.script.node,
            post=self._post,
            link=self.link,  # type: ignore[arg-type]
            matchmakers={E: self.service},  # type: ignore[dict-item]
            last=lambda election: self.last,
        )

    def _post(self, event: Event) -> None:
        """Take the resignation; the negotiator stops, and whoever was named leads."""
        self.posted.append(event)
        self.script.step(event)
        self.script.step(ServingStopped(E, 1))
        if self.follower:
            self.script.hear(self.follower, Pulse(9, ((E, 2),), (standing(),), (), 0))

    async def switch(self, **request: Any) -> dict[str, Any]:
        return await self.moves.switchover({"command": "switchover", "election": "matchmaker", **request})

    async def refusal(self, **request: Any) -> CommandRefused:
        with pytest.raises(CommandRefused) as refused:
            await self.switch(**request)
        return refused.value


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(monkeypatch)


async def test_the_leader_gives_up_for_whom_was_named_and_both_parts_of_the_gap_are_added(site: Site) -> None:
    site.follower = "c"
    answer = await site.switch(to="c")
    assert (answer["from"], answer["to"], answer["term"], answer["gap_ms"]) == ("b", "c", 2, 68)
    assert answer["phases"]["resigned_ms"] == 8
    assert site.link.asked == [("c", {"command": "took-over", "election": E, "term": 2})]


async def test_a_successor_is_waited_for_until_it_lacks_nothing(site: Site) -> None:
    site.service.lacks = "it lacks 3 records of the accounting"

    async def catch_up() -> None:
        await trio.sleep(0.1)
        assert site.posted == []
        site.service.lacks = ""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up)
        answer = await site.switch()
    assert answer["to"] == "a"
    assert len(site.posted) == 1


@pytest.mark.parametrize(
    ("lacks", "named"),
    [
        ("it lacks 3 records of the accounting", "lagging"),
        ("its collector has not all of the pool's ads", "cold"),
    ],
)
async def test_a_successor_that_does_not_become_ready_is_refused_and_nothing_is_given_up(
    site: Site, lacks: str, named: str
) -> None:
    site.service.lacks = lacks
    refused = await site.refusal(wait_s=0.05)
    assert refused.reason == named
    assert lacks in str(refused)
    assert site.posted == []


async def test_a_successor_that_falls_silent_while_it_is_waited_for_is_not_named(site: Site) -> None:
    site.service.lacks = "it lacks 1 record of the accounting"

    async def go() -> None:
        await trio.sleep(0.05)
        for _ in range(10):
            site.script.later(TIMING.heartbeat_ms)
            site.script.ack("c", site.script.now_ms - 5)
        site.service.lacks = ""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go)
        refused = await site.refusal(to="a")
    assert refused.reason in ("unfit", "no-leader")
    assert site.posted == []


async def test_another_handover_of_the_same_election_has_to_wait(site: Site) -> None:
    site.service.lacks = "it lacks 1 record of the accounting"

    async def second() -> None:
        await trio.sleep(0.05)
        assert (await site.refusal()).reason == "under-way"
        site.service.lacks = ""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        await site.switch()
    assert len(site.posted) == 1


async def test_what_is_asked_of_another_node_is_asked_of_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, leads=False)
    site.script.pulse("c", leads=4)
    site.link.answers["switchover"] = {"to": "a"}
    assert await site.switch(to="a") == {"to": "a"}
    asked = {"command": "switchover", "election": E, "to": "a", "forwarded": True}
    assert site.link.asked == [("c", asked)]
    refused = await site.refusal(forwarded=True)
    assert refused.reason == "not-leader"  # or two nodes could send it to and fro
    site.link.answers["switchover"] = Unanswered("'c' does not answer: nothing within 30 s")
    refused = await site.refusal()
    assert refused.reason == "unanswered"
    assert "its lease ends by itself" in str(refused)


async def test_where_nobody_follows_or_the_old_leader_has_to_it_is_said(site: Site) -> None:
    site.follower = None
    refused = await site.refusal()
    assert refused.reason == "nobody-followed"
    assert "c is fit" in str(refused)


async def test_a_successor_that_does_not_know_its_phases_leaves_the_gap_open(site: Site) -> None:
    site.link.answers["took-over"] = Unanswered("'a' does not answer")
    answer = await site.switch()
    assert (answer["to"], answer["gap_ms"]) == ("a", None)


async def test_an_election_is_meant_by_its_name_or_by_its_kind_where_that_is_clear(site: Site) -> None:
    refused = await site.refusal(election="pool")
    assert refused.reason == "unknown-election"
    assert "address (matchmaker), vip (address), vip6 (address)" in str(refused)
    assert site.moves._election_of({"election": "address"}) == "address", "a name is meant before a kind"
    site.moves._kinds = {"vip": "address", "vip6": "address", "pool": "matchmaker"}
    assert site.moves._election_of({"election": "matchmaker"}) == "pool"
    refused = await site.refusal(election="address")
    assert (refused.reason, str(refused)) == ("ambiguous", "there are several: say which of vip, vip6")


@pytest.mark.parametrize("request_", [{"to": 3}, {"to": ""}, {"wait_s": "soon"}, {"wait_s": -1}, {"wait_s": True}])
async def test_a_request_that_makes_no_sense_is_refused(site: Site, request_: dict[str, Any]) -> None:
    assert (await site.refusal(**request_)).reason == "malformed"
    assert site.posted == []


async def test_failover_says_what_would_be_lost_and_does_it_only_by_force(site: Site) -> None:
    site.service.lacks = "it lacks 3 records of the accounting"
    request = {"command": "failover", "election": E}
    with pytest.raises(CommandRefused, match="'a' would follow, and it lacks 3 records") as refused:
        await site.moves.failover(request)
    assert refused.value.reason == "would-lose"
    assert site.posted == []
    answer = await site.moves.failover(request | {"force": True})
    assert answer["may_be_lost"] == ["it lacks 3 records of the accounting"]
    assert answer["to"] == "a"


async def test_failover_that_loses_nothing_needs_no_force(site: Site) -> None:
    answer = await site.moves.failover({"command": "failover", "election": E})
    assert (answer["to"], answer["may_be_lost"]) == ("a", [])


async def test_a_new_leader_tells_of_its_change_once_it_serves(site: Site) -> None:
    request = {"command": "took-over", "election": E, "term": 5}
    with pytest.raises(CommandRefused, match="no change of 'address' in term 5"):
        await site.moves.took_over(request)
    site.last = {"term": 5, "phases": {"elected_ms": 3}}
    assert await site.moves.took_over(request) == site.last  # it has waited, and says what it knows
    site.last = {"term": 5, "phases": PHASES}
    with trio.fail_after(0.04):
        assert await site.moves.took_over(request) == site.last

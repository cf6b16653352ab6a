"""Orders on their way: the commands of three nodes that hear each other, each with its own file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from gateway.control.commands import CommandRefused, Commands
from gateway.control.ordering import Ordering
from gateway.control.orders_file import FILE_BYTES_MAX, OrdersFile
from gateway.core.actions import PersistOrders, Send
from gateway.core.events import DeadlineReached, Event, MessageReceived
from gateway.core.node import ElectionPlan, Node
from gateway.core.orders import NO_ORDERS, drained, paused
from gateway.core.timing import Timing
from gateway.kernel.clock import boot_ms
from gateway.wire.heartbeat import DRAINS_MAX
from gateway.wire.messages import Drain, Orders, Pause

NAMES = ("cm1", "gw1", "gw2")
TIMING = Timing(heartbeat_ms=20, lease_ms=300)
PAUSED = Orders(7, "gw1", Pause("a new switch", "gw1", 11), (Drain("cm1", "gw2", 12), Drain("gw2", "gw1", 13)), 13)


class Place:
    """One node: the real core, commands and file; messages are handed over as they are."""

    def __init__(self, places: dict[str, Place], name: str, folder: Path) -> None:
        self.places, self.name = places, name
        (folder / name).mkdir(exist_ok=True)
        self.file = OrdersFile(folder / name)
        orders, self.unread = self.file.read()
        plans = (ElectionPlan("vip", ("gw1", "gw2")), ElectionPlan("pool", ("cm1",)))
        self.node = Node(me=name, voters=NAMES, plans=plans, timing=TIMING, saved={}, now_ms=boot_ms(), orders=orders)
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.deaf = False
        self.ordering = Ordering(
            self.file, self.node, self.post, lambda event, **facts: self.told.append((event, facts))
        )
        self.commands = Commands()
        self.ordering.register(self.commands)

    def post(self, event: Event) -> None:
        for action in self.node.step(event, boot_ms()):
            if isinstance(action, PersistOrders):
                self.ordering.keep(action.orders)
            elif isinstance(action, Send) and (other := self.places.get(action.to)) and not (other.deaf or self.deaf):
                other.post(MessageReceived(self.name, action.message))

    async def beat(self) -> None:
        while True:
            await trio.sleep(TIMING.heartbeat_ms / 1000)
            self.post(DeadlineReached())

    async def until_paused(self) -> None:
        with trio.fail_after(5):
            while not self.node.book.paused:  # noqa: ASYNC110 (the core has no events)
                await trio.sleep(0.01)

    async def ask(self, command: str, **what: Any) -> dict[str, Any]:
        answer = await self.commands.answer({"command": command, **what})
        assert isinstance(answer, dict)
        return answer


@asynccontextmanager
async def cluster(folder: Path, names: tuple[str, ...] = NAMES) -> AsyncIterator[dict[str, Place]]:
    places: dict[str, Place] = {}
    async with trio.open_nursery() as nursery:
        for name in names:
            places[name] = Place(places, name, folder)
            await nursery.start(places[name].ordering.run)
            nursery.start_soon(places[name].beat)
        yield places
        nursery.cancel_scope.cancel()


async def test_an_order_is_on_every_disk_when_its_answer_says_so(tmp_path: Path) -> None:
    async with cluster(tmp_path) as places:
        answer = await places["gw2"].ask("pause", reason="a new switch")
        assert (answer["confirmed"], answer["missing"], answer["changed"]) == (["cm1", "gw1"], [], True)
        assert (answer["paused"], answer["paused_by"], answer["version"]) == ("a new switch", "gw2", 1)
        for name in NAMES:
            assert places[name].file.read()[0] == places["gw2"].node.book.orders
            assert json.loads((tmp_path / name / "orders.json").read_text())["paused"]["reason"] == "a new switch"
        answer = await places["cm1"].ask("drain", node="gw1")
        assert (answer["paused"], answer["drained"], answer["version"]) == ("a new switch", ["gw1"], 2)
        await places["gw1"].ask("resume")
        answer = await places["gw1"].ask("undrain", node="gw1")
        assert (answer["paused"], answer["drained"], answer["version"]) == (None, [], 4)
        assert [event for event, _ in places["cm1"].told] == ["paused", "drained", "resumed", "undrained"]


async def test_an_order_that_changes_nothing_makes_no_new_version(tmp_path: Path) -> None:
    async with cluster(tmp_path) as places:
        assert not (await places["gw1"].ask("resume"))["changed"]
        await places["gw1"].ask("drain", node="cm1")
        answer = await places["gw2"].ask("drain", node="cm1")
        assert (answer["changed"], answer["version"], answer["by"]) == (False, 1, "gw1")


async def test_a_node_that_is_not_heard_is_named_and_told_when_it_is_back(tmp_path: Path) -> None:
    async with cluster(tmp_path) as places:
        places["cm1"].deaf = True
        answer = await places["gw1"].ask("pause")
        assert (answer["confirmed"], answer["missing"]) == (["gw2"], ["cm1"])
        places["cm1"].deaf = False
        await places["cm1"].until_paused()


async def test_orders_survive_a_restart_of_all(tmp_path: Path) -> None:
    async with cluster(tmp_path) as places:
        await places["gw1"].ask("pause", reason="night")
    async with cluster(tmp_path) as places:
        assert all(place.node.book.orders.paused == "night" for place in places.values())
        assert places["gw2"].ordering.status()["paused"] == "night"


async def test_of_two_orders_on_two_sides_one_is_refused_as_replaced(tmp_path: Path) -> None:
    async with cluster(tmp_path) as places:
        await places["gw1"].ask("resume")
        while len(places["gw1"].node.heard_ms) < 2:  # noqa: ASYNC110 (the core has no events)
            await trio.sleep(0.01)
        places["gw1"].deaf = True
        refused: list[CommandRefused] = []

        async def pause() -> None:
            try:
                await places["gw1"].ask("pause")
            except CommandRefused as refusal:
                refused.append(refusal)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pause)
            nursery.start_soon(lambda: places["gw2"].ask("drain", node="cm1"))
            await trio.sleep(0.1)  # while it is still waited for
            places["gw1"].deaf = False
        assert [refusal.reason for refusal in refused] == ["replaced"], "gw2 is the later in the alphabet"
        assert all(place.node.book.orders.drained == ("cm1",) for place in places.values())


async def test_a_disk_that_fails_takes_no_order_and_says_why(tmp_path: Path) -> None:
    async with cluster(tmp_path) as places:
        (tmp_path / "gw1" / "orders.json.new").mkdir()
        with pytest.raises(CommandRefused, match=r"can't write .*orders.json.*so the order was not taken") as refusal:
            await places["gw1"].ask("pause")
        assert refusal.value.reason == "unwritten"
        assert not any(place.node.book.paused for place in places.values())
        answer = await places["gw2"].ask("pause")
        assert answer["missing"] == ["gw1"], "whose disk fails does not act by it, and is named"
        (tmp_path / "gw1" / "orders.json.new").rmdir()
        await places["gw1"].until_paused()


async def test_a_disk_that_goes_on_failing_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers tell the orders again every second; the log may be on the same disk."""
    tried, write = 0, OrdersFile.write

    def fail(file: OrdersFile, orders: Orders) -> None:
        nonlocal tried
        tried += 1
        raise OSError(28, "No space left on device")

    async def keep(place: Place, times: int) -> None:
        for count in range(tried + 1, tried + times + 1):
            place.ordering.keep(PAUSED)
            with trio.fail_after(5):
                while tried < count:  # noqa: ASYNC110 (of a thread)
                    await trio.sleep(0.005)

    with capture_logs() as logs:
        async with cluster(tmp_path, ("gw1",)) as places:
            monkeypatch.setattr(OrdersFile, "write", fail)
            await keep(places["gw1"], 5)
            assert [log["event"] for log in logs] == ["orders.unwritten"]
            monkeypatch.setattr(OrdersFile, "write", write)
            places["gw1"].ordering.keep(PAUSED)
            await places["gw1"].until_paused()
            monkeypatch.setattr(OrdersFile, "write", fail)
            await keep(places["gw1"], 2)
    assert [log["event"] for log in logs].count("orders.unwritten") == 2, "a new failure is said"


async def test_what_an_operator_should_know_is_said_with_the_answer(tmp_path: Path) -> None:
    async with cluster(tmp_path) as places:
        places["gw1"].node.elections["vip"].leader = "gw2"
        places["gw1"].node.elections["vip"].leader_until_ms = boot_ms() + 60_000
        assert (await places["gw1"].ask("pause"))["notes"] == [
            "gw2 leads 'vip': should it stop, nobody follows until 'resume'"
        ]
        assert (await places["gw1"].ask("drain", node="gw2"))["notes"] == [
            "gw2 still leads 'vip': it gives up as soon as another can follow"
        ]
        assert (await places["gw1"].ask("drain", node="gw1"))["notes"] == [
            "no candidate of 'vip' is left: all are drained, and who leads it goes on"
        ]


@pytest.mark.parametrize(
    ("command", "what", "sentence"),
    [
        ("drain", {"node": "gw3"}, "no peer 'gw3'; peers: cm1, gw1, gw2; did you mean 'gw2'?"),
        ("drain", {}, '"node" is the name of a peer: cm1, gw1, gw2'),
        ("undrain", {"node": "cm7"}, "no peer 'cm7'; peers: cm1, gw1, gw2; did you mean 'cm1'?"),
        ("pause", {"reason": "x" * 201}, '"reason" is one line of at most 200 characters'),
        ("pause", {"reason": "two\nlines"}, '"reason" is one line of at most 200 characters'),
        ("pause", {"reason": 7}, '"reason" is one line of at most 200 characters, and not 7'),
    ],
)
async def test_what_makes_no_sense_is_refused_with_the_way_out(
    tmp_path: Path, command: str, what: dict[str, Any], sentence: str
) -> None:
    async with cluster(tmp_path, ("gw1",)) as places:
        with pytest.raises(CommandRefused) as refusal:
            await places["gw1"].ask(command, **what)
        assert str(refusal.value).startswith(sentence)


# -- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "orders", [PAUSED, paused(NO_ORDERS, by="gw1", at_s=1, reason=""), drained(PAUSED, "x", by="y", at_s=9)]
)
def test_what_is_written_is_read(tmp_path: Path, orders: Orders) -> None:
    file = OrdersFile(tmp_path)
    assert file.read() == (NO_ORDERS, "")
    file.write(PAUSED)
    file.write(orders)
    assert OrdersFile(tmp_path).read() == (orders, "")
    assert [path.name for path in tmp_path.iterdir()] == ["orders.json"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": 2, "version": 1, "origin": "a", "at_s": 1, "paused": null, "drained": []}',
        b'{"format": 1, "version": 0, "origin": "a", "at_s": 1, "paused": null, "drained": []}',
        b'{"format": 1, "version": 1, "origin": "a", "at_s": 1, "paused": null, "drained": [], "x": 1}',
        b" " * (FILE_BYTES_MAX + 1),
    ],
)
def test_a_broken_file_is_set_aside_and_named(tmp_path: Path, data: bytes) -> None:
    file = OrdersFile(tmp_path)
    file.path.write_bytes(data)
    orders, warning = file.read()
    assert orders == NO_ORDERS
    assert str(file.path) in warning
    assert (tmp_path / "orders.json.broken").read_bytes() == data
    assert file.read() == (NO_ORDERS, ""), "the next start finds nothing to complain of"
    file.write(PAUSED)
    assert file.read()[0] == PAUSED


async def test_orders_beyond_their_bounds_are_refused_and_end_no_node(tmp_path: Path) -> None:
    """Nodes that were taken out of the file while they were drained are remembered until they are undrained."""
    gone = tuple(Drain(f"old{number}", "gw1", 1) for number in range(DRAINS_MAX))
    (tmp_path / "gw1").mkdir()
    OrdersFile(tmp_path / "gw1").write(Orders(9, "gw1", None, gone, 1))
    async with cluster(tmp_path, ("gw1",)) as places:
        with pytest.raises(CommandRefused, match="10 nodes drained"):
            await places["gw1"].ask("drain", node="cm1")
        assert (await places["gw1"].ask("undrain", node="old3"))["changed"]
        assert (await places["gw1"].ask("drain", node="cm1"))["changed"]

"""Many questions over one socket, between a console and its node."""

import json
import socket
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from gateway.console.multiplex import ASKED_MAX, ITEMS_WAITING_MAX, Asker, NodeSilent, serve_multiplexed
from gateway.control.commands import CommandRefused, Commands, Level

LONG = 4_000_000  # characters: more than a socket takes at once


class Node:
    """Counts what is asked, and what was ended before it was answered."""

    def __init__(self):
        self.cancelled = self.told = 0
        self.commands = Commands()
        self.commands.add("status", lambda request: {"node": "gw1"}, Level.USER)
        self.commands.add("pause", lambda request: {"paused": True}, Level.ADMIN)
        self.commands.add("slow", self.slow, Level.USER)
        self.commands.add("events", self.events, Level.USER)

    async def slow(self, request):
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled += 1
            raise

    async def events(self, request):
        async def numbers():
            try:
                for self.told in range(request.get("until", 1_000_000_000)):
                    yield {"seq": self.told}
            finally:
                self.cancelled += 1

        return numbers()


@pytest.fixture
def node():
    return Node()


@asynccontextmanager
async def asking(node, level_max=Level.ADMIN):
    one, other = socket.socketpair()
    served, asks = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (one, other))
    async with trio.open_nursery() as nursery:
        asker = Asker(asks)
        nursery.start_soon(serve_multiplexed, served, node.commands, level_max)
        nursery.start_soon(asker.run)
        yield asker, served
        await asks.aclose()


async def wait_until(condition):
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 (of another task, which knows no event)
            await trio.sleep(0.01)


async def test_answers_come_to_whoever_asked_while_others_wait(node):
    async with asking(node) as (asker, _), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: asker.ask({"command": "slow"}, Level.USER, wait_s=60))
        for _ in range(3):
            assert await asker.ask({"command": "status"}, Level.USER) == {"node": "gw1"}
        nursery.cancel_scope.cancel()


async def test_console_gets_no_more_rights_than_its_node_allows(node):
    async with asking(node, Level.OPERATOR) as (asker, _):
        with pytest.raises(CommandRefused, match="needs the level admin, and this is operator"):
            await asker.ask({"command": "pause"}, Level.ADMIN)


async def test_console_may_ask_with_less(node):
    async with asking(node) as (asker, _):
        with pytest.raises(CommandRefused, match="needs the level admin, and this is user"):
            await asker.ask({"command": "pause"}, Level.USER)
        assert await asker.ask({"command": "pause"}, Level.ADMIN) == {"paused": True}


async def test_question_that_nobody_waits_for_any_more_is_ended_at_the_node(node):
    async with asking(node) as (asker, _):
        with pytest.raises(NodeSilent):
            await asker.ask({"command": "slow"}, Level.USER, wait_s=0.05)
        await wait_until(lambda: node.cancelled == 1)


async def read_lines(stream, count):
    """Read so many lines, each of which must be one JSON document."""
    data = b""
    with trio.fail_after(20):
        while data.count(b"\n") < count:
            data += await stream.receive_some(65_536)
    return [json.loads(line) for line in data.splitlines()]


async def test_answer_that_is_not_wanted_any_more_tears_no_other(node):
    """It is ended while a part of it is on its way, because the console does not read."""
    node.commands.add("long", lambda request: {"text": "x" * LONG}, Level.USER)
    one, other = socket.socketpair()
    served, asks = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (one, other))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_multiplexed, served, node.commands, Level.USER)
        for said in (
            {"id": 1, "level": "user", "request": {"command": "long"}},
            {"id": 1, "cancel": True},
            {"id": 2, "level": "user", "request": {"command": "status"}},
        ):
            await asks.send_all(json.dumps(said).encode() + b"\n")
            await trio.testing.wait_all_tasks_blocked(0.05)
        answers = await read_lines(asks, 2)
        assert answers[1] == {"id": 2, "answer": {"node": "gw1"}}
        await asks.aclose()


async def test_question_that_is_given_up_on_its_way_tears_no_other():
    one, other = socket.socketpair()
    served, asks = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (one, other))
    async with served, asks, trio.open_nursery() as nursery:
        asker = Asker(asks)
        nursery.start_soon(asker.run)
        with pytest.raises(NodeSilent):
            await asker.ask({"command": "x" * LONG}, Level.USER, wait_s=0.05)
        asked = partial(asker.ask, {"command": "status"}, Level.USER, wait_s=20)
        nursery.start_soon(asked)
        first, *_, last = await read_lines(served, 2)
        assert first["request"] == {"command": "x" * LONG}
        assert last.get("cancel") or last["request"] == {"command": "status"}
        nursery.cancel_scope.cancel()


async def test_stream_is_given_to_its_end(node):
    async with asking(node) as (asker, _), asker.following({"command": "events", "until": 5}, Level.USER) as events:
        assert [event["seq"] async for event in events] == [0, 1, 2, 3, 4]


async def test_stream_that_nobody_reads_holds_nothing_up_and_ends(node):
    async with asking(node) as (asker, _):
        async with asker.following({"command": "events"}, Level.USER) as events:
            assert await asker.ask({"command": "status"}, Level.USER, wait_s=20) == {"node": "gw1"}
            await wait_until(lambda: node.told > 3 * ITEMS_WAITING_MAX)
            taken = [event["seq"] async for event in events]  # ends: too many were left waiting
        assert taken == list(range(len(taken)))
        await wait_until(lambda: node.cancelled == 1)


async def test_questions_at_once_are_bounded(node):
    async with asking(node) as (asker, _), trio.open_nursery() as nursery:
        for _ in range(ASKED_MAX):
            nursery.start_soon(lambda: asker.ask({"command": "slow"}, Level.USER, wait_s=60))
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(CommandRefused, match="questions at once"):
            await asker.ask({"command": "status"}, Level.USER)
        nursery.cancel_scope.cancel()


async def test_whoever_asks_a_node_that_goes_away_is_told(node):
    async with asking(node) as (asker, served), trio.open_nursery() as nursery:

        async def ask():
            with pytest.raises(NodeSilent, match="the node has ended"):
                await asker.ask({"command": "slow"}, Level.USER, wait_s=60)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await served.aclose()


async def test_console_that_asks_twice_by_one_number_is_refused_and_ends_nobody(node):
    """In one packet: the second line is read before the first one's task has had its turn."""
    one, other = socket.socketpair()
    served, asks = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (one, other))
    line = json.dumps({"id": 1, "level": "user", "request": {"command": "slow"}}).encode() + b"\n"
    async with served, asks, trio.open_nursery() as nursery:
        nursery.start_soon(serve_multiplexed, served, node.commands, Level.USER)
        await asks.send_all(line * 20)
        assert {said["reason"] for said in await read_lines(asks, 19)} == {"busy"}
        await asks.send_all(b'{"id": 1, "cancel": true}\n')
        await wait_until(lambda: node.cancelled == 1)
        await asks.aclose()


@pytest.mark.parametrize("linger", [True, False])
async def test_console_that_dies_while_it_is_refused_ends_nobody(node, linger):
    """Its refusals fill the socket, which it does not read; then its process is gone, with a reset or without."""
    one, other = socket.socketpair()
    served, asks = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (one, other))
    refused = json.dumps({"id": 1, "level": "user", "request": {"command": "x" * 1_000}}).encode() + b"\n"
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_multiplexed, served, node.commands, Level.USER)
            with trio.move_on_after(0.2):
                while True:  # until the node takes no more
                    await asks.send_all(refused)
            if linger:
                await asks.send_eof()
            await asks.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await served.send_all(b"x")


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"5", b'{"id": 1}', b'{"id": 1, "level": "root", "request": {}}',
             b'{"id": "x", "level": "user", "request": {}}', b'{"id": 1, "level": "user", "request": []}', b"\xff"],
)  # fmt: skip
async def test_console_that_says_nonsense_is_left(node, line):
    one, other = socket.socketpair()
    served, asks = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (one, other))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_multiplexed, served, node.commands, Level.ADMIN)
            await asks.send_all(line + b"\n")
            assert await asks.receive_some(100) == b""

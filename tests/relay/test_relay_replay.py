"""First bytes that are said again: a server that dies before it has answered is not noticed."""

import struct

import pytest
import trio
from relay_harness import (
    DEADLINE_S,
    ask_on,
    connect,
    echo,
    free_port,
    how_it_ended,
    listener,
    reset,
    tcp_server,
)


def opening(*attributes):
    """DC_AUTHENTICATE with `attributes`."""
    body = struct.pack("!qq", 60010, len(attributes)) + b"".join(each + b"\0" for each in attributes) + b"\0\0"
    return struct.pack("!BI", 1, len(body)) + body


NEW_SESSION = opening(b'NewSession = "YES"', b"Command = 0")
RESUMED = opening(b'UseSession = "YES"', b'Sid = "cm:1:2:3"', b"Command = 0")
RAW = struct.pack("!BIq", 1, 8, 60011)


class Mortal:
    """A server that hears a client out, and dies or hangs instead of answering."""

    def __init__(self, end=None):
        self.heard = []
        self._end = end

    async def __call__(self, stream):
        self.heard.append(await stream.receive_some())
        if self._end is None:
            await trio.sleep_forever()
        await self._end(stream)


async def die(stream):
    reset(stream)


async def finish(stream):
    await stream.aclose()


async def test_new_session_goes_to_the_next_server_when_the_first_one_died_without_an_answer(harness):
    dying = Mortal(die)
    front = listener()
    async with tcp_server(dying) as one, tcp_server(echo) as two:
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(NEW_SESSION)
            await harness.stats_when(lambda stats: stats.replayed_total >= 1 and stats.held_now == 1)
            await harness.switch(two)
            assert await receive(stream) == NEW_SESSION
            assert await ask_on(stream, b"more") == b"more"
    assert set(dying.heard) == {NEW_SESSION}


async def receive(stream):
    with trio.fail_after(DEADLINE_S):
        return await stream.receive_some()


@pytest.mark.parametrize("said", [RESUMED, RAW, b"another protocol"])
async def test_what_is_not_safe_to_say_twice_is_reset(harness, said):
    dying = Mortal(die)
    front = listener()
    async with tcp_server(dying) as one:
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(said)
            assert await how_it_ended(stream) == "reset"
        stats = await harness.stats_when(lambda stats: stats.reset_by_server_total == 1)
        assert stats.replayed_total == 0
    assert dying.heard == [said]


async def test_switch_before_the_answer_gives_a_new_session_to_the_new_server(harness):
    deaf = Mortal()
    front = listener()
    async with tcp_server(deaf) as one, tcp_server(echo) as two:
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as stream, await connect(front.port) as other:
            await stream.send_all(NEW_SESSION)
            await other.send_all(RAW)
            await harness.stats_when(lambda stats: stats.bytes_to_server_total == len(NEW_SESSION + RAW))
            assert (await harness.switch(two)).connections_closed == 1
            assert await receive(stream) == NEW_SESSION
            assert await how_it_ended(other) == "reset"
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert (stats.replayed_total, stats.reset_at_switch_total) == (1, 1)


async def test_new_session_that_was_answered_is_reset_at_a_switch(harness):
    front = listener()
    async with tcp_server(echo) as one, tcp_server(echo) as two:
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert await ask_on(stream, NEW_SESSION) == NEW_SESSION
            await harness.switch(two)
            assert await how_it_ended(stream) == "reset"


async def test_opening_in_pieces_is_replayed_whole(harness):
    deaf = Mortal()
    front = listener()
    async with tcp_server(deaf) as one, tcp_server(echo) as two:
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            for at in range(0, len(NEW_SESSION), 20):
                await stream.send_all(NEW_SESSION[at : at + 20])
                sent = min(at + 20, len(NEW_SESSION))
                if at < 60:
                    await harness.stats_when(lambda stats, sent=sent: stats.bytes_to_server_total == sent)
            await harness.stats_when(lambda stats: stats.bytes_to_server_total == len(NEW_SESSION))
            await harness.switch(two)
            answer = b""
            while len(answer) < len(NEW_SESSION):
                answer += await receive(stream)
            assert answer == NEW_SESSION


async def test_half_closed_client_is_replayed_with_its_end(harness):
    deaf = Mortal()
    front = listener()
    async with tcp_server(deaf) as one, tcp_server(echo) as two:
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(NEW_SESSION)
            await stream.send_eof()
            await harness.stats_when(lambda stats: stats.bytes_to_server_total == len(NEW_SESSION))
            await harness.switch(two)
            with trio.fail_after(DEADLINE_S):
                assert b"".join([chunk async for chunk in stream]) == NEW_SESSION


async def test_server_that_closes_without_an_answer_is_asked_once_more_and_then_believed(harness):
    closing = Mortal(finish)
    front = listener()
    async with tcp_server(closing) as server:
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(NEW_SESSION)
            assert await how_it_ended(stream) == "closed"
    assert closing.heard == [NEW_SESSION] * 2


async def test_server_that_dies_again_and_again_is_not_stormed(harness):
    """As a shared port does whose collector is gone. The client waits for another server, and not for ever."""
    dying = Mortal(die)
    front = listener(hold_ms=700)
    async with tcp_server(dying) as server:
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(NEW_SESSION)
            assert await how_it_ended(stream) == "reset"
        await harness.stats_when(lambda stats: stats.hold_expired_total == 1 and stats.connections_now == 0)
    assert 2 <= len(dying.heard) <= 6


async def test_opening_that_is_too_long_to_keep_is_reset(harness):
    deaf = Mortal()
    front = listener()
    long = opening(b'NewSession = "YES"', b'Padding = "' + b"x" * 40_000 + b'"')
    async with tcp_server(deaf) as one, tcp_server(echo) as two:
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(long)
            await harness.stats_when(lambda stats: stats.bytes_to_server_total == len(long))
            await harness.switch(two)
            assert await how_it_ended(stream) == "reset"


async def test_nothing_is_replayed_to_a_server_that_refuses_before_it_is_back(harness):
    """The server's host dies with our question in its backlog: a port that refuses, then one that answers."""
    dying = Mortal(die)
    front = listener()
    async with tcp_server(dying) as one:
        await harness.switch(one)
        await harness.listen(front)
        stream = await connect(front.port)
        await stream.send_all(NEW_SESSION)
        await harness.stats_when(lambda stats: stats.replayed_total >= 1)
    await harness.switch(free_port())
    await harness.stats_when(lambda stats: stats.held_now == 1)
    async with tcp_server(echo) as two, stream:
        await harness.switch(two)
        assert await receive(stream) == NEW_SESSION

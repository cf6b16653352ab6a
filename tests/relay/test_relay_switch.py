"""Switches: of thousands of connections, and planned ones that let the old connections finish."""

import socket

import trio
from relay_harness import ask, ask_on, connect, echo, greeter, how_it_ended, listener, tcp_server, wait_until

from gateway.config.settings import Endpoint

MANY = 1_500


async def test_switch_resets_thousands_on_both_sides_and_serves_meanwhile(harness):
    ended = {"client": 0, "server": 0}

    async def serve(stream):
        while chunk := await reset_or_bytes(stream):
            await stream.send_all(chunk)
        ended["server"] += 1

    async def reset_or_bytes(stream):
        try:
            return await stream.receive_some()
        except trio.BrokenResourceError:
            return b""

    async with tcp_server(serve, backlog=1_000) as one, tcp_server(greeter(b"two")) as two:
        front = listener()
        await harness.switch(one)
        await harness.listen(front)
        streams = []
        for _ in range(MANY):
            stream = await connect(front.port)
            assert await ask_on(stream) == b"?"
            streams.append(stream)

        async def wait_for_end(stream):
            assert await how_it_ended(stream) == "reset"
            ended["client"] += 1

        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(wait_for_end, stream)
            switched = await harness.switch(two)
            assert await ask(front.port) == b"two"
        assert switched.connections_closed == MANY
        assert ended["client"] == MANY
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert stats.reset_at_switch_total == MANY
        await wait_until(lambda: ended["server"] == MANY)
        for stream in streams:
            await stream.aclose()


def drain(harness, server, epoch, drain_ms):
    harness.relay.route("pool", Endpoint("127.0.0.1", server), epoch, drain_ms)


async def test_planned_switch_lets_old_connections_go_on_and_sends_new_ones_to_the_new_server(harness):
    async with tcp_server(greeter(b"one")) as one, tcp_server(greeter(b"two")) as two:
        front = listener()
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as old, await connect(front.port) as oldest:
            assert await ask_on(old) == await ask_on(oldest) == b"one"
            drain(harness, two, 2, 60_000)
            assert await ask(front.port) == b"two"
            assert await ask_on(old) == b"one"
            await harness.stats_when(lambda stats: stats.draining_now == 2)
            await oldest.aclose()
            stats = await harness.stats_when(lambda stats: stats.draining_now == 1)
            assert (stats.drained_total, stats.reset_at_switch_total) == (1, 0)
            assert await ask_on(old) == b"one"


async def test_what_is_left_at_the_drains_deadline_is_reset(harness):
    async with tcp_server(greeter(b"one")) as one, tcp_server(greeter(b"two")) as two:
        front = listener()
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as old:
            assert await ask_on(old) == b"one"
            drain(harness, two, 2, 300)
            async with await connect(front.port) as new:
                assert await ask_on(new) == b"two"
                assert await how_it_ended(old) == "reset"
                assert await ask_on(new) == b"two"
                stats = await harness.stats_when(lambda stats: stats.reset_at_switch_total == 1)
                assert (stats.draining_now, stats.drained_total) == (0, 0)


async def test_switch_in_the_middle_of_a_drain_ends_it(harness):
    async with tcp_server(greeter(b"one")) as one, tcp_server(greeter(b"two")) as two:
        front = listener()
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as old:
            assert await ask_on(old) == b"one"
            drain(harness, two, 2, 60_000)
            async with await connect(front.port) as new:
                assert await ask_on(new) == b"two"
                drain(harness, one, 3, 0)
                assert await how_it_ended(old) == await how_it_ended(new) == "reset"
                stats = await harness.stats_when(lambda stats: stats.reset_at_switch_total == 2)
                assert (stats.draining_now, stats.drained_total) == (0, 0)


async def test_second_drain_keeps_the_deadline_of_the_first(harness):
    async with tcp_server(greeter(b"one")) as one, tcp_server(greeter(b"two")) as two:
        front = listener()
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as oldest:
            assert await ask_on(oldest) == b"one"
            drain(harness, two, 2, 500)
            async with await connect(front.port) as old:
                assert await ask_on(old) == b"two"
                drain(harness, one, 3, 60_000)
                async with await connect(front.port) as new:
                    assert await ask_on(new) == b"one"
                    assert await how_it_ended(oldest) == "reset"
                    assert await ask_on(old) == b"two"
                    assert await ask_on(new) == b"one"
                stats = await harness.stats_when(lambda stats: stats.reset_at_switch_total == 1)
                assert stats.draining_now == 1


async def test_connection_to_a_server_that_dies_while_it_drains_is_reset(harness):
    async def answer_then_wait(stream):
        await stream.send_all(await stream.receive_some())
        await stream.receive_some()

    front = listener()
    async with tcp_server(echo) as two:
        async with tcp_server(answer_then_wait) as one:
            await harness.switch(one)
            await harness.listen(front)
            old = await connect(front.port)
            assert await ask_on(old) == b"?"
            drain(harness, two, 2, 60_000)
            await harness.stats_when(lambda stats: stats.draining_now == 1)
        assert await how_it_ended(old) in ("reset", "closed")
        await old.aclose()
        assert await ask(front.port) == b"?"


async def test_held_clients_by_the_hundred_are_served_when_a_server_comes(harness):
    """More than are connected at a time."""
    front = listener(hold_ms=20_000)
    await harness.listen(front)
    socks = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(300)]
    for sock in socks:
        sock.sendall(b"?")
    await harness.stats_when(lambda stats: stats.held_now == 300)
    async with tcp_server(echo, backlog=1_000) as server:
        harness.relay.route("pool", Endpoint("127.0.0.1", server), 1)
        for sock in socks:
            with trio.fail_after(20):
                await trio.lowlevel.wait_readable(sock)
            assert sock.recv(10) == b"?"
            sock.close()

"""Clients that have not spoken yet: no server for them, and no room for many."""

import contextlib
import os
import resource
import socket

import trio
from relay_harness import (
    ask,
    ask_on,
    connect,
    echo,
    free_port,
    how_it_ended,
    listener,
    tcp_server,
)


async def test_server_hears_nothing_of_a_client_that_says_nothing(harness):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        descriptors = open_descriptors(harness.relay.pid)
        async with await connect(front.port) as stream:
            stats = await harness.stats_when(lambda stats: stats.silent_now == 1)
            assert stats.held_now == 0
            assert open_descriptors(harness.relay.pid) == descriptors + 1
            assert await ask_on(stream) == b"?"
            await harness.stats_when(lambda stats: stats.silent_now == 0)


def open_descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


async def test_client_that_says_nothing_is_reset_after_hello_ms(harness):
    front = listener(hello_ms=200)
    await harness.listen(front)
    async with await connect(front.port) as stream:
        began = trio.current_time()
        assert await how_it_ended(stream) == "reset"
        assert trio.current_time() - began >= 0.19
    stats = await harness.stats_when(lambda stats: stats.hello_expired_total == 1)
    assert stats.connections_now == stats.held_total == 0


async def test_client_that_has_spoken_may_be_silent_for_longer(harness):
    async with tcp_server(echo) as server:
        front = listener(hello_ms=100)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert await ask_on(stream) == b"?"
            await trio.sleep(0.5)
            assert await ask_on(stream) == b"?"


async def test_client_that_comes_and_goes_without_a_word_costs_its_server_nothing(harness):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port):
            pass
        stats = await harness.stats_when(lambda stats: stats.connections_total == 1 and stats.connections_now == 0)
        assert stats.connect_failed_total == stats.reset_by_client_total == 0


async def test_oldest_silent_client_makes_room_for_a_younger_one(harness):
    async with tcp_server(echo) as server:
        front = listener(silent_max=2)
        await harness.switch(server)
        await harness.listen(front)
        streams = []
        for number in range(3):
            streams.append(await connect(front.port))
            await harness.stats_when(lambda stats, count=number + 1: stats.connections_total == count)
        assert await how_it_ended(streams[0]) == "reset"
        for stream in streams[1:]:
            assert await ask_on(stream) == b"?"
            await stream.aclose()
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert stats.silent_evicted_total == 1


async def test_flood_of_silent_clients_keeps_nobody_out(harness):
    async with tcp_server(echo) as server:
        front = listener(silent_max=50, connections_max=10)
        await harness.switch(server)
        await harness.listen(front)
        with contextlib.ExitStack() as flood:
            for number in range(1_000):
                sock = flood.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", front.port))
                if number % 50 == 0:
                    assert await ask(front.port) == b"?"
            stats = await harness.stats_when(lambda stats: stats.connections_total == 1_020)
            assert stats.silent_now <= 50
            assert stats.refused_total == 0, "silent ones do not count as connections"


async def test_silent_clients_make_room_when_there_is_no_descriptor_left(harness):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        assert await ask(front.port) == b"?"
        pid = harness.relay.pid
        limit = open_descriptors(pid) + 10
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        with contextlib.ExitStack() as flood:
            for _ in range(40):
                flood.enter_context(socket.create_connection(("127.0.0.1", front.port)))
            for _ in range(5):
                assert await ask(front.port) == b"?"
            stats = await harness.stats_when(lambda stats: stats.silent_evicted_total > 0)
            assert stats.refused_total == 0


async def test_silent_client_may_speak_during_an_election(harness):
    front = listener()
    await harness.listen(front)
    async with tcp_server(echo) as server, await connect(front.port) as stream:
        await harness.stats_when(lambda stats: stats.silent_now == 1)
        await stream.send_all(b"?")
        await harness.stats_when(lambda stats: stats.held_now == 1 and stats.silent_now == 0)
        await harness.switch(server)
        with trio.fail_after(20):
            assert await stream.receive_some() == b"?"


async def test_listener_that_does_not_wait_for_the_client_lets_the_server_speak_first(harness):
    async def greet(stream):
        await stream.send_all(b"hello")
        await stream.receive_some()

    async with tcp_server(greet) as server:
        front = listener(hello_ms=0)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            with trio.fail_after(20):
                assert await stream.receive_some() == b"hello"


async def test_long_first_message_arrives_whole(harness):
    """Longer than what is kept, and more of it comes while the client waits for a server."""
    sent = os.urandom(300_000)
    heard = bytearray()
    all_heard = trio.Event()

    async def listen(stream):
        async for chunk in stream:
            heard.extend(chunk)
        all_heard.set()

    front = listener()
    await harness.switch(free_port())
    await harness.listen(front)
    async with tcp_server(listen) as server, await connect(front.port) as stream:
        await stream.send_all(sent[:100_000])
        await harness.stats_when(lambda stats: stats.held_now == 1)
        await harness.switch(server)
        with trio.fail_after(20):
            await stream.send_all(sent[100_000:])
            await stream.send_eof()
            await all_heard.wait()
    assert heard == sent

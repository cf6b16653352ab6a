"""What clients meet while the server dies, during the election, and at the switch."""

import itertools
import socket

import trio
from relay_harness import (
    ask,
    ask_on,
    connect,
    echo,
    free_port,
    greeter,
    how_it_ended,
    is_reset,
    listener,
    relay_in_this_process,
    tcp_server,
    wait_until,
)

import gateway.relay.route
from gateway.config.settings import Endpoint
from gateway.relay.messages import Configure, Route


async def test_held_connection_is_served_after_the_election(harness):
    front = listener()
    await harness.listen(front)
    async with tcp_server(echo) as server, await connect(front.port) as stream:
        await stream.send_all(b"spoken before there was anybody to hear")
        await harness.stats_when(lambda stats: stats.held_now == 1)
        await harness.switch(server)
        with trio.fail_after(20):
            assert await stream.receive_some() == b"spoken before there was anybody to hear"
    stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
    assert stats.held_total == 1
    assert stats.hold_expired_total == 0


async def test_held_client_that_has_shut_its_side_is_still_served(harness):
    front = listener()
    await harness.listen(front)
    async with tcp_server(echo) as server, await connect(front.port) as stream:
        await stream.send_all(b"?")
        await stream.send_eof()
        await harness.stats_when(lambda stats: stats.held_now == 1)
        await harness.switch(server)
        with trio.fail_after(20):
            assert b"".join([chunk async for chunk in stream]) == b"?"


async def test_hold_ends_by_a_reset(harness):
    front = listener(hold_ms=300)
    await harness.listen(front)
    async with await connect(front.port) as stream:
        await stream.send_all(b"?")
        assert await how_it_ended(stream) == "reset"
    stats = await harness.stats_when(lambda stats: stats.hold_expired_total == 1)
    assert stats.connections_now == 0


async def test_held_client_that_goes_away_is_dropped(harness):
    front = listener(hold_ms=600_000, hello_ms=0)
    await harness.listen(front)
    stream = await connect(front.port)
    await harness.stats_when(lambda stats: stats.held_now == 1)
    await stream.aclose()
    await harness.stats_when(lambda stats: stats.held_now == 0)


async def test_held_clients_are_bounded(harness):
    front = listener(connections_max=2)
    await harness.listen(front)
    async with await connect(front.port) as one, await connect(front.port) as two:
        await one.send_all(b"?")
        await two.send_all(b"?")
        await harness.stats_when(lambda stats: stats.held_now == 2)
        assert await is_reset(front.port)
        await harness.stats_when(lambda stats: stats.maxconn_refused_total == 1)


async def test_client_is_held_while_the_server_that_just_died_is_still_the_elected_one(harness):
    dead = free_port()
    front = listener()
    await harness.switch(dead)
    await harness.listen(front)
    async with tcp_server(echo) as server, await connect(front.port) as stream:
        await stream.send_all(b"?")
        await harness.stats_when(lambda stats: stats.connect_failed_total >= 3 and stats.held_now == 1)
        await harness.switch(server)
        with trio.fail_after(20):
            assert await stream.receive_some() == b"?"


async def test_held_clients_are_served_when_the_same_server_comes_back(harness):
    port = free_port()
    front = listener()
    await harness.switch(port)
    await harness.listen(front)
    streams = [await connect(front.port) for _ in range(40)]  # more than are tried at a time
    for stream in streams:
        await stream.send_all(b"?")
    await harness.stats_when(lambda stats: stats.held_now == 40)
    async with tcp_server(echo, port=port):
        for stream in streams:
            with trio.fail_after(20):
                assert await stream.receive_some() == b"?"
            await stream.aclose()


async def test_first_answer_of_a_server_that_is_back_serves_everybody_who_waits(monkeypatch):
    """Tried one by one, the last of them would wait for longer than it is held."""
    monkeypatch.setattr(gateway.relay.route, "RETRY_MS", 300)
    monkeypatch.setattr(gateway.relay.route, "RETRIES_PER_TICK_MAX", 1)
    port = free_port()
    front = listener(hold_ms=3_000)
    async with relay_in_this_process(
        Route(route="pool", server_host="127.0.0.1", server_port=port, epoch=1), Configure(listeners=(front,))
    ):
        streams = [await connect(front.port) for _ in range(20)]
        async with tcp_server(echo, port=port):
            for stream in streams:
                assert await ask_on(stream) == b"?"
                await stream.aclose()


async def test_hold_ends_also_while_the_server_refuses(harness):
    front = listener(hold_ms=300)
    await harness.switch(free_port())
    await harness.listen(front)
    assert await ask(front.port) in ("ECONNRESET", "EPIPE")
    stats = await harness.stats_when(lambda stats: stats.hold_expired_total == 1)
    assert stats.connect_failed_total >= 2


async def test_client_is_served_by_the_next_server_when_the_first_one_never_accepts(harness):
    """The connect times out: a host that has vanished without a word."""
    with socket.socket() as deaf, socket.socket() as filler, socket.socket() as filler2:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for each in (filler, filler2):  # fill its queue: further SYNs are dropped
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        front = listener(connect_ms=100)
        await harness.switch(deaf.getsockname()[1])
        await harness.listen(front)
        async with tcp_server(echo) as server, await connect(front.port) as stream:
            await stream.send_all(b"?")
            await harness.stats_when(lambda stats: stats.connect_failed_total >= 1)
            await harness.switch(server)
            with trio.fail_after(20):
                assert await stream.receive_some() == b"?"


async def test_client_that_has_not_spoken_survives_the_reset_of_its_server(harness):
    """A server killed with the connection in its backlog resets it before anybody has said a word."""
    front = listener(hello_ms=0)
    with socket.socket() as dying:
        dying.bind(("127.0.0.1", 0))
        dying.listen()
        await harness.switch(dying.getsockname()[1])
        await harness.listen(front)
        stream = await connect(front.port)
        await harness.stats_when(lambda stats: stats.connections_now == 1 and stats.held_now == 0)
    async with tcp_server(echo) as server, stream:
        await harness.stats_when(lambda stats: stats.held_now == 1)
        await harness.switch(server)
        assert await ask_on(stream) == b"?"


async def test_switch_resets_every_old_connection_and_new_ones_reach_the_new_server(harness):
    async with tcp_server(greeter(b"one")) as one, tcp_server(greeter(b"two")) as two:
        front = listener()
        await harness.switch(one)
        await harness.listen(front)
        streams = [await connect(front.port) for _ in range(100)]
        for stream in streams:
            assert await ask_on(stream) == b"one"
        switched = await harness.switch(two)
        assert switched.connections_closed == 100
        for stream in streams:
            assert await how_it_ended(stream) == "reset"
        assert await ask(front.port) == b"two"
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert stats.reset_at_switch_total == 100


async def test_switch_resets_the_old_server_too(harness):
    ends = []

    async def listen(stream):
        await stream.receive_some()
        ends.append(await how_it_ended(stream))

    async with tcp_server(listen) as one, tcp_server(echo) as two:
        front = listener()
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(b"?")
            await harness.stats_when(lambda stats: stats.bytes_to_server_total == 1)
            await harness.switch(two)
            await wait_until(lambda: ends)
    assert ends == ["reset"]


async def test_new_epoch_of_the_same_server_is_a_switch(harness):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert await ask_on(stream) == b"?"
            assert (await harness.switch(server)).connections_closed == 1
            assert await how_it_ended(stream) == "reset"


async def test_connections_live_through_an_election_that_changes_nothing(harness):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert await ask_on(stream) == b"?"
            harness.relay.route("pool", None, 1)
            async with await connect(front.port) as late:
                await late.send_all(b"!")
                await harness.stats_when(lambda stats: stats.held_now == 1)
                assert await ask_on(stream) == b"?"
                harness.relay.route("pool", Endpoint("127.0.0.1", server), 1)
                with trio.fail_after(20):
                    assert await late.receive_some() == b"!"
            assert await ask_on(stream) == b"?"


async def test_two_routes_do_not_disturb_each_other(harness):
    async with tcp_server(echo) as server:
        one, two = listener(name="one", route="one"), listener(name="two", route="two")
        await harness.switch(server, route="one")
        await harness.switch(server, route="two")
        await harness.listen(one, two)
        async with await connect(one.port) as first, await connect(two.port) as second:
            assert await ask_on(first) == await ask_on(second) == b"?"
            await harness.switch(server, route="one")
            assert await how_it_ended(first) == "reset"
            assert await ask_on(second) == b"?"


async def test_no_client_is_refused_while_servers_come_and_go(harness):
    """Clients that come all the time are all served, whatever the route does."""
    front = listener()
    await harness.listen(front)
    answers = []

    async def client(nursery):
        while True:
            stream = await connect(front.port)
            nursery.start_soon(finish, stream)
            await trio.sleep(0.005)

    async def finish(stream):
        async with stream:
            await harness_pause.wait()
            answers.append(await ask_on(stream))

    harness_pause = trio.Event()
    async with tcp_server(greeter(b"one")) as one, tcp_server(greeter(b"two")) as two:
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as clients:
                clients.start_soon(client, nursery)
                await trio.sleep(0.3)
                clients.cancel_scope.cancel()
            for server in itertools.islice(itertools.cycle((free_port(), None)), 6):
                await harness.switch(server)
            await harness.switch(two)
            await harness.stats_when(lambda stats: stats.held_now == 0)
            harness_pause.set()
        assert set(answers) == {b"two"}
        assert one != two

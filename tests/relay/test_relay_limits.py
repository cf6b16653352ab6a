"""Limits: of idle time, of connections, of one client's share, of those who wait."""

import socket

import trio
from relay_harness import (
    ask,
    ask_on,
    connect,
    echo,
    how_it_ended,
    is_reset,
    listener,
    relay_in_this_process,
    reset,
    tcp_server,
    wait_until,
)

from gateway.relay import sockets
from gateway.relay.messages import Configure, Route
from gateway.relay.sources import BURST_S


async def test_connection_on_which_nobody_moves_a_byte_is_closed_after_client_ms(harness):
    ends = []

    async def serve(stream):
        await stream.send_all(await stream.receive_some())
        ends.append(await how_it_ended(stream))

    async with tcp_server(serve) as server:
        front = listener(client_ms=600)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert await ask_on(stream) == b"?"
            began = trio.current_time()
            assert await how_it_ended(stream) == "reset"
            assert trio.current_time() - began >= 0.59
        await wait_until(lambda: ends)
        assert ends == ["reset"]
        await harness.stats_when(lambda stats: stats.client_idle_total == 1 and stats.connections_now == 0)


async def test_one_byte_now_and_then_keeps_a_connection(harness):
    async with tcp_server(echo) as server:
        front = listener(client_ms=600)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            for _ in range(8):
                assert await ask_on(stream) == b"?"
                await trio.sleep(0.2)


async def test_client_that_takes_nothing_is_closed_after_client_ms(harness):
    async def pour(stream):
        while True:
            await stream.send_all(b"x" * 65_536)

    async with tcp_server(pour) as server:
        front = listener(client_ms=600, hello_ms=0)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port):
            await harness.stats_when(lambda stats: stats.client_idle_total == 1 and stats.connections_now == 0)


async def test_client_that_takes_little_by_little_is_not_idle(harness):
    done = trio.Event()

    async def pour(stream):
        await stream.receive_some()
        with trio.move_on_after(20):
            while not done.is_set():
                await stream.send_all(b"x" * 65_536)

    async with tcp_server(pour) as server:
        front = listener(client_ms=800)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(b"?")
            for _ in range(12):
                await trio.sleep(0.2)
                got = 0
                while got < 500_000:
                    got += len(await stream.receive_some(65_536))
            done.set()
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert stats.client_idle_total == 0


async def test_client_that_holds_its_share_is_refused_more_and_may_come_again(harness):
    async with tcp_server(echo) as server:
        front = listener(source_max=2)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as one, await connect(front.port):
            assert await ask_on(one) == b"?"
            await harness.stats_when(lambda stats: stats.connections_now == 2)
            assert await is_reset(front.port)
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert (stats.source_refused_total, stats.refused_total) == (1, 1)
        for _ in range(5):
            async with await connect(front.port) as stream:
                assert await ask_on(stream) == b"?"
            await harness.stats_when(lambda stats: stats.connections_now == 0)


async def test_no_more_than_held_max_wait_for_a_server(harness):
    front = listener(held_max=2)
    await harness.listen(front)
    async with tcp_server(echo) as server:
        streams = [await connect(front.port) for _ in range(3)]
        for number, stream in enumerate(streams):
            await stream.send_all(b"?")
            await harness.stats_when(
                lambda stats, number=number: stats.held_total + stats.held_refused_total == number + 1
            )
        assert await how_it_ended(streams[2]) == "reset"
        await harness.switch(server)
        for stream in streams[:2]:
            with trio.fail_after(20):
                assert await stream.receive_some() == b"?"
            await stream.aclose()
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert (stats.held_total, stats.held_refused_total, stats.refused_total) == (2, 1, 1)


async def test_connections_above_the_limit_are_counted_as_such(harness):
    async with tcp_server(echo) as server:
        front = listener(connections_max=1)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as silent, await connect(front.port) as one:
            assert await ask_on(one) == b"?"
            await silent.send_all(b"?")  # it came first, but it speaks second
            assert await how_it_ended(silent) == "reset"
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert (stats.maxconn_refused_total, stats.refused_total) == (1, 1)


async def test_who_broke_a_connection_is_counted(harness):
    async def serve(stream):
        if await stream.receive_some() == b"die":
            reset(stream)
        else:
            await stream.receive_some()

    async with tcp_server(serve) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(b"die")
            assert await how_it_ended(stream) == "reset"
        stream = await connect(front.port)
        await stream.send_all(b"live")
        await harness.stats_when(lambda stats: stats.bytes_to_server_total == 7)
        reset(stream)
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert (stats.reset_by_server_total, stats.reset_by_client_total) == (1, 1)


async def test_who_connects_too_fast_is_refused_and_counted_and_comes_again_later(harness):
    async with tcp_server(echo) as server:
        front = listener(source_rate=2)
        burst = 2 * BURST_S
        await harness.switch(server)
        await harness.listen(front)
        answers = [await ask(front.port) for _ in range(2 * burst)]
        refused = sum(answer != b"?" for answer in answers)
        assert answers[:burst] == [b"?"] * burst, "short connections, one after the other: only their rate counts"
        assert refused > 0
        stats = await harness.stats_when(lambda stats: stats.source_rate_refused_total == refused)
        assert (stats.refused_total, stats.source_refused_total) == (refused, 0)
        await trio.sleep(0.7)
        assert await ask(front.port) == b"?"


async def test_a_server_that_takes_nothing_is_not_waited_for_endlessly_and_a_client_is(monkeypatch):
    """Both acknowledge the probes of their closed windows: the kernel's user timeout is for servers only."""
    monkeypatch.setattr(sockets, "USER_TIMEOUT_MS", 1_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        front = listener(client_ms=120_000)
        monkeypatch.setattr("gateway.relay.tcp.SWEEP_MS_MAX", 200)
        route = Route(route="pool", server_host="127.0.0.1", server_port=server.getsockname()[1], epoch=1)
        async with relay_in_this_process(route, Configure(listeners=(front,))):
            async with await connect(front.port) as flooding, await connect(front.port) as deaf:
                ends = []
                for stream in (flooding, deaf):
                    await stream.send_all(b"?")
                    await trio.to_thread.run_sync(server.settimeout, 20)
                    ends.append((await trio.to_thread.run_sync(server.accept))[0])
                ends[1].setblocking(False)
                with trio.move_on_after(1):
                    while True:  # until no more is taken
                        try:
                            ends[1].send(bytes(65_536))
                        except BlockingIOError:
                            await trio.sleep(0.01)
                with trio.fail_after(20):
                    try:
                        while True:  # until it is reset
                            await flooding.send_all(bytes(65_536))
                    except trio.BrokenResourceError:
                        pass
                assert deaf.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            for end in ends:
                end.close()

"""UDP through a real relay process."""

import socket

import trio
from relay_harness import (
    DEADLINE_S,
    ask,
    ask_datagram,
    connected_datagrams,
    free_port,
    greeter,
    listener,
    tcp_server,
    udp_server,
)

from gateway.relay.messages import ListenFailed

NAME = "matchmaker-udp"


async def test_each_client_gets_its_own_answers(harness):
    async with udp_server(b"re: ") as (server, heard):
        front = listener("udp")
        await harness.switch(server)
        await harness.listen(front)
        one, two = await connected_datagrams(front.port), await connected_datagrams(front.port)
        for number in range(50):
            assert await ask_datagram(one, b"one %d" % number) == b"re: one %d" % number
            assert await ask_datagram(two, b"two %d" % number) == b"re: two %d" % number
        assert len({source for _datagram, source in heard}) == 2, "a flow for each client, and no more"
        stats = await harness.stats_when(lambda stats: stats.datagrams_to_client_total == 100, NAME)
        assert (stats.flows_now, stats.flows_total, stats.datagrams_to_server_total) == (2, 2, 100)
        assert stats.datagrams_dropped_total == 0


async def test_large_and_empty_datagrams_pass_whole(harness):
    async with udp_server() as (server, _heard):
        front = listener("udp")
        await harness.switch(server)
        await harness.listen(front)
        client = await connected_datagrams(front.port)
        for size in (0, 1, 1000, 60_000, 65_507):
            assert await ask_datagram(client, b"x" * size) == b"x" * size


async def test_tcp_and_udp_reach_the_same_server_after_a_switch(harness):
    async with (
        tcp_server(greeter(b"one")) as one,
        udp_server(b"one", port=one),
        tcp_server(greeter(b"two")) as two,
        udp_server(b"two", port=two),
    ):
        port = free_port()
        await harness.listen(listener("tcp", port=port), listener("udp", port=port))
        client = await connected_datagrams(port)
        await harness.switch(one)
        assert await ask(port) == await ask_datagram(client, b"") == b"one"
        switched = await harness.switch(two)
        assert switched.flows_closed == 1
        assert await ask(port) == await ask_datagram(client, b"") == b"two"


async def test_datagrams_wait_for_the_end_of_the_election_up_to_a_limit(harness):
    front = listener("udp", hold_ms=60_000)
    await harness.listen(front)
    client = await connected_datagrams(front.port)
    for number in range(80):
        await client.send(b"%d" % number)
    await harness.stats_when(lambda stats: stats.datagrams_dropped_total == 16, NAME)
    async with udp_server() as (server, heard):
        await harness.switch(server)
        with trio.fail_after(DEADLINE_S):
            for number in range(64):
                assert await client.recv(100) == b"%d" % number
        assert len(heard) == 64


async def test_datagrams_that_waited_too_long_are_dropped(harness):
    front = listener("udp", hold_ms=100)
    await harness.listen(front)
    client = await connected_datagrams(front.port)
    await client.send(b"old")
    await trio.sleep(0.5)
    async with udp_server() as (server, heard):
        await harness.switch(server)
        assert await ask_datagram(client, b"new") == b"new"
        assert [datagram for datagram, _source in heard] == [b"new"]


async def test_oldest_flow_makes_room_for_a_new_one(harness):
    async with udp_server() as (server, heard):
        front = listener("udp", flows_max=2)
        await harness.switch(server)
        await harness.listen(front)
        clients = [await connected_datagrams(front.port) for _ in range(3)]
        for client in (*clients[:2], clients[0], clients[2], clients[0]):
            assert await ask_datagram(client, b"?") == b"?"
        sources = [source for _datagram, source in heard]
        assert sources[0] == sources[2] == sources[4], "the flow in use was kept"
        stats = await harness.stats_when(lambda stats: stats.flows_total == 3, NAME)
        assert stats.flows_now == 2


async def test_flow_whose_server_never_answers_counts_as_used_all_the_same(harness):
    """Updates by UDP are not answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(DEADLINE_S)
        front = listener("udp", flows_max=2)
        await harness.switch(silent.getsockname()[1])
        await harness.listen(front)
        clients = [await connected_datagrams(front.port) for _ in range(3)]
        sources = []
        for client in (*clients[:2], clients[0], clients[2], clients[0]):
            await client.send(b"?")
            sources.append(await trio.to_thread.run_sync(silent.recvfrom, 100))
        assert sources[0] == sources[2] == sources[4]


async def test_idle_flow_is_forgotten(harness):
    async with udp_server() as (server, _heard):
        front = listener("udp", flow_idle_ms=200)
        await harness.switch(server)
        await harness.listen(front)
        client = await connected_datagrams(front.port)
        assert await ask_datagram(client, b"?") == b"?"
        await harness.stats_when(lambda stats: stats.flows_total == 1 and stats.flows_now == 0, NAME)
        assert await ask_datagram(client, b"?") == b"?"


async def test_unreachable_server_is_counted_and_survived(harness):
    port = free_port(socket.SOCK_DGRAM)
    front = listener("udp")
    await harness.switch(port)
    await harness.listen(front)
    client = await connected_datagrams(front.port)
    for _ in range(5):
        await client.send(b"?")
        await trio.sleep(0.02)
    await harness.stats_when(lambda stats: stats.unreachable_total > 0, NAME)
    async with udp_server(port=port):
        assert await ask_datagram(client, b"!") == b"!"


async def test_port_in_use_is_answered_with_the_reason(harness):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as occupant:
        occupant.bind(("127.0.0.1", 0))
        failed = await harness.listen(listener("udp", port=occupant.getsockname()[1]))
        assert isinstance(failed, ListenFailed)
        assert failed.reason.startswith("EADDRINUSE")

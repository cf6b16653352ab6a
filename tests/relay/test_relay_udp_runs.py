"""Datagrams that come faster than they are sent on: in runs, from clients told apart, with bounded flows."""

import os
import signal
import socket
from contextlib import ExitStack

import msgspec
import pytest
import trio
from relay_harness import (
    DEADLINE_S,
    ask_datagram,
    connected_datagrams,
    free_port,
    listener,
    relay_in_this_process,
    udp_server,
    wait_until,
)

import gateway.relay.udp
from gateway.relay.counters import Counters
from gateway.relay.flows import Flow, Flows, run_end
from gateway.relay.messages import Configure, Route
from tests.support import netns

NAME = "matchmaker-udp"


def silent_server():
    """A server that only listens, with room for whatever these tests send."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(DEADLINE_S)
    return sock


async def heard(server, count):
    """The next so many datagrams, by source."""
    found = {}
    for _ in range(count):
        datagram, source = await trio.to_thread.run_sync(server.recvfrom, 65_536)
        found.setdefault(source, []).append(datagram)
    return found


async def stopped(harness, act):
    """Let what `act` sends wait in the relay's queue, and be read at once."""
    os.kill(harness.relay.pid, signal.SIGSTOP)
    try:
        await act()
    finally:
        os.kill(harness.relay.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    "sizes",
    [
        [1_000] * 70,
        [500, 500, 700, 700, 0, 700, 1, 3_000, 3_000, 500, 1_400, 1_400, 1_399, 1_400, 0, 0, 7],
        [9_000] * 12 + [20_000, 20_000, 60_000, 65_507, 1, 1],
    ],
)
async def test_a_burst_of_several_clients_arrives_whole_in_order_and_told_apart(harness, sizes):
    with silent_server() as server:
        front = listener("udp")
        await harness.switch(server.getsockname()[1])
        await harness.listen(front)
        clients = [await connected_datagrams(front.port) for _ in range(3)]

        async def burst():
            for number, size in enumerate(sizes):
                for name, client in zip(b"abc", clients, strict=True):
                    await client.send((bytes((name, number)) * size)[:size])

        await stopped(harness, burst)
        found = await heard(server, 3 * len(sizes))
        expected = {
            name: [(bytes((name, number)) * size)[:size] for number, size in enumerate(sizes)] for name in b"abc"
        }
        assert len(found) == 3, "a source for each client"
        assert {each[0][0]: each for each in found.values()} == expected
        stats = await harness.stats_when(lambda stats: stats.datagrams_to_server_total == 3 * len(sizes), NAME)
        assert (stats.flows_now, stats.datagrams_dropped_total, stats.datagrams_missed_total) == (3, 0, 0)


def test_a_run_is_datagrams_of_one_size_and_at_most_a_smaller_one_at_its_end():
    def run(*sizes, size_max=10_000):
        return run_end([b"x" * size for size in sizes], 0, size_max)

    assert run(5, 5, 5) == 3
    assert run(5, 5, 4, 5) == 3
    assert run(5, 5, 6) == 2
    assert run(5, 0, 5) == 1
    assert run(0, 0) == 1
    assert run(5, 5, size_max=4) == 1
    assert run(*[5] * 100) == 60, "as many as the kernel cuts"
    assert run(*[9_000] * 10) == 7, "one packet until it is cut"


class Port:
    """The listening port of a flow that is tried alone."""

    def __init__(self):
        self.segment_bytes_max = 16_384
        self.counters = Counters()
        self.engine = self
        self.now = 0.0

    def watch(self, *_):
        pass


@pytest.mark.kernel
def test_datagrams_that_no_frame_carries_are_sent_one_by_one():
    """The kernel cuts no run into pieces greater than a frame; such datagrams go in fragments."""
    with netns.Segment() as segment:
        here, there = segment.host("here", "10.9.0.1/24"), segment.host("there", "10.9.0.2/24")
        reading, writing = os.pipe()
        receiving = there.start(_receive, writing)
        assert os.read(reading, 1) == b"+", "it is bound"
        here.call(_send_large)
        assert receiving.result(DEADLINE_S) == [3_000] * 4 + [1_000] * 3
        for end in (reading, writing):
            os.close(end)


def _receive(ready):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.bind(("10.9.0.2", 9618))
        os.write(ready, b"+")
        return [len(sock.recv(65_536)) for _ in range(7)]


def _send_large():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("10.9.0.2", 9618))
        port = Port()
        flow = Flow(port, ("10.9.0.3", 1), sock)
        flow.send([b"x" * 3_000] * 4)
        assert port.segment_bytes_max == 2_999
        flow.send([b"x" * 1_000] * 3)
        assert port.counters.datagrams_to_server_total == 7


async def test_a_flood_from_random_ports_displaces_itself_and_no_known_client(harness):
    async with udp_server() as (server, served):
        front = listener("udp", flows_max=50)
        await harness.switch(server)
        await harness.listen(front)
        known = [await connected_datagrams(front.port) for _ in range(10)]
        for client in known:
            assert await ask_datagram(client, b"known") == b"known"
        sources = {source for _, source in served}
        for _round in range(10):
            with ExitStack() as stack:
                for _ in range(200):
                    flooding = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    flooding.sendto(b"flood", ("127.0.0.1", front.port))
            for client in known:
                assert await ask_datagram(client, b"known") == b"known"
        assert {source for datagram, source in served if datagram == b"known"} == sources, "they kept their flows"
        stats = await harness.stats_when(lambda stats: stats.flows_total >= 1_000, NAME)
        assert stats.flows_now <= 50
        assert len(os.listdir(f"/proc/{harness.relay.pid}/fd")) < 50 + 30


def test_new_clients_do_not_displace_each_other_where_many_are_known():
    """Else two that come together would both wait in vain for their answers."""

    class Anybody:
        closed = False
        seen_at = 0.0

        def close(self):
            self.closed = True

    flows = Flows()
    for number in range(16):
        flows.add(("known", number), Anybody, 16)
        flows.get(("known", number))
    new = [flows.add(("new", number), Anybody, 16) for number in range(3)]
    assert [flow.closed for flow in new] == [True, False, False], "an eighth of all may be new ones"
    assert len(flows) == 16


async def test_a_new_client_gets_its_answer_however_many_are_known(harness):
    async with udp_server() as (server, _served):
        front = listener("udp", flows_max=16)
        await harness.switch(server)
        await harness.listen(front)
        clients = [await connected_datagrams(front.port) for _ in range(40)]
        for client in (*clients, *clients):
            assert await ask_datagram(client, b"?") == b"?"
        assert (await harness.stats_when(lambda stats: stats.flows_total >= 40, NAME)).flows_now <= 16


async def test_beyond_a_rate_of_new_clients_their_datagrams_still_arrive(monkeypatch):
    monkeypatch.setattr(gateway.relay.udp, "NEW_FLOWS_PER_S_MAX", 0.001)
    with silent_server() as server:
        port = server.getsockname()[1]
        orders = (
            Configure(listeners=(listener("udp", port=(front := free_port(socket.SOCK_DGRAM))),)),
            Route(route="pool", server_host="127.0.0.1", server_port=port, epoch=1),
        )
        async with relay_in_this_process(*orders):
            clients = [await connected_datagrams(front) for _ in range(5)]
            for client in clients:
                await client.send(b"update")
            assert list((await heard(server, 5)).values()) == [[b"update"] * 5], "all from one socket"


async def test_datagrams_that_the_kernel_had_no_room_for_are_counted(harness):
    with silent_server() as server:
        front = listener("udp")
        await harness.switch(server.getsockname()[1])
        await harness.listen(front)
        client = await connected_datagrams(front.port)

        async def too_many():
            for _ in range(1_200):
                await client.send(b"x" * 60_000)

        await stopped(harness, too_many)
        stats = await harness.stats_when(lambda stats: stats.datagrams_missed_total > 0, NAME)
        await wait_until(lambda: total_of(harness.stats(NAME)) == 1_200)
        assert stats.datagrams_missed_total < 1_200


def total_of(stats):
    return stats.datagrams_to_server_total + stats.datagrams_dropped_total + stats.datagrams_missed_total


async def test_20_000_datagrams_a_second_for_a_moment_are_all_delivered(harness):
    """The queue is long enough for a relay that is kept off the CPU."""
    with silent_server() as server:
        front = listener("udp")
        await harness.switch(server.getsockname()[1])
        await harness.listen(front)
        client = await connected_datagrams(front.port)

        async def quarter_of_a_second():
            for _ in range(2_500):
                await client.send(b"x" * 1_000)

        await stopped(harness, quarter_of_a_second)
        stats = await harness.stats_when(lambda stats: total_of(stats) == 2_500, NAME)
        assert stats.datagrams_missed_total == 0


@pytest.mark.kernel
async def test_a_server_sees_the_clients_own_address(harness):
    """The relay's answers' way is the gateway's business; here it is loopback, where every address is at home."""
    with silent_server() as server:
        front = listener("udp", transparent=True)
        await harness.switch(server.getsockname()[1])
        await harness.listen(front)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(("127.0.0.77", 0))
            client.sendto(b"?", ("127.0.0.1", front.port))
            datagram, source = await trio.to_thread.run_sync(server.recvfrom, 100)
            assert (datagram, source[0]) == (b"?", "127.0.0.77")
            server.sendto(b"!", source)
            client.settimeout(DEADLINE_S)
            assert await trio.to_thread.run_sync(client.recv, 100) == b"!"


async def test_a_client_of_the_other_ip_version_is_counted_where_the_server_should_see_it(harness):
    with silent_server() as server:
        front = msgspec.structs.replace(listener("udp", transparent=True), host="::1")
        await harness.switch(server.getsockname()[1])
        await harness.listen(front)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.sendto(b"?", ("::1", front.port))
        stats = await harness.stats_when(lambda stats: stats.transparent_refused_total == 1, NAME)
        assert stats.datagrams_dropped_total == 1

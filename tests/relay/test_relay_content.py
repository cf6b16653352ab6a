"""What one side says is what the other side hears, all of it, in order, whatever the two do to each other."""

import hashlib
import os
import random
import signal
import socket
import struct
import threading
import time
from contextlib import ExitStack

import pytest
import trio
from relay_harness import DEADLINE_S, connect, free_port, how_it_ended, listener, relay_by_hand, tcp_server

GIB = 1 << 30
BULK_DEADLINE_S = 240


@pytest.fixture(scope="module")
def relay():
    """A relay in front of `relay.server`, a listening socket."""
    with relay_by_hand() as relay, socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1_000)
        relay.server = server
        relay.front = listener(port=free_port())
        relay.listen(relay.front)
        relay.switch(*server.getsockname())
        yield relay


def pair(relay):
    """A client and the server's socket of one connection, after a byte from the client."""
    client = socket.create_connection(("127.0.0.1", relay.front.port), timeout=BULK_DEADLINE_S)
    client.sendall(b"!")
    server, _ = relay.server.accept()
    server.settimeout(BULK_DEADLINE_S)
    assert server.recv(1) == b"!"
    return client, server


def pour(sock, count, seed, digests, name):
    """Send `count` bytes that repeat themselves nowhere near a buffer's length, and the end of the stream."""
    block = random.Random(seed).randbytes((1 << 20) - 17)
    digest = hashlib.blake2b()
    left = count
    while left:
        piece = memoryview(block)[: min(left, len(block))]
        sock.sendall(piece)
        digest.update(piece)
        left -= len(piece)
    sock.shutdown(socket.SHUT_WR)
    digests[name] = digest.digest()


def drink(sock, digests, name):
    digest, count = hashlib.blake2b(), 0
    buffer = bytearray(1 << 20)
    while got := sock.recv_into(buffer):
        digest.update(memoryview(buffer)[:got])
        count += got
    digests[name] = digest.digest(), count


def both_ways(client, server, count):
    digests = {}
    threads = [
        threading.Thread(target=pour, args=(client, count, 1, digests, "said up")),
        threading.Thread(target=pour, args=(server, count, 2, digests, "said down")),
        threading.Thread(target=drink, args=(client, digests, "heard down")),
        threading.Thread(target=drink, args=(server, digests, "heard up")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for way in ("up", "down"):
        assert digests[f"heard {way}"] == (digests[f"said {way}"], count)


def test_a_gibibyte_arrives_unchanged_each_way_at_once(relay):
    client, server = pair(relay)
    with client, server:
        both_ways(client, server, GIB)
    stats = relay.stats_when(lambda stats: stats.connections_now == 0)
    assert stats.bytes_to_client_total >= GIB
    assert stats.spliced_bytes_total >= GIB // 2, "bulk goes through the kernel's pipes"


def test_bulk_arrives_unchanged_through_buffers_of_every_kind(relay):
    """More streams than there are pipes, half of them with small buffers: pipes, copies and both in turn."""
    with ExitStack() as stack:
        streams = [pair(relay) for _ in range(40)]
        for number, (client, server) in enumerate(streams):
            stack.enter_context(client)
            stack.enter_context(server)
            if number % 2:
                for sock in (client, server):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 40_000)
        threads = [
            threading.Thread(target=both_ways, args=(*each, 1_500_000 + 7_919 * n)) for n, each in enumerate(streams)
        ]
        failed = []
        threading.excepthook, hook = lambda args: failed.append(args.exc_value), threading.excepthook
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        threading.excepthook = hook
        assert not failed


async def test_a_thousand_flows_at_once_keep_their_bytes_apart(harness):
    async def answer(stream):
        data = b"".join([chunk async for chunk in stream])
        await stream.send_all(hashlib.sha256(data).digest() + data[::-1])

    sizes = random.Random(3)
    async with tcp_server(answer, backlog=1_000) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        together = trio.Event()
        open_now = 0

        async def flow(size):
            nonlocal open_now
            data = os.urandom(size)
            async with await connect(front.port) as stream:
                await stream.send_all(data[: size // 2])
                open_now += 1
                if open_now == 1_000:
                    together.set()
                await together.wait()
                await stream.send_all(data[size // 2 :])
                await stream.send_eof()
                heard = b"".join([chunk async for chunk in stream])
            assert heard == hashlib.sha256(data).digest() + data[::-1]

        async with trio.open_nursery() as nursery:
            for _ in range(1_000):
                nursery.start_soon(flow, sizes.choice((2, 700, 5_000, 70_000)))
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert stats.connections_total == 1_000


def test_bytes_by_ones_arrive_and_writes_of_nothing_change_nothing(relay):
    client, server = pair(relay)
    with client, server:
        said = os.urandom(300)
        for byte in said:
            client.send(bytes([byte]))
            client.send(b"")
            server.send(bytes([byte]))
            server.send(b"")
        for sock in (client, server):
            heard = b""
            while len(heard) < len(said):
                heard += sock.recv(1_000)
            assert heard == said


@pytest.mark.parametrize("late", ["client", "server"])
def test_reader_that_comes_late_gets_everything(relay, late):
    """More than all buffers hold: everybody waits for everybody, until one begins to read."""
    client, server = pair(relay)
    reader, writer = (client, server) if late == "client" else (server, client)
    with client, server:
        digests = {}
        thread = threading.Thread(target=pour, args=(writer, 40_000_000, 6, digests, "said"))
        thread.start()
        time.sleep(0.5)
        reader.settimeout(DEADLINE_S)
        drink(reader, digests, "heard")
        thread.join()
        assert digests["heard"] == (digests["said"], 40_000_000)


@pytest.mark.parametrize("first", ["client", "server"])
def test_bytes_and_the_end_that_come_at_once_are_both_passed_on(relay, first):
    client, server = pair(relay)
    one, other = (client, server) if first == "client" else (server, client)
    with client, server:
        os.kill(relay.process.pid, signal.SIGSTOP)
        try:
            one.sendall(b"the last word")
            one.shutdown(socket.SHUT_WR)
            time.sleep(0.05)
        finally:
            os.kill(relay.process.pid, signal.SIGCONT)
        other.settimeout(DEADLINE_S)
        assert other.recv(100) == b"the last word"
        assert other.recv(100) == b""


def test_bytes_that_wait_for_the_client_reach_it_although_both_sides_have_finished(relay):
    client, server = pair(relay)
    with client, server:
        digests = {}
        thread = threading.Thread(target=pour, args=(server, 12_000_000, 7, digests, "said"))
        thread.start()
        thread.join(1)  # with large buffers it has said all by now, and some of that waits in the relay
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.2)
        client.settimeout(DEADLINE_S)
        drink(client, digests, "heard")
        thread.join()
        assert digests["heard"] == (digests["said"], 12_000_000)


@pytest.mark.parametrize("slow", ["client", "server"])
def test_slow_reader_gets_everything(relay, slow):
    client, server = pair(relay)
    reader, writer = (client, server) if slow == "client" else (server, client)
    with client, server:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 40_000)
        said = {}
        thread = threading.Thread(target=pour, args=(writer, 3_000_000, 4, said, "said"))
        thread.start()
        digest, count = hashlib.blake2b(), 0
        while chunk := reader.recv(1_777 if count < 1_000_000 else 100_000):
            digest.update(chunk)
            count += len(chunk)
        thread.join()
        assert (digest.digest(), count) == (said["said"], 3_000_000)


@pytest.mark.parametrize("breaker", ["client", "server"])
@pytest.mark.parametrize("bulk", [False, True], ids=["quiet", "in bulk"])
def test_reset_from_either_side_reaches_the_other(relay, breaker, bulk):
    client, server = pair(relay)
    one, other = (client, server) if breaker == "client" else (server, client)
    with client, server:
        if bulk:
            thread = threading.Thread(target=ignore_errors, args=(other.sendall, b"x" * 20_000_000))
            thread.start()
            heard = 0
            while heard < 1_000_000:
                heard += len(one.recv(100_000))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        if bulk:
            thread.join()  # its send has failed
        else:
            with pytest.raises(ConnectionResetError):
                other.recv(1)
    relay.stats_when(lambda stats: stats.connections_now == 0)


def ignore_errors(function, *arguments):
    try:
        function(*arguments)
    except OSError:
        return


async def test_switch_in_the_middle_of_bulk_resets_and_lets_nothing_wrong_through(harness):
    block = random.Random(5).randbytes(65_521)

    async def pour_on(stream):
        await stream.receive_some(1)
        while True:
            await stream.send_all(block)

    async with tcp_server(pour_on) as one, tcp_server(pour_on) as two:
        front = listener()
        await harness.switch(one)
        await harness.listen(front)
        async with await connect(front.port) as stream, await connect(front.port) as stuck:
            await stream.send_all(b"?")
            await stuck.send_all(b"?")
            heard, switched = 0, None
            with trio.fail_after(DEADLINE_S):
                try:
                    while True:
                        chunk = await stream.receive_some(100_000)
                        assert chunk, "the end would be a lie"
                        at = heard % len(block)
                        expected = (block * 3)[at : at + len(chunk)]
                        assert chunk == expected
                        heard += len(chunk)
                        if heard > 5_000_000 and not switched:
                            switched = await harness.switch(two)
                except trio.BrokenResourceError:
                    pass
            assert heard > 5_000_000
            while isinstance(await how_it_ended(stuck), bytes):
                pass  # what had reached it before
        await harness.stats_when(lambda stats: stats.connections_now == 0)

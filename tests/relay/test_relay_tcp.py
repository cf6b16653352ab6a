"""TCP through a real relay process."""

import hashlib
import os
import random
import signal
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

import gateway.relay.sockets
from gateway.relay.messages import Configure, Route

MIB = 1 << 20


async def test_bytes_arrive_unchanged_in_both_directions_at_once(harness):
    sent = random.Random(1).randbytes(6 * MIB)
    async with tcp_server(echo) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        received = hashlib.sha256()
        async with await connect(front.port) as stream:

            async def send():
                await stream.send_all(sent)
                await stream.send_eof()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                async for chunk in stream:
                    received.update(chunk)
    assert received.hexdigest() == hashlib.sha256(sent).hexdigest()
    stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
    assert stats.bytes_to_server_total == stats.bytes_to_client_total == len(sent)
    assert stats.connections_total == 1


async def test_bytes_that_are_taken_in_pieces_arrive_unchanged(monkeypatch):
    """With a send buffer this small, what waits for a slow reader is never taken at once."""
    sent = random.Random(2).randbytes(2 * MIB)

    def listen_with_small_buffers(settings):
        sock = listen(settings)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return sock

    listen = gateway.relay.sockets.listen
    monkeypatch.setattr(gateway.relay.sockets, "listen", listen_with_small_buffers)

    async def pour(stream):
        await stream.send_all(sent)
        await stream.send_eof()

    front = listener(hello_ms=0)
    async with (
        tcp_server(pour) as server,
        relay_in_this_process(
            Route(route="pool", server_host="127.0.0.1", server_port=server, epoch=1),
            Configure(listeners=(front,)),
        ),
        await connect(front.port) as stream,
    ):
        received = bytearray()
        with trio.fail_after(60):
            while chunk := await stream.receive_some(7_001):
                received += chunk
    assert received == sent


async def test_one_byte_writes_arrive(harness):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            for byte in (b"a", b"b", b"\0"):
                assert await ask_on(stream, byte) == byte


async def test_server_may_answer_after_the_client_has_shut_its_side(harness):
    async def answer_at_the_end(stream):
        data = b"".join([chunk async for chunk in stream])
        await stream.send_all(hashlib.sha256(data).digest())

    async with tcp_server(answer_at_the_end) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(b"x" * MIB)
            await stream.send_eof()
            answer = b"".join([chunk async for chunk in stream])
    assert answer == hashlib.sha256(b"x" * MIB).digest()


async def test_client_may_speak_on_after_the_server_has_shut_its_side(harness):
    heard = bytearray()
    all_heard = trio.Event()

    async def greet_and_listen(stream):
        await stream.send_all(b"hello")
        await stream.send_eof()
        async for chunk in stream:
            heard.extend(chunk)
        all_heard.set()

    async with tcp_server(greet_and_listen) as server:
        front = listener(hello_ms=0)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert b"".join([chunk async for chunk in stream]) == b"hello"
            await stream.send_all(b"still here")
        with trio.fail_after(20):
            await all_heard.wait()
    assert heard == b"still here"


async def test_client_that_never_reads_stops_its_server_and_costs_bounded_memory(harness):
    sent = 0

    async def pour(stream):
        nonlocal sent
        while True:
            await stream.send_all(b"x" * 65_536)
            sent += 65_536

    async with tcp_server(pour) as server:
        front = listener(hello_ms=0)
        await harness.switch(server)
        await harness.listen(front)
        before_kib = resident_kib(harness.relay.pid)
        streams = [await connect(front.port) for _ in range(20)]
        last = -1
        while sent != last:  # until nobody takes any more
            last = sent
            await trio.sleep(1)
        grown_kib = resident_kib(harness.relay.pid) - before_kib
        assert sent > 20 * 65_536
        assert grown_kib < 20 * 64 + 4096, f"20 stuck clients cost {grown_kib} KiB"
        # And one that begins to read gets on.
        before = sent
        with trio.fail_after(20):
            got = 0
            while got < 16 * MIB:
                got += len(await streams[0].receive_some(65_536))
        assert sent > before
        for stream in streams:
            await stream.aclose()


def resident_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


async def test_server_that_dies_in_the_middle_resets_its_client_at_once(harness):
    async def die(stream):
        await stream.receive_some()
        reset(stream)

    async with tcp_server(die) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(b"?")
            assert await how_it_ended(stream) == "reset"


async def test_answer_that_a_dying_server_gave_still_arrives_before_the_reset(harness):
    async def answer_then_die(stream):
        await stream.receive_some(1)
        await stream.send_all(b"a" * 1000)
        await trio.sleep(0.2)  # with the rest of the question unread, close means reset
        await stream.aclose()

    async with tcp_server(answer_then_die) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(b"?" * 1000)
            with trio.fail_after(20):
                answer = b""
                while len(answer) < 1000:
                    answer += await stream.receive_some()
            assert await how_it_ended(stream) == "reset"


async def test_answer_still_arrives_when_the_next_question_finds_the_server_dead(harness):
    asked, dead = trio.Event(), trio.Event()

    async def answer_then_die(stream):
        assert await stream.receive_some() == b"one"
        await asked.wait()
        await stream.send_all(b"answer")
        reset(stream)
        dead.set()

    async with tcp_server(answer_then_die) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            await stream.send_all(b"one")
            await harness.stats_when(lambda stats: stats.bytes_to_server_total == 3)
            # Stopped, so that it meets all of this at once, and the question first: its write fails.
            os.kill(harness.relay.pid, signal.SIGSTOP)
            await stream.send_all(b"two")
            asked.set()
            with trio.fail_after(20):
                await dead.wait()
            os.kill(harness.relay.pid, signal.SIGCONT)
            assert await how_it_ended(stream) == b"answer"
            assert await how_it_ended(stream) == "reset"


async def test_client_that_was_told_the_end_is_not_given_to_another_server(harness):
    """The server closes without a word, then resets: the client has seen the end, and must not see a beginning."""
    told = trio.Event()

    async def close_then_reset(stream):
        await stream.send_eof()
        await told.wait()
        reset(stream)

    async with tcp_server(close_then_reset) as server:
        front = listener(hello_ms=0)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert await how_it_ended(stream) == "closed"
            told.set()
            stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
            assert stats.held_total == 0


async def test_client_that_dies_in_the_middle_resets_the_server(harness):
    ends = []

    async def listen(stream):
        assert await stream.receive_some() == b"?"
        ends.append(await how_it_ended(stream))

    async with tcp_server(listen) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        stream = await connect(front.port)
        await stream.send_all(b"?")
        await trio.sleep(0.1)
        reset(stream)
        await wait_until(lambda: ends)
    assert ends == ["reset"]


async def test_connections_above_the_limit_are_reset_and_counted(harness):
    async with tcp_server(echo) as server:
        front = listener(connections_max=2)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as one, await connect(front.port) as two:
            assert await ask_on(one) == await ask_on(two) == b"?"
            assert await is_reset(front.port)
        await harness.stats_when(lambda stats: stats.connections_now == 0 and stats.refused_total == 1)
        assert await ask(front.port) == b"?"


async def test_many_short_connections_leave_nothing_behind(harness):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        descriptors = open_descriptors(harness.relay.pid)
        limit = trio.CapacityLimiter(50)

        async def one(number):
            async with limit:
                assert await ask(front.port, b"%d" % number) == b"%d" % number

        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(one, number)
        stats = await harness.stats_when(lambda stats: stats.connections_now == 0)
        assert stats.connections_total == 500
        assert open_descriptors(harness.relay.pid) == descriptors


def open_descriptors(pid):

    return len(os.listdir(f"/proc/{pid}/fd"))

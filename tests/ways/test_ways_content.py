"""Content through each way: every byte arrives, once, in order, at whom it was said to; and so does every end."""

import hashlib
import random
import socket

import pytest
import trio

from tests.ways.composed import Pool, echo, serving
from tests.ways.hosts import DEADLINE_S
from tests.ways.saying import digest, exactly, hashed, made, reset, say

pytestmark = pytest.mark.kernel

BULK_BYTES = 2_500_000  # of each of eight flows, each way: 200 MB in all ways together
BULK_FLOWS = 8
FLOWS = 1_000
FLOW_BYTES = 6_000
SMALL_BUFFER = 4_096


async def test_bulk_arrives_unchanged_both_ways_at_once(pool: Pool) -> None:
    heard: dict[str, dict[int, str]] = {"client": {}, "server": {}}

    async def serve(_name: str, stream: trio.SocketStream, _peer: str) -> None:
        number = int.from_bytes(await exactly(stream, 4), "big")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, stream, made(100 + number, BULK_BYTES))
            heard["server"][number] = await hashed(stream)

    async def client(number: int) -> None:
        async with await pool.connect() as stream, trio.open_nursery() as nursery:
            nursery.start_soon(say, stream, number.to_bytes(4, "big") + made(number, BULK_BYTES))
            heard["client"][number] = await hashed(stream)

    with trio.fail_after(60):
        async with serving(pool, serve):
            async with trio.open_nursery() as nursery:
                for number in range(BULK_FLOWS):
                    nursery.start_soon(client, number)
            while len(heard["server"]) < BULK_FLOWS:  # noqa: ASYNC110 (its last read may be a turn later)
                await trio.sleep(0.01)
    assert heard["server"] == {number: digest(made(number, BULK_BYTES)) for number in range(BULK_FLOWS)}
    assert heard["client"] == {number: digest(made(100 + number, BULK_BYTES)) for number in range(BULK_FLOWS)}


async def test_a_thousand_flows_at_once_keep_their_bytes_apart(pool: Pool) -> None:
    served, all_are_served = 0, trio.Event()
    connecting = trio.CapacityLimiter(100)
    wrong = []

    async def client(number: int) -> None:
        nonlocal served
        said = made(number, FLOW_BYTES)
        async with connecting:
            stream = await pool.connect()
        async with stream:
            await stream.send_all(said[:10])
            heard = await stream.receive_some(1)
            served += 1
            if served == FLOWS:
                all_are_served.set()
            await all_are_served.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say, stream, said[10:])
                while chunk := await stream.receive_some(65_536):
                    heard += chunk
        if heard != f"cm1 {pool.way.seen_by_servers}\n".encode() + said:
            wrong.append(number)

    with trio.fail_after(60):
        async with serving(pool, echo), trio.open_nursery() as nursery:
            for number in range(FLOWS):
                nursery.start_soon(client, number)
    assert served == FLOWS
    assert wrong == []


async def test_a_server_answers_after_the_client_has_shut_its_side(pool: Pool) -> None:
    async def serve(_name: str, stream: trio.SocketStream, _peer: str) -> None:
        await stream.send_all((await hashed(stream)).encode())

    said = made(1, 300_000)
    with trio.fail_after(DEADLINE_S):
        async with serving(pool, serve), await pool.connect() as stream:
            await say(stream, said)
            assert await exactly(stream, 1_000) == digest(said).encode()


async def test_a_client_speaks_on_after_the_server_has_shut_its_side(pool: Pool) -> None:
    heard = []
    ended = trio.Event()
    question, answer, rest = made(1, 100), made(2, 100_000), made(3, 300_000)

    async def serve(_name: str, stream: trio.SocketStream, _peer: str) -> None:
        heard.append(digest(await exactly(stream, len(question))))
        await say(stream, answer)
        heard.append(await hashed(stream))
        ended.set()

    with trio.fail_after(DEADLINE_S):
        async with serving(pool, serve):
            async with await pool.connect() as stream:
                await stream.send_all(question)
                assert await hashed(stream) == digest(answer)
                await stream.send_all(rest)
            await ended.wait()
    assert heard == [digest(question), digest(rest)]


async def test_single_bytes_and_writes_of_nothing_arrive_as_they_are(pool: Pool) -> None:
    async def serve(_name: str, stream: trio.SocketStream, _peer: str) -> None:
        async for chunk in stream:
            for byte in chunk:
                await stream.socket.send(b"")
                await stream.send_all(bytes([byte ^ 0xFF]))

    said = bytes(range(256))
    with trio.fail_after(DEADLINE_S):
        async with serving(pool, serve), await pool.connect() as stream:
            for byte in said:
                await stream.socket.send(b"")
                await stream.send_all(bytes([byte]))
                await stream.socket.send(b"")
                assert await stream.receive_some() == bytes([byte ^ 0xFF])
            await stream.send_eof()
            assert await stream.receive_some() == b""


async def test_a_slow_reader_with_a_small_buffer_gets_everything(pool: Pool) -> None:
    answer = made(1, 3_000_000)

    async def serve(_name: str, stream: trio.SocketStream, _peer: str) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    with trio.fail_after(DEADLINE_S):
        async with serving(pool, serve), await pool.connect(rcvbuf=SMALL_BUFFER) as stream:
            await stream.send_all(b"?")
            heard = await exactly(stream, 1_000)
            await trio.sleep(0.1)  # what has room in the buffers on the way is there by now, and the rest waits
            while chunk := await stream.receive_some(random.Random(len(heard)).randint(1, 40_000)):
                heard += chunk
                if len(heard) % 5 == 0:
                    await trio.sleep(0.002)
    assert digest(heard) == digest(answer)


async def test_a_slow_writer_is_heard_to_the_end(pool: Pool) -> None:
    said = made(1, 60_000)
    sizes = random.Random(2)

    async def serve(_name: str, stream: trio.SocketStream, _peer: str) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        heard = hashlib.sha256()
        while chunk := await stream.receive_some(997):
            heard.update(chunk)
            await trio.sleep(0.0005)
        await stream.send_all(heard.hexdigest().encode())

    with trio.fail_after(DEADLINE_S):
        async with serving(pool, serve), await pool.connect() as stream:
            at = 0
            while at < len(said):
                size = sizes.choice((1, 2, 300, 1_448, 1_449))
                await stream.send_all(said[at : at + size])
                at += size
                await trio.sleep(0.001)
            await stream.send_eof()
            assert await exactly(stream, 1_000) == digest(said).encode()


async def test_a_reset_from_either_side_reaches_the_other(pool: Pool) -> None:
    seen = []
    heard = trio.Event()

    async def serve(_name: str, stream: trio.SocketStream, _peer: str) -> None:
        if await stream.receive_some() == b"reset me":
            reset(stream)
            return
        await stream.send_all(b"!")
        try:
            seen.append(await stream.receive_some())
        except trio.BrokenResourceError as error:
            seen.append(type(error.__cause__))
        heard.set()

    with trio.fail_after(DEADLINE_S):
        async with serving(pool, serve):
            async with await pool.connect() as stream:
                await stream.send_all(b"reset me")
                with pytest.raises(trio.BrokenResourceError) as caught:
                    await stream.receive_some()
                assert type(caught.value.__cause__) is ConnectionResetError
            stream = await pool.connect()
            await stream.send_all(b"?")
            assert await stream.receive_some() == b"!"
            reset(stream)
            await heard.wait()
    assert seen == [ConnectionResetError]


async def test_datagrams_of_every_size_come_back_whole_to_their_own_client(pool: Pool) -> None:
    sizes = (0, 1, 1_400, 3_000, 20_000, 60_000)

    async def client(number: int) -> None:
        with await pool.datagrams() as sock:
            for size in sizes:
                said = made(number, size)
                await sock.send(said)
                assert await sock.recv(65_536) == f"cm1 {pool.way.seen_by_servers}\n".encode() + said

    with trio.fail_after(DEADLINE_S):
        async with serving(pool), trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(client, number)

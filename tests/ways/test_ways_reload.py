"""A reload: another process goes on with what the gateway's has left, and no client of any way notices."""

import pytest
import trio

from tests.ways.composed import Pool, serving
from tests.ways.hosts import DEADLINE_S, IP, Agent
from tests.ways.saying import digest, hashed, made, say
from tests.ways.talking import Talk, all_go_on, ask, served_by, who_hears

pytestmark = pytest.mark.kernel

PIECE_BYTES = 300_000  # half of the bulk is said before, half after


@pytest.fixture
def heir(pool: Pool) -> Agent:
    """The next process, begun before the test opens a socket: it would have a copy of it."""
    return pool.heir()


async def test_a_reload_breaks_no_flow_and_loses_no_byte(pool: Pool, heir: Agent) -> None:
    talks, held = [Talk(number) for number in range(20)], [Talk(100 + number) for number in range(5)]
    said = made(1, 8 * PIECE_BYTES)
    heard: list[str] = []

    async def digests(stream: trio.SocketStream) -> None:
        heard.append(await hashed(stream))

    with trio.fail_after(DEADLINE_S):
        async with serving(pool), trio.open_nursery() as nursery:
            sock = await pool.datagrams()
            for talk in talks:
                nursery.start_soon(talk.run, pool)
            for talk in talks:
                await talk.met.wait()
            await pool.decide(None)
            for talk in held:
                nursery.start_soon(talk.run, pool)
            await trio.sleep(0.1)
            await pool.decide("cm1")
            for talk in held:
                await talk.met.wait()
            assert await who_hears(sock, b"before") == "cm1"

            bulk = await pool.connect()
            async with bulk, trio.open_nursery() as pouring:
                pouring.start_soon(digests, bulk)
                for at in range(0, len(said) // 2, PIECE_BYTES):
                    await bulk.send_all(said[at : at + PIECE_BYTES])
                await trio.to_thread.run_sync(pool.hand_over, heir)
                await say(bulk, said[len(said) // 2 :])

            await all_go_on([*talks, *held])
            assert await who_hears(sock, b"after") == "cm1"
            assert await ask(pool) == "cm1"
            await pool.decide("cm2")  # and the new process governs what the old one began
            for talk in [*talks, *held]:
                await talk.has_ended()
            await served_by(pool, "cm2")
            assert await who_hears(sock, b"follow") == "cm2"
            sock.close()
    greeting = f"cm1 {pool.way.seen_by_servers}\n".encode()
    assert heard == [digest(greeting + said)]
    assert [talk.wrong for talk in [*talks, *held] if talk.wrong] == []
    assert IP in pool.gateway.ip("address", "show").stdout

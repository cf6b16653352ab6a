"""Another server is elected: what was open ends at once, and what is new goes to the new server, on each way."""

import time
from collections.abc import Callable

import pytest
import trio

from tests.ways.composed import Pool, serving
from tests.ways.hosts import DEADLINE_S
from tests.ways.talking import Talk, ask, served_by, who_hears

pytestmark = pytest.mark.kernel

PROMPTLY_S = 1.0  # generous: these take milliseconds
ENDED_S = 2.0  # likewise; after three, a manager that is no longer elected ends by itself what nat has left there
ACTIVE, SILENT, BULK = 60, 40, 4
Note = Callable[[str, object], None]


async def test_a_switch_ends_every_open_connection_and_mixes_no_bytes(pool: Pool, record_property: Note) -> None:
    talks = [Talk(number) for number in range(ACTIVE + SILENT)]
    with trio.fail_after(DEADLINE_S):
        async with serving(pool), trio.open_nursery() as nursery:
            for talk in talks:
                nursery.start_soon(lambda talk=talk: talk.run(pool, silent=talk.number >= ACTIVE))
            for talk in talks:
                await talk.met.wait()
            decided_s = await pool.decide("cm2")
            for talk in talks:
                await talk.has_ended()
    assert {talk.server for talk in talks} == {"cm1"}
    assert [talk.wrong for talk in talks if talk.wrong] == []
    last_s = {kind: max(talk.ended_s for talk in some) - decided_s for kind, some in _kinds(talks)}
    record_property("last end after ms", {kind: round(after_s * 1000, 1) for kind, after_s in last_s.items()})
    assert max(last_s.values()) < ENDED_S


def _kinds(talks: list[Talk]) -> list[tuple[str, list[Talk]]]:
    return [("active", talks[:ACTIVE]), ("silent", talks[ACTIVE:])]


async def test_bulk_that_a_switch_interrupts_is_whole_as_far_as_it_came(pool: Pool) -> None:
    heard: list[tuple[int, bool]] = []
    started = trio.Event()
    pattern = b"".join(number.to_bytes(4, "big") for number in range(250_000))  # twice around is another place

    async def pour(_name: str, stream: trio.SocketStream, _peer: str) -> None:
        await stream.receive_some()
        while True:
            await stream.send_all(pattern)

    async def client() -> None:
        at, right = 0, True
        async with await pool.connect() as stream:
            await stream.send_all(b"?")
            try:
                while chunk := await stream.receive_some(65_536):
                    place = at % len(pattern)
                    expected = pattern[place : place + len(chunk)]
                    expected += pattern[: len(chunk) - len(expected)]
                    right = right and chunk == expected
                    at += len(chunk)
                    if at > 2_000_000:
                        started.set()
            except trio.BrokenResourceError:
                pass
        heard.append((at, right))

    with trio.fail_after(DEADLINE_S):
        async with serving(pool, pour), trio.open_nursery() as nursery:
            for _ in range(BULK):
                nursery.start_soon(client)
            await started.wait()
            await pool.decide("cm2")
    assert len(heard) == BULK
    assert all(right for _, right in heard)


async def test_the_first_new_connection_after_the_decision_is_served_promptly(
    pool: Pool, record_property: Note
) -> None:
    took_ms = []
    with trio.fail_after(DEADLINE_S):
        async with serving(pool):
            for name in ("cm2", "cm1") * 5:
                await trio.sleep(0.05)  # what the last switch has left to do is done: they are seldom
                decided_s = await pool.decide(name)
                took_ms.append(round((await served_by(pool, name) - decided_s) * 1000, 1))
    record_property("first new connection served after ms", sorted(took_ms))
    assert max(took_ms) < PROMPTLY_S * 1000


async def test_new_connections_go_to_the_new_server_alone(pool: Pool) -> None:
    with trio.fail_after(DEADLINE_S):
        async with serving(pool):
            assert await ask(pool) == "cm1"
            await pool.decide("cm2")
            await served_by(pool, "cm2")
            assert [await ask(pool) for _ in range(50)] == ["cm2"] * 50


async def test_datagrams_of_one_client_follow_a_switch_and_never_go_back(pool: Pool, record_property: Note) -> None:
    """From one port: for the kernel it is one flow, and it must not stay with the server that it began with."""
    names = []
    with trio.fail_after(DEADLINE_S):
        async with serving(pool):
            with await pool.datagrams() as sock:
                names += [await who_hears(sock, b"%d" % number) for number in range(20)]
                decided_s = await pool.decide("cm2")
                while names[-1] != "cm2":
                    names.append(await who_hears(sock, b"%d" % len(names), every_s=0.02))
                followed_s = time.monotonic() - decided_s
                names += [await who_hears(sock, b"%d" % (100 + number)) for number in range(20)]
    assert names == sorted(names), "first cm1, then cm2"
    record_property("datagrams followed after ms", round(followed_s * 1000, 1))
    assert followed_s < PROMPTLY_S

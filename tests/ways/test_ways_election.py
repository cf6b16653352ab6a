"""Nobody is elected for a while: what is new waits for the decision, what is open goes on, on each way."""

import time
from collections.abc import Callable

import pytest
import trio

from gateway.config.settings import Forward
from tests.ways.composed import Pool, echo, serving
from tests.ways.hosts import DEADLINE_S, HOSTS
from tests.ways.saying import NEW_SESSION, reset
from tests.ways.talking import Talk, all_go_on, ask, served_by, who_hears

pytestmark = pytest.mark.kernel

PROMPTLY_S = 1.0
HOLE_S = 0.2
HELD = 20
Note = Callable[[str, object], None]


async def test_held_connections_are_served_after_the_decision_and_live_on_beside_the_kernels(
    pool: Pool, record_property: Note
) -> None:
    talks = [Talk(number) for number in range(HELD)]
    with trio.fail_after(DEADLINE_S):
        async with serving(pool), trio.open_nursery() as nursery:
            await pool.decide(None)
            for talk in talks:
                nursery.start_soon(talk.run, pool)
            await trio.sleep(HOLE_S)
            assert {talk.server for talk in talks} == {""}, "nobody answers before the decision"
            decided_s = await pool.decide("cm2")
            for talk in talks:
                await talk.met.wait()
            served_s = time.monotonic() - decided_s
            assert {talk.server for talk in talks} == {"cm2"}

            before = pool.kernel_connections()
            assert [await ask(pool) for _ in range(5)] == ["cm2"] * 5
            by_kernel = pool.kernel_connections() - before
            assert by_kernel == (0 if pool.way.forward is Forward.PROXY else 5)
            await all_go_on(talks)

            await pool.decide(None)  # and through another election that changes nothing
            await trio.sleep(HOLE_S)
            await pool.decide("cm2")
            await all_go_on(talks)

            await pool.decide("cm1")  # and end as all others do
            for talk in talks:
                await talk.has_ended()
    assert [talk.wrong for talk in talks if talk.wrong] == []
    record_property("held ones served after ms", round(served_s * 1000, 1))
    assert served_s < PROMPTLY_S


async def test_open_connections_go_on_through_an_election_that_changes_nothing(pool: Pool) -> None:
    talks = [Talk(number) for number in range(40)]
    with trio.fail_after(DEADLINE_S):
        async with serving(pool), trio.open_nursery() as nursery:
            for talk in talks:
                nursery.start_soon(talk.run, pool)
            for talk in talks:
                await talk.met.wait()
            await pool.decide(None)
            await all_go_on(talks)  # nobody has taken their server away
            await pool.decide("cm1")
            await all_go_on(talks)
            assert await ask(pool) == "cm1"
            nursery.cancel_scope.cancel()
    assert [(talk.number, talk.wrong, talk.ended) for talk in talks if talk.wrong or talk.ended] == []


@pytest.mark.parametrize("size", [1, 3_000])
async def test_datagrams_of_new_clients_wait_for_the_decision(pool: Pool, size: int) -> None:
    answers = []

    async def client(number: int) -> None:
        with await pool.datagrams() as sock:
            said = bytes([number]) * size
            await sock.send(said)
            greeting, _, heard = (await sock.recv(65_536)).partition(b"\n")
            answers.append((greeting.decode().split()[0], heard == said))
            assert await who_hears(sock, b"again") == "cm2"  # its flow goes on

    with trio.fail_after(DEADLINE_S):
        async with serving(pool):
            await pool.decide(None)
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(client, number)
                await trio.sleep(HOLE_S)
                assert answers == []
                await pool.decide("cm2")
    assert answers == [("cm2", True)] * 10


async def test_a_client_that_is_gone_before_the_decision_harms_nobody(pool: Pool) -> None:
    with trio.fail_after(DEADLINE_S):
        async with serving(pool):
            await pool.decide(None)
            for _ in range(20):
                async with await pool.connect() as stream:
                    await stream.send_all(b"?")
            await pool.decide("cm2")
            await served_by(pool, "cm2")
            assert [await ask(pool) for _ in range(20)] == ["cm2"] * 20


class Dying:
    """A pool whose first manager hears what it is told, and dies instead of answering."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.died = trio.Event()

    async def __call__(self, name: str, stream: trio.SocketStream, peer: str) -> None:
        if name == "cm2":
            await echo(name, stream, peer)
            return
        self.heard.append((name, await stream.receive_some()))
        reset(stream)
        self.died.set()


@pytest.mark.parametrize("held", [True, False], ids=["held", "carried"])
async def test_a_new_session_whose_server_dies_unanswered_is_the_next_servers(pool: Pool, held: bool) -> None:
    dying = Dying()
    by_relay = held or pool.way.forward is Forward.PROXY
    with trio.fail_after(DEADLINE_S):
        async with serving(pool, dying):
            if held:
                await pool.decide(None)
            async with await pool.connect() as stream:
                await stream.send_all(NEW_SESSION)
                if held:
                    await trio.sleep(HOLE_S)
                    assert dying.heard == []
                    await pool.decide("cm1")
                await dying.died.wait()
                await pool.decide("cm2")
                if by_relay:
                    await _is_served_by_the_next(pool, stream)
                else:  # the kernel replays nothing: its client learns at once that its server has gone
                    with pytest.raises(trio.BrokenResourceError):
                        await stream.receive_some()
    assert set(dying.heard) == {("cm1", NEW_SESSION)}


async def _is_served_by_the_next(pool: Pool, stream: trio.SocketStream) -> None:
    peer = pool.way.seen_by_servers if pool.way.transparent else HOSTS["gw1"]
    expected = f"cm2 {peer}\n".encode() + NEW_SESSION
    heard = b""
    while len(heard) < len(expected):
        heard += await stream.receive_some()
    assert heard == expected
    await stream.send_all(b"more")
    assert await stream.receive_some() == b"more"

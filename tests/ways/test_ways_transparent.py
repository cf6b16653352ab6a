"""Whose address the servers see: the client's where a backend is `transparent` or `direct`, else the gateway's."""

import pytest
import trio

from gateway.config.settings import Forward
from tests.ways.composed import DEADLINE_S, Pool, serving

pytestmark = pytest.mark.kernel


async def test_servers_see_the_address_that_the_way_promises(pool: Pool) -> None:
    async with serving(pool):
        async with await pool.connect() as stream:
            with trio.fail_after(DEADLINE_S):
                await stream.send_all(b"?")
                assert await stream.receive_some() == f"cm1 {pool.way.seen_by_servers}\n?".encode()
        sock = await pool.datagrams()
        with sock, trio.fail_after(DEADLINE_S):
            await sock.send(b"?")
            assert await sock.recv(100) == f"cm1 {pool.way.seen_by_servers}\n?".encode()


async def test_the_way_itself_carries_new_connections(pool: Pool) -> None:
    """Otherwise these tests would show the relay three times."""
    before = pool.kernel_connections()
    async with serving(pool), await pool.connect() as stream:
        await stream.send_all(b"?")
        assert (await stream.receive_some()).startswith(b"cm1")
    assert pool.kernel_connections() - before == (0 if pool.way.forward is Forward.PROXY else 1)

"""Whose address the servers see: the client's where a backend is `transparent` or `direct`, else the gateway's."""

import contextlib
from collections.abc import Iterator

import pytest
import trio

from gateway.config.settings import Forward
from tests.support.netns import Host
from tests.ways.composed import Pool, serving
from tests.ways.hosts import DEADLINE_S

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


@contextlib.contextmanager
def ports_of(host: Host, wanted: str) -> Iterator[None]:
    """Let a host choose its ports from a range."""
    name = "net.ipv4.ip_local_port_range"
    before = host.run("sysctl", "-n", name).stdout
    host.run("sysctl", "-qw", f"{name}={wanted}")
    yield
    host.run("sysctl", "-qw", f"{name}={before}")


async def test_a_client_may_come_from_the_port_that_the_relay_uses_in_its_name(pool: Pool) -> None:
    """Towards one server the two look the same: to be told apart by the gateway alone."""

    async def tell_port(_name: str, stream: trio.SocketStream, _peer: str) -> None:
        async for chunk in stream:
            await stream.send_all(f"{stream.socket.getpeername()[1]} ".encode() + chunk)

    with trio.fail_after(DEADLINE_S), ports_of(pool.gateway, "21000 21999"):  # which no client chooses by itself
        async with serving(pool, tell_port):
            await pool.decide(None)
            async with await pool.connect() as held:
                await held.send_all(b"held")
                await trio.sleep(0.1)
                await pool.decide("cm2")
                port, said = (await held.receive_some()).split()
                assert said == b"held"
                async with await pool.connect(port=int(port)) as new:
                    for _ in range(3):
                        await new.send_all(b"new")
                        assert (await new.receive_some()).endswith(b" new")
                        await held.send_all(b"still held")
                        assert await held.receive_some() == port + b" still held"

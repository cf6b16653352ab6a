"""Who is let in to the status page: so many of one address, so many of all, and nobody waits behind a crowd."""

from contextlib import asynccontextmanager

import hypercorn.config
import pytest
import trio

from gateway.console.http_server import HttpServer
from gateway.console.places import Places, network_of

OF_ONE, OF_ALL = 3, 5


async def says_yes(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
    await send({"type": "http.response.body", "body": b"yes"})


@asynccontextmanager
async def serving():
    """Yield what connects from an address, and returns the connection."""
    (listening,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listening.socket.getsockname()[1]
    config = hypercorn.config.Config()
    config.keep_alive_timeout = 60
    config.accesslog = config.errorlog = None

    async def connect(source):
        return await trio.open_tcp_stream("127.0.0.1", port, local_address=source)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(HttpServer(says_yes, config, Places(OF_ALL, OF_ONE)).run, listening)
        with trio.fail_after(20):
            yield connect
        nursery.cancel_scope.cancel()


async def is_served(stream):
    try:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while not said.endswith(b"yes"):
            piece = await stream.receive_some()
            if not piece:
                return False
            said += piece
        return True
    except trio.BrokenResourceError:
        return False


async def test_who_opens_too_many_connections_keeps_nobody_else_out():
    async with serving() as connect:
        crowd = [await connect("127.0.0.2") for _ in range(OF_ONE + 2)]
        assert [await is_served(one) for one in crowd] == [True] * OF_ONE + [False] * 2
        other = await connect("127.0.0.3")
        assert await is_served(other)
        await crowd[0].aclose()
        while not await is_served(again := await connect("127.0.0.2")):  # noqa: ASYNC110 (as soon as it has seen that)
            await trio.sleep(0.01)
        for one in (*crowd, other, again):
            await one.aclose()


async def test_connections_of_all_together_are_bounded():
    async with serving() as connect:
        crowd = [await connect(f"127.0.0.{number}") for number in range(2, OF_ALL + 4)]
        assert [await is_served(one) for one in crowd] == [True] * OF_ALL + [False] * 2
        for one in crowd:
            await one.aclose()


@pytest.mark.parametrize(
    ("source", "network"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("fd77::1:2:3:4", "fd77::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_one_address_is_a_network_where_a_host_may_have_all_of_it(source, network):
    assert network_of(source) == network


def test_a_place_is_given_back_once_and_nobody_who_has_gone_is_remembered():
    places = Places(2, 2)
    with places.held("10.0.0.1") as first, places.held("10.0.0.2") as second, places.held("10.0.0.3") as third:
        assert (first, second, third) == (True, True, False)
    assert not places._taken

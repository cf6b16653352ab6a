"""Listeners for a collector's view hosts: the standby's death must never hold the leader's collector up."""

import trio
from relay_harness import (
    DEADLINE_S,
    ask,
    ask_on,
    bound_datagrams,
    connect,
    connect_errno,
    connected_datagrams,
    echo,
    free_port,
    how_it_ended,
    listener,
    tcp_server,
    udp_server,
    wait_until,
    wait_until_async,
)

from gateway.config.settings import Endpoint
from gateway.relay.messages import ListenFailed, Ready, WhenDown


def view(protocol="tcp", **settings):
    return listener(protocol, when_down=WhenDown.REFUSE, connect_ms=150, user_timeout_ms=150, **settings)


async def refused(port):
    try:
        async with await connect(port):
            return False
    except OSError as error:
        return connect_errno(error) == "ECONNREFUSED"


async def test_connect_is_refused_at_once_while_there_is_no_server(harness):
    front = view()
    assert await harness.listen(front) == Ready(listeners=1)
    assert await refused(front.port)
    async with tcp_server(echo) as server:
        await harness.switch(server)
        assert await ask(front.port) == b"?"
        harness.relay.route("pool", None, 1)
        await wait_refused(front.port)
        harness.relay.route("pool", Endpoint("127.0.0.1", server), 1)
        await wait_served(front.port)


async def wait_refused(port):
    await wait_until_async(lambda: refused(port))


async def wait_served(port):
    async def served():
        return await ask(port) == b"?"

    await wait_until_async(served)


async def test_established_connections_are_reset_when_the_standby_is_gone(harness):
    async with tcp_server(echo) as server:
        front = view()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert await ask_on(stream) == b"?"
            harness.relay.route("pool", None, 1)  # no new epoch
            assert await how_it_ended(stream) == "reset"


async def test_nobody_is_held_for_a_standby_that_refuses(harness):
    front = view()
    await harness.switch(free_port())
    await harness.listen(front)
    assert await ask(front.port) in ("ECONNRESET", "EPIPE")
    stats = await harness.stats_when(lambda stats: stats.connections_total == 1)
    assert (stats.held_total, stats.refused_total, stats.connect_failed_total) == (0, 1, 1)


async def test_client_is_out_of_connect_before_it_is_reset(harness):
    """HTCondor's collector sleeps for a second where connect() itself meets a reset."""
    front = view()
    await harness.switch(free_port())
    await harness.listen(front)
    async with await connect(front.port) as stream:
        began = trio.current_time()
        assert await how_it_ended(stream) == "reset"
        assert trio.current_time() - began >= 0.04


async def test_next_clients_are_refused_by_the_kernel_while_the_first_is_let_go(harness):
    front = view()
    await harness.switch(free_port())
    await harness.listen(front)
    async with await connect(front.port) as stream:
        await wait_refused(front.port)
        assert await how_it_ended(stream) == "reset"


async def test_listener_that_rests_is_open_again_when_the_standby_answers(harness):
    front, place = view(), free_port()
    await harness.switch(place)
    await harness.listen(front)
    assert await ask(front.port) in ("ECONNRESET", "EPIPE")
    async with tcp_server(echo, port=place):
        await wait_served(front.port)


async def test_server_that_hangs_is_given_up_after_first_byte_ms(harness):
    async with tcp_server(_say_nothing) as server:
        front = view(first_byte_ms=200)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as silent, await connect(front.port) as stream:
            began = trio.current_time()
            await stream.send_all(b"?")
            assert await how_it_ended(stream) == "reset"
            assert trio.current_time() - began >= 0.19
            stats = await harness.stats_when(lambda stats: stats.first_byte_missed_total == 1)
            assert stats.connections_now == 1, "who has not asked is not waiting for an answer"
            await silent.aclose()


async def _say_nothing(stream):
    async for _chunk in stream:
        pass


async def test_server_that_has_answered_once_may_be_silent_afterwards(harness):
    async def answer_once(stream):
        assert await stream.receive_some()
        await stream.send_all(b"!")
        await _say_nothing(stream)

    async with tcp_server(answer_once) as server:
        front = view(first_byte_ms=100)
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert await ask_on(stream) == b"!"
            await stream.send_all(b"an update, which nobody answers")
            with trio.move_on_after(0.5) as silence:
                await stream.receive_some()
            assert silence.cancelled_caught, "still open, and nothing said"


async def test_datagrams_are_refused_while_there_is_no_server(harness):
    front = view("udp")
    await harness.listen(front)
    client = await connected_datagrams(front.port)

    async def bounced():
        with trio.fail_after(DEADLINE_S):
            while True:
                try:
                    await client.send(b"?")
                    with trio.move_on_after(0.1):
                        return await client.recv(100)
                except ConnectionRefusedError:
                    return "refused"

    assert await bounced() == "refused"
    async with udp_server() as (server, _heard):
        await harness.switch(server)
        assert await bounced() == b"?"
        harness.relay.route("pool", None, 1)

        async def bounced_again():
            return await bounced() == "refused"

        await wait_until_async(bounced_again)
    client.close()


async def test_port_in_use_is_told_before_it_is_needed(harness):
    occupant = await bound_datagrams()
    front = view("udp", port=occupant.getsockname()[1])
    failed = await harness.listen(front)
    assert isinstance(failed, ListenFailed)
    assert failed.reason.startswith("EADDRINUSE")
    occupant.close()
    await harness.event(Ready)  # it tries again by itself


async def test_refuse_and_hold_listeners_live_side_by_side(harness):
    hold = listener(name="hold", route="pool")
    refuse = view(name="refuse", route="standby")
    await harness.listen(hold, refuse)
    assert await refused(refuse.port)
    async with await connect(hold.port) as stream:
        await stream.send_all(b"?")
        await wait_until(lambda: (stats := harness.stats("hold")) and stats.held_now == 1)

"""What the connections of the relay are doing, and the end of one of them, asked of a real process."""

import pytest
from relay_harness import ask_on, connect, echo, how_it_ended, listener, tcp_server

from gateway.control.commands import CommandRefused, Commands, Level
from gateway.control.sessions import RelaySessions
from gateway.relay.messages import Sessions, ShutDown, WhenDown


@pytest.fixture
async def sessions(harness, nursery):
    """Return the asking side of the harness's relay; nobody else may read its events from then on."""

    def make(*listeners):
        found = RelaySessions((harness.relay,), listeners)

        async def take():
            async for event in harness.relay.events:
                if isinstance(event, Sessions | ShutDown):
                    found.take(0, event)

        nursery.start_soon(take)
        return found

    return make


async def test_each_connection_says_what_it_is_doing(harness, sessions):
    async with tcp_server(echo) as server:
        front = listener(name="front/vip:9618/tcp", servers=((f"127.0.0.1:{server}", "cm1"),))
        view = listener(name="view", route="other", when_down=WhenDown.REFUSE)
        await harness.switch(server, "other")
        await harness.switch(server)
        await harness.listen(front, view)
        of_relay = sessions(front, view)
        async with await connect(front.port) as talking, await connect(front.port) as silent, await connect(view.port):
            assert await ask_on(talking, b"hello") == b"hello"
            await harness.stats_when(lambda stats: stats.connections_now == 2, "front/vip:9618/tcp")
            found = await of_relay.list()
            assert (found["total"], found["silent_workers"]) == (2, [])
            by_client = {each["client"]: each for each in found["sessions"]}
            one = by_client["{}:{}".format(*talking.socket.getsockname())]
            assert (one["frontend"], one["backend"], one["server"], one["state"]) == ("front", "pool", "cm1", "open")
            assert (one["bytes_to_server"], one["bytes_to_client"], one["waiting"]) == (5, 5, 0)
            assert 0 <= one["idle_ms"] <= 20_000
            assert 0 <= one["age_ms"] <= 20_000
            other = by_client["{}:{}".format(*silent.socket.getsockname())]
            assert (other["server"], other["state"]) == (None, "silent")


async def test_only_as_many_as_were_asked_for_are_told_the_oldest_first(harness, sessions):
    front = listener()
    await harness.listen(front)
    of_relay = sessions(front)
    streams = [await connect(front.port) for _ in range(120)]  # more than go into one answer
    await harness.stats_when(lambda stats: stats.connections_now == 120)
    every = await of_relay.list(1_000)
    assert (len(every["sessions"]), every["total"]) == (120, 120)
    assert len({each["id"] for each in every["sessions"]}) == 120
    some = await of_relay.list(3)
    assert (len(some["sessions"]), some["total"]) == (3, 120)
    assert {each["id"] for each in some["sessions"]} < {each["id"] for each in every["sessions"]}
    for stream in streams:
        await stream.aclose()


async def test_one_connection_is_closed_and_no_other(harness, sessions):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        of_relay = sessions(front)
        async with await connect(front.port) as one, await connect(front.port) as other:
            assert await ask_on(one) == await ask_on(other) == b"?"
            client = "{}:{}".format(*one.socket.getsockname())
            found = await of_relay.list()
            (identity,) = [each["id"] for each in found["sessions"] if each["client"] == client]
            assert await of_relay.shut_down(identity)
            assert await how_it_ended(one) == "reset"
            assert await ask_on(other) == b"?"
            assert not await of_relay.shut_down(identity), "it is gone"
            for nonsense in ("", "x", "0-", "7-1.2", "0-7f.1"):
                assert not await of_relay.shut_down(nonsense)


async def test_commands_ask_and_refuse_with_a_sentence(harness, sessions):
    front = listener()
    await harness.listen(front)
    commands = Commands()
    sessions(front).register(commands)
    async with await connect(front.port):
        await harness.stats_when(lambda stats: stats.connections_now == 1)
        answer = await commands.answer({"command": "sessions"}, Level.OPERATOR)
        (one,) = answer["sessions"]
        with pytest.raises(CommandRefused, match="needs the level admin"):
            await commands.answer({"command": "shutdown-session", "session": one["id"]}, Level.OPERATOR)
        done = await commands.answer({"command": "shutdown-session", "session": one["id"]})
        assert done == {"session": one["id"]}
    with pytest.raises(CommandRefused, match="there is no session 'x'"):
        await commands.answer({"command": "shutdown-session", "session": "x"})
    for limit in (0, 1_001, "many", True):
        with pytest.raises(CommandRefused, match="from 1 to 1000"):
            await commands.answer({"command": "sessions", "limit": limit})


async def test_a_worker_that_does_not_answer_is_left_out_and_named(monkeypatch):
    class Silent:
        def ask(self, key, question):
            pass

    monkeypatch.setattr("gateway.control.sessions.ANSWER_MS_MAX", 20)
    found = await RelaySessions((Silent(), Silent()), ()).list()
    assert found == {"total": 0, "silent_workers": [0, 1], "sessions": []}

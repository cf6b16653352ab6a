"""The link between nodes, and the door that it comes in by: real sockets and ciphers, nodes without anything else."""

import contextlib

import pytest
import trio

from gateway.config.settings import Endpoint, LogFormat, Peer, Role, Settings
from gateway.control import door as doors
from gateway.control import link as links
from gateway.control.commands import CommandRefused, Commands, Level
from gateway.control.door import Door
from gateway.control.link import ClusterLink, Unanswered
from gateway.wire import link as wire
from gateway.wire.channel import LINK_MAGIC, opening
from gateway.wire.seal import Keyring

KEYS = Keyring({1: bytes(range(32))}, 1)
SOON_S = 10
LONG = {"ads": ["x" * 1000] * 1000}  # a megabyte: many frames


class Place:
    """One node's door, link and commands."""

    def __init__(self, name: str, peers: dict[str, Endpoint], keys: Keyring = KEYS, cluster: str = "physics") -> None:
        self.name = name
        self.commands = Commands()
        self.changed = 0
        self.commands.add("status", lambda request: {"node": name}, Level.USER)
        self.commands.add("long", lambda request: LONG, Level.USER)
        self.commands.add("too-long", lambda request: {"ads": "x" * wire.ANSWER_BYTES_MAX}, Level.USER)
        self.commands.add("broken", lambda request: {"a": request["missing"]}, Level.USER)
        self.commands.add("slow", self._slow, Level.USER)
        self.commands.add("change", self._change)
        self.link = ClusterLink(_settings(cluster, peers), _peer(name, peers[name]), keys, self.commands)
        self.door = Door(peers[name])
        self.door.open_to(LINK_MAGIC, self.link.serve)
        self.abandoned = trio.Event()

    async def _slow(self, request: object) -> dict[str, str]:
        try:
            await trio.sleep_forever()
        finally:
            self.abandoned.set()

    def _change(self, request: object) -> dict[str, int]:
        self.changed += 1
        return {"changed": self.changed}


def _peer(name: str, endpoint: Endpoint) -> Peer:
    return Peer(name=name, endpoint=endpoint, roles=frozenset({Role.WITNESS}))


def _settings(cluster: str, peers: dict[str, Endpoint]) -> Settings:
    return Settings(
        cluster=cluster,
        key_file="/nowhere",
        state_dir="/nowhere",
        log_format=LogFormat.CONSOLE,
        peers_name="nodes",
        heartbeat_ms=50,
        lease_ms=300,
        peers=tuple(_peer(name, endpoint) for name, endpoint in peers.items()),
        addresses=(),
        frontends=(),
        backends=(),
    )


@pytest.fixture
async def pair(nursery: trio.Nursery) -> tuple[Place, Place]:
    """Node a may ask b; b's door is open."""
    asked = Place("b", {"a": Endpoint("127.0.0.1", 1), "b": Endpoint("127.0.0.1", 0)})
    endpoint = await nursery.start(asked.door.run)
    return Place("a", {"a": Endpoint("127.0.0.1", 1), "b": endpoint, "c": Endpoint("127.0.0.1", 1)}), asked


async def _ask(asking: Place, command: str, wait_s: float = SOON_S, level: Level = Level.ADMIN) -> object:
    return await asking.link.ask("b", {"command": command}, wait_s, level)


async def test_a_node_answers_another_as_its_own_administrator(pair: tuple[Place, Place]) -> None:
    assert await _ask(pair[0], "status") == {"node": "b"}
    assert await _ask(pair[0], "change") == {"changed": 1}
    assert await _ask(pair[0], "long") == LONG


async def test_nodes_ask_each_other_over_ipv6(nursery: trio.Nursery) -> None:
    asked = Place("b", {"a": Endpoint("::1", 1), "b": Endpoint("::1", 0)})
    try:
        endpoint = await nursery.start(asked.door.run)
    except OSError:
        pytest.skip("this host has no IPv6")
    asking = Place("a", {"a": Endpoint("::1", 1), "b": endpoint})
    assert await _ask(asking, "status") == {"node": "b"}


async def test_a_refusal_comes_back_as_it_was_given(pair: tuple[Place, Place]) -> None:
    with pytest.raises(CommandRefused, match="unknown command 'stats'; did you mean 'status'") as refused:
        await _ask(pair[0], "stats")
    assert refused.value.reason == "unknown-command"
    with pytest.raises(CommandRefused, match="needs the level admin, and this is user"):
        await _ask(pair[0], "change", level=Level.USER)
    assert pair[1].changed == 0


async def test_a_command_that_fails_or_says_too_much_ends_no_node(pair: tuple[Place, Place]) -> None:
    with pytest.raises(CommandRefused, match="the command failed: KeyError"):
        await _ask(pair[0], "broken")
    with pytest.raises(CommandRefused, match="at most 4194304"):
        await _ask(pair[0], "too-long")
    assert await _ask(pair[0], "status") == {"node": "b"}


async def test_a_node_that_hangs_costs_the_deadline_and_what_it_did_for_us_is_abandoned(
    pair: tuple[Place, Place],
) -> None:
    began_s = trio.current_time()
    with pytest.raises(Unanswered, match=r"'b' does not answer: nothing within 0\.3 s"):
        await _ask(pair[0], "slow", 0.3)
    assert trio.current_time() - began_s < 2
    with trio.fail_after(SOON_S):
        await pair[1].abandoned.wait()


async def test_what_is_done_for_a_node_that_goes_away_is_abandoned_at_once(pair: tuple[Place, Place]) -> None:
    with trio.move_on_after(0.1):
        await _ask(pair[0], "slow", 600)
    with trio.fail_after(SOON_S):
        await pair[1].abandoned.wait()


async def test_all_others_are_asked_at_once_and_who_is_silent_is_said_so(pair: tuple[Place, Place]) -> None:
    answers = await pair[0].link.answer_peers({"request": "status"})
    assert list(answers) == ["b", "c"]
    assert answers["b"] == {"node": "b"}
    assert answers["c"]["reason"] == "unanswered"
    changed = await pair[0].link.answer_peers({"request": {"command": "change"}})
    assert changed["b"]["reason"] == "permission-denied"  # who may look may not change by asking others
    with pytest.raises(CommandRefused, match='takes a "request"'):
        await pair[0].link.answer_peers({})
    with pytest.raises(CommandRefused, match="'wait_s' is how long to wait"):
        await pair[0].link.answer_peers({"request": "status", "wait_s": 1e9})


async def test_peers_are_not_asked_for_peers_nor_for_what_is_no_text(pair: tuple[Place, Place]) -> None:
    for asked in ("peers", {"command": "peers", "request": "status"}):
        with pytest.raises(CommandRefused, match="not for 'peers'"):
            await pair[0].link.answer_peers({"request": asked})
    answers = await pair[0].link.answer_peers({"request": {"command": "\ud800"}})
    assert answers["b"]["reason"] == "malformed"


async def test_answers_that_are_too_much_together_are_left_out_by_name(
    pair: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "PEERS_BYTES_MAX", 1000)
    answers = await pair[0].link.answer_peers({"request": "long"})
    assert answers["b"]["reason"] == "full"


async def test_a_door_that_opens_again_is_found(nursery: trio.Nursery) -> None:
    """A process that takes another's place listens a moment later."""
    asked = Place("b", {"a": Endpoint("127.0.0.1", 1), "b": Endpoint("127.0.0.1", 0)})
    scope = trio.CancelScope()

    async def run(door: Door, *, task_status: trio.TaskStatus[Endpoint]) -> None:
        with scope:
            await door.run(task_status=task_status)

    endpoint = await nursery.start(run, asked.door)
    scope.cancel()
    asking = Place("a", {"a": Endpoint("127.0.0.1", 1), "b": endpoint})
    again = Place("b", {"a": Endpoint("127.0.0.1", 1), "b": endpoint})

    async def open_again() -> None:
        await trio.sleep(0.2)
        await again.door.run()

    nursery.start_soon(open_again)
    assert await _ask(asking, "status") == {"node": "b"}


# -- strangers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keys", "cluster", "reason"),
    [
        ("a", Keyring({1: bytes(32)}, 1), "physics", "bad-seal"),
        ("a", Keyring({2: bytes(range(32))}, 2), "physics", "unknown-key"),
        ("a", KEYS, "chemistry", "wrong-cluster"),
        ("x", KEYS, "physics", "unknown-peer"),
        ("b", KEYS, "physics", "unknown-peer"),
    ],
    ids=["other key", "unknown key id", "other cluster", "stranger", "the receiver's own name"],
)
async def test_strangers_are_not_answered_and_counted_by_what_is_wrong(
    pair: tuple[Place, Place], name: str, keys: Keyring, cluster: str, reason: str
) -> None:
    endpoint = pair[0].link._peers["b"]
    stranger = Place(name, {name: Endpoint("127.0.0.1", 1), "b": endpoint, "y": endpoint}, keys, cluster)
    stranger.link._peers["b"] = endpoint
    with pytest.raises(Unanswered, match="are the keys and the cluster's name the same there"):
        await _ask(stranger, "change")
    assert pair[1].link.refused == {reason: 1}
    assert pair[1].changed == 0
    assert await _ask(pair[0], "status") == {"node": "b"}


async def test_a_question_for_another_node_is_not_answered(pair: tuple[Place, Place]) -> None:
    pair[0].link._peers["c"] = pair[0].link._peers["b"]
    with pytest.raises(Unanswered):
        await pair[0].link.ask("c", {"command": "change"}, SOON_S)
    assert pair[1].link.refused == {"bad-sequence": 1}
    assert pair[1].changed == 0


async def test_a_key_can_be_rotated_node_by_node(nursery: trio.Nursery) -> None:
    old, both = Keyring({1: bytes(range(32))}, 1), Keyring({1: bytes(range(32)), 2: bytes(32)}, 2)
    asked = Place("b", {"a": Endpoint("127.0.0.1", 1), "b": Endpoint("127.0.0.1", 0)}, both)
    endpoint = await nursery.start(asked.door.run)
    for keys in (old, both):
        assert await _ask(Place("a", {"a": Endpoint("127.0.0.1", 1), "b": endpoint}, keys), "status") == {"node": "b"}


class Tap:
    """Between a node and the door of another: records, and changes what it is told to."""

    def __init__(self, endpoint: Endpoint, change=lambda data: data) -> None:
        self._endpoint = endpoint
        self._change = change
        self.recorded = bytearray()

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(Endpoint("127.0.0.1", listeners[0].socket.getsockname()[1]))
        await trio.serve_listeners(self._carry, listeners)

    async def _carry(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream(self._endpoint.host, self._endpoint.port)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with client, server, trio.open_nursery() as both:
                both.start_soon(self._up, client, server, both.cancel_scope)
                with contextlib.suppress(trio.BrokenResourceError):
                    async for data in server:
                        await client.send_all(data)
                both.cancel_scope.cancel()

    async def _up(self, client, server, scope: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in client:
                self.recorded.extend(data)
                if not (changed := self._change(bytes(data))):
                    break
                await server.send_all(changed)
        scope.cancel()


@pytest.mark.parametrize("at", [0, 4, 5, 9, 20, 41, 45, 60, -1], ids=lambda at: f"byte {at}")
async def test_a_question_with_a_bit_changed_changes_nothing(
    nursery: trio.Nursery, pair: tuple[Place, Place], at: int
) -> None:
    sent = 0

    def flip(data: bytes) -> bytes:
        nonlocal sent
        sent, first = sent + len(data), sent
        place = len(data) - 1 if at == -1 and first else at - first
        if not 0 <= place < len(data):
            return data
        return data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :]

    tapped = await nursery.start(Tap(pair[0].link._peers["b"], flip).run)
    pair[0].link._peers["b"] = tapped
    with pytest.raises(Unanswered):
        await _ask(pair[0], "change", 3)
    assert pair[1].changed == 0


async def test_a_recorded_question_played_back_is_refused(nursery: trio.Nursery, pair: tuple[Place, Place]) -> None:
    endpoint = pair[0].link._peers["b"]
    tap = Tap(endpoint)
    pair[0].link._peers["b"] = await nursery.start(tap.run)
    assert await _ask(pair[0], "change") == {"changed": 1}
    async with await trio.open_tcp_stream(endpoint.host, endpoint.port) as replayed:
        await replayed.send_all(tap.recorded)
        with trio.fail_after(SOON_S), contextlib.suppress(trio.BrokenResourceError):
            async for _ in replayed:
                pass
    assert pair[1].changed == 1
    assert pair[1].link.refused == {"bad-seal": 1}


async def test_a_question_that_breaks_off_is_forgotten(nursery: trio.Nursery, pair: tuple[Place, Place]) -> None:
    endpoint = pair[0].link._peers["b"]
    tap = Tap(endpoint, lambda data: data if data[:4] == LINK_MAGIC else data[:-1])
    pair[0].link._peers["b"] = await nursery.start(tap.run)
    with pytest.raises(Unanswered):
        await _ask(pair[0], "change", 0.3)
    assert pair[1].changed == 0


async def test_who_is_slow_or_silent_holds_a_place_for_a_moment_only(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "HANDSHAKE_MS", 200)
    monkeypatch.setattr(links, "HANDSHAKE_MS", 200)
    monkeypatch.setattr(doors, "CONNECTIONS_MAX", 4)
    asked = Place("b", {"a": Endpoint("127.0.0.1", 1), "b": Endpoint("127.0.0.1", 0)})
    endpoint = await nursery.start(asked.door.run)
    opened = opening(KEYS, "physics", bytes(32), LINK_MAGIC)
    streams = [await trio.open_tcp_stream(endpoint.host, endpoint.port) for _ in range(6)]
    await trio.sleep(0.05)  # they are taken in one after the other
    for said, stream in zip((b"GET / HTTP/1.1\r\n", b"C", opened, opened[:-1], b"", b""), streams, strict=True):
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(said)
    await trio.sleep(0.6)
    asking = Place("a", {"a": Endpoint("127.0.0.1", 1), "b": endpoint})
    assert await _ask(asking, "status") == {"node": "b"}
    assert asked.door.refused == {"full": 2, "bad-magic": 1, "silent": 1}
    assert asked.link.refused == {"silent": 2}
    for stream in streams:
        await trio.aclose_forcefully(stream)


async def test_a_flood_of_connections_is_taken_in_at_a_rate_that_leaves_time_for_the_rest(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "ACCEPT_MS", 4)
    asked = Place("b", {"a": Endpoint("127.0.0.1", 1), "b": Endpoint("127.0.0.1", 0)})
    endpoint = await nursery.start(asked.door.run)
    began_s = trio.current_time()
    streams = [await trio.open_tcp_stream(endpoint.host, endpoint.port) for _ in range(100)]
    for stream in streams:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"junk")
    with trio.fail_after(SOON_S):
        while asked.door.refused.total() < len(streams):  # noqa: ASYNC110 (it tells nobody)
            await trio.sleep(0.001)
    assert trio.current_time() - began_s > 0.39
    for stream in streams:
        await trio.aclose_forcefully(stream)


async def test_an_answer_without_end_is_not_kept(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of ours that has gone mad, or was taken."""
    joined = wire.Joined()
    part = wire.Part(bytes(wire.PART_BYTES), False)
    for _ in range(wire.ANSWER_BYTES_MAX // wire.PART_BYTES):
        joined.take_untrusted(part)
    with pytest.raises(wire.Malformed, match="too-long"):
        joined.take_untrusted(part)


@pytest.mark.parametrize(
    "message",
    [
        wire.Ask("", "b", 3, 1, b"{}"),
        wire.Ask("a", "b" * 65, 3, 1, b"{}"),
        wire.Ask("a", "b", 4, 1, b"{}"),
        wire.Ask("a", "b", 3, 0, b"{}"),
        wire.Ask("a", "b", 3, wire.WAIT_MS_MAX + 1, b"{}"),
        wire.Ask("a", "b", 3, 1, b""),
        wire.Ask("a", "b", 3, 1, bytes(wire.REQUEST_BYTES_MAX + 1)),
        wire.Part(b"", True),
        wire.Part(bytes(wire.PART_BYTES + 1), True),
    ],
)
def test_a_message_out_of_bounds_is_malformed(message: wire.Message) -> None:
    with pytest.raises(wire.Malformed, match="bad-payload"):
        wire.decode_untrusted(wire._encoder.encode(message))

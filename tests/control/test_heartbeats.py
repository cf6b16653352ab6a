"""The heartbeat socket: what a leader's rest after its beat does, and what it must not do. Real sockets on loopback."""

import socket

import pytest
import trio

from gateway.config.settings import Endpoint
from gateway.control import heartbeats
from gateway.control.heartbeats import Heartbeats
from gateway.wire.messages import Ack, Pulse
from gateway.wire.seal import Keyring, Seal

NAMES = ("gw1", "gw2", "cm1", "cm2")
LEADING = (("vip", 3),)


class Peer(Heartbeats):
    """A node's heartbeats that keep what they deliver, by the look at the socket that found it."""

    def __init__(self, me: str, endpoints: dict[str, Endpoint]) -> None:
        others = {name: endpoint for name, endpoint in endpoints.items() if name != me}
        self.looks: list[list[tuple[str, object]]] = []
        super().__init__(
            endpoints[me], others, Seal("tests", Keyring({1: bytes(32)}, 1), me, me.encode() * 4 + bytes(4), NAMES)
        )

    def _drain(self) -> None:
        self.looks.append([])
        super()._drain()

    def say(self, to: str, message) -> None:
        self.send(to, message)
        self.flush()

    def take(self, sender, message) -> None:
        self.looks[-1].append((sender, message))

    @property
    def taken(self) -> list[tuple[str, object]]:
        return [one for look in self.looks for one in look]


def pulse(at_ms: int, leads=()) -> Pulse:
    return Pulse(at_ms, tuple(leads), (), ())


@pytest.fixture
async def peers(nursery):
    """Return nodes that know each other's present run."""
    endpoints = {}
    for name in NAMES:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
            found.bind(("127.0.0.1", 0))
            endpoints[name] = Endpoint("127.0.0.1", found.getsockname()[1])
    made = {name: Peer(name, endpoints) for name in NAMES}
    for peer in made.values():
        await nursery.start(peer.run, peer.take)
    for turn in range(3):
        for name, peer in made.items():
            for other in NAMES:
                if other != name:
                    peer.say(other, pulse(turn))
        await trio.sleep(0.05)
    for peer in made.values():
        peer.looks.clear()
    return made


async def until_taken(peer: Peer, count: int) -> None:
    with trio.fail_after(10):
        while len(peer.taken) < count:  # noqa: ASYNC110 (the socket is what is waited for)
            await trio.sleep(0.002)


async def test_answers_to_a_leaders_beat_are_taken_together(peers, monkeypatch):
    monkeypatch.setattr(heartbeats, "REST_MS", 200)
    leader = peers["gw1"]
    beat = pulse(100, LEADING)
    followers = [name for name in NAMES if name != "gw1"]
    for name in followers:
        leader.say(name, beat)
    for name in followers:
        peers[name].say("gw1", Ack(100, LEADING))
        await trio.sleep(0.01)
    await until_taken(leader, 3)
    assert [sorted(sender for sender, _ in look) for look in leader.looks if look] == [sorted(followers)]


async def test_a_leader_hears_again_after_its_rest(peers):
    leader = peers["gw1"]
    for turn in range(5):
        leader.say("gw2", pulse(turn, LEADING))
        await trio.sleep(0.02)
        peers["cm1"].say("gw1", pulse(turn))
        await until_taken(leader, turn + 1)
    assert [sender for sender, _ in leader.taken] == ["cm1"] * 5


async def test_a_beat_that_ends_up_in_a_rest_does_not_prolong_it(peers):
    """Else a node that leads two elections, and beats faster than it rests, would never listen."""
    leader = peers["gw1"]
    peers["cm1"].say("gw1", pulse(1))
    with trio.fail_after(10):
        while not leader.taken:
            leader.say("gw2", pulse(1, LEADING))
            await trio.lowlevel.checkpoint()


async def test_who_leads_nothing_does_not_rest(peers):
    follower = peers["cm2"]
    follower.say("gw1", pulse(1))
    assert not follower._resting
    follower.say("gw1", Ack(1, LEADING))
    assert not follower._resting

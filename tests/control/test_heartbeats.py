"""The heartbeat socket: what a leader's rest after its beat does, and what it must not do. Real sockets on loopback."""

import socket

import pytest
import trio

from gateway.config.settings import Endpoint
from gateway.control import heartbeats
from gateway.control.heartbeats import Heartbeats
from gateway.wire.errors import Reason
from gateway.wire.heartbeat import BUNDLE_MAX
from gateway.wire.messages import Ack, Pulse, Resignation, VoteReply, VoteRequest
from gateway.wire.seal import Keyring, Seal

NAMES = ("gw1", "gw2", "cm1", "cm2")
LEADING = (("vip", 3),)


class Peer(Heartbeats):
    """A node's heartbeats that keep what they deliver, by the look at the socket that found it."""

    def __init__(self, me: str, endpoints: dict[str, Endpoint], **how) -> None:
        others = {name: endpoint for name, endpoint in endpoints.items() if name != me}
        self.looks: list[list[tuple[str, object]]] = []
        self.seal = Seal("tests", Keyring({1: bytes(32)}, 1), me, me.encode() * 4 + bytes(4), NAMES)
        super().__init__(endpoints[me], others, self.seal, **how)

    def _drain(self) -> None:
        self.looks.append([])
        super()._drain()

    def look(self) -> list[tuple[str, object]]:
        """Take what waits, as at a wake-up for a beat; return it."""
        self.looks.append([])
        self.take_waiting()
        return self.looks[-1]

    def say(self, to: str, *messages) -> None:
        for message in messages:
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
def endpoints():
    found = {}
    for name in NAMES:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
            bound.bind(("127.0.0.1", 0))
            found[name] = Endpoint("127.0.0.1", bound.getsockname()[1])
    return found


@pytest.fixture
async def peers(endpoints, nursery):
    """Return nodes that know each other's present run, and that look at answers a moment after a beat."""
    return await acquainted(nursery, {name: Peer(name, endpoints) for name in NAMES})


@pytest.fixture
async def patient_peers(endpoints, nursery):
    """Return nodes that know each other's present run, and whose answers wait."""
    return await acquainted(nursery, {name: Peer(name, endpoints, patient=True) for name in NAMES})


async def acquainted(nursery, made: dict[str, Peer]) -> dict[str, Peer]:
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


async def test_what_one_flush_says_to_a_peer_leaves_in_one_datagram_in_its_order(peers):
    speaker, before = peers["cm1"], peers["cm1"].sent_total
    said = (pulse(1), VoteReply("vip", 8, False, 7, True, 8, 0), Ack(1, LEADING), VoteRequest("vip", 9, True, 8))
    for message in said:
        speaker.send("gw1", message)
        speaker.send("gw2", message)
    assert speaker.sent_total == before
    speaker.flush()
    assert speaker.sent_total == before + 2
    for name in ("gw1", "gw2"):
        await until_taken(peers[name], len(said))
        assert peers[name].taken == [("cm1", message) for message in said]


async def test_what_has_left_does_not_leave_again(peers):
    speaker = peers["cm1"]
    speaker.say("gw1", pulse(1))
    before = speaker.sent_total
    speaker.flush()
    assert speaker.sent_total == before


async def test_more_than_a_datagram_holds_leaves_in_several_and_all_of_it_arrives(peers):
    speaker, before = peers["cm1"], peers["cm1"].sent_total
    said = [VoteReply("vip", term, False, 7, True, 8, 0) for term in range(BUNDLE_MAX + 1)]
    speaker.say("gw1", *said)
    assert speaker.sent_total == before + 2
    await until_taken(peers["gw1"], len(said))
    assert peers["gw1"].taken == [("cm1", message) for message in said]


async def test_a_patient_leader_is_not_woken_by_answers_and_has_them_at_its_next_beat(patient_peers):
    leader = patient_peers["gw1"]
    assert leader.lanes == 2
    followers = [name for name in NAMES if name != "gw1"]
    for name in followers:
        leader.say(name, pulse(100, LEADING))
        await until_taken(patient_peers[name], 1)
        patient_peers[name].say("gw1", Ack(100, LEADING))
    await trio.sleep(0.1)
    assert leader.looks == []
    assert sorted(leader.look()) == [(name, Ack(100, LEADING)) for name in sorted(followers)]


async def test_a_beat_wakes_a_patient_node_at_once(patient_peers):
    patient_peers["cm1"].say("gw1", pulse(1))
    await until_taken(patient_peers["gw1"], 1)
    patient_peers["cm2"].say("gw1", pulse(2, LEADING))
    await until_taken(patient_peers["gw1"], 2)
    assert patient_peers["gw1"].taken == [("cm1", pulse(1)), ("cm2", pulse(2, LEADING))]


@pytest.mark.parametrize(
    "urgent",
    [
        VoteRequest("vip", 9, True, 8),
        VoteReply("vip", 8, False, 7, True, 8, 0),
        Resignation("vip", 7, "the node is stopping"),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_what_decides_an_election_wakes_a_patient_node_though_an_answer_came_with_it(patient_peers, urgent):
    patient_peers["cm1"].say("gw1", Ack(1, LEADING), urgent)
    await until_taken(patient_peers["gw1"], 2)
    assert patient_peers["gw1"].taken == [("cm1", Ack(1, LEADING)), ("cm1", urgent)]


async def test_an_introduction_wakes_a_patient_node(endpoints, nursery):
    """Two nodes that hear each other for the first time do not wait for beats until each knows the other."""
    made = {name: Peer(name, endpoints, patient=True) for name in ("gw1", "gw2")}
    for peer in made.values():
        await nursery.start(peer.run, peer.take)
    made["gw1"].say("gw2", Ack(1, LEADING))  # waits there
    assert made["gw2"].look() == []
    with trio.fail_after(10):
        while not (made["gw1"].seal.knows("gw2") and made["gw2"].seal.knows("gw1")):  # noqa: ASYNC110 (no event)
            await trio.sleep(0.002)


async def test_a_patient_leader_does_not_rest_after_its_beat(patient_peers):
    leader = patient_peers["gw1"]
    leader.say("gw2", pulse(1, LEADING))
    assert not leader._resting


async def test_a_patient_leader_of_a_kernel_without_lanes_hears_answers_after_its_rest(endpoints, nursery, monkeypatch):
    monkeypatch.setattr(heartbeats, "open_second_lane", lambda first, mark: None)
    made = await acquainted(nursery, {name: Peer(name, endpoints, patient=True) for name in NAMES})
    leader = made["gw1"]
    assert leader.lanes == 1
    leader.say("cm1", pulse(1, LEADING))
    assert leader._resting
    await until_taken(made["cm1"], 1)
    made["cm1"].say("gw1", Ack(1, LEADING))
    await until_taken(leader, 1)
    assert leader.taken == [("cm1", Ack(1, LEADING))]


async def test_a_leader_that_rests_is_woken_by_what_is_urgent(peers, monkeypatch):
    monkeypatch.setattr(heartbeats, "REST_MS", 600_000)
    leader = peers["gw1"]
    leader.say("cm1", pulse(1, LEADING))
    assert leader._resting
    peers["cm2"].say("gw1", pulse(2))
    await until_taken(leader, 1)
    assert leader.taken == [("cm2", pulse(2))]


async def test_what_waits_in_both_lanes_is_not_lost_to_the_process_that_takes_over(patient_peers, endpoints):
    leader = patient_peers["gw1"]
    leader.pump.listen(leader._socket, listen=False)  # it takes nothing more
    patient_peers["cm1"].say("gw1", Ack(1, LEADING))
    patient_peers["cm2"].say("gw1", pulse(2))
    adopted = tuple(socket.socket(fileno=descriptor) for descriptor in leader.let_go())
    heir = Peer("gw1", endpoints, patient=True, adopted=adopted)
    heir.seal.take_over(leader.seal.state())
    heir._deliver = heir.take
    with adopted[0], adopted[1]:
        assert heir.lanes == 2
        assert sorted(heir.look(), key=str) == [("cm1", Ack(1, LEADING)), ("cm2", pulse(2))]


async def test_a_datagram_with_one_bad_message_delivers_none_and_is_counted_once(peers, monkeypatch):
    speaker, hearer = peers["cm1"], peers["gw1"]
    good = heartbeats.encode(pulse(1))
    bad = b"\xc1" + len(good).to_bytes(2, "big") + good + b"\0\4gaga"
    speaker._put("gw1", speaker.seal.seal("gw1", bad))
    speaker.say("gw1", pulse(2))
    await until_taken(hearer, 1)
    assert hearer.taken == [("cm1", pulse(2))]
    assert hearer.refused == {Reason.BAD_PAYLOAD: 1}


async def test_answers_behind_a_flood_wait_for_one_beat_only(patient_peers, endpoints):
    """Whoever reaches the port can fill the lane with what does not open, with no key."""
    leader, port = patient_peers["gw1"], endpoints["gw1"].port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(5 * heartbeats.DRAIN_MAX):
            stranger.sendto(b"\x81" + bytes(100), ("127.0.0.1", port))
    patient_peers["cm1"].say("gw1", Ack(1, LEADING))
    assert leader.look() == []
    await until_taken(leader, 1)
    assert leader.taken == [("cm1", Ack(1, LEADING))]
    patient_peers["cm1"].say("gw1", Ack(2, LEADING))
    await trio.sleep(0.1)
    assert len(leader.taken) == 1, "the flood is over: answers wait again"


async def test_who_has_let_go_reads_no_more_and_numbers_nothing(patient_peers):
    """What arrives from then on is the successor's, and so is the next number of each peer."""
    leader = patient_peers["gw1"]
    copies = leader.let_go()
    numbered = leader.seal.numbered("cm1")
    patient_peers["cm1"].say("gw1", pulse(1))
    patient_peers["cm1"].say("gw1", Ack(1, LEADING))
    await trio.sleep(0.1)
    assert leader.taken == []
    assert leader.seal.numbered("cm1") == numbered
    for copy in copies:
        socket.socket(fileno=copy).close()

"""Wills: whenever this process ends, the letters that the guard has of it open at every peer, and name the best heir.

Real seals and a real core; the guard and the heartbeats are stand-ins that keep what they are told.
"""

from collections import Counter

import pytest

from gateway.config.settings import Endpoint
from gateway.control.guard import Fencing
from gateway.control.wills import RESEAL_AFTER, Wills
from gateway.core.node import ElectionPlan, Node
from gateway.core.timing import Timing
from gateway.kernel.clock import boot_ms
from gateway.wire.heartbeat import encode, unbundle_untrusted
from gateway.wire.messages import Pulse, Resignation, Standing
from gateway.wire.seal import WINDOW, Keyring, Seal

ME = "gw1"
PEERS = ("cm1", "cm2", "gw2", "gw3")
PORTS = {name: 9_619 + number for number, name in enumerate(PEERS)}
ELECTIONS = ("vip", "vip6")
TERM = 7
BEAT = encode(Pulse(1, (("vip", TERM),), (), ()))


class Guard:
    """What a guard was told, and the letters that it would send now."""

    def __init__(self) -> None:
        self.present = True
        self.held: dict[str, tuple[tuple[str, int, bytes], ...]] = {}
        self.given = 0

    def letters(self, election, letters) -> None:
        self.held[election] = letters
        self.given += 1

    def clear(self, election) -> None:
        self.held.pop(election, None)

    def beat(self) -> None:
        pass

    def will(self, election, until_ms, fencing) -> None:
        pass

    def extend(self, election, until_ms) -> None:
        pass


class Sent:
    """What `Heartbeats` counts."""

    def __init__(self) -> None:
        self.sent_total = 0
        self.unsent: Counter[str] = Counter()


class World:
    """A leader of `elections`, and peers that have met it."""

    def __init__(self, elections=("vip",)) -> None:
        self.seal = self._sealed(ME)
        self.peers = {name: self._sealed(name) for name in PEERS}
        for name, peer in self.peers.items():
            peer.open_untrusted(self.seal.seal(name, BEAT))
            self.seal.open_untrusted(peer.hello(ME))
            peer.open_untrusted(self.seal.hello(name))
        self.guard = Guard()
        self.node = Node(
            me=ME,
            voters=(ME, *PEERS),
            plans=tuple(ElectionPlan(name, (ME, "gw2", "gw3")) for name in ELECTIONS),
            timing=Timing(heartbeat_ms=60_000, lease_ms=600_000),
            saved={},
            now_ms=boot_ms(),
        )
        self.heartbeats = Sent()
        self.wills = Wills(
            link=self.guard,
            node=self.node,
            heartbeats=self.heartbeats,
            seal=self.seal,
            peers={name: Endpoint("127.0.0.1", port) for name, port in PORTS.items()},
            fencings=dict.fromkeys(ELECTIONS, Fencing),
        )
        for name in ELECTIONS:
            self.standing(name, "gw2", fit=True)
            self.standing(name, "gw3", fit=True)
        for name in elections:
            self.win(name)

    @staticmethod
    def _sealed(me: str) -> Seal:
        return Seal("tests", Keyring({1: bytes(32)}, 1), me, me.encode() * 4 + bytes(4), (ME, *PEERS))

    def standing(self, election: str, candidate: str, *, fit: bool) -> None:
        said = Standing(election, fit, True, 0, 0, "")
        self.node.elections[election].ranking.hear(boot_ms(), candidate, said)

    def win(self, election: str) -> None:
        self.wills.arm(election, TERM, boot_ms() + 600_000)
        self.node.elections[election].serving_term = TERM

    def wake(self, *, datagrams: int = 1, to=PEERS) -> None:
        """Wake up once, and send `datagrams` to each of some peers; all arrive."""
        for _ in range(datagrams):
            for name in to:
                assert self.peers[name].open_untrusted(self.seal.seal(name, BEAT)).payload == BEAT
                self.heartbeats.sent_total += 1
        self.wills.wake()

    def die(self) -> dict[tuple[str, str], Resignation]:
        """Have the guard's letters delivered: what each peer reads of each election."""
        names = {port: name for name, port in PORTS.items()}
        read = {}
        for letters in self.guard.held.values():
            for _, port, letter in letters:
                opened = self.peers[names[port]].open_untrusted(letter)
                (message,) = unbundle_untrusted(opened.payload)
                read[names[port], message.election] = message
        return read

    def heirs(self) -> set[str]:
        return {message.successor for message in self.die().values()}


def resignations(*elections: str) -> dict[tuple[str, str], tuple[int, str]]:
    return {(peer, election): (TERM, "gw2") for peer in PEERS for election in elections}


def told(read: dict[tuple[str, str], Resignation]) -> dict[tuple[str, str], tuple[int, str]]:
    return {key: (message.term, message.successor) for key, message in read.items()}


@pytest.mark.parametrize("datagrams", [1, 3, 16])
@pytest.mark.parametrize("elections", [("vip",), ELECTIONS], ids=["one-election", "two-elections"])
def test_however_long_after_the_victory_a_node_dies_each_peer_can_read_its_letter(datagrams, elections):
    for wakes in range(3 * WINDOW // datagrams):
        world = World(elections)
        for _ in range(wakes):
            world.wake(datagrams=datagrams)
        assert told(world.die()) == resignations(*elections), f"after {wakes} wake-ups"


def test_letters_are_sealed_anew_before_a_peer_has_got_many_more_datagrams():
    world = World()
    numbered = {}
    for _ in range(5 * WINDOW):
        given = world.guard.given
        world.wake()
        if world.guard.given != given:
            numbered = {name: world.seal.numbered(name) for name in PEERS}
        for name in PEERS if numbered else ():
            assert world.seal.numbered(name) - numbered[name] <= WINDOW // 2
    assert numbered, "never sealed anew"


def test_a_peer_that_gets_more_than_others_can_read_its_letter():
    for wakes in range(2 * WINDOW):
        world = World()
        for _ in range(wakes):
            world.wake(to=("cm2",))
        assert told(world.die()) == resignations("vip"), f"after {wakes} wake-ups"


def test_datagrams_that_could_not_be_sent_make_letters_old_as_well():
    world = World()
    for _ in range(2 * WINDOW):
        for name in PEERS:
            world.seal.seal(name, BEAT)
            world.heartbeats.unsent["ENETUNREACH"] += 1
        world.wills.wake()
    world.wake()
    assert told(world.die()) == resignations("vip")


def test_the_letters_of_an_election_that_is_won_later_can_be_read_as_well():
    for wakes in range(WINDOW):
        world = World()
        for number in range(2 * WINDOW):
            world.wake()
            if number == wakes:
                world.win("vip6")
        assert told(world.die()) == resignations(*ELECTIONS), f"won after {wakes} wake-ups"


def test_letters_name_the_new_heir_long_before_they_are_old():
    world = World()
    world.standing("vip", "gw2", fit=False)
    for _ in range(RESEAL_AFTER // 4):
        world.wake()
    assert world.heirs() == {"gw3"}


def test_the_heir_gets_its_letter_last():
    world = World()
    for successor in ("gw2", "gw3"):
        world.standing("vip", "gw2", fit=successor == "gw2")
        for _ in range(RESEAL_AFTER // 4):
            world.wake()
        assert world.guard.held["vip"][-1][1] == PORTS[successor]


def test_letters_are_not_sealed_at_every_wake_up():
    world = World()
    for _ in range(5 * WINDOW):
        world.wake()
    assert world.guard.given <= 5 * WINDOW // (RESEAL_AFTER // 4)


def test_letters_are_not_sealed_anew_while_nothing_is_sent():
    world = World()
    for _ in range(3 * WINDOW):
        world.wake(datagrams=0)
    assert world.guard.given == 1


def test_letters_of_an_election_that_is_over_are_withdrawn_and_not_written_again():
    world = World(ELECTIONS)
    world.node.elections["vip6"].serving_term = None
    for _ in range(2 * WINDOW):
        world.wake()
    assert told(world.die()) == resignations("vip")


def test_without_a_guard_no_letter_takes_a_number_of_the_window():
    world = World(())
    world.guard.present = False
    before = world.seal.numbered("cm1")
    world.win("vip")
    for _ in range(2 * WINDOW):
        world.wake()
    assert world.guard.given == 0
    assert world.seal.numbered("cm1") == before + 2 * WINDOW

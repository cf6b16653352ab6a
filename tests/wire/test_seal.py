"""The seal's promises: nothing forged, replayed or meant for others is delivered; everyone alive is heard soon."""

import hashlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.errors import Malformed, Reason
from gateway.wire.seal import (
    ANSWER,
    DATAGRAM_BYTES_MAX,
    GREETED_MAX,
    PAYLOAD_BYTES_MAX,
    WINDOW,
    Keyring,
    Opened,
    Seal,
)

KEY = bytes(range(32))
NAMES = ("cm1", "cm2")
_boots = itertools.count(1)


def start(me: str = "cm1", cluster: str = "physics", keyring: Keyring | None = None, peers=NAMES) -> Seal:
    boot_id = hashlib.sha256(next(_boots).to_bytes(8, "big")).digest()[:16]
    return Seal(cluster, keyring or Keyring({1: KEY}, 1), me, boot_id, peers)


class Wire:
    """Two nodes and what they said; the recorder keeps every datagram for replays."""

    def __init__(self) -> None:
        self.nodes = {name: start(name) for name in NAMES}
        self.recorded: list[tuple[str, bytes]] = []  # (receiver, datagram)
        self.delivered: list[tuple[str, bytes]] = []  # (receiver, payload)

    def restart(self, name: str) -> None:
        self.nodes[name] = start(name)

    def send(self, sender: str, receiver: str, payload: bytes) -> None:
        self.carry(receiver, self.nodes[sender].seal(receiver, payload))

    def carry(self, receiver: str, datagram: bytes) -> None:
        """Deliver, and the hellos that it leads to."""
        self.recorded.append((receiver, datagram))
        opened = self.nodes[receiver].open_untrusted(datagram)
        if opened.payload is not None:
            self.delivered.append((receiver, opened.payload))
        if opened.reply_to is not None:
            self.carry(opened.reply_to, self.nodes[receiver].hello(opened.reply_to))

    def meet(self) -> None:
        self.send("cm1", "cm2", b"first")


def refuse(seal: Seal, datagram: bytes) -> Reason:
    with pytest.raises(Malformed) as refusal:
        seal.open_untrusted(datagram)
    return refusal.value.reason


def test_first_datagram_introduces_both_within_two_datagrams_each_way():
    wire = Wire()
    wire.send("cm1", "cm2", b"first")
    assert [receiver for receiver, _ in wire.recorded] == ["cm2", "cm1", "cm2"]
    wire.send("cm1", "cm2", b"second")
    wire.send("cm2", "cm1", b"answer")
    assert wire.delivered == [("cm2", b"second"), ("cm1", b"answer")]


def test_greetings_that_cross_still_introduce_both():
    a, b = start("cm1"), start("cm2")
    from_a, from_b = a.seal("cm2", b"a"), b.seal("cm1", b"b")
    assert a.open_untrusted(from_b) == Opened("cm2", None, "cm2")
    assert b.open_untrusted(from_a) == Opened("cm1", None, "cm1")
    hello_a, hello_b = a.hello("cm2"), b.hello("cm1")
    a.open_untrusted(hello_b)
    b.open_untrusted(hello_a)
    assert b.open_untrusted(a.seal("cm2", b"2")).payload == b"2"
    assert a.open_untrusted(b.seal("cm1", b"2")).payload == b"2"


def test_lost_hellos_are_made_up_for_by_the_next_datagram():
    a, b = start("cm1"), start("cm2")
    for _ in range(3):
        assert b.open_untrusted(a.seal("cm2", b"lost answer")).reply_to == "cm1"
        b.hello("cm1")  # lost
        b.seal("cm1", b"beat")  # lost too
    b.open_untrusted(a.seal("cm2", b"a"))
    a.open_untrusted(b.hello("cm1"))
    assert b.open_untrusted(a.seal("cm2", b"heard")).payload == b"heard"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["cm1 starts", "cm2 starts", "cm1 sends", "cm2 sends"]), max_size=12))
def test_after_any_order_of_starts_two_datagrams_each_way_make_both_heard(events):
    wire = Wire()
    for event in events:
        name, what = event.split()
        if what == "starts":
            wire.restart(name)
        else:
            wire.send(name, "cm2" if name == "cm1" else "cm1", b"earlier")
    for sender, receiver in (("cm1", "cm2"), ("cm2", "cm1")):
        wire.send(sender, receiver, b"introduces, or is heard at once")
    wire.delivered.clear()
    wire.send("cm1", "cm2", b"one")
    wire.send("cm2", "cm1", b"two")
    assert wire.delivered == [("cm2", b"one"), ("cm1", b"two")]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["send", "send", "send", "replay", "restart", "lose"]), st.integers(0, 1000)),
        max_size=40,
    )
)
def test_no_payload_is_ever_delivered_twice_or_after_a_restart_of_its_receiver(events):
    wire = Wire()
    runs = dict.fromkeys(NAMES, 0)
    for step, (what, number) in enumerate(events):
        sender, receiver = NAMES if number % 2 else NAMES[::-1]
        payload = f"{step} for run {runs[receiver]} of {receiver}".encode()
        if what == "send":
            wire.send(sender, receiver, payload)
        elif what == "lose":
            wire.recorded.append((receiver, wire.nodes[sender].seal(receiver, payload)))  # an attacker keeps it
        elif what == "restart":
            runs[sender] += 1
            wire.restart(sender)
        elif wire.recorded:
            target, datagram = wire.recorded[number % len(wire.recorded)]
            before = len(wire.delivered)
            try:
                wire.carry(target, datagram)
            except Malformed:
                continue
            for got_by, got in wire.delivered[before:]:
                assert got.endswith(f"run {runs[got_by]} of {got_by}".encode())
    assert len(wire.delivered) == len(set(wire.delivered))


def test_every_recorded_datagram_is_refused_again():
    wire = Wire()
    wire.meet()
    for number in range(10):
        wire.send("cm1", "cm2", b"%d" % number)
    heard = [datagram for receiver, datagram in wire.recorded if receiver == "cm2"]
    before = len(wire.delivered)
    for datagram in heard[1:]:
        assert refuse(wire.nodes["cm2"], datagram) is Reason.REPLAYED
    assert len(wire.delivered) == before
    assert wire.nodes["cm2"].refused[Reason.REPLAYED] == len(heard) - 1


@pytest.mark.parametrize("restarted", [("cm1",), ("cm2",), ("cm1", "cm2"), ("cm2", "cm1", "cm2")])
def test_every_recorded_datagram_is_refused_after_restarts_of_either_side(restarted):
    wire = Wire()
    wire.meet()
    for number in range(5):
        wire.send("cm1", "cm2", b"%d" % number)
        wire.send("cm2", "cm1", b"%d" % number)
    recorded = list(wire.recorded)
    for name in restarted:
        wire.restart(name)

    def replay_all() -> None:
        wire.delivered.clear()
        for receiver, datagram in recorded:
            try:
                opened = wire.nodes[receiver].open_untrusted(datagram)
            except Malformed:
                continue
            assert opened.payload is None
        wire.nodes["cm1"].seal("cm2", b"heartbeat that is lost")
        wire.nodes["cm2"].seal("cm1", b"heartbeat that is lost")

    replay_all()  # before they have met again
    wire.meet()
    replay_all()
    wire.send("cm1", "cm2", b"still heard")
    wire.send("cm2", "cm1", b"still heard")
    assert wire.delivered == [("cm2", b"still heard"), ("cm1", b"still heard")]


def test_a_datagram_held_back_over_a_restart_of_its_sender_does_not_bring_the_old_boot_back():
    wire = Wire()
    wire.meet()
    held = wire.nodes["cm1"].seal("cm2", b"from the old boot")
    wire.restart("cm1")
    wire.meet()
    assert refuse(wire.nodes["cm2"], held) is Reason.STALE_BOOT
    wire.send("cm1", "cm2", b"from the new boot")
    assert wire.delivered[-1] == ("cm2", b"from the new boot")


def test_a_boot_never_confirmed_cannot_replace_a_later_one():
    """Made after the receiver's start, echoing it, but held back until its sender had restarted."""
    wire = Wire()
    a, b = wire.nodes["cm1"], wire.nodes["cm2"]
    b.open_untrusted(a.seal("cm2", b"1"))
    a.open_untrusted(b.hello("cm1"))
    held = a.seal("cm2", b"echoes cm2")  # the attacker holds it; cm2 never confirms this boot
    wire.restart("cm1")
    wire.meet()
    b.seal("cm1", b"heartbeat")
    assert b.open_untrusted(held).payload is None
    wire.send("cm1", "cm2", b"undisturbed")
    assert wire.delivered[-1] == ("cm2", b"undisturbed")


def test_a_process_back_from_a_snapshot_is_refused_for_ever():
    wire = Wire()
    wire.meet()
    old = wire.nodes["cm1"]
    wire.restart("cm1")
    wire.meet()
    for _ in range(5):
        old.open_untrusted(wire.nodes["cm2"].seal("cm1", b"the ghost listens, and learns all it needs"))
        assert refuse(wire.nodes["cm2"], old.seal("cm2", b"I forgot my promises")) is Reason.STALE_BOOT
        assert refuse(wire.nodes["cm2"], old.hello("cm2")) is Reason.STALE_BOOT


def test_a_payload_meant_for_my_previous_boot_is_not_delivered_although_its_sender_is_known():
    wire = Wire()
    wire.meet()
    a = wire.nodes["cm1"]
    b = wire.nodes["cm2"] = start("cm2")
    a.open_untrusted(b.seal("cm1", b"heartbeat"))
    assert b.open_untrusted(a.hello("cm2")) == Opened("cm1", None, "cm1")
    assert b.knows("cm1")
    b.seal("cm1", b"heartbeat that is lost, so that cm1 still believes in the old boot")
    assert b.open_untrusted(a.seal("cm2", b"to the old boot")) == Opened("cm1", None, "cm1")


def test_a_restart_is_heard_within_one_exchange_although_the_peer_knew_the_old_boot():
    wire = Wire()
    wire.meet()
    wire.restart("cm2")
    wire.send("cm1", "cm2", b"to the old boot")
    assert wire.delivered == []
    wire.send("cm1", "cm2", b"heard")
    assert wire.delivered == [("cm2", b"heard")]


def test_reordered_datagrams_within_the_window_are_delivered_once_each():
    wire = Wire()
    wire.meet()
    a, b = wire.nodes["cm1"], wire.nodes["cm2"]
    datagrams = [a.seal("cm2", b"%d" % number) for number in range(WINDOW)]
    assert [b.open_untrusted(datagram).payload for datagram in reversed(datagrams)] == [
        b"%d" % number for number in reversed(range(WINDOW))
    ]
    assert {refuse(b, datagram) for datagram in datagrams} == {Reason.REPLAYED}


def test_a_datagram_older_than_the_window_is_refused_though_never_seen():
    wire = Wire()
    wire.meet()
    a, b = wire.nodes["cm1"], wire.nodes["cm2"]
    late = a.seal("cm2", b"late")
    for _ in range(WINDOW):
        b.open_untrusted(a.seal("cm2", b"beat"))
    assert refuse(b, late) is Reason.REPLAYED


def test_what_was_sent_before_the_introduction_is_refused_after_it():
    a, b = start("cm1"), start("cm2")
    early = a.seal("cm2", b"early")
    b.open_untrusted(a.seal("cm2", b"greeting"))
    a.open_untrusted(b.hello("cm1"))
    b.open_untrusted(a.seal("cm2", b"proof"))
    assert refuse(b, early) is Reason.REPLAYED


def test_every_flipped_bit_is_refused():
    wire = Wire()
    wire.meet()
    datagram = wire.nodes["cm1"].seal("cm2", b"payload")
    b = wire.nodes["cm2"]
    for bit in range(len(datagram) * 8):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 1 << bit % 8
        refuse(b, bytes(flipped))
    assert b.refused.total() == len(datagram) * 8
    assert b.open_untrusted(datagram).payload == b"payload"  # and none of them had an effect


@pytest.mark.parametrize("urgent", [True, False])
def test_a_datagram_whose_urgency_was_changed_on_the_way_does_not_open(urgent):
    wire = Wire()
    wire.meet()
    datagram = wire.nodes["cm1"].seal("cm2", b"payload", urgent=urgent)
    flipped = bytes((datagram[0] ^ ANSWER,)) + datagram[1:]
    assert refuse(wire.nodes["cm2"], flipped) is Reason.BAD_SEAL
    assert wire.nodes["cm2"].open_untrusted(datagram).payload == b"payload"


def test_what_is_not_urgent_is_marked_in_the_first_byte_and_opens_as_anything_else():
    wire = Wire()
    wire.meet()
    a, b = wire.nodes["cm1"], wire.nodes["cm2"]
    sealed = [a.seal("cm2", b"%d" % number, urgent=number % 2 == 0) for number in range(6)]
    assert [datagram[0] & ANSWER for datagram in sealed] == [0, ANSWER] * 3
    assert [b.open_untrusted(datagram).payload for datagram in sealed] == [b"%d" % number for number in range(6)]
    assert {refuse(b, datagram) for datagram in sealed} == {Reason.REPLAYED}


def test_a_hello_is_urgent():
    """Nobody waits for a heartbeat to be introduced."""
    receiver = start("cm2")
    receiver.open_untrusted(start("cm1").seal("cm2", b"greeting", urgent=False))
    assert not receiver.hello("cm1")[0] & ANSWER


def test_an_unknown_version_is_refused_by_its_name_whether_urgent_or_not():
    sealed = start().seal("cm2", b"x")
    for version in (0x00, 0x02, 0x80, 0x82, 0xFF):
        assert refuse(start("cm2"), bytes((version,)) + sealed[1:]) is Reason.UNKNOWN_VERSION


def test_datagrams_are_numbered_for_each_peer_apart_hellos_among_them():
    names = ("cm1", "cm2", "cm3")
    a = start("cm1", peers=names)
    assert (a.numbered("cm2"), a.numbered("cm3")) == (0, 0)
    a.seal("cm2", b"x")
    a.seal("cm2", b"x", urgent=False)
    a.hello("cm2")
    assert (a.numbered("cm2"), a.numbered("cm3")) == (3, 0)


def test_every_shorter_and_any_longer_datagram_is_refused():
    wire = Wire()
    wire.meet()
    datagram = wire.nodes["cm1"].seal("cm2", b"payload")
    for length in range(len(datagram)):
        refuse(wire.nodes["cm2"], datagram[:length])
    refuse(wire.nodes["cm2"], datagram + b"\0")
    assert refuse(wire.nodes["cm2"], bytes(DATAGRAM_BYTES_MAX + 1)) is Reason.TOO_LONG


@given(st.binary(max_size=300))
def test_only_malformed_escapes_from_random_bytes(data):
    refuse(start(), data)
    refuse(start(), start("cm2").seal("cm1", b"x")[:18] + data)


def test_each_refusal_has_its_name():
    receiver = start("cm2")
    assert refuse(receiver, b"") is Reason.TOO_SHORT
    assert refuse(receiver, b"\x09" + start().seal("cm2", b"x")[1:]) is Reason.UNKNOWN_VERSION
    assert refuse(receiver, start(cluster="chemistry").seal("cm2", b"x")) is Reason.WRONG_CLUSTER
    assert refuse(receiver, start(keyring=Keyring({7: KEY}, 7)).seal("cm2", b"x")) is Reason.UNKNOWN_KEY
    assert refuse(receiver, start(keyring=Keyring({1: bytes(32)}, 1)).seal("cm2", b"x")) is Reason.BAD_SEAL
    assert refuse(receiver, start("stranger").seal("cm2", b"x")) is Reason.UNKNOWN_PEER
    assert receiver.refused == {
        Reason.TOO_SHORT: 1,
        Reason.UNKNOWN_VERSION: 1,
        Reason.WRONG_CLUSTER: 1,
        Reason.UNKNOWN_KEY: 1,
        Reason.BAD_SEAL: 1,
        Reason.UNKNOWN_PEER: 1,
    }


def test_a_datagram_for_another_node_or_reflected_to_its_sender_does_not_open():
    names = ("cm1", "cm2", "cm3")
    a, c = start("cm1", peers=names), start("cm3", peers=names)
    datagram = a.seal("cm2", b"x")
    assert refuse(c, datagram) is Reason.BAD_SEAL
    assert refuse(a, datagram) is Reason.BAD_SEAL


def test_keys_rotate_one_node_at_a_time():
    other = bytes(range(1, 33))
    only_old, both_old = Keyring({1: KEY}, 1), Keyring({1: KEY, 2: other}, 1)
    both_new, only_new = Keyring({1: KEY, 2: other}, 2), Keyring({2: other}, 2)
    for mine, yours in ((only_old, both_old), (both_old, both_new), (both_new, only_new)):
        a, b = start("cm1", keyring=mine), start("cm2", keyring=yours)
        assert b.open_untrusted(a.seal("cm2", b"x")).reply_to == "cm1"
        assert a.open_untrusted(b.hello("cm1")).reply_to == "cm2"


def test_a_flood_of_old_recordings_earns_one_hello_between_two_heartbeats():
    receiver = start("cm2")
    ghost = start("cm1")
    recordings = [ghost.seal("cm2", b"%d" % number) for number in range(50)]
    assert receiver.open_untrusted(recordings[0]).reply_to == "cm1"
    assert {refuse(receiver, recording) for recording in recordings} == {Reason.STALE_BOOT}
    receiver.seal("cm1", b"heartbeat")
    assert receiver.open_untrusted(recordings[0]).reply_to == "cm1"
    assert receiver.greetings == 2


def test_recordings_of_one_boot_do_not_keep_another_from_being_heard():
    wire = Wire()
    ghost = start("cm1")
    recording = ghost.seal("cm2", b"old")
    wire.nodes["cm2"].open_untrusted(recording)
    assert refuse(wire.nodes["cm2"], recording) is Reason.STALE_BOOT
    wire.meet()
    wire.send("cm1", "cm2", b"heard")
    assert wire.delivered == [("cm2", b"heard")]


def test_hellos_are_bounded_whoever_many_boots_are_replayed_and_never_longer_than_the_question():
    receiver = start("cm2")
    answered = 0
    for _ in range(GREETED_MAX * 3):
        recording = start("cm1").seal("cm2", b"x")
        try:
            receiver.open_untrusted(recording)
        except Malformed:
            continue
        answered += 1
        assert len(receiver.hello("cm1")) < len(recording)
    assert answered == GREETED_MAX


def test_a_full_answering_budget_never_costs_a_payload():
    wire = Wire()
    a, b = wire.nodes["cm1"], wire.nodes["cm2"]
    b.open_untrusted(a.seal("cm2", b"greeting"))
    a.open_untrusted(b.hello("cm1"))
    for _ in range(GREETED_MAX - 1):
        b.open_untrusted(start("cm1").seal("cm2", b"recording"))
    assert b.open_untrusted(a.seal("cm2", b"first proof")).payload == b"first proof"


def test_nonces_differ_between_datagrams_peers_and_boots():
    names = ("cm1", "cm2", "cm3")
    datagrams = []
    for _ in range(3):
        seal = start("cm1", peers=names)
        datagrams += [seal.seal(to, b"same") for to in ("cm2", "cm3") for _ in range(5)]
    assert len({datagram[6:18] for datagram in datagrams}) == len(datagrams)


def test_the_longest_payload_travels_and_a_longer_one_is_our_own_bug():
    wire = Wire()
    wire.meet()
    wire.send("cm1", "cm2", bytes(PAYLOAD_BYTES_MAX))
    assert wire.delivered[-1] == ("cm2", bytes(PAYLOAD_BYTES_MAX))
    for payload in (b"", bytes(PAYLOAD_BYTES_MAX + 1)):
        with pytest.raises(AssertionError):
            wire.nodes["cm1"].seal("cm2", payload)


@pytest.mark.parametrize(
    ("keys", "active"), [({1: KEY}, 2), ({256: KEY}, 256), ({1: b"short"}, 1), ({}, 0), ({-1: KEY}, -1)]
)
def test_a_bad_keyring_is_refused(keys, active):
    with pytest.raises(ValueError, match="key"):
        Keyring(keys, active)


def test_a_bad_boot_id_or_name_is_refused():
    with pytest.raises(ValueError, match="boot id"):
        Seal("physics", Keyring({1: KEY}, 1), "cm1", bytes(16), NAMES)
    with pytest.raises(ValueError, match="boot id"):
        Seal("physics", Keyring({1: KEY}, 1), "cm1", b"short", NAMES)
    with pytest.raises(ValueError, match="node name"):
        Seal("physics", Keyring({1: KEY}, 1), "n" * 65, b"b" * 16, NAMES)

"""A process that takes another's place on its host: to its peers nothing has happened, and nothing old comes back."""

import hashlib

import msgspec
import pytest

from gateway.wire.errors import Malformed, Reason
from gateway.wire.seal import Keyring, Seal, SealState

KEYS = Keyring({1: bytes(range(32))}, 1)


def start(me: str, boot: int) -> Seal:
    return Seal("physics", KEYS, me, hashlib.sha256(bytes([boot])).digest()[:16], ("gw1", "gw2"))


def acquainted() -> tuple[Seal, Seal]:
    one, two = start("gw1", 1), start("gw2", 2)
    two.open_untrusted(one.seal("gw2", b"x"))
    one.open_untrusted(two.hello("gw1"))
    two.open_untrusted(one.hello("gw2"))
    assert two.open_untrusted(one.seal("gw2", b"known")).payload == b"known"
    return one, two


def successor_of(seal: Seal, boot: int = 1) -> Seal:
    """Make it through the bytes that travel between the two processes."""
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(seal.state()), type=SealState)
    after = start("gw1", boot)
    after.take_over(state)
    return after


def test_its_first_word_is_heard_without_a_greeting() -> None:
    one, two = acquainted()
    opened = two.open_untrusted(successor_of(one).seal("gw2", b"still me"))
    assert (opened.payload, opened.reply_to) == (b"still me", None)


def test_it_hears_its_peers_without_a_greeting() -> None:
    one, two = acquainted()
    assert successor_of(one).open_untrusted(two.seal("gw1", b"go on")).payload == b"go on"


def test_what_its_predecessor_has_heard_is_refused_again() -> None:
    one, two = acquainted()
    datagram = two.seal("gw1", b"once")
    assert one.open_untrusted(datagram).payload == b"once"
    with pytest.raises(Malformed) as refusal:
        successor_of(one).open_untrusted(datagram)
    assert refusal.value.reason is Reason.REPLAYED


def test_it_never_uses_a_sequence_of_its_predecessor() -> None:
    one, two = acquainted()
    last = one.seal("gw2", b"last")
    after = successor_of(one)
    assert two.open_untrusted(last).payload == b"last"
    assert two.open_untrusted(after.seal("gw2", b"first")).payload == b"first"


def test_a_boot_that_its_predecessor_saw_replaced_stays_refused() -> None:
    one, two = acquainted()
    old = two.seal("gw1", b"held back")
    reborn = start("gw2", 3)
    one.open_untrusted(reborn.seal("gw1", b"x"))
    reborn.open_untrusted(one.hello("gw2"))
    one.open_untrusted(reborn.hello("gw1"))
    with pytest.raises(Malformed) as refusal:
        successor_of(one).open_untrusted(old)
    assert refusal.value.reason is Reason.STALE_BOOT


def test_another_boot_id_is_a_bug_of_ours() -> None:
    one, _ = acquainted()
    with pytest.raises(AssertionError):
        successor_of(one, boot=9)

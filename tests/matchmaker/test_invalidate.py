"""Withdrawals: what may be taken from a standby's collector, and above all what may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.matchmaker.census import Ad, Key, host_of
from gateway.matchmaker.invalidate import FEW, GONE_S_MIN, Withdrawals, invalidation

HOST = "10.0.0.12"  # the standby's own
T = 1_795_000_000


def ad(*, sent=1, heard=T, host="10.0.0.31", started=100):
    return Ad(f"<{host}:9618?addrs={host}-9618&sock=startd>", started, sent, heard)


def slots(*names, **fields):
    return {Key("slot", name): ad(**fields) for name in names}


def seen(*censuses, every_s=6, instance="leader"):
    """Withdrawals that have looked at these censuses, and the time of the last look."""
    found = Withdrawals()
    for place, census in enumerate(censuses):
        found.look(instance, census, T + place * every_s)
    return found, T + (len(censuses) - 1) * every_s


ALL, LESS = slots("a", "b", "c"), slots("a", "b")
C = {Key("slot", "c")}


def test_ad_that_two_looks_have_missed_goes_on_the_standby():
    found, now = seen(ALL, LESS, LESS)
    assert found.doomed(ALL, HOST, now).keys() == C


def test_one_look_decides_nothing():
    found, now = seen(ALL, LESS)
    assert found.doomed(ALL, HOST, now + 60) == {}


def test_two_looks_in_haste_decide_nothing():
    found, now = seen(ALL, LESS, LESS, every_s=GONE_S_MIN // 2)
    assert found.doomed(ALL, HOST, now) == {}


def test_ad_that_is_back_at_the_leader_stays():
    found, now = seen(ALL, LESS, ALL, LESS)
    assert found.doomed(ALL, HOST, now) == {}


@given(st.sets(st.sampled_from("abcdefgh")), st.integers(0, 6))
def test_restarted_leader_takes_nothing_from_a_full_standby(left, looks):
    full = slots(*"abcdefgh")
    found, now = seen(full, full)
    for place in range(looks):
        found.look("restarted", slots(*left), now + 60 * place)
    assert found.doomed(full, HOST, now + 60 * looks) == {}


def test_what_was_going_before_the_restart_is_forgotten_with_it():
    found, now = seen(ALL, LESS, LESS)
    found.look("restarted", LESS, now + 6)
    assert found.doomed(ALL, HOST, now + 6) == {}


def test_what_the_leader_never_had_is_not_its_to_take():
    found, now = seen(LESS, LESS, LESS)
    assert found.doomed(ALL, HOST, now) == {}


def test_what_may_have_expired_at_the_leader_is_left_to_expire():
    """Its owner may live on the other side of a partition, and speak to another leader."""
    old = slots("c", heard=T - 620)
    found, now = seen(LESS | old, LESS, LESS)
    assert found.doomed(LESS | old, HOST, now) == {}


def test_owner_who_has_spoken_since_stays():
    found, now = seen(ALL, LESS, LESS)
    assert found.doomed(slots("c", sent=2, heard=T + 11), HOST, now) == {}


def test_owner_who_has_long_spoken_to_the_standby_alone_stays():
    """It is newer than what the leader had, and was there when the leader still had the old one."""
    later = {key: ad(sent=5, heard=T - 100) for key in C}
    found, now = seen(LESS | slots("c", sent=2, heard=T - 300), LESS, LESS)
    assert found.doomed(later, HOST, now) == {}


def test_last_update_before_the_withdrawal_goes_too():
    found, now = seen(ALL, LESS, LESS)
    assert found.doomed(slots("c", sent=2, heard=T + 3), HOST, now).keys() == C


def test_standbys_own_daemons_stay():
    own = slots("c", host=HOST)
    found, now = seen(LESS | own, LESS, LESS)
    assert found.doomed(LESS | own, HOST, now) == {}


def test_large_part_of_a_pool_goes_only_when_more_looks_agree():
    full = slots(*map(str, range(4 * FEW)))
    found, now = seen(full, {}, {}, {})
    assert found.doomed(full, HOST, now) == {}
    found, now = seen(full, {}, {}, {}, {})
    assert found.doomed(full, HOST, now).keys() == full.keys()


def test_what_has_gone_for_longer_than_an_ad_lives_is_forgotten():
    found, now = seen(ALL, LESS, LESS)
    found.look("leader", LESS, now + 1300)
    assert not found


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("<10.0.0.31:9618?addrs=10.0.0.31-9618&sock=startd>", "10.0.0.31"),
        ("<[fd00::31]:9618?addrs=[fd00--31]-9618>", "fd00::31"),
        ("<10.0.0.31:9618>", "10.0.0.31"),
        ("undefined", ""),
    ],
)
def test_host_is_read_from_a_daemons_address(address, host):
    assert host_of(address) == host


def test_name_with_quotes_stays_one_name():
    text = invalidation(Key("submitter", 'a"b\\c', "schedd"), ad(), "Submitter")
    assert 'Name = "a\\"b\\\\c"\n' in text
    assert 'ScheddName = "schedd"\n' in text

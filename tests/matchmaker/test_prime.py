"""Priming: of all that a standby lacks, what it must get."""

from gateway.matchmaker import prime
from gateway.matchmaker.census import Comparison, Key

SLOT, SCHEDD, SUBMITTER = Key("slot", "slot1@e"), Key("schedd", "s"), Key("submitter", "ann@p", "s")
MASTER = Key("master", "e")


def lacks(*, missing=(), stale=()):
    found = Comparison(total=9, missing=frozenset(missing), stale=frozenset(stale), extra=frozenset())
    return prime.needed(found)


def test_whatever_is_missing_is_needed():
    assert lacks(missing=(SLOT, SCHEDD, SUBMITTER, MASTER)) == {SLOT, SCHEDD, SUBMITTER, MASTER}


def test_old_news_of_a_slot_is_needed_anew():
    assert lacks(stale=(SLOT,)) == {SLOT}


def test_no_schedd_is_asked_because_its_ads_are_old():
    """The negotiator asks it for its jobs in every cycle."""
    assert lacks(stale=(SCHEDD, SUBMITTER, MASTER)) == set()

"""Priming: of all that a standby lacks, what it must get."""

import pytest
import trio

from gateway.config.settings import Endpoint
from gateway.matchmaker import prime
from gateway.matchmaker.census import Ad, Comparison, Key
from gateway.matchmaker.condor import ToolFailed

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


def ads(**sequences):
    """A census: the name of a slot, and how many updates of it were sent."""
    return {Key("slot", name): Ad("<10.77.0.31:9618>", 1, sequence, 0) for name, sequence in sequences.items()}


def test_a_dead_hosts_slots_are_not_waited_for():
    """They stay with the leader for a quarter of an hour; a standby that waited for them would be cold for as long."""
    assert prime.silent_owners(ads(dead=4, alive=7), ads(dead=4, alive=8)) == {Key("slot", "dead")}


def test_what_its_owner_has_sent_meanwhile_must_arrive():
    assert Key("slot", "alive") not in prime.silent_owners(ads(dead=4, alive=7), ads(dead=4, alive=8))


def test_nobody_is_excused_where_asking_does_not_work_at_all():
    assert prime.silent_owners(ads(one=4, two=7), ads(one=4, two=7)) == set()


def pool(schedd, **users):
    found = {Key("schedd", "s"): Ad("<10.77.0.21:9618>", 1, schedd, 0)}
    return found | {Key("submitter", name, "s"): Ad("<10.77.0.21:9618>", 1, sent, 0) for name, sent in users.items()}


def test_user_whose_schedd_has_answered_without_him_is_not_waited_for():
    first, before, last = pool(4, ann=2, bob=3), pool(5, ann=2, bob=4), pool(5, ann=2, bob=4)
    assert prime.jobless_submitters(first, before, last) == {Key("submitter", "ann", "s")}


def test_user_is_waited_for_until_his_schedd_has_answered():
    first = pool(4, ann=2)
    assert prime.jobless_submitters(first, first, first) == set()
    assert prime.jobless_submitters(first, first, pool(5, ann=2)) == set(), "his ad may follow"


LEADER, COLD, HUNG = (Endpoint(f"10.77.0.{number}", 9618) for number in (11, 12, 13))


class Pool:
    """Three collectors: one has what the `leader` has once that was asked for, and one never answers."""

    def __init__(self, monkeypatch, look_s):
        self.look_s = look_s
        self.asked = 0
        monkeypatch.setattr(prime.census, "take", self.take)
        monkeypatch.setattr(prime, "ask_for_updates", self.ask)
        monkeypatch.setattr(prime, "run_tool", self.no_submitters)

    async def take(self, collector, *, timeout_ms):
        with trio.move_on_after(timeout_ms / 1000):
            await trio.sleep(float("inf") if collector == HUNG else self.look_s)
            return ads(one=1 + self.asked) if collector == LEADER or self.asked else {}
        raise ToolFailed("condor_status", "no answer")

    async def ask(self, startds, schedds):
        self.asked += len(startds)
        return prime.AskReport(asked=len(startds), failed={})

    async def no_submitters(self, *command, timeout_ms):
        return ""


async def test_a_standby_that_hangs_keeps_no_other_cold(monkeypatch, autojump_clock):
    Pool(monkeypatch, 0.02)
    report = await prime.prime(LEADER, {"cold": COLD, "hung": HUNG}, timeout_ms=12_000)
    assert report.complete == {"cold": True, "hung": False}


@pytest.mark.parametrize("look_s", [0.02, 9])
async def test_a_standby_gets_warm_also_where_looking_alone_takes_longer_than_there_is(
    monkeypatch, autojump_clock, look_s
):
    Pool(monkeypatch, look_s)
    report = await prime.prime(LEADER, {"cold": COLD}, timeout_ms=12_000)
    assert report.complete == {"cold": True}


async def test_daemons_are_asked_to_send_their_ads_again_also_where_looking_takes_long(monkeypatch, autojump_clock):
    pool = Pool(monkeypatch, 9)
    report = await prime.refresh(LEADER, timeout_ms=8_000)
    assert (pool.asked, report.silent) == (1, ())


async def test_schedds_are_asked_from_a_moment_on_and_startds_at_once(monkeypatch, autojump_clock):
    asked_s = {}
    there = {SLOT: Ad("<10.77.0.31:9618>", 1, 1, 0), SCHEDD: Ad("<10.77.0.21:9618>", 1, 1, 0)}

    async def take(collector, *, timeout_ms):
        sent = asked_s.keys() if collector == COLD else there.keys()
        return {key: ad for key, ad in there.items() if key in sent or ad.address in sent}

    async def ask(startds, schedds):
        for address in (*startds, *schedds):
            asked_s.setdefault(address, trio.current_time() - began)
        return prime.AskReport(asked=0, failed={})

    monkeypatch.setattr(prime.census, "take", take)
    monkeypatch.setattr(prime, "ask_for_updates", ask)
    began = trio.current_time()
    report = await prime.prime(LEADER, {"cold": COLD}, timeout_ms=12_000, schedds_from_s=began + 2)
    assert report.complete == {"cold": True}
    assert asked_s["<10.77.0.31:9618>"] == 0
    assert asked_s["<10.77.0.21:9618>"] >= 2

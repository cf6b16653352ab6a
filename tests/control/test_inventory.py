"""The inventory: how often it looks, and that nothing is taken from a standby unless this manager leads at that moment.

The collectors are stand-ins here; tests/control/test_standbys_on_a_pool.py has real ones.
"""

import pytest
import structlog
import trio

from gateway.config.settings import Endpoint, Server
from gateway.control import inventory
from gateway.control.inventory import Inventory, period_ms
from gateway.matchmaker.census import Ad, Key
from gateway.matchmaker.condor import ToolFailed

OWN = Endpoint("10.0.0.11", 9618)
STANDBY = Server(name="cm2", endpoint=Endpoint("10.0.0.12", 9618))


@pytest.mark.parametrize(("ads", "most_ms"), [(110, 10_000), (2_010, 25_000), (10_000, 120_000)])
def test_look_costs_a_hundredth_of_a_core(ads, most_ms):
    """The costs are measured, for two standbys: see the module's head."""
    cost_ms = 3 * (25 + ads * 0.02) + ads * 0.02
    assert cost_ms / period_ms(ads, 2) <= 0.0101
    assert period_ms(ads, 2) <= most_ms


def test_small_pool_is_looked_at_no_more_than_every_five_seconds():
    assert period_ms(0, 0) == 5_000


class Pool:
    """What the collectors hold, and what was withdrawn from them."""

    def __init__(self, monkeypatch):
        self.now_s = 1_795_000_000
        self.instance = "leader"
        self.ads = {OWN: {}, STANDBY.endpoint: {}}
        self.leads = True
        self.withdrawn = []
        self.lacking = []
        self.asked = []
        self.found = Inventory(OWN, lambda: self.leads, self.lacking.append, structlog.get_logger())
        monkeypatch.setattr(inventory.census, "take", self.take)
        monkeypatch.setattr(inventory, "invalidate", self.invalidate)
        monkeypatch.setattr(inventory, "ask_for_updates", self.ask_schedds)
        monkeypatch.setattr(inventory, "collector_instance", self.ask)
        monkeypatch.setattr(inventory.time, "time", lambda: self.now_s)

    async def take(self, collector, *, timeout_ms):
        if self.ads[collector] is None:
            raise ToolFailed("condor_status", "no answer")
        return dict(self.ads[collector])

    async def ask(self, collector, *, timeout_ms, shared_port):
        return self.instance

    async def invalidate(self, standby, ads, *, timeout_ms):
        self.withdrawn.append((standby, set(ads)))
        return len(ads)

    async def ask_schedds(self, startds, schedds):
        self.asked += [*startds, *schedds]

    def slots(self, *names, sent=1):
        return {Key("slot", name): Ad("<10.0.0.31:9618>", 1, sent, self.now_s) for name in names}

    def look(self):
        trio.run(self.found._look, (STANDBY,))
        self.now_s += 10


@pytest.fixture
def pool(monkeypatch):
    made = Pool(monkeypatch)
    made.ads = {OWN: made.slots("a", "b"), STANDBY.endpoint: made.slots("a", "b")}
    made.look()
    del made.ads[OWN][Key("slot", "b")]
    return made


def test_what_was_withdrawn_from_the_leader_is_withdrawn_from_the_standby_alone(pool):
    pool.look()
    assert pool.withdrawn == []
    pool.look()
    assert pool.withdrawn == [(STANDBY.endpoint, {Key("slot", "b")})]
    assert pool.found.invalidated_total == 1


def test_manager_whose_lease_is_over_withdraws_nothing(pool):
    pool.look()
    pool.leads = False
    pool.look()
    assert pool.withdrawn == []


def test_leader_whose_collector_was_restarted_between_two_looks_withdraws_nothing(pool):
    pool.ads[OWN].clear()
    pool.instance = "restarted"
    for _ in range(5):
        pool.look()
    assert pool.withdrawn == []


def test_look_during_which_the_collector_was_restarted_counts_for_nothing(pool, monkeypatch):
    answers = iter(["leader", "restarted"] * 3)

    async def ask(collector, *, timeout_ms, shared_port):
        return next(answers)

    monkeypatch.setattr(inventory, "collector_instance", ask)
    for _ in range(3):
        pool.look()
    assert pool.found.looks_total == 1
    assert pool.withdrawn == []


def test_status_says_how_far_a_standby_differs(pool):
    pool.ads[STANDBY.endpoint] |= pool.slots("own", sent=4)
    pool.ads[OWN] = pool.slots("a", sent=2) | pool.slots("c")
    pool.look()
    said = pool.found.status_of("cm2")
    assert (said["missing"], said["stale"], said["extra"]) == (1, 1, 2)
    assert said["lacks"] == {"slot": 2}
    assert said["ads"] == {"slot": 3, "startd": 0, "submitter": 0, "schedd": 0, "master": 0}
    assert said["looked_ms_ago"] < 5_000
    assert pool.found.status()["ads"]["slot"] == 2


def test_standby_that_does_not_answer_keeps_its_last_figures_and_fails_no_other(pool):
    pool.ads[STANDBY.endpoint] = None
    pool.look()
    assert pool.found.failed_total == 1
    assert pool.found.status_of("cm2")["ads"]["slot"] == 2


def test_what_is_still_lacking_at_the_next_look_is_asked_for_once(pool):
    pool.ads[OWN] = pool.slots("a", "b", "c")
    pool.look()
    assert pool.lacking == []
    pool.look()
    pool.look()
    assert pool.lacking == ["cm2"]
    pool.ads[OWN] |= pool.slots("c", sent=2)
    pool.look()
    pool.look()
    assert pool.lacking == ["cm2", "cm2"]


def test_schedd_whose_ad_is_still_old_at_the_next_look_is_asked_once(pool):
    key = Key("submitter", "ann", "s")
    pool.ads[STANDBY.endpoint][key] = Ad("<10.0.0.21:9618>", 1, 4, pool.now_s)
    pool.ads[OWN][key] = Ad("<10.0.0.21:9618>", 1, 5, pool.now_s)
    pool.look()
    assert pool.asked == []
    pool.look()
    pool.look()
    assert pool.asked == ["<10.0.0.21:9618>"]
    assert pool.lacking == []

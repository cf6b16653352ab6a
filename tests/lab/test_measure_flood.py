"""Promises of the flood generator and of what is made of it, without a lab."""

import pytest

from gateway.lab.measure import flood, floods
from gateway.lab.measure.flood_command import table
from gateway.lab.measure.floods import Cost, FloodResult, Served


def test_a_flood_comes_evenly_and_never_faster_than_it_was_asked_for():
    calls, tended = [], []
    took_s = flood.pace(lambda: calls.append(1), lambda: tended.append(len(calls)), 1_000, 0.3)
    assert took_s >= 0.3
    assert 0 < len(calls) <= 300
    assert len(tended) > 3, "who is open is looked after in between"


def test_a_machine_that_stood_still_is_not_asked_for_all_that_it_missed(monkeypatch):
    now_s = iter([0.0, 0.0, 5.0, 5.01, 11.0, 11.0])
    monkeypatch.setattr(flood.time, "monotonic", lambda: next(now_s))
    monkeypatch.setattr(flood.time, "sleep", lambda seconds: None)
    calls = []
    flood.pace(lambda: calls.append(1), lambda: None, 1_000, 10)
    assert len(calls) == 200 + 10


@pytest.mark.parametrize("kind", flood.KINDS)
def test_every_flood_has_a_rate_and_a_limit(kind):
    assert floods.RATES[kind] > 0
    assert floods.OPEN_MAX[kind] > 0


def test_ads_are_counted_by_the_numbers_that_slots_give_them():
    assert floods._ads([]) == 0
    assert floods._ads([{"slot1": 5, "slot2": 7}, {"slot1": 6, "slot2": 7}, {"slot1": 8, "slot2": 9}]) == 5
    assert floods._ads([{"slot1": 5}, {"slot1": 1}]) == 0, "a startd that began anew has sent no fewer than none"


def test_the_table_has_what_the_pool_did_without_the_flood_above_what_it_did_under_it():
    before = Served(seconds=4, asked=20, failed=0, ask_ms_median=28.6, ask_ms_max=79, ads=10, jobs=5,
                    relay=Cost(65_536, 0.01), collector=Cost(23_000, 0.03))  # fmt: skip
    during = Served(seconds=8, asked=30, failed=30, ask_ms_median=None, ask_ms_max=None, ads=0, jobs=0,
                    relay=Cost(66_000, 0.5), collector=Cost(23_000, 0.9))  # fmt: skip
    result = FloodResult(kind="silent", forward="nat", ip_version=4, before=before, during=during, flooder={},
                         counters={}, elections={"cm1": "cm2"})  # fmt: skip
    assert table([result]).splitlines()[2:] == [
        "| before silent | nat, IPv4 | 20 | 0 | 29 | 79 | 2.5/s | 1.2/s | 64 | 0.01 | 22 | 0.03 |",
        "| silent | nat, IPv4 | 30 | 30 | - | - | 0.0/s | 0.0/s | 64 | 0.50 | 22 | 0.90 |",
    ]

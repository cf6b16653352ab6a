"""The history as an operator reads it."""

import time

from gateway.console.history_text import merged, render_history

CHANGE = {
    "seq": 3,
    "at": 1795449731.2,
    "election": "pool-vip",
    "kind": "address",
    "term": 8,
    "from": "gw1",
    "to": "gw2",
    "cause": "died",
    "detail": "its control process has ended, as its guard says",
    "gap_ms": 12,
    "phases": {"lost_ms": 0, "noticed_ms": 0, "elected_ms": 9, "serving_ms": 9, "announced_ms": 12},
}
FIRST = CHANGE | {"term": 1, "from": None, "cause": "first", "gap_ms": None, "detail": "", "phases": {"elected_ms": 0}}


def test_a_change_is_a_line_with_its_reason_and_phases_below(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert render_history([FIRST, CHANGE]).splitlines() == [
        "when                 election  term  from -> to  cause    gap",
        "2026-11-23 16:02:11  pool-vip     1  - -> gw2    first      -",
        "2026-11-23 16:02:11  pool-vip     8  gw1 -> gw2  died   12 ms",
        "    its control process has ended, as its guard says",
        "    after ms: noticed 0, elected/serving 9, announced 12",
    ]


def test_a_table_fits_a_hundred_columns():
    wide = CHANGE | {"election": "campus-address", "from": "gateway01", "to": "gateway02", "cause": "lease-expired"}
    assert max(map(len, render_history([wide | {"gap_ms": 12_345, "term": 1_234}]).splitlines())) <= 100


def test_no_change_is_said_in_words():
    assert render_history([]) == "no leader has changed since this node was first started"


def test_of_several_words_on_one_change_the_fullest_is_shown():
    follower = CHANGE | {"gap_ms": None, "phases": {"lost_ms": 0, "elected_ms": 11}}
    other = CHANGE | {"to": "gw3", "at": CHANGE["at"] + 1}  # the other side of a partition
    found = merged({"cm1": [FIRST, follower], "gw2": [CHANGE], "gw3": [other]})
    assert [(one["to"], one["gap_ms"], one["seen_by"]) for one in found] == [
        ("gw2", None, ["cm1"]),
        ("gw2", 12, ["cm1", "gw2"]),
        ("gw3", 12, ["gw3"]),
    ]
    assert "seen by cm1, gw2" in render_history(found)

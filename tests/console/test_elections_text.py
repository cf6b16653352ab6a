"""Who holds what, since when and why: what an operator sees first."""

import io

import pytest

from gateway.console.elections_text import duration, render_election, table
from gateway.console.paint import Paint, paint_for
from gateway.console.status_text import _frontends, render_status
from gateway.console.watch import Leaders

NOW_S = 1_000_000.0


def standing(**facts):
    return {"fit": True, "warm": True, "term": 5, "generation": 2, "records": 100, "heard_ms_ago": 30} | facts


CHANGE = {
    "at": NOW_S - 200,
    "term": 5,
    "from": "cm2",
    "to": "cm1",
    "cause": "unfit",
    "detail": "collector does not answer",
    "gap_ms": 143,
    "phases": {},
}


def document(**election):
    pool = {
        "kind": "matchmaker",
        "term": 5,
        "leader_term": 5,
        "leader": "cm1",
        "lease_left_ms": 812,
        "answered_ms_ago": {"cm2": 30, "gw1": 5_000},
        "last_change": CHANGE,
        "candidates": {"cm1": standing(), "cm2": standing(records=97), "cm3": None},
    }
    leading = {
        "negotiator_running": True,
        "negotiator_pid": 7,
        "collector": "up",
        "ads": {"slot": 16, "startd": 2, "schedd": 1},
        "looked_ms_ago": 0,
        "standbys": {},
    }
    return {
        "cluster": "campus",
        "node": "cm1",
        "roles": ["manager"],
        "timing": {"lease_ms": 1_000},
        "peers": {"cm2": {"heard_ms_ago": 30}, "gw1": {"heard_ms_ago": None}},
        "elections": {"pool": pool | election},
        "matchmakers": {"pool": leading},
        "addresses": {},
        "receiving": {},
        "returns": {},
        "backends": {},
        "relay": None,
        "guard": None,
        "warnings": ["the disk is full"],
    }


def test_a_leader_is_shown_with_its_time_lease_votes_and_reason():
    assert render_election("pool", document(), NOW_S) == [
        "matchmaker pool: cm1 for 3 min (term 5, lease 812 of 1000 ms left, 2 of 3 votes)",
        "  cm2 could not serve: collector does not answer; no negotiator for 143 ms",
        "    manager  collector  negotiator  ads                            accounting",
        "  * cm1      up         running     16 slots, 2 startds, 1 schedd  5.2.100",
        "    cm2      up, warm                                              3 records behind",
        "    cm3      not heard",
    ]


def test_what_other_nodes_say_of_themselves_fills_the_table():
    others = {"cm2": {"matchmakers": {"pool": {"collector": "down (deaf)", "negotiator_running": False}}}}
    line = next(
        line for line in render_election("pool", document(), NOW_S, others=others) if line.startswith("    cm2 ")
    )
    assert "down (deaf), warm" in line


def test_a_negotiator_that_is_left_alone_is_not_said_to_be_missing():
    own = {"collector": "up", "negotiator_running": False, "negotiator_left_alone": True}
    others = {"cm2": {"matchmakers": {"pool": own}}}
    lines = render_election("pool", document(), NOW_S, others=others)
    assert "left alone" in next(line for line in lines if line.startswith("    cm2 "))


def test_where_nobody_leads_it_is_said_since_when_why_and_what_is_lacking():
    lost = {"from": "cm1", "ms_ago": 5_000, "cause": "died", "detail": "its control process has ended"}
    alone = document(leader=None, leader_term=None, lost=lost)
    alone["peers"]["cm2"]["heard_ms_ago"] = 8_000
    assert render_election("pool", alone, NOW_S)[:3] == [
        "matchmaker pool: nobody for 5 s (term 5)",
        "  cm1 died",
        "  1 of 3 voters are heard, and 2 must agree",
    ]
    first = render_election("pool", document(leader=None, leader_term=None, last_change=None), NOW_S)[0]
    assert first == "matchmaker pool: nobody (term 5)"


def test_what_nobody_knows_here_has_no_column():
    elsewhere = document(lease_left_ms=None) | {"node": "gw1", "matchmakers": {}}
    lines = render_election("pool", elsewhere, NOW_S)
    assert lines[2] == "    manager  collector  accounting"


def test_a_change_of_another_leader_dates_nothing():
    text = render_election("pool", document(last_change=CHANGE | {"term": 4}), NOW_S)[0]
    assert " for " not in text


def test_status_fits_a_hundred_columns_and_begins_with_what_is_wrong():
    lines = render_status(document(), now_s=NOW_S).splitlines()
    assert lines[:3] == [
        "cluster campus, seen from cm1 (manager), peers: 1 of 2 heard",
        "  not heard: gw1",
        "warning: the disk is full",
    ]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.6, "60 s"), (119, "119 s"), (180, "3 min"), (7_200, "2 h"), (864_000, "10 d")],
)
def test_times_have_their_largest_fitting_unit(seconds, text):
    assert duration(seconds) == text


def test_empty_columns_take_no_room():
    assert table([["a", "", "c"], ["bb", "", "d"]], indent=1) == [" a   c", " bb  d"]


def test_colours_are_for_terminals_that_want_them():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert paint_for(Terminal(), {"TERM": "xterm"})("bad", "no") == "\x1b[1;31mno\x1b[0m"
    for stream, environment in (
        (io.StringIO(), {"TERM": "xterm"}),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}),
        (Terminal(), {"TERM": "dumb"}),
    ):
        assert paint_for(stream, environment)("bad", "no") == "no"


def test_a_leader_that_changes_while_somebody_watches_stands_out():
    leaders = Leaders()
    assert leaders.new(document(), NOW_S) == frozenset(), "what was so before is nothing new"
    assert leaders.new(document(leader="cm2", leader_term=6), NOW_S + 1) == {"pool"}
    assert leaders.new(document(leader="cm2", leader_term=6), NOW_S + 10) == {"pool"}
    assert leaders.new(document(leader="cm2", leader_term=6), NOW_S + 60) == frozenset()
    text = render_election("pool", document(), NOW_S, paint=Paint(on=True), new=True)[0]
    assert "\x1b[7mcm1\x1b[0m" in text


def test_what_the_leader_alone_knows_is_shown_where_it_was_asked():
    seen = document(leader="cm2", lease_left_ms=None, answered_ms_ago=None, last_change=None)
    change = {**CHANGE, "to": "cm2", "from": "cm1"}
    leading = document(leader="cm2", lease_left_ms=700, answered_ms_ago={"cm1": 30}, last_change=change)
    first, second, *_ = render_election("pool", seen, NOW_S, others={"cm2": leading})
    assert first == "matchmaker pool: cm2 for 3 min (term 5, lease 700 of 1000 ms left, 2 of 3 votes)"
    assert second.endswith("; no negotiator for 143 ms")
    leading["elections"]["pool"]["term"] = 6  # it is further on: another leadership
    assert render_election("pool", seen, NOW_S, others={"cm2": leading})[0] == "matchmaker pool: cm2 (term 5)"


def test_a_drained_candidate_says_so():
    lines = render_election("pool", document() | {"orders": {"drained": ["cm2"]}}, NOW_S)
    assert lines[4].split()[:4] == ["cm2", "up,", "warm,", "drained"]


def test_each_of_several_frontends_has_its_line():
    figures = {"backend": "managers", "connections": {"now": 2, "total": 1_036}, "rates": {"connections": 0.4}}
    unknown = {"backend": "managers", "connections": {"now": None, "total": None}, "rates": {"connections": None}}
    found = _frontends("managers", {"frontends": {"one": figures, "two": unknown}})
    assert found == [
        "  frontend one: connections 2 now, 1,036 in all, 0.4/s",
        "  frontend two: connections not counted by themselves",
    ]
    assert _frontends("managers", {"frontends": {"one": figures}}) == [], "it is the backend's own"

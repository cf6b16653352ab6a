"""What one node makes of the leaders that come and go: causes, moments, and nothing guessed."""

import pytest

from gateway.core.actions import Cause
from gateway.core.changes import ADDRESS, DIED, FIRST, GUARD_SAYS, LINK_DOWN, MATCHMAKER, UNSEEN, Course
from gateway.wire.messages import ON_REQUEST


def led_by(leader: str, term: int = 7, me: str = "me", kind: str = ADDRESS) -> Course:
    """Return the course of an election that this process has seen won."""
    course = Course("vip", kind, me)
    course.followed(0, leader, term, None)
    return course


def names(facts):
    return [fact["event"] for fact in facts]


def test_the_first_leader_is_a_change_without_a_gap():
    course = Course("vip", ADDRESS, "me")
    (fact,) = course.followed(100, "me", 1, None)
    assert (fact["cause"], fact["from"], fact["to"], fact["gap_ms"]) == (FIRST, None, "me", None)
    course.phase(150, 1, "announced_ms")
    assert course.change is not None
    assert (course.change.phases, course.change.gap_ms) == ({"elected_ms": 0, "announced_ms": 50}, None)


def test_a_leader_that_falls_silent_is_dated_by_its_last_word():
    course = led_by("gw1")
    (lost,) = course.followed(1_000, None, 7, 700)
    assert (lost["event"], lost["cause"], lost["from"]) == ("leader-lost", Cause.LEASE_EXPIRED, "gw1")
    assert lost["detail"] == "nothing was heard of gw1 for 300 ms"
    (changed,) = course.followed(1_090, "me", 8, 700)
    assert changed["phases"] == {"lost_ms": 0, "noticed_ms": 300, "elected_ms": 390}
    facts = course.phase(1_095, 8, "announced_ms")
    assert names(facts) == ["phase", "served-again"]
    assert facts[1]["gap_ms"] == 395


@pytest.mark.parametrize(
    ("reason", "cause", "detail"),
    [
        (f"{ON_REQUEST}: the node is stopping", Cause.REQUESTED, "the node is stopping"),
        (f"{GUARD_SAYS}this process has ended", DIED, "its control process has ended, as its guard says"),
        ("unfit: the relay is not ready", Cause.UNFIT, "the relay is not ready"),
        ("unfit: link eth1 is down", LINK_DOWN, "link eth1 is down"),
        ("suspended: the machine slept for 900 ms", Cause.SUSPENDED, "the machine slept for 900 ms"),
        ("words of another version", "resigned", "words of another version"),
    ],
)
def test_a_leader_that_resigns_says_why(reason, cause, detail):
    course = led_by("gw1")
    course.resigned(500, "gw1", 7, reason)
    (lost,) = course.followed(501, None, 7, 400)
    assert (lost["cause"], lost["detail"]) == (cause, detail)
    (changed,) = course.followed(505, "gw2", 8, None)
    assert changed["phases"] == {"lost_ms": 0, "noticed_ms": 1, "elected_ms": 5}


def test_the_resignation_of_a_candidate_ends_nobody():
    course = led_by("gw1")
    course.resigned(500, "gw2", 7, "a leader was heard")
    course.resigned(500, "gw1", 6, f"{ON_REQUEST}: an older term")
    (lost,) = course.followed(1_000, None, 7, 900)
    assert lost["cause"] == Cause.LEASE_EXPIRED


def test_a_leader_that_stops_in_good_order_served_until_that_was_confirmed():
    course = led_by("me", me="me", kind=MATCHMAKER)
    course.stopping(1_000, 7, Cause.REQUESTED, "a switchover")
    course.followed(1_000, None, 7, None)
    course.stopped(1_060, 7)
    (changed,) = course.followed(1_070, "cm2", 8, None)
    assert changed["phases"]["elected_ms"] == 10
    assert (changed["cause"], changed["detail"]) == (Cause.REQUESTED, "a switchover")


def test_a_lease_that_ended_is_not_made_longer_by_the_stop_that_took_its_time():
    course = led_by("me", me="me")
    course.stopping(1_000, 7, Cause.LEASE_EXPIRED, "no majority answered in time")
    course.followed(1_000, None, 7, None)
    course.stopped(1_900, 7)
    (changed,) = course.followed(2_000, "gw2", 8, None)
    assert changed["phases"]["elected_ms"] == 1_000


def test_a_leader_that_is_followed_by_another_at_once_was_superseded():
    course = led_by("gw1")
    (changed,) = course.followed(2_000, "gw2", 9, 1_500)
    assert (changed["cause"], changed["from"], changed["phases"]["elected_ms"]) == (Cause.SUPERSEDED, "gw1", 500)
    assert changed["detail"] == "gw2 leads term 9; gw1 has not said why it ended"


def test_a_leader_that_was_only_not_heard_is_no_change():
    course = led_by("gw1")
    course.followed(1_000, None, 7, 700)
    assert names(course.followed(3_000, "gw1", 7, None)) == ["leader-returned"]
    assert course.change is not None
    assert course.change.term == 7


def test_a_node_that_starts_anew_makes_no_change_of_the_leader_that_it_knew():
    course = Course("vip", ADDRESS, "me", leader="gw1", term=7)
    assert course.followed(10, "gw1", 7, None) == []


def test_what_happened_while_a_node_did_not_run_has_no_gap():
    course = Course("vip", ADDRESS, "me", leader="gw1", term=7)
    (changed,) = course.followed(10, "me", 9, None)
    assert (changed["from"], changed["cause"]) == ("gw1", UNSEEN)
    assert names(course.phase(20, 9, "announced_ms")) == ["phase"], "nobody knows how long nobody served"


def test_a_matchmaker_serves_again_with_its_first_cycle():
    course = led_by("cm1", kind=MATCHMAKER)
    course.resigned(500, "cm1", 7, f"{GUARD_SAYS}this process has ended")
    course.followed(500, None, 7, 490)
    course.followed(520, "me", 8, None)
    assert names(course.phase(560, 8, "negotiator_ms")) == ["phase"]
    assert course.phase(600, 8, "first_cycle_ms")[1]["gap_ms"] == 100
    assert course.phase(700, 8, "first_cycle_ms") == [], "only the first one counts"
    assert names(course.phase(700, 8, "first_match_ms")) == ["phase"]


def test_phases_of_another_term_or_of_another_leader_are_nothing():
    course = led_by("gw1")
    assert course.phase(10, 7, "announced_ms") == [], "gw1 knows that itself"
    course = led_by("me")
    assert course.phase(10, 6, "announced_ms") == []

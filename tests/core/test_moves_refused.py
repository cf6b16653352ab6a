"""What stands in the way of a handover on request is said by name; and for how long nobody served is put together."""

import pytest

from gateway.core.handover import Objection, joined, objection
from gateway.core.orders import NO_ORDERS, drained, paused
from tests.core.playbook import TIMING, E, Script


def leading() -> Script:
    """Node b leads; a and c are fit."""
    script = Script().awake()
    script.lead()
    script.pulse("a")
    script.pulse("c")
    return script


def reason(script: Script, to: str | None = None) -> str:
    found = objection(script.node, E, to, script.now_ms)
    return "" if found is None else found.reason


def sentence(script: Script, to: str | None = None) -> str:
    found = objection(script.node, E, to, script.now_ms)
    assert isinstance(found, Objection)
    return found.sentence


def test_nothing_stands_in_the_way_of_a_candidate_that_is_fit() -> None:
    assert reason(leading()) == reason(leading(), "a") == reason(leading(), "c") == ""


def test_where_nobody_leads_it_says_how_the_candidates_stand() -> None:
    script = Script().awake()
    script.pulse("a", fit=False)
    assert reason(script) == "no-leader"
    assert "a is not fit" in sentence(script)
    assert "c has not been heard" in sentence(script)


@pytest.mark.parametrize(
    ("to", "named", "said"),
    [
        ("x", "no-candidate", "those are a, b, c"),
        ("b", "leads-already", "'b' leads 'address' already (term 1)"),
        ("a", "unfit", "a' could not serve 'address': is not fit"),
        ("c", "unfit", "was last heard"),
    ],
)
def test_a_successor_that_can_not_follow_is_refused_by_name(to: str, named: str, said: str) -> None:
    script = leading()
    for _ in range(20):  # a lets it lead, and c is not heard any more
        script.later(TIMING.heartbeat_ms)
        script.ack("a", script.now_ms - 5)
    script.pulse("a", fit=False)
    assert reason(script, to) == named
    assert said in sentence(script, to)


def test_a_drained_node_is_neither_taken_nor_chosen() -> None:
    script = leading()
    script.order(drained(NO_ORDERS, "a", by="c", at_s=1))
    assert reason(script, "a") == "drained"
    assert reason(script) == ""
    script.order(drained(script.node.book.orders, "c", by="c", at_s=2))
    assert reason(script) == "nobody-fit"
    assert "a is drained; c is drained" in sentence(script)


def test_a_paused_cluster_moves_nothing() -> None:
    script = leading()
    script.order(paused(NO_ORDERS, by="c", at_s=1, reason="new switches"))
    assert reason(script, "a") == reason(script) == "paused"
    assert "the cluster is paused (new switches)" in sentence(script)


def test_the_gap_is_the_old_leaders_part_and_what_came_after_its_word() -> None:
    theirs = {"lost_ms": 0, "noticed_ms": 0, "elected_ms": 11, "negotiator_ms": 70, "first_cycle_ms": 110}
    assert joined("matchmaker", 8, {"phases": theirs}) == (
        118,
        {"lost_ms": 0, "resigned_ms": 8, "elected_ms": 19, "negotiator_ms": 78, "first_cycle_ms": 118},
    )
    assert joined("address", 0, {"phases": {"noticed_ms": 0, "elected_ms": 9, "announced_ms": 9}})[0] == 9


def test_what_came_before_the_old_leaders_word_counts_on_its_own_clock_alone() -> None:
    """A successor that had doubted the leader before counts from there; its part begins where it heard the word."""
    theirs = {"lost_ms": 0, "noticed_ms": 40, "elected_ms": 50, "announced_ms": 52}
    assert joined("address", 3, {"phases": theirs}) == (
        15,
        {"lost_ms": 0, "resigned_ms": 3, "elected_ms": 13, "announced_ms": 15},
    )


def test_a_gap_that_nobody_has_measured_is_not_invented() -> None:
    assert joined("matchmaker", 8, None) == (None, {"lost_ms": 0, "resigned_ms": 8})
    assert joined("matchmaker", 8, {"phases": {"elected_ms": 11}})[0] is None

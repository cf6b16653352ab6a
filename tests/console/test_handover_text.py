"""What `switchover` and `failover` print: one line, whatever has happened."""

import pytest

from gateway.cli import run_command_line
from gateway.console.handover_text import losses, outcome

ANSWER = {
    "election": "managers",
    "kind": "matchmaker",
    "from": "cm1",
    "to": "cm2",
    "wanted": "cm2",
    "term": 7,
    "gap_ms": 118,
    "phases": {"lost_ms": 0, "resigned_ms": 0, "elected_ms": 12, "negotiator_ms": 70, "first_cycle_ms": 118},
}


def test_the_outcome_is_one_line_with_the_gap_and_where_it_went():
    assert outcome(ANSWER) == (
        "matchmaker managers: cm1 -> cm2 in 118 ms (term 7): resigned 0, elected 12, negotiator up 70, first cycle 118"
    )


def test_another_than_was_wanted_is_said_so():
    assert outcome({**ANSWER, "to": "cm3"}).endswith("first cycle 118; 'cm2' was to follow, and did not")


def test_a_gap_that_is_not_known_is_said_so():
    told = outcome({**ANSWER, "gap_ms": None, "phases": {"lost_ms": 0}})
    assert told == "matchmaker managers: cm1 -> cm2 in a time that is not known (term 7)"


def test_what_may_be_lost_has_a_line_of_its_own():
    assert losses({**ANSWER, "may_be_lost": ["it lacks 3 records of the accounting"]}) == [
        "may be lost: 'cm2' followed while it lacks 3 records of the accounting"
    ]


@pytest.mark.parametrize(
    "argv",
    [
        ["switchover"],
        ["switchover", "address", "--wait", "soon"],
        ["switchover", "address", "--wait", "-1"],
        ["switchover", "address", "--wait", "301"],
        ["failover"],
    ],
)
def test_wrong_usage_is_told_apart_from_a_refusal(argv: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        run_command_line(argv)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_phases_of_one_millisecond_are_told_in_the_order_in_which_they_come():
    phases = {"announced_ms": 4, "elected_ms": 4, "resigned_ms": 0}
    answer = {"kind": "address", "election": "vip", "from": "gw1", "to": "gw2", "term": 2, "gap_ms": 4}
    assert outcome(answer | {"phases": phases}).endswith(": resigned 0, elected 4, announced 4")

"""What condor_userprio says (as HTCondor 23.9.6 and 25.14.1 said it), and what an edit leaves in it."""

import pytest

from gateway.lab.measure import partition_edits, userprio
from gateway.lab.measure.books import edits_of
from gateway.lab.measure.userprio import Customer, Edit, Kind, Prio

SAID = """\
AccountingGroup1 = "<none>"
AccountingGroup2 = "<none>"
AccumulatedUsage1 = 19.0
AccumulatedUsage2 = 18.0
Ceiling2 = 55
IsAccountingGroup1 = true
IsAccountingGroup2 = false
LastUpdate = 1795423777
Name1 = "<none>"
Name2 = "chemist@lab.internal"
NumSubmittors = 2
PriorityFactor1 = 0.0
PriorityFactor2 = 55.0
WeightedAccumulatedUsage1 = 19.0
WeightedAccumulatedUsage2 = 1018.0
"""
SAID_BY_25_14 = """\
AccumulatedUsage = 18.0
Ceiling = 55
IsAccountingGroup = false
LastUpdate = 1795423777
Name = "chemist@lab.internal"
PriorityFactor = 55.0
WeightedAccumulatedUsage = 1018.0

AccumulatedUsage = 19.0
IsAccountingGroup = true
LastUpdate = 1795423777
Name = "<none>"
PriorityFactor = 0.0
WeightedAccumulatedUsage = 19.0
"""
CHEMIST = "chemist@lab.internal"


@pytest.mark.parametrize("text", [SAID, SAID_BY_25_14])
def test_users_are_read_and_groups_left_out(text):
    said = userprio.parse(text)
    assert said == Prio(1795423777, {CHEMIST: Customer(usage_s=18.0, weighted_usage_s=1018.0, factor=55.0, ceiling=55)})


def test_what_is_no_answer_is_none():
    assert userprio.parse("Error: cannot locate negotiator\n") is None


@pytest.mark.parametrize(
    ("edit", "shows"),
    [
        (Edit(Kind.FACTOR, CHEMIST, 55), True),
        (Edit(Kind.FACTOR, CHEMIST, 56), False),
        (Edit(Kind.CEILING, CHEMIST, 55), True),
        (Edit(Kind.CEILING, CHEMIST, -1), False),
        (Edit(Kind.USAGE, CHEMIST, 1000), True),
        (Edit(Kind.USAGE, CHEMIST, 3000), False),
        (Edit(Kind.DELETE, CHEMIST), False),
        (Edit(Kind.DELETE, "gone@lab.internal"), True),
        (Edit(Kind.FACTOR, "gone@lab.internal", 55), False),
    ],
)
def test_an_edit_shows_where_the_record_is_as_it_left_it(edit, shows):
    said = userprio.parse(SAID)
    assert said is not None
    assert edit.shows_in(said) is shows


def test_no_edit_before_a_fault_shows_already():
    edits, last = edits_of(1, Prio(0, {}))
    customers = {edit.user: Customer(factor=edit.value, ceiling=edit.value) for edit in (*edits, last) if edit.value}
    again, last_again = edits_of(1, Prio(0, customers))
    assert not any(edit.shows_in(Prio(0, customers)) for edit in (*again, last_again))


def test_each_side_of_a_cut_edits_adds_and_deletes_and_one_user_is_edited_on_both():
    plan = partition_edits.plan(3)
    for side in plan.sides:
        assert {edit.kind for edit in side} >= {Kind.FACTOR, Kind.CEILING, Kind.DELETE}
    assert not {edit.user for edit in plan.sides[0]} & {edit.user for edit in plan.sides[1]}
    ours, theirs = plan.conflict
    assert (ours.user, ours.kind) == (theirs.user, theirs.kind)
    assert ours.value != theirs.value


def test_edits_that_do_not_show_are_named():
    said = userprio.parse(SAID)
    assert said is not None
    lost = partition_edits.lost((Edit(Kind.FACTOR, CHEMIST, 55), Edit(Kind.CEILING, CHEMIST, 9)), said)
    assert lost == (f"-setceil {CHEMIST} 9",)

"""A merge that goes on after one side has written more is, to the last byte, the merge made anew."""

import copy
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.reconcile import NotContinued, Pool, Reconciliation, Side, reconcile
from gateway.wire.accountant import State
from tests.core.negotiating import MICRO, START_S, Negotiator, new_state
from tests.core.test_reconcile_laws import KEYS, idle_world, one_edit, some_claims, some_world

seeds = st.integers(0, 2**63)


def changes_of(before: State, now: State) -> dict[str, dict[str, str] | None]:
    return {key: now.get(key) for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)}


def gone_on(draw: random.Random, state: State, acts: int) -> State:
    one = Negotiator(state, groups=("phys", "phys.hep"))
    for _ in range(acts):
        if draw.random() < 0.3:
            one.cycle(one.last_s + draw.choice((0, 1, 60, 4000)), some_claims(draw))
        elif draw.random() < 0.4 and KEYS[0] in one.state:
            one.remove_match(one.last_s + draw.randrange(60), KEYS[0])
        else:
            one_edit(draw, one)
    return one.state


def lowered(state: State) -> State:
    return {key: {name.lower(): value for name, value in ad.items()} for key, ad in state.items()}


def of_one_case(side: Side) -> Side:
    return msgspec.structs.replace(side, state=lowered(side.state))


def check_that_going_on_is_merging_anew(seed: int, base: Side, sides: list[Side], steps: int = 2) -> int:
    draw = random.Random(seed)
    # Which of several spellings wins depends on all records; that is not what this is about.
    base, sides = of_one_case(base), [of_one_case(side) for side in sides]
    number = draw.randrange(len(sides))
    course, followed = Reconciliation(base, sides), 0
    for _ in range(steps):
        before = sides[number]
        state = lowered(gone_on(draw, spelled_as_written(before.state), draw.randrange(4)))
        sides[number] = msgspec.structs.replace(before, state=state)
        shown = copy.deepcopy(course.merged.state)
        fresh = course.follow(before.name, changes_of(before.state, state))
        anew = reconcile(base, sides)
        if fresh is None:
            course = Reconciliation(base, sides)
            continue
        followed += 1
        assert lowered(course.merged.state) == lowered(anew.state)
        assert course.merged.report == anew.report
        assert (course.merged.sequence, course.merged.birthdate_s) == (anew.sequence, anew.birthdate_s)
        assert {key for key in shown.keys() | anew.state.keys() if shown.get(key) != anew.state.get(key)} <= fresh
        assert course.side(before.name).state.keys() == state.keys()
    return followed


NAMES = {name.lower(): name for name in new_state()["Accountant."]} | {
    name.lower(): name
    for name in (
        "Priority", "PriorityFactor", "Ceiling", "Floor", "ResourcesUsed", "WeightedResourcesUsed",
        "HierWeightedResourcesUsed", "UnchargedTime", "WeightedUnchargedTime", "AccumulatedUsage",
        "WeightedAccumulatedUsage", "BeginUsageTime", "LastUsageTime", "RemoteUser", "SlotWeight", "StartTime",
    )
}  # fmt: skip


def spelled_as_written(state: State) -> State:
    return {key: {NAMES.get(name, name): value for name, value in ad.items()} for key, ad in state.items()}


@settings(max_examples=600, deadline=None)
@given(seeds)
def test_a_merge_that_goes_on_is_the_merge_made_anew(seed):
    check_that_going_on_is_merging_anew(seed, *some_world(seed, 2 + seed % 2))


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_a_merge_of_records_that_only_age_goes_on_alike(seed):
    check_that_going_on_is_merging_anew(seed, *idle_world(seed))


def test_most_merges_of_these_tests_can_go_on():
    """A law that holds because nothing ever happens says nothing."""
    assert sum(check_that_going_on_is_merging_anew(seed, *some_world(seed), steps=1) for seed in range(100)) > 60


def large(customers: int) -> tuple[Side, list[Side]]:
    """Records at rest, two customers with matches on each side."""
    one = Negotiator(new_state())
    for number in range(customers):
        one.customer(f"u{number}@lab").update(Priority="0.500000", AccumulatedUsage="5.000000")
    one.update(START_S + 60)
    sides = []
    for place, name in enumerate("xy"):
        side = Negotiator(one.state)
        side.cycle(START_S + 120, {KEYS[place]: (f"u{place}@lab", MICRO)})
        side.cycle(START_S + 180, {KEYS[place]: (f"u{place}@lab", MICRO)})
        sides.append(Side(name=name, state=side.state, term=place))
    return Side(name="base", state=one.state), sides


def test_records_at_rest_are_not_merged_again_when_a_cycle_has_passed():
    base, sides = large(500)
    course = Reconciliation(base, sides)
    one = Negotiator(sides[1].state)
    one.cycle(START_S + 240, {KEYS[1]: ("u1@lab", MICRO)})
    fresh = course.follow("y", changes_of(sides[1].state, one.state))
    assert fresh is not None
    # u2 to u499 have not changed: their own records say the same as before.
    assert {key for key in fresh if key.startswith("Customer.")} <= {
        "Customer.u0@lab",
        "Customer.u1@lab",
        "Customer.<none>",
    }


@pytest.mark.parametrize("name", ["x", "y"])
def test_a_side_that_comes_to_equal_the_base_or_another_is_merged_anew(name):
    base, sides = large(3)
    course = Reconciliation(base, sides)
    before = next(side.state for side in sides if side.name == name)
    assert course.follow(name, changes_of(before, base.state)) is None
    other = next(side.state for side in sides if side.name != name)
    assert course.follow(name, changes_of(before, other)) is None


def test_a_side_that_overtakes_the_survivor_is_merged_anew():
    base, sides = large(3)
    sides = [msgspec.structs.replace(side, term=1) for side in sides]
    course = Reconciliation(base, sides)
    loser = next(side for side in sides if side.name != course.merged.report.survivor)
    later = Negotiator(loser.state)
    later.update(START_S + 600)
    assert course.follow(loser.name, changes_of(loser.state, later.state)) is None


def test_of_a_merge_that_had_nothing_to_merge_nothing_is_kept():
    base, sides = large(3)
    course = Reconciliation(base, [sides[0], Side(name="idle", state=base.state)])
    assert course.merged.report.fast_forward
    assert course.follow("x", {"Customer.new@lab": {"Ceiling": "1"}}) is None


def test_a_side_that_is_no_continuation_any_more_is_refused():
    base, sides = large(3)
    course = Reconciliation(base, sides)
    with pytest.raises(NotContinued, match="has no record of its last update"):
        course.follow("y", {"Accountant.": None})
    assert course.merged.report.survivor == "y"


def test_a_name_spelled_another_way_is_the_same_name():
    base, sides = large(3)
    course = Reconciliation(base, sides)
    ad = {name.upper(): value for name, value in sides[1].state["Customer.u2@lab"].items()} | {"CEILING": "7"}
    assert course.follow("y", {"Customer.u2@lab": ad}) is not None
    assert course.merged.state["Customer.u2@lab"]["Ceiling"] == "7"
    assert "CEILING" not in course.merged.state["Customer.u2@lab"]


def test_the_pool_that_a_merge_began_with_is_the_one_that_it_goes_on_with():
    base, sides = large(3)
    pool = Pool(half_life_s=1e3)
    course = Reconciliation(base, sides, pool)
    one = Negotiator(sides[1].state)
    one.update(START_S + 900)
    course.follow("y", changes_of(sides[1].state, one.state))
    anew = reconcile(base, [sides[0], msgspec.structs.replace(sides[1], state=one.state)], pool)
    assert course.merged == anew


# -- what depends on what ----------------------------------------------------------------------------------------------


def check_changes(base: Side, sides: list[Side], changes: dict[str, dict[str, str] | None], pool: Pool) -> None:
    """Let the last side go on by records alone, whether a negotiator would write just these or not."""
    course = Reconciliation(base, sides, pool)
    last = sides[-1]
    assert course.follow(last.name, changes) is not None
    state = {key: ad for key, ad in (last.state | changes).items() if ad is not None}
    anew = reconcile(base, [*sides[:-1], msgspec.structs.replace(last, state=state)], pool)
    assert course.merged == anew


def aging(priority: str) -> tuple[Side, list[Side]]:
    """One customer who does nothing, on two sides that do nothing else either."""
    one = Negotiator(new_state())
    one.customer("idle@lab").update(Priority=priority)
    later = [Negotiator(one.state), Negotiator(one.state)]
    for place, side in enumerate(later):
        side.state["Accountant."]["LastUpdateTime"] = str(START_S + 10 + place)
        side.customer("other@lab")["Floor"] = str(place)
    return Side(name="base", state=one.state), [
        Side(name=name, state=side.state, term=place)
        for place, (name, side) in enumerate(zip("xy", later, strict=True))
    ]


def test_a_priority_that_time_has_brought_to_the_lowest_is_not_at_rest():
    """The side ends later than its file says; a later update leaves less time to age."""
    base, (x, y) = aging("0.500000")
    y.state["Customer.idle@lab"]["Priority"] = "0.600000"
    sides = [x, msgspec.structs.replace(y, ended_s=START_S + 1000)]
    check_changes(base, sides, {"Accountant.": {"LastUpdateTime": str(START_S + 990)}}, Pool(half_life_s=300.0))


def test_a_later_update_changes_how_long_each_priority_has_aged():
    base, (x, y) = aging("9.000000")
    sides = [x, msgspec.structs.replace(y, ended_s=START_S + 1000)]
    check_changes(base, sides, {"Accountant.": {"LastUpdateTime": str(START_S + 990)}}, Pool(half_life_s=300.0))


@pytest.mark.parametrize("survives", [True, False])
def test_a_match_that_is_gone_counts_for_its_user_though_the_users_record_is_the_same(survives):
    base, (x, y) = large(3)
    x = msgspec.structs.replace(x, term=0 if survives else 9)
    check_changes(base, [x, y], {KEYS[1]: None}, Pool())


def test_a_group_that_comes_to_be_is_charged_for_its_users():
    base, (x, y) = large(3)
    for side in (x, y):  # both charge it: what they charged twice is taken off the group as well
        side.state[KEYS[2]] = {"RemoteUser": '"phys.u2@lab"', "SlotWeight": "1.0", "StartTime": str(START_S + 100)}
        side.state["Customer.phys.u2@lab"] = {"Priority": "0.6", "WeightedAccumulatedUsage": "90.000000"}
    group = {"Priority": "0.6", "WeightedAccumulatedUsage": "90.000000", "AccumulatedUsage": "90.000000"}
    check_changes(base, [x, y], {"Customer.phys": group}, Pool())
    y.state["Customer.phys"] = group
    check_changes(base, [x, y], {"Customer.phys": None}, Pool())


@pytest.mark.parametrize("now", [None, {"A": "2"}, {}])
@pytest.mark.parametrize("elsewhere", [None, {"A": "1"}, {"A": "3", "B": "1"}])
def test_a_record_of_an_unknown_table_goes_and_comes(now, elsewhere):
    base, (x, y) = large(3)
    for before in (None, {"A": "1"}):
        for side, ad in ((y, before), (x, elsewhere)):
            side.state.pop("Future.x", None)
            side.state.update({} if ad is None else {"Future.x": ad})
        check_changes(base, [x, y], {"Future.x": now}, Pool())


def test_a_customer_only_of_this_side_goes_and_leaves_nothing():
    base, (x, y) = large(3)
    y.state["Customer.new@lab"] = {"Priority": "3.000000", "AccumulatedUsage": "7.000000"}
    check_changes(base, [x, y], {"Customer.new@lab": None}, Pool())

"""Reconciling: one promise a rule, computed by hand. Sixty-second cycles; amounts in slot-seconds."""

import copy

import pytest

from gateway.core.reconcile import Fate, Merged, NotContinued, Pool, Side, reconcile
from gateway.core.reconcile.amounts import MICRO, as_float, to_int, to_micro
from gateway.wire.accountant import State, read_untrusted
from gateway.wire.compacted import compact
from tests.core.negotiating import START_S, Negotiator, new_state, plain_used, priority, slot_key, used

ALICE, BOB, CAROL = "alice@lab", "bob@lab", "carol@lab"
HOUR_S = 3600


def side(name: str, of: State | Negotiator, term: int = 0, **known: object) -> Side:
    state = of.state if isinstance(of, Negotiator) else of
    return Side(name=name, state=state, term=term, sequence=3, birthdate_s=1_700_000_000, **known)  # type: ignore[arg-type]


def merge(base: State, x: State | Negotiator, y: State | Negotiator, **pool: object) -> Merged:
    """Merge with y the survivor, in both orders."""
    sides = [side("x", x, 1), side("y", y, 2)]
    merged = reconcile(side("base", base), sides, Pool(**pool))  # type: ignore[arg-type]
    again = reconcile(side("base", base), sides[::-1], Pool(**pool))  # type: ignore[arg-type]
    assert merged == again
    assert list(merged.state) == list(again.state)
    return merged


def record(usage: int = 1000, prio: str = "5.000000", **more: str) -> dict[str, str]:
    given = {"Priority": prio, "AccumulatedUsage": f"{usage}.000000", "WeightedAccumulatedUsage": f"{usage}.000000"}
    return {**given, "BeginUsageTime": str(START_S - 9000), "LastUsageTime": str(START_S), **more}


def state_of(last_s: int = START_S, **customers: dict[str, str]) -> State:
    """Customers named by their first name."""
    state = new_state(last_s)
    return state | {f"Customer.{name}@lab": copy.deepcopy(ad) for name, ad in customers.items()}


def later(state: State, seconds: int, **customers: dict[str, str]) -> State:
    """The state after an idle time, with what is given changed."""
    went = Negotiator(state)
    went.update(went.last_s + seconds)
    for name, changed in customers.items():
        went.customer(f"{name}@lab").update(changed)
    return went.state


def edits_of(merged: Merged) -> list[tuple[str, str, str | None, bool]]:
    return [
        (edit.key.removeprefix("Customer."), edit.attribute, edit.kept, edit.conflict) for edit in merged.report.edits
    ]


def balanced(merged: Merged) -> bool:
    lines = merged.report.customers
    tallies = [tally for line in lines for tally in (line.usage, line.weighted)]
    return not any(tally.balance for tally in (*tallies, merged.report.usage, merged.report.weighted))


# -- rule 1: what may be merged ---------------------------------------------------------------------------------------


def test_a_file_of_another_birth_is_refused():
    stranger = Side(name="y", state=state_of(), birthdate_s=5)
    with pytest.raises(NotContinued, match="another file"):
        reconcile(side("base", state_of()), [side("x", state_of()), stranger])


def test_a_side_older_than_the_base_is_refused():
    with pytest.raises(NotContinued, match="'x' is older than 'base': last charged"):
        reconcile(side("base", state_of(START_S + 2 * HOUR_S)), [side("x", state_of())])
    fewer = Side(name="x", state=state_of(), sequence=2)
    with pytest.raises(NotContinued, match="compacted 2 times, not 3"):
        reconcile(side("base", state_of()), [fewer])


def test_a_side_that_was_wiped_is_refused_and_deletes_nobody():
    with pytest.raises(NotContinued, match="no record of its last update"):
        reconcile(side("base", state_of(alice=record())), [side("x", {})])


def test_sides_of_one_name_and_no_side_at_all_are_refused():
    with pytest.raises(ValueError, match="different names"):
        reconcile(side("base", state_of()), [side("x", state_of()), side("x", state_of())])
    with pytest.raises(ValueError, match="1 to 16 sides"):
        reconcile(side("base", state_of()), [])


# -- rule 2: order, and what is no merge ------------------------------------------------------------------------------


def test_nothing_new_on_either_side_is_the_base():
    base = state_of(alice=record())
    assert merge(base, copy.deepcopy(base), copy.deepcopy(base)).state == base


def test_one_side_that_went_on_is_taken_as_it_is():
    base = state_of(alice=record())
    went = later(base, 600, alice={"PriorityFactor": "7.000000"})
    merged = merge(base, base, went)
    assert merged.state == went
    assert merged.report.fast_forward


def test_equal_histories_are_one_history_and_not_counted_twice():
    base = state_of(alice=record())
    went = Negotiator(base)
    went.cycle(START_S + 60, {slot_key(1): (ALICE, MICRO)})
    went.cycle(START_S + 120, {slot_key(1): (ALICE, MICRO)})
    merged = merge(base, went, copy.deepcopy(went.state))
    assert merged.state == went.state
    assert [side.same_as for side in merged.report.sides] == ["", "y"]


def test_of_equal_terms_the_later_update_survives():
    base = state_of(alice=record())
    sides = [side("x", later(base, 600)), side("y", later(base, 540, alice={"PriorityFactor": "2.0"}))]
    assert reconcile(side("base", base), sides).report.survivor == "x"


def test_the_highest_term_survives_an_older_update():
    base = state_of(alice=record())
    sides = [side("x", later(base, 600), 1), side("y", later(base, 540), 2)]
    assert reconcile(side("base", base), sides).report.survivor == "y"


def test_of_equal_terms_and_times_the_content_decides_and_not_the_caller():
    base = state_of(alice=record())
    one, other = (later(base, 60, alice={"PriorityFactor": value}) for value in ("2.000000", "3.000000"))
    merged = [
        reconcile(side("base", base), [side("x", left), side("y", right)])
        for left, right in ((one, other), (other, one))
    ]
    assert merged[0].state == merged[1].state
    assert merged[0].report.survivor != merged[1].report.survivor  # the same history under the other name


# -- rule 3: settling -------------------------------------------------------------------------------------------------


def test_what_was_put_aside_as_uncharged_is_charged():
    base = state_of(alice=record())
    x = Negotiator(base)
    x.cycle(START_S + 60, {slot_key(1): (ALICE, MICRO)})
    x.update(START_S + 120)
    x.remove_match(START_S + 150, slot_key(1))  # 60 s charged, 30 s put aside
    merged = merge(base, x, later(base, 120, bob={}))
    assert (used(merged.state, ALICE), plain_used(merged.state, ALICE)) == (1090, 1090)


def test_a_match_since_the_last_update_is_not_charged_for_the_time_before_it():
    base = state_of(alice=record())
    x = Negotiator(base)
    x.update(START_S + 60)
    x.add_match(START_S + 100, slot_key(1), ALICE)  # 40 s are taken off what the next cycle charges
    y = Negotiator(later(base, 60, bob={}))
    assert used(merge(base, x, y).state, ALICE) == 1000
    y.update(START_S + 160)  # the survivor's claims are other ones, and x is not known to have gone on
    assert used(merge(base, x, y).state, ALICE) == 1000


def test_the_matches_of_the_survivor_go_on_until_the_merge():
    base = state_of(alice=record())
    y = Negotiator(base)
    y.cycle(START_S + 60, {slot_key(1): (ALICE, 2 * MICRO)})
    merged = merge(base, later(base, 100, bob={}), y)
    assert used(merged.state, ALICE) == 1000 + 2 * 40
    assert plain_used(merged.state, ALICE) == 1040
    assert merged.state["Accountant."]["LastUpdateTime"] == str(START_S + 100)


def test_a_clock_that_is_hours_ahead_charges_nobody_for_them():
    base = state_of(alice=record())
    y = Negotiator(base)
    y.cycle(START_S + 60, {slot_key(1): (ALICE, MICRO)})
    merged = merge(base, later(base, 10 * HOUR_S, bob={}), y)
    assert used(merged.state, ALICE) == 1000
    assert any("too long ago" in note for note in merged.report.notes)


def test_a_side_is_charged_until_its_negotiator_is_known_to_have_ended():
    base = state_of(alice=record())
    x = Negotiator(base)
    x.cycle(START_S + 60, {slot_key(1): (ALICE, MICRO)})
    y = later(base, 100, bob={})
    merged = reconcile(side("base", base), [side("x", x, 1, ended_s=START_S + 90), side("y", y, 2)])
    assert used(merged.state, ALICE) == 1030


def test_the_next_negotiator_charges_from_the_merge_on():
    base = state_of(alice=record())
    y = Negotiator(base)
    y.cycle(START_S + 60, {slot_key(1): (ALICE, MICRO)})
    went_on = Negotiator(merge(base, later(base, 100, bob={}), y).state)
    went_on.update(START_S + 160)
    assert used(went_on.state, ALICE) == 1100


# -- rule 4: accumulators ---------------------------------------------------------------------------------------------


def test_what_both_sides_charged_is_added():
    base = state_of(alice=record())
    x, y = Negotiator(base), Negotiator(base)
    for cycle in range(1, 6):
        x.cycle(START_S + 60 * cycle, {slot_key(1, "left"): (ALICE, MICRO)})
        y.cycle(START_S + 60 * cycle, {slot_key(1, "right"): (ALICE, 3 * MICRO)})
    merged = merge(base, x, y)
    assert used(merged.state, ALICE) == 1000 + 240 + 3 * 240
    assert plain_used(merged.state, ALICE) == 1000 + 240 + 240
    (line,) = [line for line in merged.report.customers if line.customer == ALICE]
    assert line.weighted.charged == {"x": 240 * MICRO, "y": 720 * MICRO}
    assert balanced(merged)


def test_a_millionth_is_not_lost_in_a_large_sum():
    base = state_of(alice={"WeightedAccumulatedUsage": "9007199254740993.000001"})
    x = later(base, 60, alice={"WeightedAccumulatedUsage": "9007199254740993.000002"})
    y = later(base, 60, alice={"WeightedAccumulatedUsage": "9007199254740993.000003"})
    assert merge(base, x, y).state[f"Customer.{ALICE}"]["WeightedAccumulatedUsage"] == "9007199254740993.000004"


def test_a_reset_on_one_side_keeps_what_the_other_charged():
    base = state_of(alice=record())
    x = later(base, 60, alice={"WeightedAccumulatedUsage": "1200.000000", "AccumulatedUsage": "1200.000000"})
    y = Negotiator(later(base, 60))
    y.reset(ALICE, START_S + 60)
    y.customer(ALICE)["WeightedAccumulatedUsage"] = y.customer(ALICE)["AccumulatedUsage"] = "30.000000"
    merged = merge(base, x, y)
    assert (used(merged.state, ALICE), plain_used(merged.state, ALICE)) == (230, 230)
    assert merged.state[f"Customer.{ALICE}"]["BeginUsageTime"] == str(START_S + 60)
    (line,) = merged.report.customers
    assert (line.weighted.base, line.weighted.forgotten, line.weighted.merged) == (
        1000 * MICRO,
        1000 * MICRO,
        230 * MICRO,
    )
    assert balanced(merged)


def test_a_reset_is_noticed_also_where_more_was_used_since_than_ever_before():
    base = state_of(alice=record(10))
    x = later(base, 60)
    y = Negotiator(later(base, 60))
    y.reset(ALICE, START_S + 60)
    y.customer(ALICE)["WeightedAccumulatedUsage"] = y.customer(ALICE)["AccumulatedUsage"] = "500.000000"
    merged = merge(base, later(x, 0, bob={}), y)
    (line,) = [line for line in merged.report.customers if line.customer == ALICE]
    assert line.weighted.forgotten == 10 * MICRO
    assert used(merged.state, ALICE) == 500


def test_resets_on_both_sides_add_what_was_used_since_either():
    base = state_of(alice=record())
    x, y = Negotiator(later(base, 60)), Negotiator(later(base, 60))
    x.reset(ALICE, START_S + 60)
    x.customer(ALICE)["WeightedAccumulatedUsage"] = "20.000000"
    y.reset(ALICE, START_S + 50)
    y.customer(ALICE)["WeightedAccumulatedUsage"] = "30.000000"
    merged = merge(base, x, y)
    assert used(merged.state, ALICE) == 50
    assert merged.state[f"Customer.{ALICE}"]["BeginUsageTime"] == str(START_S + 50)
    assert balanced(merged)


def test_two_settings_of_an_accumulator_are_a_conflict():
    base = state_of(alice=record(90_000))
    x = later(base, 60, alice={"WeightedAccumulatedUsage": "100.000000"})
    y = later(base, 60, alice={"WeightedAccumulatedUsage": "200.000000"})
    merged = merge(base, x, y)
    assert used(merged.state, ALICE) == 200
    assert edits_of(merged) == [(ALICE, "WeightedAccumulatedUsage", "200.000000", True)]
    assert balanced(merged)


def test_one_setting_of_an_accumulator_keeps_what_the_other_side_charged():
    base = state_of(alice=record(90_000))
    x = later(base, 60, alice={"WeightedAccumulatedUsage": "100.000000"})
    y = later(base, 60, alice={"WeightedAccumulatedUsage": "90050.000000"})
    assert used(merge(base, x, y).state, ALICE) == 150


def test_times_of_use_are_the_first_and_the_last():
    base = state_of(alice=record(BeginUsageTime="0"))
    x = later(base, 60, alice={"BeginUsageTime": "1800000020", "LastUsageTime": "1800000060"})
    y = later(base, 60, alice={"BeginUsageTime": "1800000030", "LastUsageTime": "1800000040"})
    ad = merge(base, x, y).state[f"Customer.{ALICE}"]
    assert (ad["BeginUsageTime"], ad["LastUsageTime"]) == ("1800000020", "1800000060")


def test_a_begin_or_last_time_that_one_side_set_is_kept():
    base = state_of(alice=record())
    x = later(base, 60, alice={"BeginUsageTime": "17", "LastUsageTime": "18"})
    ad = merge(base, x, later(base, 60, bob={})).state[f"Customer.{ALICE}"]
    assert (ad["BeginUsageTime"], ad["LastUsageTime"]) == ("17", "18")


# -- rule 5: settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "value"), [("PriorityFactor", "7.000000"), ("Ceiling", "4"), ("Floor", "2")])
@pytest.mark.parametrize("on_survivor", [True, False])
def test_an_edit_of_one_side_is_kept_and_told(setting, value, on_survivor):
    base = state_of(alice=record(PriorityFactor="1000.000000"))
    edited, other = later(base, 60, alice={setting: value}), later(base, 60, bob={})
    merged = merge(base, other, edited) if on_survivor else merge(base, edited, other)
    assert merged.state[f"Customer.{ALICE}"][setting] == value
    assert edits_of(merged) == [(ALICE, setting, value, False)]


def test_the_same_edit_on_both_sides_is_no_conflict_however_it_is_written():
    base = state_of(alice=record(PriorityFactor="1000.0"))
    x, y = (later(base, 60, alice={"PriorityFactor": text}) for text in ("7.0", "7.000000"))
    merged = merge(base, x, later(y, 0, bob={}))
    assert edits_of(merged) == [(ALICE, "PriorityFactor", "7.000000", False)]


def test_different_edits_are_a_conflict_which_the_higher_term_wins():
    base = state_of(alice=record(Ceiling="1"))
    x, y = (later(base, 60, alice={"Ceiling": text}) for text in ("2", "3"))
    merged = merge(base, x, y)
    assert merged.state[f"Customer.{ALICE}"]["Ceiling"] == "3"
    (edit,) = merged.report.conflicts
    assert (edit.values, edit.kept_from, edit.base) == ({"x": "2", "y": "3"}, "y", "1")


def test_a_default_that_was_written_when_it_was_read_is_no_edit():
    base = state_of(alice=record())
    x = later(base, 60, alice={"PriorityFactor": "5.000000"})
    y = later(base, 60, alice={"PriorityFactor": "1000.000000", "Ceiling": "-1", "Floor": "0"})
    merged = merge(base, x, y)
    assert merged.state[f"Customer.{ALICE}"]["PriorityFactor"] == "5.000000"
    assert edits_of(merged) == [(ALICE, "PriorityFactor", "5.000000", False)]


@pytest.mark.parametrize(
    ("customer", "default"),
    [
        ("nice-user.alice@lab", "10000000000.000000"),
        ("alice@far", "10000000.000000"),
        ("physics.alice@lab", "50.000000"),
        ("physics", "50.000000"),
        ("alice@lab", "200.000000"),
    ],
)
def test_each_kind_of_customer_has_its_own_default(customer, default):
    base = new_state() | {f"Customer.{customer}": record()}
    pool = {"factor_default": 200.0, "local_domain": "lab", "factor_groups": {"physics": 50.0}}
    x, y = Negotiator(later(base, 60)), Negotiator(later(base, 60))
    x.customer(customer)["PriorityFactor"] = default
    y.customer(customer)["PriorityFactor"] = "3.000000"
    assert edits_of(merge(base, y, x, **pool)) == [(customer, "PriorityFactor", "3.000000", False)]


def leased(value: str, until_s: int, then: str) -> dict[str, str]:
    return {"Ceiling": value, "CeilingLeaseExpiration": str(until_s), "CeilingPreLeaseValue": then}


def test_a_lease_is_one_thing_with_its_value_and_its_end():
    base = state_of(alice=record(Ceiling="9"))
    until_s = START_S + HOUR_S
    x = later(base, 60, alice=leased("2", until_s, "9"))
    ad = merge(base, x, later(base, 60, bob={})).state[f"Customer.{ALICE}"]
    assert leased("2", until_s, "9").items() <= ad.items()


def test_leases_of_both_sides_are_a_conflict_and_are_not_mixed():
    base = state_of(alice=record(Ceiling="9"))
    mine, theirs = leased("2", START_S + HOUR_S, "9"), leased("3", START_S + 2 * HOUR_S, "9")
    merged = merge(base, later(base, 60, alice=mine), later(base, 60, alice=theirs))
    assert theirs.items() <= merged.state[f"Customer.{ALICE}"].items()
    (edit,) = merged.report.conflicts
    assert edit.values["x"] == f"2 until {START_S + HOUR_S}, then 9"


def test_a_lease_that_has_run_out_is_undone_before_it_is_compared():
    base = state_of(alice=record(**leased("2", START_S + 30, "9")))
    undone = {"Ceiling": "9", "CeilingLeaseExpiration": "0"}
    x = later(base, 60, alice=undone)  # its negotiator has noticed
    y = later(base, 20, bob={})  # this one not yet
    merged = merge(base, x, y)
    assert undone.items() <= merged.state[f"Customer.{ALICE}"].items()
    assert edits_of(merged) == []


def test_a_lease_that_began_and_ended_between_leaves_the_other_sides_edit():
    base = state_of(alice=record(Ceiling="9"))
    x = later(base, 60, alice={"Ceiling": "5"})
    y = later(base, 60, alice=leased("2", START_S + 40, "9"))
    merged = merge(base, x, y)
    assert merged.state[f"Customer.{ALICE}"]["Ceiling"] == "5"
    assert merged.report.conflicts == []


def test_a_lease_without_a_value_to_come_back_ends_in_the_default():
    base = state_of(alice=record(Ceiling="2", CeilingLeaseExpiration=str(START_S + 30)))
    ad = merge(base, later(base, 60, bob={}), later(base, 60, carol={})).state[f"Customer.{ALICE}"]
    assert ad.get("Ceiling", "-1") == "-1"
    assert ad["CeilingLeaseExpiration"] == "0"


def test_an_unknown_attribute_follows_who_changed_it():
    base = state_of(alice=record(Shoe='"41"', Hat="1"))
    x = later(base, 60, alice={"Shoe": '"42"', "Coat": "2"})
    y = later(base, 60, alice={"Hat": "3"})
    ad = merge(base, x, y).state[f"Customer.{ALICE}"]
    assert (ad["Shoe"], ad["Coat"], ad["Hat"]) == ('"42"', "2", "3")


def test_an_unknown_attribute_changed_by_both_is_a_conflict_and_a_removed_one_is_gone():
    base = state_of(alice=record(Shoe='"41"', Hat="1"))
    x = later(base, 60, alice={"Shoe": '"42"'})
    del x[f"Customer.{ALICE}"]["Hat"]
    y = later(base, 60, alice={"Shoe": '"43"'})
    merged = merge(base, x, y)
    assert merged.state[f"Customer.{ALICE}"]["Shoe"] == '"43"'
    assert "Hat" not in merged.state[f"Customer.{ALICE}"]
    assert edits_of(merged) == [(ALICE, "Hat", None, False), (ALICE, "Shoe", '"43"', True)]


def test_attribute_names_have_no_case_and_keys_have():
    base = state_of(alice=record(), Alice=record())
    x = later(base, 60, bob={})
    ad = x[f"Customer.{ALICE}"]
    ad["PRIORITYFACTOR"], ad["weightedaccumulatedusage"] = "7.0", ad.pop("WeightedAccumulatedUsage")
    merged = merge(base, x, later(base, 60))
    assert merged.state[f"Customer.{ALICE}"]["PriorityFactor"] == "7.0"
    assert used(merged.state, ALICE) == 1000
    assert "PriorityFactor" not in merged.state["Customer.Alice@lab"]


def test_what_a_compaction_adds_is_no_edit():
    base = state_of(alice=record())
    x = later(base, 60, alice={"MyType": '"*"', "SubmitterLimit": "3.0", "SubmitterShare": "0.5"})
    merged = merge(base, x, later(base, 60, bob={}))
    assert edits_of(merged) == []
    assert "SubmitterLimit" not in merged.state[f"Customer.{ALICE}"]


def test_a_record_of_an_unknown_table_is_merged_by_who_changed_it():
    base = state_of() | {"Future.a": {"A": "1"}, "Future.b": {"B": "1"}, "Future.c": {"C": "1"}}
    x, y = later(base, 60), later(base, 60, bob={})
    x["Future.a"]["A"] = "2"
    del y["Future.b"]
    x["Future.new"] = {"N": "1"}
    del y["Future.c"]
    x["Future.c"]["C"] = "5"  # deleted there, changed here: the change stays
    merged = merge(base, x, y)
    assert {key: ad for key, ad in merged.state.items() if key.startswith("Future")} == {
        "Future.a": {"A": "2"},
        "Future.c": {"C": "5"},
        "Future.new": {"N": "1"},
    }


# -- rule 6: deletion -------------------------------------------------------------------------------------------------


def without(state: State, name: str) -> State:
    return {key: ad for key, ad in state.items() if key != f"Customer.{name}"}


@pytest.mark.parametrize("on_survivor", [True, False])
def test_a_customer_that_one_side_deleted_and_the_other_only_aged_is_deleted(on_survivor):
    base = state_of(alice=record(), bob=record())
    gone, kept = without(later(base, 60), ALICE), later(base, 120)
    merged = merge(base, kept, gone) if on_survivor else merge(base, gone, kept)
    assert f"Customer.{ALICE}" not in merged.state
    assert edits_of(merged) == [(ALICE, "", None, False)]
    assert merged.report.weighted.forgotten == 1000 * MICRO
    assert balanced(merged)


def test_a_deleted_customer_that_went_on_comes_again_with_that_alone():
    base = state_of(alice=record(1000, "20.000000", PriorityFactor="7.000000"))
    x = Negotiator(base)
    for cycle in range(1, 102):
        x.cycle(START_S + 60 * cycle, {slot_key(1): (ALICE, 100 * MICRO)})
    y = without(later(base, 60 * 101, bob={}), ALICE)
    merged = merge(base, x, y)
    ad = merged.state[f"Customer.{ALICE}"]
    assert used(merged.state, ALICE) == 100 * 6000
    gained = priority(x.state, ALICE) - 20 * 0.5 ** (6060 / 86400)
    assert float(ad["Priority"]) == pytest.approx(0.5 + gained, abs=1e-4)
    assert ad["BeginUsageTime"] == str(START_S)
    assert "PriorityFactor" not in ad  # the next negotiator gives it the default
    (line,) = [line for line in merged.report.customers if line.customer == ALICE]
    assert line.fate is Fate.RECREATED
    assert (ALICE, "", "kept: used elsewhere", True) in edits_of(merged)
    assert balanced(merged)


def test_an_edit_that_outranks_a_deletion_keeps_the_record_and_one_that_does_not_is_told():
    base = state_of(alice=record())
    gone, edited = without(later(base, 60, bob={}), ALICE), later(base, 60, alice={"Ceiling": "3"})
    kept = merge(base, gone, edited)
    assert used(kept.state, ALICE) == 1000
    assert (ALICE, "", "kept: edited elsewhere", True) in edits_of(kept)
    lost = merge(base, edited, gone)
    assert f"Customer.{ALICE}" not in lost.state
    assert edits_of(lost) == [(ALICE, "", None, True), (ALICE, "Ceiling", None, True)]


def test_a_customer_that_all_deleted_is_gone():
    base = state_of(alice=record())
    merged = merge(base, without(later(base, 60, bob={}), ALICE), without(later(base, 60, carol={}), ALICE))
    assert f"Customer.{ALICE}" not in merged.state


def test_a_customer_that_both_sides_added_has_the_sum():
    base = state_of()
    x, y = later(base, 60, alice=record(30, "0.600000")), later(base, 60, alice=record(40, "0.700000"))
    merged = merge(base, x, y)
    assert used(merged.state, ALICE) == 70
    assert priority(merged.state, ALICE) == pytest.approx(0.8, abs=1e-5)
    assert merged.report.customers[0].fate is Fate.ADDED


# -- rule 11: priorities ----------------------------------------------------------------------------------------------


def test_a_priority_that_nobody_used_only_decays():
    base = state_of(alice=record(prio="8.000000"))
    merged = merge(base, later(base, 43_200, bob={}), later(base, 86_400, carol={}))
    assert priority(merged.state, ALICE) == pytest.approx(4, abs=1e-4)


def test_what_usage_made_of_a_priority_decays_until_the_merge():
    base = state_of(alice=record(prio="0.500000"))
    x = Negotiator(base)
    for cycle in range(1, 102):
        x.cycle(START_S + 60 * cycle, {slot_key(1): (ALICE, 1000 * MICRO)})
    gained = priority(x.state, ALICE) - 0.5
    merged = merge(base, x, later(base, 60 * 101 + 86_400, bob={}))
    assert gained > 40
    assert priority(merged.state, ALICE) == pytest.approx(0.5 + gained / 2, abs=1e-4)


def test_a_priority_that_was_set_stands_and_the_usage_of_the_other_side_is_added():
    base = state_of(alice=record(prio="100.000000"))
    x = later(base, 60, alice={"Priority": "0.500000"})
    y = Negotiator(base)
    for cycle in range(1, 1002):
        y.cycle(START_S + 60 * cycle, {slot_key(1): (ALICE, 50 * MICRO)})
    gained = priority(y.state, ALICE) - 100 * 0.5 ** (60_060 / 86_400)
    merged = merge(base, x, y)
    assert priority(merged.state, ALICE) == pytest.approx(0.5 + gained, abs=1e-3)
    assert ("Priority", False) in [(what, conflict) for _, what, _, conflict in edits_of(merged)]


def test_two_settings_of_a_priority_are_a_conflict_and_are_not_added():
    base = state_of(alice=record(prio="10.000000"))
    x, y = (later(base, 60, alice={"Priority": text}) for text in ("1000.000000", "2000.000000"))
    merged = merge(base, x, y)
    assert priority(merged.state, ALICE) == 2000
    assert merged.report.conflicts[0].values == {"x": "1000.000000", "y": "2000.000000"}


def test_a_priority_that_no_number_gives_is_read_as_the_lowest_as_htcondor_does():
    base = state_of(alice=record(prio="inf"))
    merged = merge(base, later(base, 60, bob={}), later(base, 60, carol={}))
    assert priority(merged.state, ALICE) == 0.5


# -- rule 12: what is derived -----------------------------------------------------------------------------------------


def test_the_survivors_matches_stand_and_the_counters_follow_from_them():
    base = state_of(alice=record(), bob=record())
    x, y = Negotiator(base), Negotiator(base)
    x.cycle(START_S + 60, {slot_key(1, "left"): (ALICE, MICRO)})
    y.cycle(START_S + 60, {slot_key(1, "right"): (BOB, 2 * MICRO), slot_key(2, "right"): (BOB, MICRO)})
    state = merge(base, x, y).state
    assert [key for key in state if key.startswith("Resource.")] == [slot_key(1, "right"), slot_key(2, "right")]
    assert (state[f"Customer.{ALICE}"]["ResourcesUsed"], state[f"Customer.{BOB}"]["ResourcesUsed"]) == ("0", "2")
    assert state[f"Customer.{BOB}"]["WeightedResourcesUsed"] == "3.000000"
    assert state["Customer.<none>"]["HierWeightedResourcesUsed"] == "3.000000"
    assert state[f"Customer.{BOB}"]["UnchargedTime"] == "0"


def test_a_counter_that_no_match_stands_behind_is_corrected():
    base = later(state_of(alice=record()), 60, alice={"ResourcesUsed": "5", "WeightedResourcesUsed": "5.000000"})
    ad = merge(base, later(base, 0, bob={}), later(base, 0, carol={})).state[f"Customer.{ALICE}"]
    assert (ad["ResourcesUsed"], ad["WeightedResourcesUsed"]) == ("0", "0.000000")


@pytest.mark.parametrize("name", ["WeightedAccumulatedUsage", "AccumulatedUsage", "LastUsageTime", "PriorityFactor"])
def test_a_record_that_differs_in_one_value_is_no_record_at_rest(name):
    base = later(state_of(alice=record(PriorityFactor="7.000000")), 60)
    x = later(base, 60, alice={name: "1900000000"})
    text = merge(base, x, later(base, 60, bob={})).state[f"Customer.{ALICE}"][name]
    assert float(text) == 1_900_000_000


def test_a_group_is_charged_for_its_users_and_its_parents_for_the_priority():
    base = new_state() | {f"Customer.{name}": record(0) for name in ("<none>", "Phys", "Phys.hep")}
    y = Negotiator(base, groups=("Phys", "Phys.hep"))
    y.cycle(START_S + 60, {slot_key(1): ("Phys.hep.alice@lab", MICRO)})
    merged = merge(base, later(base, 120, bob={}), y)
    state = merged.state
    assert used(state, "Phys.hep") == 60
    assert used(state, "Phys") == 0
    assert state["Customer.Phys"]["HierWeightedResourcesUsed"] == "1.000000"
    assert state["Customer.<none>"].get("HierWeightedResourcesUsed", "0.000000") == "0.000000"


def test_a_name_that_only_looks_like_a_group_is_charged_to_the_root():
    base = new_state() | {f"Customer.{name}": record(0) for name in ("<none>", "phys.hep")}
    y = Negotiator(base)  # "phys" is no group, hence "phys.hep" below it can't be one any more
    y.cycle(START_S + 60, {slot_key(1): ("phys.hep.alice@lab", MICRO)})
    merged = merge(base, later(base, 120, bob={}), y)
    assert (used(merged.state, "<none>"), used(merged.state, "phys.hep")) == (60, 0)


def test_the_header_counts_on_and_keeps_the_birthdate():
    base = state_of(alice=record())
    x = Side(name="x", state=later(base, 60, bob={}), sequence=9, birthdate_s=1_700_000_000)
    merged = reconcile(side("base", base), [x, side("y", later(base, 60, carol={}))])
    assert (merged.sequence, merged.birthdate_s) == (10, 1_700_000_000)


def test_the_given_states_are_not_changed():
    base = state_of(alice=record())
    x, y = later(base, 60, alice={"ceiling": "3"}), later(base, 60, alice={"Floor": "3"})
    before = copy.deepcopy((base, x, y))
    merge(base, x, y)
    assert (base, x, y) == before


def test_a_merged_history_reads_back_as_it_was_written():
    base = state_of(alice=record(), ren=record()) | {"Customer.ren\udce9@lab": record()}
    merged = merge(base, later(base, 60, bob={}), later(base, 60, carol={}))
    data = b"".join(compact(merged.state, merged.sequence, merged.birthdate_s))
    assert read_untrusted(data) == merged.state


# -- amounts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0.5", 500_000),
        ("-1", -1_000_000),
        ("-0.000001", -1),
        ("-0.5", -500_000),
        ("1840.0", 1_840_000_000),
        ("1.5e+3", 1_500_000_000),
        ("1E+10", 10_000_000_000 * 1_000_000),
        ("1E-05", 10),
        ("1E-300", 0),
        ("2.5000005", 2_500_000),  # half to even
        ("0.1234567", 123_457),
        (" 7 ", 7_000_000),
        ("inf", None),
        ("-nan", None),
        ("1E+999999999", None),
        ("1" * 50, None),
        ("x.y", None),
        ('"5"', None),
        (None, None),
    ],
)
def test_a_number_is_read_to_the_millionth(text, amount):
    assert to_micro(text) == amount


def test_a_whole_number_is_cut_off_towards_nothing():
    assert [to_int(text) for text in ("2.9", "-2.9", "x", None)] == [2, -2, 0, 0]


def test_an_amount_is_written_as_the_accountant_writes_it():
    assert [as_float(amount) for amount in (0, 1, -1, 2_500_000)] == ["0.000000", "0.000001", "-0.000001", "2.500000"]

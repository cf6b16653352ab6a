"""The traps of double counting, each computed by hand, and whole histories against the one that was never divided."""

import copy
import random

import pytest

from gateway.core.reconcile import Merged, Pool, Side, reconcile
from gateway.wire.accountant import State
from tests.core.negotiating import (
    MICRO,
    START_S,
    Negotiator,
    new_state,
    plain_used,
    priority,
    used,
)

ALICE, BOB = "alice@lab", "bob@lab"
Claims = dict[str, tuple[str, int]]
NEVER_STALE = Pool(stale_s=10**6)  # as for a collector that was empty when its negotiator took over


def far_key(number: int, host: str) -> str:
    """A slot of a startd of its own address."""
    return f"Resource.slot{number}@{host}.lab@<{host}:9618?sock=startd_{host}>"


def running(user: str, *slots: int, host: str = "left", weight: int = 1) -> Claims:
    return {far_key(number, host): (user, weight * MICRO) for number in slots}


def begun(claims: Claims, cycles: int = 1) -> Negotiator:
    """A history in which `claims` have run for some cycles; its last update is the base's."""
    one = Negotiator(new_state())
    for cycle in range(cycles + 1):
        one.cycle(START_S + 60 * cycle, claims)
    return one


def go_on(one: Negotiator, cycles: int, claims: Claims) -> Negotiator:
    for _ in range(cycles):
        one.cycle(one.last_s + 60, claims)
    return one


def merged(base: State, x: Negotiator, y: Negotiator, pool: Pool | None = None, **known_of_x: object) -> Merged:
    sides = [
        Side(name="x", state=x.state, term=1, **known_of_x),  # type: ignore[arg-type]
        Side(name="y", state=y.state, term=2),
    ]
    found = [reconcile(Side(name="base", state=base), order, pool or Pool()) for order in (sides, sides[::-1])]
    assert found[0] == found[1]
    tallies = [tally for line in found[0].report.customers for tally in (line.usage, line.weighted)]
    assert not any(tally.balance for tally in (*tallies, found[0].report.usage, found[0].report.weighted))
    return found[0]


def tally(found: Merged, user: str = ALICE) -> tuple[int, int, int]:
    """Phantom, stale and shared slot-seconds of a customer, weighted."""
    (line,) = [line for line in found.report.customers if line.customer == user]
    return line.weighted.phantom // MICRO, line.weighted.stale // MICRO, line.weighted.shared // MICRO


# -- trap (a): the phantom gap ----------------------------------------------------------------------------------------


def test_the_gap_that_the_other_side_charged_in_truth_is_not_charged_again():
    claims = running(ALICE, 1, 2, weight=3)
    base = begun(claims).state
    y = go_on(Negotiator(base), 10, claims)  # ran on: 600 s x 2 slots
    x = Negotiator(base)
    x.start(START_S + 60 + 400)  # charges 400 s x 2 slots of the base, then hears of no slot
    own = running(ALICE, 9, host="right", weight=50)
    x.cycle(START_S + 60 + 400, own)
    x.update(START_S + 60 + 600)
    found = merged(base, x, y, NEVER_STALE, took_over_s=START_S + 60 + 400)
    assert used(found.state, ALICE) == used(base, ALICE) + 600 * 2 * 3 + 200 * 50
    assert tally(found) == (400 * 2 * 3, 0, 0)
    truth = go_on(Negotiator(base), 7, claims)
    truth.cycle(START_S + 60 + 400, claims | own)
    truth.update(START_S + 60 + 600)
    assert priority(found.state, ALICE) == pytest.approx(priority(truth.state, ALICE), abs=0.01)


def test_no_more_of_a_gap_is_taken_off_than_was_charged():
    claims = running(ALICE, 1)
    base = begun(claims).state
    y, x = go_on(Negotiator(base), 10, claims), Negotiator(base)
    x.start(START_S + 460)
    x.cycle(START_S + 460, {})
    for name in ("AccumulatedUsage", "WeightedAccumulatedUsage"):
        x.customer(ALICE)[name] = "100.000000"  # 40 more than the base's
    found = merged(base, x, y, NEVER_STALE, took_over_s=START_S + 460)
    assert used(found.state, ALICE) == used(base, ALICE) + 600
    assert tally(found)[0] == 40


def test_without_the_phantom_named_the_gap_counts_twice():
    """The trap itself: this is what the rule is for."""
    claims = running(ALICE, 1)
    base = begun(claims).state
    y, x = go_on(Negotiator(base), 10, claims), Negotiator(base)
    x.start(START_S + 460)
    x.cycle(START_S + 460, {})
    x.update(START_S + 660)
    assert used(merged(base, x, y, NEVER_STALE).state, ALICE) == used(base, ALICE) + 600 + 400


def test_of_a_gap_longer_than_the_other_side_ran_only_the_common_part_is_taken_off():
    claims = running(ALICE, 1)
    base = begun(claims).state
    y = go_on(Negotiator(base), 2, claims)  # died after 120 s
    x = Negotiator(base)
    x.start(START_S + 60 + 200)
    go_on(x, 5, claims)
    # 200 s of gap, of which 120 s twice; then 300 s. y survives, but is not there to go on: its end is its last update.
    sides = [
        Side(name="x", state=x.state, term=2, took_over_s=START_S + 260),
        Side(name="y", state=y.state, term=1),
    ]
    found = reconcile(Side(name="base", state=base), sides)
    assert used(found.state, ALICE) == used(base, ALICE) + 500
    assert tally(found)[0] == 120


def test_of_several_that_took_over_the_longest_gap_counts_once():
    claims = running(ALICE, 1)
    base = begun(claims).state
    sides = []
    for name, gap_s in (("x", 300), ("y", 200), ("z", 100)):
        one = Negotiator(base)
        one.start(START_S + 60 + gap_s)
        one.cycle(START_S + 60 + gap_s, {})
        sides.append(Side(name=name, state=one.state, took_over_s=START_S + 60 + gap_s))
    found = reconcile(Side(name="base", state=base), sides)
    assert used(found.state, ALICE) == used(base, ALICE) + 300
    assert tally(found)[0] == 300


def test_a_gap_is_not_taken_off_what_was_reset_since():
    claims = running(ALICE, 1)
    base = begun(claims).state
    y, x = go_on(Negotiator(base), 10, claims), Negotiator(base)
    x.start(START_S + 460)
    x.reset(ALICE, START_S + 460)
    x.cycle(START_S + 460, running(ALICE, 9, host="right"))
    x.update(START_S + 660)
    found = merged(base, x, y, NEVER_STALE, took_over_s=START_S + 460)
    assert used(found.state, ALICE) == 600 + 200
    assert tally(found)[0] == 0


# -- trap (b): stale claims -------------------------------------------------------------------------------------------


def split(stale_cycles: int, cycles: int) -> tuple[State, Negotiator, Negotiator]:
    """Alice runs on the left, bob on the right; each side shows the other's slot for `stale_cycles` more."""
    left, right = running(ALICE, 1, host="left"), running(BOB, 1, host="right")
    base = begun(left | right)
    x, y = Negotiator(base.state), Negotiator(base.state)
    for one, own in ((x, left), (y, right)):
        go_on(one, stale_cycles, left | right)
        go_on(one, cycles - stale_cycles, own)
    return base.state, x, y


def test_a_claim_out_of_sight_is_charged_by_who_sees_it_and_not_by_the_other():
    base, x, y = split(stale_cycles=10, cycles=60)  # dropped at the eleventh cycle, charged until then
    found = merged(base, x, y, Pool(stale_s=660))
    for user in (ALICE, BOB):
        assert used(found.state, user) == used(base, user) + 3600
        assert tally(found, user) == (0, 660, 0)
    assert priority(found.state, BOB) == pytest.approx(priority(y.state, BOB), abs=1e-3)


def test_what_was_watched_counts_and_not_the_least_that_is_proven():
    base, x, y = split(stale_cycles=13, cycles=60)
    dropped_s = {far_key(1, "right"): START_S + 60 + 14 * 60}
    found = merged(base, x, y, dropped_s=dropped_s)
    assert tally(found, BOB) == (0, 840, 0)
    assert used(found.state, BOB) == used(base, BOB) + 3600


def test_no_more_than_is_proven_is_taken_off():
    base, x, y = split(stale_cycles=14, cycles=60)
    found = merged(base, x, y)
    assert used(found.state, ALICE) == used(base, ALICE) + 3600 + (900 - 600)


def test_a_claim_that_went_before_it_could_age_out_was_seen_to_end():
    base, x, y = split(stale_cycles=1, cycles=8)
    assert tally(merged(base, x, y), BOB) == (0, 0, 0)


def test_a_claim_that_ended_where_its_startd_is_seen_is_no_stale_one():
    left = running(ALICE, 1, 2)
    base = begun(left).state
    x = go_on(Negotiator(base), 60, running(ALICE, 1))  # sees one of them end
    y = go_on(go_on(Negotiator(base), 9, left), 51, running(BOB, 1, host="right"))  # sees neither
    found = merged(base, x, y)
    assert tally(found) == (0, 600 * 2, 0)
    assert used(found.state, ALICE) == used(base, ALICE) + 60 + 3600


def test_a_claim_on_a_startd_that_nobody_sees_in_the_end_proves_nothing():
    old = running(ALICE, 1, host="gone")
    base = begun(old).state
    x, y = Negotiator(base), Negotiator(base)
    for one, host in ((x, "left"), (y, "right")):
        go_on(go_on(one, 9, old), 50, running(BOB, 1, host=host))
    assert tally(merged(base, x, y)) == (0, 0, 0)


# -- trap (c): startds that both sides hear ---------------------------------------------------------------------------


def test_a_claim_that_both_hold_counts_once_from_its_beginning():
    x, y = Negotiator(new_state()), Negotiator(new_state())
    own_x, own_y = running(ALICE, 1), running(ALICE, 2, host="right")
    shared = running(ALICE, 7, host="middle", weight=2)
    go_on(x, 10, own_x)
    go_on(y, 10, own_y)
    go_on(x, 21, own_x | shared)
    go_on(y, 21, own_y | shared)
    found = merged(new_state(), x, y)
    assert tally(found) == (0, 0, 20 * 60 * 2)
    assert used(found.state, ALICE) == 2 * 30 * 60 + 2 * 20 * 60


def test_a_short_partition_in_which_both_still_show_all_claims_counts_them_once():
    both = running(ALICE, 1, 2) | running(BOB, 1, host="right")
    base = begun(both).state
    x = go_on(Negotiator(base), 5, both | running(ALICE, 9))
    y = go_on(Negotiator(base), 5, both | running(BOB, 9, host="right"))
    found = merged(base, x, y)
    assert used(found.state, ALICE) == used(base, ALICE) + 2 * 300 + 240
    assert used(found.state, BOB) == used(base, BOB) + 300 + 240
    assert not found.report.views[0].same_pool


def test_one_pool_heard_by_both_sides_is_counted_once_ended_claims_too():
    base = begun(running(ALICE, *range(1, 11))).state
    x, y = Negotiator(base), Negotiator(base)
    for one in (x, y):
        go_on(one, 20, running(ALICE, *range(1, 11)) | running(BOB, 20))  # bob's ends for both
        go_on(one, 20, running(ALICE, *range(1, 11)))
    go_on(y, 1, running(ALICE, *range(1, 11)))
    found = merged(base, x, y)
    assert found.report.views[0].same_pool
    assert used(found.state, ALICE) == used(base, ALICE) + 41 * 60 * 10
    assert used(found.state, BOB) == 20 * 60
    assert priority(found.state, ALICE) == pytest.approx(priority(y.state, ALICE), abs=1e-4)


def test_no_correction_takes_more_than_all_but_the_greatest_charge():
    claims = running(ALICE, 1)
    base = begun(claims).state
    x, y = go_on(Negotiator(base), 30, claims), go_on(Negotiator(base), 30, claims | running(BOB, 1, host="r"))
    x.customer(ALICE)["WeightedAccumulatedUsage"] = "100.000000"  # set back since: less than the claim was charged
    found = merged(base, x, y)
    assert used(found.state, ALICE) >= used(y.state, ALICE)


def test_three_sides_with_one_shared_claim_count_it_once():
    claims = running(ALICE, 1)
    base = begun(claims).state
    sides = []
    for number, name in enumerate("xyz"):
        own = running(BOB, *range(1, 6), host=name)
        one = go_on(Negotiator(base), 30, claims | own)
        sides.append(Side(name=name, state=one.state, term=number))
    found = reconcile(Side(name="base", state=base), sides)
    assert used(found.state, ALICE) == used(base, ALICE) + 1800
    assert used(found.state, BOB) == 3 * 5 * 1740
    assert tally(found) == (0, 0, 3600)


def test_records_that_are_stamped_anew_each_cycle_are_still_the_bases_claims():
    """HTCondor 25.11 and later write StartTime at each cycle."""
    both = running(ALICE, 1) | running(BOB, 1, host="right")
    start = begun(both)
    base = start.state
    stamp_anew(start)
    x, y = go_on(Negotiator(base), 5, both | running(ALICE, 9)), go_on(Negotiator(base), 5, both)
    for one in (x, y):
        stamp_anew(one)
    found = merged(base, x, y)
    assert used(found.state, BOB) == used(base, BOB) + 300


def test_a_side_whose_few_claims_have_all_just_begun_has_not_held_them_since_the_base():
    """The same user on the same slot as at the base, by chance: another claim, charged from its own beginning."""
    both = running(ALICE, 1) | running(BOB, 1, host="right")
    base = begun(both).state
    x, y = go_on(Negotiator(base), 5, both | running(ALICE, 9)), go_on(Negotiator(base), 5, both)
    stamp_anew(y)
    found = merged(base, x, y)
    assert tally(found) == (0, 0, 0)


def stamp_anew(negotiator):
    """Give every claim the StartTime of the last cycle."""
    for key, ad in negotiator.state.items():
        if key.startswith("Resource."):
            ad["StartTime"] = str(negotiator.last_s)


# -- the group's accounts follow its users' ---------------------------------------------------------------------------


def test_what_is_taken_off_a_user_is_taken_off_its_group():
    claims = running("phys.alice@lab", 1)
    before = Negotiator(new_state(), groups=("phys",))
    for cycle in range(2):
        before.cycle(START_S + 60 * cycle, claims)
    base = before.state
    x, y = (Negotiator(base, groups=("phys",)) for _ in range(2))
    go_on(x, 5, claims | running(BOB, 5))
    go_on(y, 5, claims)
    found = merged(base, x, y)
    assert used(found.state, "phys") == used(base, "phys") + 300
    assert tally(found, "phys") == (0, 0, 300)
    assert priority(found.state, "phys") == pytest.approx(priority(y.state, "phys"), abs=1e-3)


# -- against the truth ------------------------------------------------------------------------------------------------


def jobs_of(draw: random.Random, users: list[str], host: str, cycles: int, slots: int) -> list[Claims]:
    """For each cycle what runs on a host: jobs of some cycles' length, one after the other."""
    shown: list[Claims] = [{} for _ in range(cycles)]
    for slot in range(slots):
        cycle = draw.randrange(10)
        while cycle < cycles:
            user, length, weight = draw.choice(users), draw.randrange(1, 40), draw.choice([1, 2, 8])
            for now in range(cycle, min(cycle + length, cycles)):
                shown[now][far_key(slot, host)] = (user, weight * MICRO)
            cycle += length + draw.randrange(4)
    return shown


@pytest.mark.parametrize("seed", range(30))
def test_a_divided_history_merges_into_the_one_that_was_never_divided(seed):
    """Usage to the last millionth, priorities within 0.5."""
    draw = random.Random(seed)
    users = [f"user{number}@lab" for number in range(4)]
    cycles, period_s = draw.randrange(20, 300), draw.choice([20, 60, 300])
    hosts = {name: jobs_of(draw, users, name, cycles, draw.randrange(1, 12)) for name in ("left", "right")}
    truth = Negotiator(new_state())
    for user in users:
        truth.customer(user)["Priority"] = f"{draw.choice([0.5, 3, 50, 500]):f}"
    base = copy.deepcopy(truth.state)
    x, y = Negotiator(base), Negotiator(base)
    for cycle in range(cycles):
        now_s = START_S + period_s * (cycle + 1)
        truth.cycle(now_s, hosts["left"][cycle] | hosts["right"][cycle])
        x.cycle(now_s, hosts["left"][cycle])
        y.cycle(now_s, hosts["right"][cycle])
    found = merged(base, x, y)
    for user in [*users, "<none>"]:
        assert used(found.state, user) == used(truth.state, user)
        assert plain_used(found.state, user) == plain_used(truth.state, user)
        assert abs(priority(found.state, user) - priority(truth.state, user)) <= 0.5
        assert int(found.state[f"Customer.{user}"]["LastUsageTime"]) <= truth.last_s


@pytest.mark.parametrize("seed", range(10))
def test_sides_that_stopped_at_different_times_lose_no_second(seed):
    """Each side's matches are charged until its negotiator is known to have ended."""
    draw = random.Random(seed)
    left, right = running(ALICE, 1, 2), running(ALICE, 1, host="right") | running(BOB, 2, host="right")
    begin_s, end_s = START_S + 120, START_S + 100 * 60
    truth, x, y = (Negotiator(new_state()) for _ in range(3))
    truth.cycle(begin_s, left | right)
    truth.update(end_s)
    for one, claims in ((x, left), (y, right)):
        one.cycle(begin_s, claims)
        while one.last_s < end_s - 120:
            one.cycle(one.last_s + draw.randrange(40, 90), claims)
    sides = [Side(name=name, state=one.state, ended_s=end_s) for name, one in (("x", x), ("y", y))]
    found = reconcile(Side(name="base", state=new_state()), sides)
    for user in (ALICE, BOB):
        assert used(found.state, user) == used(truth.state, user)
        assert abs(priority(found.state, user) - priority(truth.state, user)) <= 0.5


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_users_is_kept_where_only_one_side_went_on_for_them(seed):
    draw = random.Random(seed)
    users = [f"user{number}@lab" for number in range(6)]
    base = Negotiator(new_state())
    for user in users:
        base.customer(user)["Priority"] = f"{draw.uniform(0.5, 50):f}"
    x, y = Negotiator(base.state), Negotiator(base.state)
    for shown in jobs_of(draw, users, "left", 200, 8):
        x.cycle(x.last_s + 60, shown)
        y.cycle(y.last_s + 60, running("other@lab", 1, host="right"))
    found = merged(base.state, x, y)
    by_priority = sorted(users, key=lambda user: priority(x.state, user))
    assert sorted(users, key=lambda user: priority(found.state, user)) == by_priority

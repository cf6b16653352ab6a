"""The laws of merging, on histories of every kind: 20,000 cases in all. A case is made from one number."""

import copy
import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.reconcile import Fate, Merged, Pool, Side, customers, reconcile
from gateway.wire.accountant import State, Stop, replay_untrusted, scan_untrusted
from gateway.wire.compacted import compact, records_of
from tests.core.negotiating import MICRO, START_S, Negotiator, micro, new_state, text

seeds = st.integers(0, 2**63)
USERS = ("alice@lab", "bob@lab", "phys.carol@lab", "phys.hep.dave@lab")
CUSTOMERS = (*USERS, "phys", "phys.hep", "<none>")
KEYS = [f"Resource.slot{slot}@h{host}@<h{host}:9618?sock=startd>" for host in range(3) for slot in range(2)]
USAGES = ("AccumulatedUsage", "WeightedAccumulatedUsage")
SETTINGS = ("PriorityFactor", "Ceiling", "Floor")


def some_claims(draw: random.Random) -> dict[str, tuple[str, int]]:
    return {key: (draw.choice(USERS), draw.choice((1, 2)) * MICRO) for key in KEYS if draw.random() < 0.5}


def some_base(draw: random.Random, *, matches: bool = True) -> State:
    one = Negotiator(new_state(), groups=("phys", "phys.hep"))
    for name in CUSTOMERS:
        if draw.random() < 0.8:
            ad = one.customer(name)
            for attribute in ("Priority", *USAGES):
                ad[attribute] = text(draw.choice((0, 500_000, draw.randrange(10**7), draw.randrange(10**16))))
            if draw.random() < 0.8:
                ad["BeginUsageTime"] = str(START_S - draw.randrange(10**6))
                ad["LastUsageTime"] = str(START_S - draw.randrange(1000))
            if draw.random() < 0.5:
                ad["PriorityFactor"] = draw.choice(("1000.0", "1000.000000", "5"))
            if draw.random() < 0.3:
                ad["Shoe"] = str(draw.randrange(3))
            if draw.random() < 0.2:
                edit_lease(draw, ad, START_S)
    if matches:
        one.cycle(START_S + 60, some_claims(draw))
    return one.state


def edit_lease(draw: random.Random, ad: dict[str, str], now_s: int) -> None:
    setting = draw.choice(SETTINGS)
    ad[setting] = str(draw.randrange(1, 4))
    ad[f"{setting}LeaseExpiration"] = str(draw.choice((0, now_s + draw.randrange(1, 2000))))
    if draw.random() < 0.8:
        ad[f"{setting}PreLeaseValue"] = str(draw.randrange(1, 4))


def one_edit(draw: random.Random, one: Negotiator) -> None:
    name = draw.choice((*CUSTOMERS, USERS[0], USERS[0]))  # one of them more often: both sides' edits are to meet
    match draw.randrange(11):
        case 0:
            one.state.pop(f"Customer.{name}", None)
        case 1:
            one.reset(name, one.last_s)
        case 2:
            one.customer(name)["Priority"] = draw.choice(("0.500000", "700.000000", "inf", "1E+30"))
        case 3:
            one.customer(name)["WeightedAccumulatedUsage"] = draw.choice(("0.000000", "17.5", "99999999.000000", "x"))
        case 4:
            edit_lease(draw, one.customer(name), one.last_s)
        case 5:
            one.customer(name)[draw.choice(("Shoe", "SHOE", "Hat", "ceiling"))] = str(draw.randrange(3))
        case 6 if one.state.get(f"Customer.{name}"):
            one.customer(name).popitem()
        case 7:
            one.state.setdefault("Future.x", {})["A"] = str(draw.randrange(3))
        case 8:
            one.customer(draw.choice(("new@lab", "ren\udce9@lab")))["AccumulatedUsage"] = text(draw.randrange(10**9))
        case 9:
            one.customer(name)["BeginUsageTime"] = str(draw.choice((0, 1, START_S + 50, 10**30)))
        case _:
            one.customer(name)[draw.choice(SETTINGS)] = draw.choice(("1", "1000.0", "-1", "0", "7.250000", "true"))


def some_side(draw: random.Random, name: str, base: State, seen: random.Random | None) -> Side:
    """`seen`: what shows it the pool; the same for all sides whose collectors hear the same startds."""
    one = Negotiator(base, groups=("phys", "phys.hep"))
    for _ in range(draw.randrange(7)):
        if draw.random() < 0.45:
            one.cycle(one.last_s + draw.choice((1, 60, 300, 4000)), some_claims(seen or draw))
        else:
            one_edit(draw, one)
    known: dict[str, object] = {}
    if draw.random() < 0.2:
        known["took_over_s"] = START_S + draw.randrange(2000)
    if draw.random() < 0.2:
        known["ended_s"] = one.last_s + draw.randrange(100)
    if draw.random() < 0.2:
        known["dropped_s"] = {draw.choice(KEYS): START_S + draw.randrange(1000)}
    return Side(name=name, state=one.state, term=draw.randrange(3), sequence=draw.randrange(3), **known)  # type: ignore[arg-type]


def some_world(seed: int, number: int = 2) -> tuple[Side, list[Side]]:
    draw = random.Random(seed)
    base = some_base(draw)
    one_pool = draw.random() < 0.2
    sides = [some_side(draw, name, base, random.Random(seed) if one_pool else None) for name in "xyz"[:number]]
    return Side(name="base", state=base), sides


def written(merged: Merged) -> bytes:
    return b"".join(compact(merged.state, merged.sequence, merged.birthdate_s))


@settings(max_examples=5000, deadline=None)
@given(seeds)
def test_the_order_of_the_arguments_changes_no_byte(seed):
    base, sides = some_world(seed, 2 + seed % 2)
    first = reconcile(base, sides)
    for order in (sides[::-1], sides[1:] + sides[:1])[: len(sides) - 1]:
        again = reconcile(base, order)
        assert written(again) == written(first)
        assert again.report == first.report


@settings(max_examples=3000, deadline=None)
@given(seeds)
def test_what_is_merged_with_itself_or_with_its_base_stays_as_it_is(seed):
    base, (x, _) = some_world(seed)
    twin = Side(name="twin", state=copy.deepcopy(x.state))
    idle = Side(name="idle", state=copy.deepcopy(base.state))
    assert reconcile(base, [x, twin]).state == spelled(base, x)
    assert reconcile(base, [x, idle]).state == spelled(base, x)
    assert reconcile(base, [idle]).state == base.state


def spelled(base: Side, side: Side) -> State:
    """Names have no case: a merge writes each one way."""
    return reconcile(base, [side]).state


@settings(max_examples=4500, deadline=None)
@given(seeds)
def test_every_result_is_a_file_that_a_negotiator_takes_and_its_balance_is_exact(seed):
    base, sides = some_world(seed, 2 + seed % 2)
    merged = reconcile(base, sides)
    data = written(merged)
    scan = scan_untrusted(data)
    assert (scan.stop, scan.closed_length, scan.records) == (Stop.END, len(data), records_of(merged.state))
    assert replay_untrusted(data, len(data)) == merged.state
    report = merged.report
    tallies = [tally for line in report.customers for tally in (line.usage, line.weighted)]
    assert not any(tally.balance for tally in (*tallies, report.usage, report.weighted))
    assert all(tally.phantom >= 0 and tally.stale >= 0 and tally.shared >= 0 for tally in tallies)
    if not report.fast_forward:
        for key, ad in merged.state.items():
            if key.startswith("Customer."):
                assert float(ad["Priority"]) >= 0.5
                assert all(micro(ad.get(name)) >= 0 for name in USAGES)
        users = {key for key in merged.state if key.startswith("Customer.") and "@" in key}
        for name, total in zip(USAGES, (report.usage, report.weighted), strict=True):
            assert sum(micro(merged.state[key].get(name)) for key in users) == total.merged


def charged_world(seed: int, number: int) -> tuple[Side, list[Side]]:
    """Sides that only charge, in millionths, and end at different times; no matches are left running."""
    draw = random.Random(seed)
    base = some_base(draw, matches=False)
    for ad in base.values():
        ad.pop("Shoe", None)
    sides = []
    for name in "xyz"[:number]:
        one = Negotiator(base)
        for _ in range(draw.randrange(1, 4)):
            one.update(one.last_s + draw.randrange(1, 5000))
            for customer in CUSTOMERS:
                if draw.random() < 0.6:
                    charge(draw, one.customer(customer))
        sides.append(Side(name=name, state=one.state, term=draw.randrange(3)))
    return Side(name="base", state=base), sides


def charge(draw: random.Random, ad: dict[str, str]) -> None:
    for name in USAGES:
        amount = draw.randrange(10**10)
        ad[name] = text(micro(ad.get(name)) + amount)
    ad["Priority"] = text(micro(ad.get("Priority", "0.5")) + int(amount * 0.69 / 86_400))


@settings(max_examples=1500, deadline=None)
@given(seeds)
def test_usage_is_the_bases_and_what_each_side_added_and_any_grouping_of_three_agrees(seed):
    base, sides = charged_world(seed, 3)
    merged = reconcile(base, sides)
    for customer in CUSTOMERS:
        ads = [side.state.get(f"Customer.{customer}", {}) for side in (base, *sides)]
        for name in USAGES:
            before, *after = (micro(ad.get(name)) for ad in ads)
            expected = before + sum(value - before for value in after)
            assert micro(merged.state.get(f"Customer.{customer}", {}).get(name)) == expected
    for first, second, third in itertools.permutations(sides):
        if first.name < second.name:
            pair = Side(name="pair", state=reconcile(base, [first, second]).state)
            assert_agree(merged.state, reconcile(base, [pair, third]).state)


def assert_agree(one: State, other: State) -> None:
    """Exactly for counters; within the bound of the floor for priorities, once for each merge that was made."""
    assert one.keys() == other.keys()
    for key, ad in one.items():
        if key.startswith("Customer."):
            assert [ad.get(name) for name in USAGES] == [other[key].get(name) for name in USAGES]
            assert abs(float(ad["Priority"]) - float(other[key]["Priority"])) <= 0.5 + 1e-5


@settings(max_examples=3000, deadline=None)
@given(seeds)
def test_what_one_side_alone_changed_is_kept(seed):
    draw = random.Random(seed)
    base = some_base(draw)
    sides, changes = [], {}
    for name in "xy":
        one = Negotiator(base)
        one.update(one.last_s + draw.randrange(1, 500))
        for customer in CUSTOMERS:
            attribute = f"Note{draw.randrange(4)}"
            if f"Customer.{customer}" in base and draw.random() < 0.4 and (customer, attribute) not in changes:
                one.customer(customer)[attribute] = changes[customer, attribute] = f'"{name} {draw.random()}"'
        sides.append(one.state)
    merged = reconcile(
        Side(name="base", state=base), [Side(name=name, state=state) for name, state in zip("xy", sides, strict=True)]
    )
    for (customer, attribute), value in changes.items():
        assert merged.state[f"Customer.{customer}"][attribute] == value
    assert merged.report.conflicts == []


@settings(max_examples=3000, deadline=None)
@given(seeds)
def test_the_order_of_users_is_that_of_the_one_side_which_went_on(seed):
    base, (x,) = charged_world(seed, 1)
    idle = Negotiator(base.state)
    idle.customer("idle@lab")["Ceiling"] = "1"
    idle.update(idle.last_s + 1)
    merged = reconcile(base, [x, Side(name="idle", state=idle.state)], Pool())

    def order(state: State) -> list[str]:
        known = [name for name in USERS if f"Customer.{name}" in x.state]
        return sorted(known, key=lambda name: (round(float(state[f"Customer.{name}"]["Priority"]), 3), name))

    assert order(merged.state) == order(x.state) or almost_equal_priorities(x.state)


def almost_equal_priorities(state: State) -> bool:
    found = sorted(float(state[key]["Priority"]) for key in state if key.startswith("Customer."))
    return any(after - before < 0.002 for before, after in itertools.pairwise(found))


def idle_world(seed: int) -> tuple[Side, list[Side]]:
    """Nearly all records only age."""
    draw = random.Random(seed)
    before = Negotiator(some_base(draw, matches=False))
    before.update(START_S + 1)
    base = before.state
    sides = []
    for name in "xy":
        one = Negotiator(base)
        one.update(one.last_s + draw.randrange(1, 200_000))
        one.customer(draw.choice((*USERS, "new@lab")))["Floor"] = str(draw.randrange(3))
        sides.append(Side(name=name, state=one.state))
    return Side(name="base", state=base), sides


def test_the_short_cut_for_records_at_rest_leads_where_the_long_way_does(monkeypatch):
    worlds = [some_world(seed) for seed in range(300)] + [idle_world(seed) for seed in range(200)]
    short = [reconcile(*world) for world in worlds]
    taken = []
    way = customers._merge_idle
    monkeypatch.setattr(customers, "_merge_idle", lambda *given: taken.append(way(*given)) and None)
    for merged, world in zip(short, worlds, strict=True):
        long = reconcile(*world)
        assert merged.report == long.report
        assert as_numbers(merged.state) == as_numbers(long.state)
    assert sum(outcome is not None for outcome in taken) > 200


def as_numbers(state: State) -> dict[str, dict[str, int | str]]:
    return {key: {name: micro(text) or text.strip("0.") for name, text in ad.items()} for key, ad in state.items()}


def test_everything_that_a_merge_may_decide_happens_in_the_worlds_of_these_tests():
    """A law that holds because nothing ever happens says nothing."""
    reports = [reconcile(*some_world(seed)).report for seed in range(300)]
    assert sum(bool(report.conflicts) for report in reports) > 20
    for cause in ("phantom", "stale", "shared", "forgotten"):
        assert sum(getattr(report.weighted, cause) > 0 for report in reports) > 5, cause
    fates = {line.fate for report in reports for line in report.customers}
    assert fates == set(Fate)
    assert any(view.same_pool for report in reports for view in report.views)
    assert any(report.fast_forward for report in reports)

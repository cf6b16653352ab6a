"""Forecasts come true: what is said of a node's death is what the simulator then does."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gateway.console.forecast_text import forecast_text
from gateway.core import orders as core_orders
from gateway.core.forecast import Forecast, forecast
from gateway.core.ranking import Ranking
from tests.sim.calm import settle
from tests.sim.host import Host
from tests.sim.network import FAIR
from tests.sim.ordering import give
from tests.sim.shapes import SHAPES
from tests.sim.world import SECOND_US, World


def document_of(host: Host) -> dict[str, Any]:
    """Return what the status document of a simulated node has of the fields that a forecast is made of."""
    node, now_ms = host.core, host.now_ms()
    assert node is not None, "only who runs can be asked"
    elections = {}
    for name, election in node.elections.items():
        heard = dict(election.ranking.heard)
        if host.name in election.candidates:
            heard[host.name] = (election.standing, now_ms)
        elections[name] = {
            "kind": name,
            "leader": election.leader,
            "candidates": {
                candidate: None
                if candidate not in heard
                else {
                    "fit": heard[candidate][0].fit,
                    "warm": heard[candidate][0].warm,
                    "term": heard[candidate][0].term,
                    "generation": heard[candidate][0].generation,
                    "records": heard[candidate][0].records,
                    "instance": "",
                    "heard_ms_ago": now_ms - heard[candidate][1],
                }
                for candidate in election.candidates
            },
        }
    orders = node.book.orders
    return {
        "node": host.name,
        "timing": {"heartbeat_ms": node.timing.heartbeat_ms, "lease_ms": node.timing.lease_ms},
        "on_partition": "serve" if host.world.shape.serve else "hold",
        "orders": {"paused": orders.paused, "drained": list(orders.drained)},
        "peers": {
            name: {"heard_ms_ago": now_ms - node.heard_ms[name] if name in node.heard_ms else None}
            for name in node.voters
            if name != host.name
        },
        "elections": elections,
    }


def calm_world(shape: str, seed: int) -> World:
    """Return a cluster that is well, its candidates of differing freshness."""
    world = World(SHAPES[shape], seed, plain=True)
    world.network.weather = FAIR
    for host in world.hosts:
        for standing in list(host.standings.values()):
            fresher = {"warm": world.rng.random() < 0.7, "generation": world.rng.randrange(3)}
            host.standings[standing.election] = type(standing)(
                standing.election, True, fresher["warm"], 1, fresher["generation"], "", world.rng.randrange(5)
            )
        host.start()
    world.run(SECOND_US)
    settle(world)
    return world


def watch_death(world: World, victim: Host, found: Forecast) -> None:
    """Kill a host; see that each election goes as it was said."""
    died_us, before = world.now_us, len(world.audit.starts)
    victim.crash()
    world.run(died_us + 4 * world.timing.lease_ms * 1000)
    for one in found.elections:
        led = [world.hosts[number].name for number in world.audit.serving(one.election, world.now_us)]
        assert led == ([one.follower] if one.follower else []), one
        if not one.leads:
            continue
        times = [(at_us - died_us) // 1000 for name, at_us in world.audit.starts[before:] if name == one.election]
        assert len(times) == (0 if one.host_ms is None else 1)
        if one.host_ms is not None:
            # Half of a lease more, as everywhere in the simulator: for slow timers and disks of short leases.
            assert times[0] <= one.host_ms * 1.01 + world.timing.lease_ms // 2


@pytest.mark.parametrize("shape", ["2-hold", "2-serve", "2+witness", "3", "5"])
@pytest.mark.parametrize("seed", range(4))
def test_whoever_is_said_to_follow_follows_in_the_time_that_is_said(shape: str, seed: int) -> None:
    world = calm_world(shape, seed)
    victim, asked = world.rng.sample(world.hosts, 2)
    watch_death(world, victim, forecast(document_of(asked), victim.name))


@pytest.mark.parametrize("seed", range(6))
def test_orders_are_taken_into_account(seed: int) -> None:
    world = calm_world("3", seed)
    leader = world.hosts[world.audit.serving("matchmaker", world.now_us)[0]]
    other = world.rng.choice([host for host in world.hosts if host is not leader])
    if seed % 2:
        give(other, core_orders.paused, reason="x")
    else:
        give(leader, core_orders.drained, other.name)
    world.run(world.now_us + world.timing.lease_ms * 1000)
    found = forecast(document_of(other), leader.name)
    assert found.paused == bool(seed % 2)
    watch_death(world, leader, found)


def test_of_three_one_more_may_not_fail_and_two_are_no_majority() -> None:
    world = calm_world("3", 1)
    found = forecast(document_of(world.hosts[0]), "n2")
    assert (found.voters, found.majority, found.left, found.more_may_fail) == (3, 2, 2, 0)
    world.hosts[2].crash()
    world.run(world.now_us + 2 * world.timing.lease_ms * 1000)
    found = forecast(document_of(world.hosts[0]), "n2")
    assert (found.left, found.more_may_fail) == (1, -1)
    assert {one.follower for one in found.elections} == {None}
    assert "2 are a majority: nobody serves" in forecast_text(found)
    watch_death(world, world.hosts[1], found)


def view(**changes: Any) -> dict[str, Any]:
    """Return the document of gw1 in a cluster of two gateways, two managers and a witness; `cm1` leads the pool."""

    def said(records: int, **more: Any) -> dict[str, Any]:
        standing = {"fit": True, "warm": True, "term": 4, "generation": 2, "records": records, "instance": "x"}
        return {**standing, "heard_ms_ago": 30, **more}

    document = {
        "node": "gw1",
        "timing": {"heartbeat_ms": 50, "lease_ms": 300},
        "on_partition": "hold",
        "orders": {"paused": None, "drained": []},
        "peers": {name: {"heard_ms_ago": 30} for name in ("gw2", "cm1", "cm2", "w1")},
        "elections": {
            "vip": {"kind": "address", "leader": "gw1", "candidates": {"gw1": said(0), "gw2": said(0)}},
            "pool": {"kind": "matchmaker", "leader": "cm1", "candidates": {"cm1": said(70), "cm2": said(67)}},
        },
    }
    document.update(copy.deepcopy(changes))
    return document


def pool_of(document: dict[str, Any], node: str = "cm1") -> Any:
    return forecast(document, node).elections[1]


def test_records_that_the_follower_lacked_are_counted() -> None:
    assert pool_of(view()).records_missing == 3
    document = view()
    document["elections"]["pool"]["candidates"]["cm2"]["generation"] = 1
    assert pool_of(document).records_missing is None
    assert "cm2 has an older file" in forecast_text(forecast(document, "cm1"))
    document["elections"]["pool"]["candidates"]["cm2"] |= {"generation": 2, "records": 70}
    assert pool_of(document).records_missing == 0


def test_a_cold_follower_is_named() -> None:
    document = view()
    document["elections"]["pool"]["candidates"]["cm2"]["warm"] = False
    assert pool_of(document).cold
    assert "does not have the pool's ads" in forecast_text(forecast(document, "cm1"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"orders": {"paused": "", "drained": []}}, "the cluster is paused"),
        ({"orders": {"paused": None, "drained": ["cm2"]}}, "the others are drained (cm2)"),
        ({"peers": {name: {"heard_ms_ago": 400} for name in ("gw2", "cm1", "cm2", "w1")}}, "too few nodes are left"),
    ],
)
def test_where_nobody_would_follow_the_reason_is_said(changes: dict[str, Any], why: str) -> None:
    one = pool_of(view(**changes))
    assert (one.follower, one.guard_ms, one.host_ms) == (None, None, None)
    assert one.why_nobody.startswith(why)
    assert "NOBODY leads" in forecast_text(forecast(view(**changes), "cm1"))


@pytest.mark.parametrize("said", [None, {"fit": False}, {"heard_ms_ago": 301}])
def test_a_candidate_that_is_not_heard_to_be_fit_does_not_follow(said: dict[str, Any] | None) -> None:
    document = view()
    candidates = document["elections"]["pool"]["candidates"]
    candidates["cm2"] = None if said is None else candidates["cm2"] | said
    assert pool_of(document).why_nobody == "no other candidate is heard to be fit"


def test_the_death_of_a_standby_moves_nothing_and_shows_that_nobody_stands_by() -> None:
    found = forecast(view(), "cm2")
    pool = found.elections[1]
    assert (pool.follower, pool.leads, pool.order, pool.host_ms) == ("cm1", False, (), None)
    assert "matchmaker pool: cm1 goes on; and nobody stands by for it" in forecast_text(found)


def test_the_order_is_the_elections_own() -> None:
    document = view()
    said = document["elections"]["pool"]["candidates"]["cm2"]
    document["elections"]["pool"]["candidates"] |= {"cm3": said | {"records": 69}, "cm4": said | {"warm": False}}
    assert pool_of(document).order == ("cm3", "cm2", "cm4")
    assert Ranking(("cm1",), 1).best(0, "cm1") == ""


def test_a_node_that_leads_is_followed_at_once_where_its_guard_lives() -> None:
    one = forecast(view(), "gw1").elections[0]
    assert (one.follower, one.leads, one.guard_ms, one.host_ms) == ("gw2", True, 0, 304 + 150)


def test_a_node_that_there_is_not_is_refused() -> None:
    with pytest.raises(KeyError):
        forecast(view(), "gw3")


def test_what_nobody_leads_now_is_said_to_be_so() -> None:
    document = view()
    document["elections"]["pool"]["leader"] = None
    assert "matchmaker pool: nobody leads now; cm2 is the best candidate" in forecast_text(forecast(document, "cm1"))

"""A pool that limps is refused, with the reason."""

import msgspec
import pytest

from gateway.lab.measure.health import Snapshot, objections, rate_min
from gateway.lab.measure.view import ClusterView, cluster_view

HEALTHY = Snapshot(
    submitter_ads=1,
    slots_seen=8,
    slots_expected=8,
    jobs_idle=30,
    jobs_idle_min=16,
    jobs_per_minute=60.0,
    jobs_per_minute_least=44.0,
    job_mean_s=6.0,
    leader="cm1",
    holder="gw1",
)


def test_healthy_pool_is_measured():
    assert objections(HEALTHY) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"submitter_ads": 0}, "no submitter ad"),
        ({"submitter_ads": None}, "condor_status -submitters gave no answer"),
        ({"slots_seen": 7}, "7 slots in the collector instead of 8"),
        ({"slots_seen": None}, "condor_status gave no answer"),
        ({"jobs_idle": 15}, "15 idle jobs in the queue, fewer than 16"),
        ({"jobs_per_minute": 12.0}, "12 jobs per minute, fewer than 34"),
        (
            {"jobs_per_minute_least": 24.0},
            "jobs do not flow evenly: 60 per minute, but 24 in a quarter of that time",
        ),
        ({"leader": None}, "no elected manager"),
        ({"holder": None}, "nobody holds the address"),
        ({"managers_unfit": ("cm2", "cm3")}, "not fit and warm: cm2, cm3"),
        ({"gateways_unfit": ("gw2",)}, "not in the cluster: gw2"),
    ],
)
def test_each_doubt_is_a_refusal_with_its_reason(change, reason):
    assert objections(msgspec.structs.replace(HEALTHY, **change)) == (reason,)


def test_pool_without_an_address_needs_no_holder():
    assert objections(msgspec.structs.replace(HEALTHY, has_address=False, holder=None)) == ()


def test_least_rate_is_a_share_of_what_the_slots_can_do():
    assert rate_min(16, 6.0) == 2 * rate_min(8, 6.0) < 16 * 60 / 6.0


def standing(**change):
    return {"fit": True, "warm": True, "heard_ms_ago": 40} | change


def document(**managers):
    gateways = {"gw1": standing(warm=False), "gw2": standing(warm=False)}
    return {
        "elections": {
            "pool-vip": {"kind": "address", "leader": "gw2", "candidates": gateways},
            "managers": {"kind": "matchmaker", "leader": "cm1", "candidates": {"cm1": standing()} | managers},
        }
    }


def test_leader_and_holder_are_read_from_a_status_document():
    assert cluster_view(document(cm2=standing())) == ClusterView(
        leader="cm1", holder="gw2", matchmaker_election="managers", address_election="pool-vip"
    )


def test_cold_unfit_silent_and_unknown_managers_are_unfit():
    seen = cluster_view(
        document(
            cm2=standing(warm=False), cm3=standing(fit=False), cm4=standing(heard_ms_ago=5000), cm5=None, cm6=standing()
        )
    )
    assert seen.managers_unfit == ("cm2", "cm3", "cm4", "cm5")

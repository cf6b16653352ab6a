"""Health for load balancers: from one status document, by status code."""

import pytest
from operator_documents import gateway, manager

from gateway.console.health import answer


def silent(document, *names):
    for name in names:
        document["peers"][name]["heard_ms_ago"] = 1_500
    return document


def codes(document, *paths):
    return [answer(path, document)[0] for path in paths]


ALL = ("/live", "/health", "/ready", "/leader", "/leader/vip", "/leader/managers")


def test_healthy_holder_of_the_address_leads_that_and_nothing_else():
    assert codes(gateway(), *ALL) == [200, 200, 200, 200, 200, 503]
    assert answer("/leader/managers", gateway())[1] == "gw1 does not lead (managers: cm1)"
    assert codes(manager(), "/leader/managers", "/leader/vip") == [200, 503]


def test_standby_is_ready_and_no_leader():
    document = gateway()
    document["elections"]["vip"] |= {"leader": "gw2", "lease_left_ms": None}
    assert codes(document, "/ready", "/leader", "/leader/vip") == [200, 503, 503]


def test_lost_majority_is_unhealthy_and_says_how_many_are_heard():
    code, text = answer("/health", silent(gateway(), "cm1", "cm2"))
    assert code == 503
    assert text == "2 of 5 nodes are heard, itself included: no majority"
    assert answer("/health", silent(gateway(), "cm1"))[0] == 200


def test_election_without_a_leader_is_unhealthy():
    document = gateway()
    document["elections"]["managers"]["leader"] = None
    assert answer("/health", document) == (503, "nobody leads managers")
    assert answer("/ready", document)[0] == 200
    assert answer("/ready", silent(document, "cm1", "cm2"))[0] == 503


def test_side_of_a_partition_that_serves_is_ready():
    assert answer("/ready", silent(gateway(), "gw2", "cm1", "cm2"))[0] == 200


def test_candidate_that_is_not_fit_or_drained_is_not_ready():
    document = gateway()
    document["elections"]["vip"]["candidates"]["gw1"]["fit"] = False
    assert answer("/ready", document) == (503, "gw1 can not serve vip now")
    document = gateway()
    document["orders"]["drained"] = ["gw1"]
    assert answer("/ready", document) == (503, "gw1 is drained")


def test_silent_control_process_is_unavailable_everywhere():
    assert {answer(path, None) for path in ALL} == {(503, "the control process does not answer")}


def test_unknown_election_is_not_found():
    assert answer("/leader/nothing", gateway()) == (404, "no election 'nothing' here; there are: vip, managers")


@pytest.mark.parametrize("path", ["/", "/healthz", "/live/x", "/leader/vip/x"])
def test_other_paths_are_none_of_its_business(path):
    assert answer(path, gateway()) is None

"""The page, rendered from what real nodes have said: what it says of which state, and that it is only ever text."""

import copy
import json
import re

import pytest
from page_documents import NOW_S, change, changed, history_at, matchmaker_change, saved

from gateway.console.page import FRAGMENTS, Message, Operator, render_fragments, render_page

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>&'


def text_of(html: str) -> str:
    """Return what a person reads, on one line."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).replace("\N{NO-BREAK SPACE}", " ").split())


def page(document, changes=(), peers=None, **more):
    return render_page(document, {"changes": list(changes)}, peers, now_s=NOW_S, **more)


def parts(document, changes=(), peers=None, **more):
    found = render_fragments(document, {"changes": list(changes)}, peers, now_s=NOW_S, **more)
    return {name: text_of(html) for name, html in found.items()}


@pytest.fixture
def document():
    return saved("gateway")


@pytest.fixture
def peers():
    return saved("peers")


# -- what it says ------------------------------------------------------------------------------------------------------


def test_whole_cluster_is_called_healthy_and_its_leaders_are_named(document, peers):
    said = parts(document, peers=peers)
    assert said["verdict"].startswith(f"Pool {document['cluster']}")
    assert "Healthy All is served" in said["verdict"]
    address, matchmaker = (document["elections"][name]["leader"] for name in ("pool-vip", "managers"))
    assert f"{address} holds pool-vip and {matchmaker} is the matchmaker of managers." in said["verdict"]
    assert said["title"].startswith("Healthy")


def test_election_without_a_leader_is_the_first_thing_said(document, peers):
    said = parts(changed(document, "elections", "pool-vip", "leader", to=None), peers=peers)
    assert "Interrupted Nobody leads pool-vip" in said["verdict"]
    assert "nobody" in said["elections"]
    assert "election under way" in said["elections"]
    assert said["title"].startswith("Interrupted")


def test_node_that_does_not_answer_leaves_a_page_that_says_so():
    said = parts(None, [change()], failure="the node did not answer within 5 s.")
    assert "This node does not answer the node did not answer within 5 s." in said["verdict"]
    assert "291 ms" in said["timeline"]


def test_silent_node_is_named_with_the_time_of_its_silence(document, peers):
    said = parts(changed(document, "peers", "cm3", "heard_ms_ago", to=12_400), peers=peers)
    assert "Attention All is served; 1 thing needs attention" in said["verdict"]
    assert "cm3 is silent: heard 12 s ago." in said["verdict"]
    never = parts(changed(document, "peers", "cm3", "heard_ms_ago", to=None), peers=peers)
    assert "cm3 is silent: never since this node has started." in never["verdict"]


def test_lost_majority_is_a_fault(document):
    for name in ("cm1", "cm2", "cm3"):
        document = changed(document, "peers", name, "heard_ms_ago", to=5_000)
    said = parts(document)
    assert "Fault" in said["verdict"]
    assert "Only 2 of 5 nodes are heard: that is no majority." in said["verdict"]


def test_lease_is_shown_as_the_leader_has_it(document, peers):
    leader = document["elections"]["managers"]["leader"]
    peers[leader]["elections"]["managers"]["lease_left_ms"] = 150
    lease_ms = document["timing"]["lease_ms"]
    html = render_fragments(document, {}, peers, now_s=NOW_S)["elections"]
    assert f"150 ms of {lease_ms} ms left" in text_of(html)
    assert f'width="{100 * 150 / lease_ms}%"' in html


def test_leader_that_cannot_be_asked_is_shown_by_its_last_heartbeat(document):
    leader = next(name for name in document["peers"] if name == document["elections"]["managers"]["leader"])
    said = parts(changed(document, "peers", leader, "heard_ms_ago", to=31))
    assert "heard 31 ms ago" in said["elections"]


def test_votes_are_those_who_have_answered_the_leader(document, peers):
    said = parts(document, peers=peers)
    assert "5 of 5 nodes follow" in said["elections"]


def test_candidate_that_could_not_take_over_is_worth_attention(document, peers):
    other = next(name for name in ("gw1", "gw2") if name != document["elections"]["pool-vip"]["leader"])
    said = parts(changed(document, "elections", "pool-vip", "candidates", other, "fit", to=False), peers=peers)
    assert f"{other} could not take pool-vip: it is not fit." in said["verdict"]


def test_managers_show_collector_negotiator_ads_and_replica(document, peers):
    said = parts(document, peers=peers)["managers"]
    assert "Managers backend managers" in said
    assert "running" in said
    assert "stands by" in said
    assert "warm" in said
    assert "has every record" in said
    for kind in ("slot", "startd", "schedd", "submitter"):
        assert kind in said


def test_replica_that_is_late_is_worth_attention(document, peers):
    leader = document["elections"]["managers"]["leader"]
    standby = next(name for name in ("cm1", "cm2", "cm3") if name != leader)
    shipped = peers[leader]["matchmakers"]["managers"]["accounting"]["standbys"][standby]
    shipped |= {"lag_records": 240, "lag_ms": 4_200, "connected": True}
    said = parts(document, peers=peers)
    assert f"The replica of {standby} is late: 240 records, 4.20 s behind." in said["verdict"]


def test_failover_in_its_first_second_is_shown_as_what_it_is(document):
    """The others were asked just before: what they said then is not held against them."""
    after, before = saved("after"), saved("peers")
    leader = after["elections"]["managers"]["leader"]
    before[leader]["matchmakers"]["managers"]["negotiator_running"] = False
    before["cm2"]["elections"]["managers"]["leader"] = "cm2"
    before["cm2"]["matchmakers"]["managers"]["negotiator_running"] = True
    said = parts(after, peers=before)
    assert f"The negotiator of {leader} does not run yet: nothing is matched." in said["verdict"]
    assert "led until now" in said["managers"]
    assert "still running" not in said["verdict"]


def test_second_negotiator_is_a_fault(document, peers):
    standby = next(name for name in ("cm1", "cm2") if name != document["elections"]["managers"]["leader"])
    peers[standby]["matchmakers"]["managers"]["negotiator_running"] = True
    said = parts(document, peers=peers)
    assert f"The negotiator of {standby} is still running, and it is not the elected manager." in said["verdict"]
    assert "Fault" in said["verdict"]


def test_leader_is_said_to_lead_since_its_own_term(document, peers):
    leader, term = (document["elections"]["managers"][name] for name in ("leader", "term"))
    older = matchmaker_change(to=leader, term=term - 1)
    assert "since" not in parts(document, [older], peers)["elections"]
    assert "since 2025-11-23 15:48:00 UTC" in parts(document, [older | {"term": term}], peers)["elections"]


def test_traffic_is_that_of_the_holder_first(document, peers):
    said = parts(document, peers=peers)["traffic"]
    holder = document["elections"]["pool-vip"]["leader"]
    assert said.index(f"{holder} holds the address") < said.index({"gw1": "gw2", "gw2": "gw1"}[holder])


def test_pause_and_drain_are_shown_where_everybody_looks(document, peers):
    orders = {"version": 3, "paused": "moving a rack", "drained": ["gw2"], "by": "gw1", "at": NOW_S}
    said = parts(document | {"orders": orders}, peers=peers)
    assert "Paused by gw1: moving a rack. Nobody takes over until it is resumed." in said["verdict"]
    assert "drained" in said["nodes"]


def test_warnings_of_the_node_are_shown_and_many_of_them_are_cut(document, peers):
    said = parts(document | {"warnings": [f"warning {number}" for number in range(30)]}, peers=peers)
    assert "warning 0" in said["verdict"]
    assert "warning 20" not in said["verdict"]
    assert "And 23 more: see 'condor-gateway status'." in said["verdict"].replace("&#39;", "'")


def test_duplicate_address_is_a_fault(document, peers):
    claimed = {"02:00:00:00:00:99": {"for_ms": 3_000}}
    said = parts(changed(document, "addresses", "pool-vip", "claimed_by", to=claimed), peers=peers)
    assert "02:00:00:00:00:99 claims pool-vip too: a duplicate address." in said["verdict"]


def test_timeline_is_a_picture_and_a_table():
    html = render_fragments(None, {"changes": [change(), matchmaker_change()]}, now_s=NOW_S)["timeline"]
    assert html.count('<svg class="picture"') == 2
    assert "<title>elected after 290\N{NO-BREAK SPACE}ms</title>" in html
    table = html[html.index("<table>") :]
    assert re.search(r'<th scope="col" class="n">first match</th>', table)
    assert "431\N{NO-BREAK SPACE}ms" in table


def test_failover_that_a_real_pool_has_seen_is_drawn(document, peers):
    html = page(document, history_at(NOW_S), peers)
    assert 'class="gap"' in html
    assert "first cycle" in html


def test_operator_gets_forms_and_others_none(document):
    assert "<form" not in page(document)
    assert 'name="token"' in page(document, operator=Operator(True))
    forms = page(document, operator=Operator(True, "secret-of-the-session"))
    assert forms.count('name="csrf" value="secret-of-the-session"') == forms.count("<form")


# -- whatever it is given ----------------------------------------------------------------------------------------------


def test_no_name_becomes_markup(document, peers):
    spoilt, others = (json.loads(_spoil(json.dumps(one))) for one in (document, peers))
    html = page(
        spoilt,
        [change(election=EVIL, to=EVIL, cause=EVIL, detail=EVIL, **{"from": EVIL})],
        others,
        failure=EVIL,
        message=Message("bad", EVIL),
        operator=Operator(True, EVIL),
    )
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "onerror=alert(1)&gt;" in html


def _spoil(text: str) -> str:
    """Put what would be markup into every name that a configuration chooses."""
    for name in ("pool-vip", "managers", "matchmaker-frontend", "gw2", "cm3"):
        text = text.replace(f'"{name}"', json.dumps(f"{name}{EVIL}"))
    return text


def test_peer_of_another_version_may_lack_anything(document, peers):
    for name, peer in peers.items():
        for path in _paths(peer, 4):
            without = copy.deepcopy(peer)
            place = without
            for step in path[:-1]:
                place = place[step]
            del place[path[-1]]
            said = parts(document, peers=peers | {name: without})
            assert set(said) == {*FRAGMENTS, "title"}


def _paths(document, depth):
    if isinstance(document, dict) and depth:
        for name, value in document.items():
            yield (name,)
            yield from ((name, *path) for path in _paths(value, depth - 1))


def test_peers_that_do_not_answer_are_no_reason_not_to_show_the_page(document):
    said = parts(document, peers={name: {"error": "'cm1' does not answer"} for name in document["peers"]})
    assert "Managers backend managers" in said["managers"]
    assert "not known" in said["managers"]


def test_manager_and_witness_have_a_page_too(peers):
    for name in ("cm1", "cm2"):
        said = parts(peers[name], peers={})
        assert f"{name}" in said["nodes"]
        assert "this node" in said["nodes"]


def test_every_control_has_a_name_and_every_identity_is_its_own(document, peers):
    html = page(document, history_at(NOW_S), peers, operator=Operator(True, "x"))
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for control in re.findall(r"<(?:input|select)[^>]*>", html):
        if 'type="hidden"' not in control:
            assert f'<label for="{re.search(r"id=.([^ >]+?).(?= |>)", control).group(1)}"' in html

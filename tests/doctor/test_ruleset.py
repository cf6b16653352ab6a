"""Promises of the reading of firewall rules: a packet that surely passes or is surely dropped is known to be."""

import pytest

from gateway.doctor.ruleset import Packet, Passage, passage

HEARTBEAT = Packet(protocol="udp", port=9619, source="10.77.0.92", destination="10.77.0.91", device="eth0")


def chain(policy="accept", family="inet", hook="input", name="input", table="filter", prio=0):
    return {
        "chain": {
            "family": family,
            "table": table,
            "name": name,
            "type": "filter",
            "hook": hook,
            "prio": prio,
            "policy": policy,
        }
    }


def inner(name, family="inet", table="filter"):
    return {"chain": {"family": family, "table": table, "name": name}}


def rule(*expr, name="input", family="inet", table="filter"):
    return {"rule": {"family": family, "table": table, "chain": name, "expr": list(expr)}}


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


def port(number, protocol="udp"):
    return match({"payload": {"protocol": protocol, "field": "dport"}}, number)


def meta(key, value):
    return match({"meta": {"key": key}}, value)


ACCEPT, DROP = {"accept": None}, {"drop": None}
ESTABLISHED = match({"ct": {"key": "state"}}, ["established", "related"], "in")


def judged(*objects, packet=HEARTBEAT, hook="input"):
    return passage(objects, hook, packet).passage


def test_without_rules_everything_passes():
    assert judged() is Passage.PASSES
    assert judged(chain("accept")) is Passage.PASSES


def test_a_policy_of_drop_drops_what_no_rule_lets_in_and_names_its_chain():
    answer = passage([chain("drop")], "input", HEARTBEAT)
    assert (answer.passage, answer.chain) == (Passage.DROPPED, "table filter, chain input")
    assert judged(chain("drop"), rule(port(22, "tcp"), ACCEPT)) is Passage.DROPPED
    assert judged(chain("drop"), rule(port(9619), ACCEPT)) is Passage.PASSES


def test_a_new_packet_is_no_established_one():
    assert judged(chain("drop"), rule(ESTABLISHED, ACCEPT)) is Passage.DROPPED
    new = match({"ct": {"key": "state"}}, "new", "in")
    assert judged(chain("drop"), rule(new, port(9619), ACCEPT)) is Passage.PASSES


@pytest.mark.parametrize(
    ("right", "passes"),
    [
        ({"set": [9618, 9619]}, True),
        ({"set": [{"range": [9000, 9999]}]}, True),
        ({"range": [9000, 9600]}, False),
        ({"set": [{"elem": {"val": 9619, "comment": "x"}}]}, True),
        ({"set": [22, 80]}, False),
    ],
)
def test_ports_in_sets_and_ranges_are_read(right, passes):
    wanted = Passage.PASSES if passes else Passage.DROPPED
    assert judged(chain("drop"), rule(port(right), ACCEPT)) is wanted


def test_a_rule_for_tcp_says_nothing_of_udp_and_one_for_both_does():
    assert judged(chain("drop"), rule(port(9619, "tcp"), ACCEPT)) is Passage.DROPPED
    both = match({"payload": {"protocol": "th", "field": "dport"}}, 9619)
    assert judged(chain("drop"), rule(meta("l4proto", {"set": ["tcp", "udp"]}), both, ACCEPT)) is Passage.PASSES


def test_sources_networks_and_named_sets_are_read():
    source = {"payload": {"protocol": "ip", "field": "saddr"}}
    assert (
        judged(chain("drop"), rule(match(source, {"prefix": {"addr": "10.77.0.0", "len": 24}}), ACCEPT))
        is Passage.PASSES
    )
    assert (
        judged(chain("drop"), rule(match(source, {"prefix": {"addr": "10.78.0.0", "len": 24}}), ACCEPT))
        is Passage.DROPPED
    )
    named = {"set": {"family": "inet", "table": "filter", "name": "peers", "elem": ["10.77.0.92", "10.77.0.11"]}}
    assert judged(chain("drop"), named, rule(match(source, "@peers"), ACCEPT)) is Passage.PASSES
    assert judged(chain("drop"), rule(match(source, "10.77.0.92", "!="), ACCEPT)) is Passage.DROPPED


def test_interfaces_are_compared_and_an_unknown_one_may_be_any():
    assert judged(chain("drop"), rule(meta("iifname", "lo"), ACCEPT)) is Passage.DROPPED
    assert judged(chain("drop"), rule(meta("iifname", "eth*"), ACCEPT)) is Passage.PASSES
    unknown = Packet(protocol="udp", port=9619)
    assert judged(chain("drop"), rule(meta("iifname", "eth0"), ACCEPT), packet=unknown) is Passage.PERHAPS


def test_verdict_maps_are_followed():
    states = {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", ACCEPT], ["invalid", DROP]]}}}
    assert judged(chain("drop"), rule(states), rule(port(9619), ACCEPT)) is Passage.PASSES
    assert judged(chain("drop"), rule(states)) is Passage.DROPPED
    named = {"vmap": {"key": {"ct": {"key": "state"}}, "data": "@map"}}
    assert judged(chain("drop"), rule(named)) is Passage.PERHAPS


def test_chains_are_jumped_to_and_come_back():
    jump = {"jump": {"target": "services"}}
    into = (chain("drop"), inner("services"), rule(jump))
    assert judged(*into) is Passage.DROPPED
    assert judged(*into, rule(port(9619), ACCEPT, name="services")) is Passage.PASSES
    assert judged(*into, rule(port(9619), {"return": None}, name="services"), rule(ACCEPT)) is Passage.PASSES
    assert (
        judged(chain("accept"), inner("services"), rule({"goto": {"target": "services"}}), rule(DROP)) is Passage.PASSES
    )


def test_a_rule_that_drops_before_one_that_accepts_counts():
    assert judged(chain("accept"), rule(port(9619), DROP), rule(port(9619), ACCEPT)) is Passage.DROPPED
    assert judged(chain("accept"), rule(port(9619), {"reject": {"type": "icmp"}})) is Passage.DROPPED


def test_what_is_accepted_in_one_table_may_be_dropped_in_the_next():
    later = chain("drop", table="ufw", prio=10)
    assert judged(chain("accept"), rule(ACCEPT), later) is Passage.DROPPED


def test_a_limit_or_a_match_of_iptables_leaves_it_open():
    assert judged(chain("drop"), rule({"limit": {"rate": 1, "per": "second"}}, ACCEPT)) is Passage.PERHAPS
    assert judged(chain("drop"), rule({"xt": {"type": "match", "name": "addrtype"}}, ACCEPT)) is Passage.PERHAPS
    assert judged(chain("drop"), rule({"counter": {"packets": 1, "bytes": 2}}, {"log": None}, ACCEPT)) is Passage.PASSES


def test_tables_of_the_other_ip_version_and_our_own_do_not_count():
    assert judged(chain("drop", family="ip6")) is Passage.PASSES
    assert judged(chain("drop", family="ip")) is Passage.DROPPED
    assert judged(chain("drop", table="condor-gateway-lab")) is Passage.PASSES
    assert judged(chain("drop"), hook="output") is Passage.PASSES


def test_chains_that_jump_in_a_circle_end():
    circle = (inner("a"), rule({"jump": {"target": "a"}}, name="a"))
    assert judged(chain("drop"), rule({"jump": {"target": "a"}}), *circle) is Passage.PERHAPS


def test_arp_and_neighbour_discovery_have_rules_of_their_own():
    arp = Packet(protocol="arp", device="eth0")
    assert judged(chain("drop", family="arp"), packet=arp) is Passage.DROPPED
    assert judged(chain("drop"), packet=arp) is Passage.PASSES
    asked = Packet(protocol="icmpv6", version=6, kind="nd-neighbor-solicit")
    kinds = match(
        {"payload": {"protocol": "icmpv6", "field": "type"}}, {"set": ["nd-neighbor-solicit", "echo-request"]}
    )
    assert judged(chain("drop"), rule(kinds, ACCEPT), packet=asked) is Passage.PASSES
    assert judged(chain("drop"), packet=asked) is Passage.DROPPED


def test_rules_of_an_unknown_form_leave_it_open_instead_of_failing():
    assert judged(chain("drop"), rule({"jump": "services"}, {"match": 5})) is Passage.PERHAPS

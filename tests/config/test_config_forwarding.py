"""The three ways to forward, their limits, and several pools on one pair of gateways."""

import pytest
from config_files import SAMPLE, errors, load_sample, warnings

from gateway.config import load


@pytest.mark.parametrize("way", ["proxy", "proxy transparent", "nat", "nat transparent", "direct"])
@pytest.mark.parametrize("protocols", ["tcp", "udp", "tcp,udp"])
def test_each_way_of_forwarding_is_taken_for_each_protocol(way, protocols):
    changes = (("forward proxy", f"forward {way}"), ("proto tcp,udp", f"proto {protocols}"))
    assert load_sample(*changes).diagnostics == ()


SECOND_POOL = """
address second-vip
    ip 10.77.0.101/32 dev eth0
    holder gw2 gw1

frontend second
    bind second-vip:9618
    default_backend second

backend second
    option condor-check
    default-server check
    server cm4 10.77.0.14:9618
    server cm5 10.77.0.15:9618
    negotiator on-elected
    warm-standby on
    replicate accounting
    replicate file /srv/pool-password
"""


def two_pools(*changes):
    text = SAMPLE.replace("    peer cm1", "    peer cm4 10.77.0.14:9619 manager\n    peer cm1")
    text = text.replace("    peer cm1", "    peer cm5 10.77.0.15:9619 manager\n    peer cm1")
    text += "    replicate file /srv/pool-password\n" + SECOND_POOL
    for old, new in changes:
        assert old in text, f"{old!r} is not there"
        text = text.replace(old, new)
    return load(text, "x.cfg", {})


def test_two_pools_with_managers_of_their_own_each_have_a_negotiator_and_the_same_files():
    assert two_pools().diagnostics == ()


@pytest.mark.parametrize("without", ["", "    negotiator on-elected\n"])
def test_a_manager_serves_one_pool(without):
    found = two_pools(("server cm5 10.77.0.15:9618", "server cm2 10.77.0.12:9628"), (without, ""))
    (message,) = [one for one in errors(found) if "add 'negotiator on-elected'" not in one]
    assert "server 'cm2' is already one of backend 'managers'" in message
    assert "a manager runs one negotiator" in message


def test_an_address_and_a_backend_are_elections_and_share_no_name():
    (message,) = errors(load_sample(("backend managers", "backend pool-vip"), ("end managers", "end pool-vip")))
    assert "has the name of the address on line" in message


def test_a_lone_manager_of_a_second_pool_is_a_warning():
    found = two_pools(("    server cm5 10.77.0.15:9618\n", ""), ("    peer cm5 10.77.0.15:9619 manager\n", ""))
    assert warnings(found) == ["server 'cm4' is alone in backend 'second': nothing takes over from it"]


DIRECT = ("forward proxy", "forward direct")


def test_direct_is_refused_where_a_server_may_hold_the_address_itself():
    both = ("10.77.0.12:9619 manager", "10.77.0.12:9619 manager gateway")
    held = ("holder gw1 gw2", "holder gw1 cm2 gw2")
    (message,) = errors(load_sample(both, held, DIRECT))
    assert "server 'cm2' may hold address 'pool-vip'" in message
    assert "the host that they came to" in message
    assert errors(load_sample(both, held)) == []


def test_a_transparent_proxy_is_refused_where_a_server_may_hold_the_address_itself():
    """Tried: the SYN-ACK to the client's address leaves the host, and the relay's connect times out."""
    both = ("10.77.0.12:9619 manager", "10.77.0.12:9619 manager gateway")
    held = ("holder gw1 gw2", "holder gw1 cm2 gw2")
    (message,) = errors(load_sample(both, held, ("forward proxy", "forward proxy transparent")))
    assert "past the relay beside it: write 'forward proxy', or let other hosts hold it" in message
    assert errors(load_sample(both, held, ("forward proxy", "forward nat transparent"))) == []


def test_direct_is_refused_where_another_peer_of_the_servers_host_holds_the_address():
    (message,) = errors(load_sample(DIRECT, ("gw2 10.77.0.92:9619", "gw2 10.77.0.12:9629")))
    assert "server 'cm2' may hold address 'pool-vip'" in message


def test_a_server_may_hold_an_address_that_leads_elsewhere_than_to_itself():
    found = two_pools(
        DIRECT,
        ("10.77.0.12:9619 manager", "10.77.0.12:9619 manager gateway"),
        ("holder gw2 gw1", "holder gw2 gw1 cm2"),
    )
    assert errors(found) == []


def test_direct_is_refused_where_its_address_leads_to_another_backend_as_well():
    shared = ("bind second-vip:9618", "bind pool-vip:9628")
    (message,) = errors(two_pools(DIRECT, shared))
    assert "fragments carry no port" in message
    assert errors(two_pools(shared)) == []
    assert errors(two_pools(DIRECT)) == []
    second = (
        ("option condor-check\n    default", "forward direct\n    default"),
        ("14:9618", "14:9628"),
        ("15:9618", "15:9628"),
    )
    (message,) = errors(two_pools(*second, shared))
    assert "'forward direct' in backend 'second'" in message


def test_two_frontends_may_lead_one_address_to_one_direct_backend():
    tcp_and_udp = "proto tcp\n    default_backend managers\n\nfrontend updates\n    bind pool-vip:9618 proto udp"
    assert errors(load_sample(DIRECT, ("proto tcp,udp", tcp_and_udp))) == []


def test_direct_is_refused_where_the_ports_differ():
    for ports in (("pool-vip:9618", "pool-vip:9628"), ("10.77.0.13:9618", "10.77.0.13:9628")):
        (message,) = errors(load_sample(DIRECT, ports))
        assert "leaves packets as they are: make the ports equal" in message
        assert errors(load_sample(("forward proxy", "forward nat"), ports)) == []


@pytest.mark.parametrize(
    ("way", "refused"), [("nat", True), ("proxy transparent", True), ("proxy", False), ("direct", False)]
)
def test_only_a_plain_proxy_translates_between_versions_and_direct_has_no_need_to(way, refused):
    found = load_sample(("forward proxy", f"forward {way}"), ("10.77.0.100/32", "fd00::100/128"))
    assert ["stays in one version" in message for message in errors(found)] == [True] * refused


def test_transparent_is_refused_where_it_says_nothing():
    (message,) = errors(load_sample(("forward proxy", "forward direct transparent")))
    assert message.endswith("'forward direct' always keeps the client's address: remove 'transparent'")


def in_frontend(*lines):
    return ("    default_backend", "".join(f"    {line}\n" for line in lines) + "    default_backend")


def test_a_limit_for_one_source_is_within_the_limit_for_all():
    assert errors(load_sample(in_frontend("maxconn 500", "maxconn-per-source 500"))) == []
    assert "above maxconn 500 " in errors(load_sample(in_frontend("maxconn 500", "maxconn-per-source 501")))[0]
    assert "above maxconn 4000 (its default)" in errors(load_sample(in_frontend("maxconn-per-source 4001")))[0]
    assert len(errors(load_sample(in_frontend("maxconn none", "maxconn-per-source 4001")))) == 1


def test_closing_connections_that_daemons_keep_idle_is_a_warning():
    assert warnings(load_sample(in_frontend("timeout client 15m"))) == []
    assert "keep idle on purpose, for 15m" in warnings(load_sample(in_frontend("timeout client 899s")))[0]


def test_much_patience_with_silent_clients_is_a_warning():
    assert warnings(load_sample(in_frontend("timeout client-hello 30s"))) == []
    assert "10s is enough" in warnings(load_sample(in_frontend("timeout client-hello 31s")))[0]


@pytest.mark.parametrize(
    ("section", "line", "answer"),
    [
        ("frontend", "timeout server 1h", "write 'timeout client' in the frontend"),
        ("backend", "timeout client 1h", "'timeout client' is a keyword of 'frontend', not of 'backend'"),
        ("global", "timeout client 1h", "'timeout client' is a keyword of 'frontend', not of 'global'"),
        ("global", "timeout tunnel 1h", "write 'timeout client' in the frontend"),
        ("global", "maxconn 4000", "'maxconn' is a keyword of 'frontend', not of 'global'"),
        ("global", "nbthread 4", "write 'relay-workers'"),
        ("global", "ulimit-n 4000", "LimitNOFILE"),
        ("global", "hard-stop-after 30s", "write 'timeout drain' in the backend"),
        ("backend", "source 0.0.0.0 usesrc clientip", "'forward proxy transparent'"),
        ("backend", "option transparent", "'forward proxy transparent'"),
        ("backend", "lvs_method DR", "'forward direct' for its DR"),
    ],
)
def test_what_others_call_it_is_answered_with_the_word_to_write(section, line, answer):
    first = {
        "global": "    cluster physics-pool",
        "frontend": "    default_backend managers",
        "backend": "    balance elected",
    }
    (message,) = errors(load_sample((first[section], f"    {line}\n{first[section]}")))
    assert answer in message

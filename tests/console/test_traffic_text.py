"""What a node carries as a person reads it. The figures are made by the parts that make them in a node."""

from collections import Counter

from gateway.config.settings import (
    Address,
    Backend,
    Bind,
    Endpoint,
    Forward,
    Frontend,
    LogFormat,
    Protocol,
    Server,
    Settings,
)
from gateway.console.traffic_text import render_backend, render_receiving, render_relay, render_returns
from gateway.control.diversion import Carried
from gateway.control.figures import kernel_figures, of_backends, of_frontends
from gateway.control.traffic import figures

BOTH = frozenset({Protocol.TCP, Protocol.UDP})


def settings(way, frontends=("pool",)):
    servers = tuple(Server(name=f"cm{n}", endpoint=Endpoint(f"10.0.0.1{n}", 9618)) for n in (1, 2))
    return Settings(
        cluster="tests",
        key_file="/none",
        state_dir="/none",
        log_format=LogFormat.JSON,
        peers_name="lan",
        heartbeat_ms=50,
        lease_ms=300,
        peers=(),
        addresses=(Address(name="vip", ip="10.0.0.100", prefix_length=32, device="lan0", holders=("gw1",)),),
        frontends=tuple(
            Frontend(name=name, binds=(Bind(address="vip", port=9618 + n, protocols=BOTH),), backend="managers")
            for n, name in enumerate(frontends)
        ),
        backends=(Backend(name="managers", servers=servers, forward=way),),
    )


def relayed(server="cm2", servers=None, **counted):
    return {"managers": {**figures(Counter(counted), Counter()), "server": server, "servers": servers or {}}}


def carried(way, *, now=None, servers=None, carries=True, fault="", refused=None, **counted):
    open_now = None if now is None else {"now": now, "draining": 0}
    rates = {name: number / 10 for name, number in counted.items()}
    mine = {name: kernel_figures(way, of_server, {}) for name, of_server in (servers or {}).items()}
    return Carried(carries, "kernel", fault, refused, kernel_figures(way, counted, rates, open_now), mine)


def text_of(way, by_relay, *by_kernel, held=True, holder="gw1", diversions=None):
    backend = of_backends(settings(way), by_relay, {"managers": list(by_kernel)})["managers"]
    node = {
        "addresses": {"vip": {"held": held}},
        "elections": {"vip": {"leader": holder}},
        "diversions": diversions or {},
    }
    return "\n".join(render_backend("managers", backend, node))


def test_direct_shows_what_the_kernel_counted_and_nothing_that_it_cannot_know():
    by_kernel = carried(
        Forward.DIRECT, connections=1_234, bytes_to_server=5_600_000, servers={"cm1": {"connections": 34}}
    )
    assert text_of(Forward.DIRECT, relayed(connections_total=2, connections_now=1), by_kernel) == (
        "backend managers (forward direct): to cm2, by the kernel\n"
        "  connections  123/s, 1,236 in all\n"
        "  bytes        5.6 MB from clients (560 kB/s), answers do not pass here\n"
        "  by the relay 2 connections (1 connection now)\n"
        "  formerly     34 connections, 0 B to cm1"
    )


def test_nat_shows_both_directions_and_how_full_the_table_of_flows_is():
    by_kernel = carried(
        Forward.NAT, now=3, connections=40, bytes_to_server=100, bytes_to_client=2_000, datagrams_to_server=70, reset=5
    )
    said = text_of(Forward.NAT, relayed(), by_kernel, diversions={"managers": {"conntrack_fill": 0.42}})
    assert said == (
        "backend managers (forward nat): to cm2, by the kernel (whose table of flows is 42 % full)\n"
        "  connections  4.0/s, 40 in all, 3 now\n"
        "  datagrams    70 from clients (7.0/s)\n"
        "  bytes        100 B from clients (10 B/s), 2.0 kB to clients (200 B/s)\n"
        "  of these     5 closed at a switch"
    )


def test_proxy_names_refusals_and_errors_by_their_cause():
    said = text_of(
        Forward.PROXY,
        relayed(
            connections_total=9,
            connections_now=4,
            held_now=1,
            held_total=2,
            bytes_to_server_total=1,
            maxconn_refused_total=3,
            source_rate_refused_total=4,
            refused_total=7,
            connect_failed_total=7,
            reset_by_client_total=90,
        ),
    )
    assert "  connections  0/s, 9 in all, 4 now (1 held)\n" in said
    assert "  of these     2 held until there was a server\n" in said
    assert said.endswith("  refused      3 maxconn, 4 source rate\n  errors       7 times no server accepted")


def test_a_server_that_direct_cannot_reach_is_named_with_the_reason():
    refusal = "behind the router 10.0.0.1, not on the segment of 'lan0'"
    said = text_of(Forward.DIRECT, relayed(), carried(Forward.DIRECT, carries=False, refused=refusal))
    assert said == (
        "backend managers (forward direct): to cm2, by the relay\n"
        "  cm2 is behind the router 10.0.0.1, not on the segment of 'lan0': the relay carries it"
    )


def test_a_kernel_that_refuses_is_quoted():
    said = text_of(Forward.NAT, relayed(), carried(Forward.NAT, carries=False, fault="the rules are gone"))
    assert said == "backend managers (forward nat): to cm2, by the relay\n  the kernel cannot: the rules are gone"


def test_who_waits_while_nobody_is_elected_is_counted():
    said = text_of(Forward.PROXY, relayed(server=None, connections_now=2, held_now=2))
    assert said.startswith("backend managers (forward proxy): nobody is elected, new connections wait: 2 so far\n")


def test_a_gateway_without_the_address_says_who_carries():
    by_kernel = carried(Forward.DIRECT)
    for holder, carrier in (("gw2", "carried by gw2 now"), (None, "no gateway holds its address")):
        said = text_of(Forward.DIRECT, relayed(), by_kernel, held=False, holder=holder)
        assert said == f"backend managers (forward direct): {carrier}"


def test_what_a_way_cannot_know_is_null_also_in_the_sum_with_the_relay():
    made = of_backends(settings(Forward.DIRECT), relayed(connections_now=1), {"managers": [carried(Forward.DIRECT)]})
    backend = made["managers"]
    assert (backend["connections"]["now"], backend["relay"]["connections"]["now"]) == (None, 1)
    assert backend["bytes"] == {"to_server": 0, "to_client": None}
    assert backend["servers"]["cm1"]["connections"]["now"] is None


def test_several_frontends_of_a_backend_do_not_claim_what_the_kernel_counted_for_all():
    by_kernel = {"managers": [carried(Forward.NAT, connections=7)]}
    for names, total in ((("one",), 8), (("one", "two"), None)):
        wanted = settings(Forward.NAT, names)
        backends = of_backends(wanted, relayed(), by_kernel)
        by_frontend = {name: figures(Counter(connections_total=1), Counter()) for name in names}
        assert of_frontends(wanted, by_frontend, backends)["one"]["connections"]["total"] == total


def test_two_addresses_of_a_backend_are_added_up():
    both = [carried(Forward.DIRECT, connections=3), carried(Forward.DIRECT, connections=4, carries=False)]
    backend = of_backends(settings(Forward.DIRECT), relayed(), {"managers": both})["managers"]
    assert backend["connections"]["total"] == 7
    assert backend["carrier"] == "relay", "not all of it is the kernel's"


def test_a_manager_says_whether_the_address_is_its_own_and_what_failed():
    state = {"destroyed_total": 3, "undestroyed_total": 0, "fault": "cannot add the address"}
    held, other = (render_receiving({"addresses": {"10.0.0.100": yes}, **state}) for yes in (True, False))
    assert held == [
        "  forward direct: 10.0.0.100 is on lo, so that connections to it arrive here",
        "  3 connections closed when another manager was elected",
        "  forward direct does not work here: cannot add the address",
    ]
    assert other[0] == "  forward direct: 10.0.0.100 is not on lo: no connections to it arrive here"
    assert render_receiving(None) == []


def test_answers_find_back_or_it_is_said_why_not():
    back = {"gateways": {"10.0.0.91": "02:00:00:00:00:01"}, "fault": ""}
    assert render_returns({"lan0": back, "relay": {"state": "kernel", "fault": ""}}) == [
        "  transparent: answers to clients go back through the gateway they came by (10.0.0.91)"
    ]
    assert render_returns({"relay": {"fault": "no permission"}}) == [
        "  transparent: answers do not find back: no permission"
    ]


def test_a_relay_short_of_descriptors_or_of_cpu_says_so():
    worker = {"pid": 7, "listening": True, "reason": "", "cpu": 0.97, "descriptors": {"used": 900, "limit": 1_000}}
    relay = {"workers": [worker], "restarts_total": 0, "degraded": False, "descriptors": {"connections_max": 400}}
    assert render_relay(relay) == [
        "relay (pid 7): up to 400 connections",
        "  process 7 uses 900 of 1,000 file descriptors: raise LimitNOFILE of the service",
        "  process 7 is busy: 97 % of a core",
    ]

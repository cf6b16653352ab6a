"""Translation to the elected server: who is served by whom, before, during and after a switch. Real kernels."""

import os
import signal
import time
from unittest.mock import patch

import pytest

import gateway.kernel.nat
from gateway.config.settings import Endpoint
from gateway.kernel.nat import Nat
from gateway.kernel.nft_expressions import Rate
from gateway.kernel.rouse import Roused
from tests.support.nat_net import (
    PORT,
    SERVER_PORT,
    Net,
    ask,
    build,
    burst,
    datagrams,
    exchange,
    follow,
    in_client,
    later,
    listening,
    service,
    with_nat,
)
from tests.support.netns import Segment

pytestmark = pytest.mark.kernel


@pytest.fixture
def net(segment: Segment) -> Net:
    return build(segment, 4)


@pytest.fixture(params=[4, 6])
def either(segment: Segment, request: pytest.FixtureRequest) -> Net:
    return build(segment, request.param)


def test_new_flows_go_to_the_elected_server_and_come_back_through_the_gateway(either: Net) -> None:
    follow(either, 0)
    for protocol in ("tcp", "udp"):
        assert either.client.call(ask, either.ip, protocol) == ["s1", either.of_gateway(), "?"]
    follow(either, 1)
    for protocol in ("tcp", "udp"):
        assert either.client.call(ask, either.ip, protocol) == ["s2", either.of_gateway(), "?"]


@pytest.mark.parametrize("silent", [False, True])
def test_an_open_connection_is_reset_after_a_switch_whether_it_talks_or_waits(either: Net, silent: bool) -> None:
    follow(either, 0)
    with in_client(either, exchange, either.ip, 5.0, silent) as talking:
        time.sleep(0.4)
        switched = time.time()
        follow(either, 1)
        *heard, ended = talking.result()
    assert heard[0] == "s1"
    assert "s2" not in heard
    assert heard[-1] == "ECONNRESET"
    print(f"silent={silent}: {(ended - switched) * 1000:.0f} ms after the switch began")
    assert ended - switched < 2


def test_a_client_behind_a_stateful_filter_is_roused_too(either: Net) -> None:
    family = "ip6" if ":" in either.ip else "ip"
    passes = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; " if family == "ip6" else ""
    chain = f"type filter hook input priority 0; policy drop; {passes}ct state established accept;"
    either.client.run("nft", f"table {family} filter {{ chain input {{ {chain} }}; }}")
    follow(either, 0)
    with in_client(either, exchange, either.ip, 5.0, True) as waiting:
        time.sleep(0.4)
        switched = time.time()
        follow(either, 1)
        *heard, ended = waiting.result()
    assert heard[-1] == "ECONNRESET"
    assert ended - switched < 2


def test_a_client_that_connects_too_fast_waits_for_its_next_second_and_others_do_not(either: Net) -> None:
    limited = service(either.ip)._replace(rate=Rate(10, 10))
    either.gateway.call(with_nat, lambda nat: nat.switch(either.endpoints[0]), limited)
    with in_client(either, burst, either.ip, 15) as bursting:
        time.sleep(0.3)
        assert either.servers[1].call(ask, either.ip)[0] == "s1"
        soon, later_on = bursting.result()
    assert 10 <= soon < 15, "as many as its bucket holds, and those that came into it meanwhile"
    assert later_on == 15, "dropped, not refused: its kernel tries again"
    counted = either.gateway.call(with_nat, lambda nat: nat.counters(), limited)
    assert counted["pool.tcp_refused"] >= 15 - soon
    assert either.client.call(ask, either.ip, "udp")[0] == "s1"
    assert counted["pool.tcp_opened"] == 16


@pytest.mark.parametrize("size", [1, 3_000])
def test_datagrams_of_one_client_follow_a_switch_fragments_included(either: Net, size: int) -> None:
    follow(either, 0)
    with in_client(either, datagrams, either.ip, 100, 0.01, size) as sending:
        time.sleep(0.4)
        follow(either, 1)
        names = sending.result()
    assert names == sorted(names), "never back to the old one"
    assert set(names) == {"s1", "s2"}


def test_without_a_server_packets_reach_the_gateways_own_listener_and_stay_there(either: Net) -> None:
    follow(either, None)
    assert either.client.call(ask, either.ip, "udp")[0] == "relay"
    with in_client(either, exchange, either.ip, 1.0, False) as talking:
        time.sleep(0.3)
        follow(either, 0)
        assert either.client.call(ask, either.ip)[0] == "s1"
        *heard, _ = talking.result()
    assert set(heard) == {"relay", either.of_client(), "?"}


def test_a_server_that_comes_back_keeps_its_connections(net: Net) -> None:
    def there_and_back(nat: Nat) -> list[bool]:
        nat.switch(net.endpoints[0])
        time.sleep(0.5)
        return [nat.switch(to) for to in (None, net.endpoints[0])]

    with in_client(net, later, 0.3, exchange, net.ip, 1.0, False) as talking:
        assert net.gateway.call(with_nat, there_and_back, service(net.ip)) == [False, False]
        *heard, _ = talking.result()
    assert heard[0] == "s1"
    assert set(heard) == {"s1", net.of_gateway(), "?"}


def test_datagrams_follow_at_once_while_connections_wait_to_be_expelled(net: Net) -> None:
    follow(net, 0)

    def switched(nat: Nat) -> None:
        nat.switch(net.endpoints[1])
        nat.follow("pool")

    with (
        in_client(net, exchange, net.ip, 1.0, False) as talking,
        in_client(net, datagrams, net.ip, 50, 0.01, 1) as sending,
    ):
        time.sleep(0.3)
        net.gateway.call(with_nat, switched, service(net.ip))
        assert sending.result()[-1] == "s2"
        *heard, _ = talking.result()
    assert set(heard) == {"s1", net.of_gateway(), "?"}


def test_clients_of_a_server_that_is_back_meanwhile_are_not_taken_for_its_former_ones(net: Net) -> None:
    follow(net, 0)

    def there_and_back(nat: Nat) -> Roused:
        def back(_: float) -> None:
            nat.switch(net.endpoints[0])
            wait(0.8)

        nat.switch(net.endpoints[1])
        wait = time.sleep
        with patch.object(gateway.kernel.nat.time, "sleep", back):
            return nat.expel()

    with in_client(net, later, 0.6, exchange, net.ip, 1.0, False) as talking:
        assert net.gateway.call(with_nat, there_and_back, service(net.ip)) == Roused(0, 0)
        *heard, _ = talking.result()
    assert set(heard) == {"s1", net.of_gateway(), "?"}


def test_a_planned_switch_leaves_open_connections_until_they_are_expelled(net: Net) -> None:
    follow(net, 0)

    def drain(nat: Nat) -> tuple[bool, Roused, frozenset[str]]:
        switched = nat.switch(net.endpoints[1])
        time.sleep(1)
        return switched, nat.expel(), nat.lingering

    with in_client(net, exchange, net.ip, 4.0, False) as talking:
        time.sleep(0.3)
        draining = net.gateway.start(with_nat, drain, service(net.ip))
        time.sleep(0.5)
        began = time.time()
        assert net.client.call(ask, net.ip)[0] == "s2"
        assert draining.result() == (True, Roused(1, 1), frozenset())
        *heard, ended = talking.result()
    assert ended > began, "it went on beside the new ones"
    assert heard[-1] == "ECONNRESET"
    assert heard.count("s1") > 20


def test_what_a_killed_process_leaves_goes_on_and_is_adopted_without_a_gap(net: Net) -> None:
    def die(nat: Nat) -> None:
        nat.switch(net.endpoints[0])
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="died"):
        net.gateway.call(with_nat, die, service(net.ip), keep=False)
    with (
        in_client(net, exchange, net.ip, 1.0, False) as talking,
        in_client(net, datagrams, net.ip, 50, 0.01, 9) as sending,
    ):
        time.sleep(0.3)
        # The same server elected again: no switch.
        assert net.gateway.call(with_nat, lambda nat: nat.switch(net.endpoints[0]), service(net.ip)) is False
        assert net.client.call(ask, net.ip)[0] == "s1"
        *heard, _ = talking.result()
        assert set(sending.result()) == {"s1"}
    assert set(heard) == {"s1", net.of_gateway(), "?"}


def test_a_service_more_disturbs_no_flow_and_no_counter_of_the_others(net: Net) -> None:
    follow(net, 0)
    listening(net.gateway, "other relay", net.ip, PORT + 1)
    with in_client(net, exchange, net.ip, 1.0, False) as talking:
        time.sleep(0.3)
        more = [service(net.ip, name="other", port=PORT + 1), service(net.ip)]  # before it, in the file

        def add(nat: Nat) -> tuple[bool, dict[str, int]]:
            nat.switch(net.endpoints[1], "other")
            return nat.switch(net.endpoints[0], "pool"), nat.counters()

        switched, counted = net.gateway.call(with_nat, add, *more)
        assert not switched
        assert counted["pool.tcp_opened"] == 1
        assert net.client.call(ask, net.ip, port=PORT + 1)[0] == "s2"
        *heard, _ = talking.result()
        assert net.gateway.call(with_nat, lambda nat: nat.counters(), service(net.ip))["pool.tcp_opened"] == 1
    assert set(heard) == {"s1", net.of_gateway(), "?"}


def test_services_are_switched_by_themselves(net: Net) -> None:
    both = [service(net.ip), service(net.ip, name="other", port=PORT + 1)]

    def elect(nat: Nat) -> None:
        nat.switch(net.endpoints[0], "pool")
        nat.switch(net.endpoints[0], "other")

    def move(nat: Nat) -> Roused:
        nat.switch(net.endpoints[1], "other")
        return nat.expel("other")

    net.gateway.call(with_nat, elect, *both)
    with in_client(net, exchange, net.ip, 1.0, False) as talking:
        time.sleep(0.3)
        assert net.gateway.call(with_nat, move, *both) == Roused(0, 0)
        assert net.client.call(ask, net.ip, port=PORT + 1)[0] == "s2"
        assert net.client.call(ask, net.ip)[0] == "s1"
        *heard, _ = talking.result()
    assert set(heard) == {"s1", net.of_gateway(), "?"}


def test_counters_tell_flows_packets_and_bytes_each_way(either: Net) -> None:
    follow(either, 0)
    for said in (b"?", b"x" * 3_000):
        either.client.call(ask, either.ip, "udp", said)
        either.client.call(ask, either.ip, "tcp", said)
    counted = either.gateway.call(with_nat, lambda nat: nat.counters(), service(either.ip))
    header = 20 if either.ip == "10.77.0.100" else 40
    assert counted["pool.tcp_opened"] == counted["pool.udp_opened"] == 2
    assert counted["pool.udp_received_packets"] == counted["pool.udp_sent_packets"] == 2
    assert counted["pool.udp_received_bytes"] == 3_001 + 2 * (header + 8)
    assert counted["pool.udp_sent_bytes"] == 3_001 + 2 * (header + 8 + len(f"s1 {either.of_gateway()} "))
    assert counted["pool.tcp_received_packets"] >= 8
    assert counted["pool.tcp_received_bytes"] > 3_001 < counted["pool.tcp_sent_bytes"]


def test_what_goes_to_the_gateways_own_listener_is_not_counted(net: Net) -> None:
    follow(net, None)
    net.client.call(ask, net.ip)
    assert set(net.gateway.call(with_nat, lambda nat: nat.counters(), service(net.ip)).values()) == {0}


def test_the_gateways_own_programs_are_served_by_the_elected_server_too(either: Net) -> None:
    follow(either, 0)
    for protocol in ("tcp", "udp"):
        assert either.gateway.call(ask, either.ip, protocol)[0] == "s1"
    follow(either, 1)
    assert either.gateway.call(ask, either.ip)[0] == "s2"
    counted = either.gateway.call(with_nat, lambda nat: nat.counters(), service(either.ip))
    assert counted["pool.tcp_opened"] == 2


def test_a_server_on_the_gateway_itself_is_served_and_sees_the_client(net: Net) -> None:
    listening(net.gateway, "here", "10.77.0.91", SERVER_PORT)
    net.endpoints[0] = Endpoint("10.77.0.91", SERVER_PORT)
    follow(net, 0)
    for protocol in ("tcp", "udp"):
        assert net.client.call(ask, net.ip, protocol) == ["here", "10.77.0.5", "?"]
        assert net.gateway.call(ask, net.ip, protocol)[0] == "here"


def test_transparent_servers_see_the_clients_address(either: Net) -> None:
    for server in either.servers:  # the return route, as simply as can be
        client = either.of_client()
        server.ip("route", "add", f"{client}/{128 if ':' in client else 32}", "via", either.of_gateway())
    follow(either, 0, transparent=True)
    for protocol in ("tcp", "udp"):
        assert either.client.call(ask, either.ip, protocol) == ["s1", either.of_client(), "?"]
        assert either.gateway.call(ask, either.ip, protocol)[0] == "s1"


def test_a_transparent_server_reaches_itself_by_the_virtual_address(either: Net) -> None:
    """Its own address would come back to it as the source of a packet from outside, which every host drops."""
    for server in (0, 1):
        follow(either, server, transparent=True)
        for protocol in ("tcp", "udp"):
            answer = either.servers[server].call(ask, either.ip, protocol)
            assert answer == [f"s{server + 1}", either.of_gateway(), "?"]


def test_connections_that_the_relay_had_before_stay_with_it(net: Net) -> None:
    """Forwarding is changed from proxy to nat: the kernel begins to track flows in their midst."""
    with in_client(net, exchange, net.ip, 1.5, False) as talking:
        time.sleep(0.3)
        follow(net, 0)
        assert net.client.call(ask, net.ip)[0] == "s1"
        *heard, _ = talking.result()
    assert set(heard) == {"relay", net.of_client(), "?"}

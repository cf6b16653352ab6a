"""Return routes: transparent servers answer through the gateway, all others as before. Real kernels."""

import contextlib
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.kernel.nat_rules import Listener
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.return_route import Gateway, ReturnRoute, TransparentReturn
from tests.support.nat_net import PORT, SERVER_PORT, Net, ask, build, datagrams, exchange, follow, in_client
from tests.support.netns import DEVICE, Host, Segment

pytestmark = pytest.mark.kernel


@pytest.fixture(params=[4, 6])
def either(segment: Segment, request: pytest.FixtureRequest) -> Net:
    return build(segment, request.param)


@pytest.fixture
def net(segment: Segment) -> Net:
    return build(segment, 4)


def returning(net: Net, number: int, act: Callable[[ReturnRoute], Any], *more: Gateway, keep: bool = True) -> Any:
    """Do something with the return route of one server as a process that comes and goes."""
    gateways = [Gateway(net.of_gateway(), net.gateway.mac), *more]
    listeners = [Listener(net.endpoints[number].host, protocol, SERVER_PORT) for protocol in ("tcp", "udp")]

    def there() -> Any:
        route = ReturnRoute("pool", DEVICE, gateways, listeners)
        route.install(keep=keep)
        try:
            return act(route)
        finally:
            route.close()

    return net.servers[number].call(there)


def install(net: Net, *more: Gateway) -> None:
    for number in (0, 1):
        returning(net, number, lambda route: None, *more)


def kernel_of(host: Host) -> str:
    """What `ip` shows of rules and routes of both versions."""
    shown = [("rule",), ("-6", "rule"), ("route", "show", "table", "all"), ("-6", "route", "show", "table", "all")]
    return "".join(host.ip(*arguments).stdout for arguments in shown)


def test_transparent_translation_works_through_the_return_route(either: Net) -> None:
    follow(either, 0, transparent=True)
    with pytest.raises(TimeoutError):
        either.client.call(ask, either.ip, "udp")  # answered directly, and dropped by the client
    install(either)
    for server in (0, 1):
        follow(either, server, transparent=True)
        for protocol in ("tcp", "udp"):
            for said in (b"?", b"x" * 3_000):
                answer = either.client.call(ask, either.ip, protocol, said)
                assert answer == [f"s{server + 1}", either.of_client(), said.decode()]


def test_who_comes_directly_is_answered_directly(either: Net) -> None:
    install(either)
    either.gateway.cut()
    for protocol in ("tcp", "udp"):
        answer = either.client.call(ask, either.endpoints[0].host, protocol, port=SERVER_PORT)
        assert answer == ["s1", either.of_client(), "?"]


def test_a_client_goes_on_through_the_other_gateway(segment: Segment) -> None:
    net = build(segment, 4)
    other = segment.host("gw2", "10.77.0.92/24")
    install(net, Gateway("10.77.0.92", other.mac))
    follow(net, 0, transparent=True)
    second = net._replace(gateway=other)
    other.run("sysctl", "-qw", f"net.ipv4.conf.{DEVICE}.forwarding=1")
    follow(second, 0, transparent=True)
    with (
        in_client(net, datagrams, net.ip, 60, 0.01, 1) as sending,
        in_client(net, exchange, net.ip, 2.5, False) as talking,
    ):
        time.sleep(0.3)
        net.gateway.ip("address", "del", f"{net.ip}/32", "dev", DEVICE)
        other.ip("address", "add", f"{net.ip}/32", "dev", DEVICE)
        net.client.ip("neigh", "replace", net.ip, "lladdr", other.mac, "dev", DEVICE)
        names = sending.result()
        *heard, _ = talking.result()
    assert set(names[-20:]) == {"s1"}
    assert set(names) <= {"s1", "lost"}
    assert set(heard) == {"s1", net.of_client(), "?"}, "its connection did not break"


def test_a_client_that_came_through_a_gateway_may_come_directly_from_the_same_port(net: Net) -> None:
    """One flow in the kernel's eyes: its answers go the way of its last packet."""
    install(net)
    follow(net, 0, transparent=True)

    def ask_twice() -> list[str]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(3)
            heard = []
            for to in ((net.ip, PORT), (net.endpoints[0].host, SERVER_PORT)):
                asking.sendto(b"?", to)
                answer, source = asking.recvfrom(100)
                heard += [answer.decode(), source[0]]
            return heard

    said = f"s1 {net.of_client()} ?"
    assert net.client.call(ask_twice) == [said, net.ip, said, net.endpoints[0].host]


def test_adopting_it_interrupts_nobody(net: Net) -> None:
    install(net)
    follow(net, 0, transparent=True)
    with in_client(net, exchange, net.ip, 1.0, False) as talking:
        time.sleep(0.2)
        for keep in (True, False):
            assert returning(net, 0, lambda route: route.intact(), keep=keep)
        *heard, _ = talking.result()
    assert set(heard) == {"s1", net.of_client(), "?"}


def test_a_gateway_that_is_no_more_takes_its_rule_and_route_along(net: Net) -> None:
    install(net, Gateway("10.77.0.92", "02:00:00:00:00:92"))
    assert kernel_of(net.servers[0]).count("10.77.0.92") == 1
    install(net)
    assert kernel_of(net.servers[0]).count("10.77.0.92") == 0
    assert kernel_of(net.servers[0]).count(f"via {net.of_gateway()}") == 1


def test_removal_leaves_the_host_as_it_was_and_others_rules_alone(either: Net) -> None:
    server = either.servers[0]
    server.ip("rule", "add", "fwmark", "0x77", "table", "77", "priority", "9618")
    before = kernel_of(server)
    returning(either, 0, lambda route: None)
    assert kernel_of(server) != before
    returning(either, 0, lambda route: route.remove())
    assert kernel_of(server) == before
    assert "condor-gateway" not in server.run("nft", "list", "tables").stdout


def test_a_route_that_is_lost_with_its_device_is_noticed_and_put_back(net: Net) -> None:
    def lost(route: ReturnRoute) -> list[bool]:
        import subprocess

        seen = [route.intact()]
        for state in ("down", "up"):
            subprocess.run(["ip", "link", "set", DEVICE, state], check=True)
        seen.append(route.intact())
        route.install(keep=True)
        return [*seen, route.intact()]

    assert returning(net, 0, lost) == [True, False, True]


def test_a_foreign_table_is_refused_before_anything_is_changed(net: Net) -> None:
    server = net.servers[0]
    server.run("nft", "add table ip condor-gateway-pool-return")
    before = kernel_of(server)
    with pytest.raises(KernelRefused, match="not ours"):
        returning(net, 0, lambda route: None)
    assert kernel_of(server) == before


def relay_once(ip: str, server: str) -> None:
    """Relay one connection and one datagram with the client's own address, as `forward proxy transparent` does."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    level, option = (socket.IPPROTO_IPV6, 75) if ":" in ip else (socket.IPPROTO_IP, 19)  # IPV6_TRANSPARENT

    def towards_server(kind: int, client: tuple[Any, ...]) -> socket.socket:
        opened = socket.socket(family, kind)
        opened.setsockopt(level, option, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((client[0], client[1]))
        opened.settimeout(3)
        opened.connect((server, SERVER_PORT))
        return opened

    streams = socket.create_server((ip, PORT + 1), family=family)
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((ip, PORT + 1))
    while True:  # until killed
        ready = select.select([streams, datagrams], [], [])[0]
        with contextlib.suppress(OSError):
            if streams in ready:
                stream, client = streams.accept()
                with stream, towards_server(socket.SOCK_STREAM, client) as onward:
                    onward.sendall(stream.recv(65_536))
                    stream.sendall(onward.recv(65_536))
            else:
                data, client = datagrams.recvfrom(65_536)
                with towards_server(socket.SOCK_DGRAM, client) as onward:
                    onward.send(data)
                    datagrams.sendto(onward.recv(65_536), client)


def test_a_relay_with_the_clients_addresses_hears_the_servers_answers(either: Net) -> None:
    version = 6 if ":" in either.ip else 4
    install(either)
    either.gateway.start(relay_once, either.ip, either.endpoints[0].host)

    def make(act: Callable[[TransparentReturn], Any]) -> Any:
        made = TransparentReturn("pool", version_4=version == 4, version_6=version == 6)
        made.install(keep=True)
        return act(made)

    before = kernel_of(either.gateway)
    assert either.gateway.call(make, lambda made: made.intact())
    for protocol in ("tcp", "udp"):
        for said in (b"?", b"x" * 3_000):  # the second comes in fragments, which have no port but the first
            answer = either.client.call(ask, either.ip, protocol, said, port=PORT + 1)
            assert answer == ["s1", either.of_client(), said.decode()]
    either.gateway.call(make, lambda made: made.remove())
    assert kernel_of(either.gateway) == before

"""Which listeners a node's relay gets, and when a change of leader is a switch."""

from pathlib import Path

from gateway.config import load
from gateway.config.settings import Endpoint, Settings
from gateway.control.forwarding import (
    ElectedServers,
    Forwarding,
    frontend_listeners,
    view_listeners,
)
from gateway.core.actions import FollowLeader
from gateway.relay.messages import ListenFailed, Ready, WhenDown

MINIMAL = Path(__file__).parents[2] / "haproxy-like-config" / "minimal.cfg"


def settings() -> Settings:
    return load(MINIMAL.read_text(), "minimal.cfg", {}).require()


class Routes:
    """Stands where the relay process is; keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Endpoint | None, int]] = []

    def route(self, route: str, server: Endpoint | None, epoch: int) -> None:
        self.told.append((route, server, epoch))


def elected() -> tuple[ElectedServers, Routes]:
    forwarding = Forwarding((), lambda ready, reason: None)
    routes = Routes()
    forwarding.relay = routes  # type: ignore[assignment]
    return ElectedServers(settings(), forwarding), routes


def follow(servers: ElectedServers, leader: str | None, term: int) -> None:
    servers.follow(FollowLeader("managers", leader, term))


def test_a_gateway_listens_on_its_address_for_tcp_and_udp_before_it_holds_it() -> None:
    found = frontend_listeners(settings(), settings().peer("gw1"))
    assert {(listener.protocol, listener.port, listener.freebind) for listener in found} == {
        ("tcp", 9618, True),
        ("udp", 9618, True),
    }
    assert {listener.route for listener in found} == {"managers"}, "TCP and UDP of a client go to one server"


def test_a_manager_listens_for_nobody_but_its_own_collector() -> None:
    assert frontend_listeners(settings(), settings().peer("cm1")) == ()
    found = view_listeners(settings(), settings().backends[0], settings().peer("cm1"))
    assert {listener.host for listener in found} == {"127.0.0.1"}
    assert {listener.when_down for listener in found} == {WhenDown.REFUSE}
    assert {listener.route for listener in found} == {"view/cm2", "view/cm3"}


def test_another_leader_is_a_switch() -> None:
    servers, routes = elected()
    follow(servers, "cm1", 1)
    follow(servers, "cm2", 2)
    (first, second) = routes.told
    assert second[2] > first[2]
    assert second[1] == settings().backends[0].servers[1].endpoint


def test_an_election_holds_new_clients_and_leaves_the_old_ones_alone() -> None:
    servers, routes = elected()
    follow(servers, "cm1", 1)
    follow(servers, None, 1)
    assert routes.told[1] == ("managers", None, routes.told[0][2])


def test_the_same_leader_after_an_election_is_no_switch() -> None:
    servers, routes = elected()
    follow(servers, "cm1", 1)
    follow(servers, None, 1)
    follow(servers, "cm1", 2)
    assert routes.told[2] == routes.told[0]


def test_the_addresss_election_moves_no_route() -> None:
    servers, routes = elected()
    servers.follow(FollowLeader("pool-vip", "gw1", 1))
    assert routes.told == []


async def test_a_port_that_is_free_again_makes_the_gateway_fit_again() -> None:
    told: list[bool] = []
    forwarding = Forwarding((), lambda ready, reason: told.append(ready))
    failed = ListenFailed(listener="a", host="10.77.0.100", port=9618, errno=98, reason="Address already in use")
    for event in (failed, Ready(listeners=2)):
        forwarding._take(event)
    assert told == [False, True]

"""Which listeners a node's relay gets, and when a change of leader is a switch."""

import json
from pathlib import Path

import msgspec
import pytest
import structlog

from gateway.config import load
from gateway.config.settings import Endpoint, Forward, Settings
from gateway.control.diversions import Diversions
from gateway.control.forwarding import (
    ElectedServers,
    Forwarding,
    frontend_listeners,
    view_listeners,
)
from gateway.core.actions import FollowLeader
from gateway.relay.client import RelayDied
from gateway.relay.messages import ListenerStats, ListenFailed, Ready, Report, Tcplog, Vitals, WhenDown

MINIMAL = Path(__file__).parents[2] / "haproxy-like-config" / "minimal.cfg"


def settings() -> Settings:
    return load(MINIMAL.read_text(), "minimal.cfg", {}).require()


class Routes:
    """Stands where the relay process is; keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Endpoint | None, int]] = []
        self.drains: list[int] = []

    def route(self, route: str, server: Endpoint | None, epoch: int, drain_ms: int) -> None:
        self.told.append((route, server, epoch))
        self.drains.append(drain_ms)


def elected() -> tuple[ElectedServers, Routes]:
    forwarding = Forwarding((), lambda ready, reason: None)
    routes = Routes()
    forwarding.workers = routes  # type: ignore[assignment]
    return ElectedServers(settings(), forwarding, Diversions(settings(), settings().peer("gw1"))), routes


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


def test_only_a_planned_switch_lets_what_is_under_way_come_to_its_end() -> None:
    for planned, drain_ms in ((True, settings().backends[0].drain_ms), (False, 0)):
        servers, routes = elected()
        follow(servers, "cm1", 1)
        servers.follow(FollowLeader("managers", None, 1, planned=planned))
        follow(servers, "cm2", 2)
        assert routes.drains == [0, 0, drain_ms]


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


def test_the_limits_of_a_frontend_are_those_of_the_file() -> None:
    text = MINIMAL.read_text().replace(
        "    default_backend",
        "    maxconn 100\n    maxconn-per-source 7\n    rate-per-source 9\n    option tcplog\n    default_backend",
    )
    found = load(text, "minimal.cfg", {}).require()
    (tcp, udp) = frontend_listeners(found, found.peer("gw1"))
    frontend, backend = found.frontends[0], found.backends[0]
    assert (tcp.connections_max, tcp.held_max, tcp.source_max, udp.flows_max) == (100, 100, 7, 100)
    assert tcp.source_rate == 9
    assert tcp.tcplog == Tcplog(json=True, node="gw1", frontend=frontend.name)
    assert ("10.77.0.11:9618", "cm1") in tcp.servers
    assert (tcp.client_ms, tcp.hello_ms) == (frontend.client_ms, frontend.hello_ms)
    assert (tcp.hold_ms, tcp.connect_ms) == (backend.queue_ms, backend.connect_ms)
    assert tcp.reuse_port
    assert udp.reuse_port


@pytest.mark.parametrize("forward", ["nat", "direct", "proxy transparent"])
def test_the_relay_listens_whoever_forwards(forward: str) -> None:
    """It holds who comes while no server is elected."""
    settings_ = settings()
    backend = msgspec.structs.replace(
        settings_.backends[0], forward=Forward(forward.split()[0]), transparent="transparent" in forward
    )
    found = frontend_listeners(msgspec.structs.replace(settings_, backends=(backend,)), settings_.peer("gw1"))
    assert {listener.protocol for listener in found} == {"tcp", "udp"}
    assert {listener.transparent for listener in found} == {"transparent" in forward}


def test_a_planned_switch_hands_its_drain_on_and_an_election_does_not() -> None:
    forwarding, routes = Forwarding((), lambda ready, reason: None), Routes()
    forwarding.workers = routes  # type: ignore[assignment]
    servers = [server.endpoint for server in settings().backends[0].servers]
    forwarding.set_server("managers", servers[0], drain_ms=9)
    forwarding.set_server("managers", servers[1])
    forwarding.set_server("managers", None, drain_ms=9)
    forwarding.set_server("managers", servers[2], drain_ms=9)
    assert routes.drains == [9, 0, 0, 9]


def forwarding_of(workers: int, told: list[tuple[bool, str]]) -> Forwarding:
    listeners = frontend_listeners(settings(), settings().peer("gw1"))
    return Forwarding(listeners, lambda ready, reason: told.append((ready, reason)), workers)


FAILED = ListenFailed(listener="a", host="10.77.0.100", port=9618, errno=98, reason="Address already in use")


def test_a_port_that_is_free_again_makes_the_gateway_fit_again() -> None:
    told: list[tuple[bool, str]] = []
    forwarding = forwarding_of(1, told)
    for event in (FAILED, Ready(listeners=2)):
        forwarding._take(event)
    assert [ready for ready, _ in told] == [False, True]
    assert "Address already in use" in told[0][1]


def test_a_gateway_is_fit_while_one_of_its_workers_listens_and_says_that_it_is_degraded() -> None:
    told: list[tuple[bool, str]] = []
    forwarding = forwarding_of(2, told)
    forwarding._take(Ready(listeners=2), 0)
    assert told == [(True, "")], "who has not come up yet holds up nobody"
    forwarding._take(Ready(listeners=2), 1)
    with structlog.testing.capture_logs() as logs:
        forwarding._take(RelayDied(status=-9, restart_ms=20), 0)
    assert told[-1] == (True, "")
    assert [(log["listening"], log["workers"]) for log in logs if log["event"] == "relay.degraded"] == [(1, 2)]
    forwarding._take(RelayDied(status=-9, restart_ms=20), 1)
    assert told[-1] == (False, "the relay process died")
    forwarding._take(Ready(listeners=2), 0)
    assert told[-1] == (True, "")
    assert forwarding.restarts_total == 2


def test_a_node_without_a_frontend_has_one_worker() -> None:
    listeners = view_listeners(settings(), settings().backends[0], settings().peer("cm1"))
    assert len(Forwarding(listeners, lambda ready, reason: None, 4).workers.relays) == 1


def test_too_few_descriptors_are_a_warning_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay.workers.descriptors_limit", lambda: 4_096)
    forwarding = forwarding_of(2, [])
    (warning,) = forwarding.warnings
    assert "4096 file descriptors" in warning
    assert "of 4000 connections of 'pool" in warning or "of 4000 connections of 'matchmaker" in warning
    needed = int(warning.split("allow ")[1].split()[0])
    monkeypatch.setattr("gateway.relay.workers.descriptors_limit", lambda: needed)
    assert forwarding_of(2, []).warnings == []


async def test_the_status_of_two_workers_is_one() -> None:
    told: list[tuple[bool, str]] = []
    forwarding = forwarding_of(2, told)
    assert forwarding.status() is None
    vitals = Vitals(descriptors=20, descriptors_max=1_000, cpu_ms=5, resident_kib=30_000)
    (tcp, *_) = forwarding._listeners
    for number in (0, 1):
        report = Report(listeners=(ListenerStats(name=tcp.name, connections_now=3),), vitals=vitals)
        forwarding.workers.relays[number].latest_report = report
        forwarding._report(number, report)
        forwarding._take(Ready(listeners=2), number)
    status = forwarding.status()
    assert status is not None
    assert (status["listening"], status["degraded"]) == (2, False)
    assert status["descriptors"]["used"] == 40
    assert status["descriptors"]["connections_max"] == 4_000
    assert status["listeners"][tcp.name]["connections_now"] == 6
    assert [worker["descriptors"] for worker in status["workers"]] == [{"used": 20, "limit": 1_000}] * 2
    json.dumps(status)  # it is what the admin socket says

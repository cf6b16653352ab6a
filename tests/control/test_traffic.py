"""The reports of several workers as one picture."""

from collections import Counter
from pathlib import Path

import msgspec

from gateway.config import load
from gateway.config.settings import Forward
from gateway.control.diversion import rate_of_source
from gateway.control.figures import add, errors, kernel_figures
from gateway.control.traffic import Traffic
from gateway.control.traffic import figures as relay_figures
from gateway.kernel.nft_expressions import Rate
from gateway.relay.messages import Listener, ListenerStats, Report, Vitals

TCP, UDP, VIEW = "pool/vip:9618/tcp", "pool/vip:9618/udp", "view/cm2/tcp"


def traffic() -> Traffic:
    listeners = [
        Listener(name=name, route=route, protocol=name[-3:], host="10.0.0.1", port=9618)
        for name, route in ((TCP, "managers"), (UDP, "managers"), (VIEW, "view/cm2"))
    ]
    return Traffic(listeners, {TCP: "pool", UDP: "pool"})


def report(name: str = TCP, *, cpu_ms: int = 0, **counted: int) -> Report:
    vitals = Vitals(descriptors=10, descriptors_max=100, cpu_ms=cpu_ms, resident_kib=1)
    return Report(listeners=(ListenerStats(name=name, **counted),), vitals=vitals)


def test_a_frontend_has_what_all_workers_and_all_its_ports_have() -> None:
    found = traffic()
    found.take(0, report(connections_now=2, connections_total=5, bytes_to_server_total=100), 1)
    found.take(1, report(connections_now=1, connections_total=4, bytes_to_server_total=50), 1)
    figures = found.frontends()["pool"]
    assert (figures["connections"]["now"], figures["connections"]["total"]) == (3, 9)
    assert figures["bytes"]["to_server"] == 150
    assert set(found.frontends()) == {"pool"}, "a collector's way to its standbys is none of the clients'"
    assert found.listeners()[TCP]["connections_total"] == 9


def test_totals_outlive_the_worker_that_counted_them() -> None:
    found = traffic()
    found.take(0, report(connections_now=2, connections_total=5), 1)
    found.lost(0)
    assert found.frontends()["pool"]["connections"]["total"] == 5
    assert found.frontends()["pool"]["connections"]["now"] == 0
    found.take(0, report(connections_now=1, connections_total=1), 2)
    assert found.frontends()["pool"]["connections"]["total"] == 6


def test_rates_are_those_of_the_last_interval_of_each_worker() -> None:
    found = traffic()
    found.take(0, report(connections_total=1_000), 1.0)
    assert found.frontends()["pool"]["rates"]["connections"] == 0, "what came before the first report is of no interval"
    found.take(0, report(connections_total=1_010), 2.0)
    found.take(1, report(connections_total=0), 2.0)
    found.take(1, report(connections_total=10), 2.5)
    assert found.frontends()["pool"]["rates"]["connections"] == 30
    found.lost(1)
    assert found.frontends()["pool"]["rates"]["connections"] == 10


def test_each_server_has_what_was_counted_while_it_was_elected() -> None:
    found = traffic()
    found.take(0, report(), 0)
    found.follow("managers", "cm1")
    found.take(0, report(connections_now=3, held_now=1, bytes_to_server_total=100), 1)
    found.follow("managers", None)
    found.follow("managers", "cm2")
    found.take(0, report(connections_now=2, bytes_to_server_total=130), 2)
    backend = found.backends()["managers"]
    assert (backend["server"], backend["bytes"]["to_server"]) == ("cm2", 130)
    assert {name: each["bytes"]["to_server"] for name, each in backend["servers"].items()} == {"cm1": 100, "cm2": 30}
    assert backend["servers"]["cm2"]["connections"]["now"] == 2
    assert backend["servers"]["cm1"]["connections"]["now"] == 0


def test_what_ends_at_a_switch_was_the_former_servers() -> None:
    found = traffic()
    found.take(0, report(), 0)
    found.follow("managers", "cm1")
    found.take(0, report(connections_now=5, connections_total=5), 1)
    found.follow("managers", None)
    found.follow("managers", "cm2")
    found.take(0, report(connections_now=3, draining_now=2, connections_total=6, reset_at_switch_total=3), 2)
    servers = found.backends()["managers"]["servers"]
    assert (servers["cm1"]["connections"]["reset"], servers["cm2"]["connections"]["reset"]) == (3, 0)
    assert (servers["cm1"]["connections"]["now"], servers["cm2"]["connections"]["now"]) == (2, 1)


def test_while_nobody_is_elected_open_connections_go_on_and_new_ones_are_nobodys() -> None:
    found = traffic()
    found.take(0, report(), 0)
    found.follow("managers", "cm1")
    found.follow("managers", None)
    found.take(0, report(connections_total=2, bytes_to_client_total=100), 1)
    servers = found.backends()["managers"]["servers"]
    assert (servers["cm1"]["bytes"]["to_client"], servers["cm1"]["connections"]["total"]) == (100, 0)


def test_errors_are_named_by_cause_and_only_those_that_occurred() -> None:
    found = traffic()
    found.take(0, report(maxconn_refused_total=2, refused_total=2, connect_failed_total=1), 1)
    assert found.frontends()["pool"]["errors"] == {"maxconn": 2, "connect failed": 1}


def test_a_worker_shows_its_share_of_a_core() -> None:
    found = traffic()
    found.take(0, report(cpu_ms=100), 1.0)
    found.take(0, report(cpu_ms=600), 2.0)
    assert found.vitals(0)[1] == 0.5


def test_what_the_kernel_refuses_is_told_with_what_the_relay_refuses() -> None:
    relayed = relay_figures(Counter(source_rate_refused_total=2, refused_total=2), Counter())
    for way in (Forward.NAT, Forward.DIRECT):
        totals = {"refused": 3}
        by_kernel = kernel_figures(way, totals, {}) | {"errors": errors(totals)}
        whole = add(relayed, by_kernel)
        assert (whole["connections"]["refused"], whole["errors"]) == (5, {"source rate": 5})
    assert errors({"refused": 0}) == {}


def test_a_backend_has_the_greatest_rate_of_its_frontends() -> None:
    minimal = load((Path(__file__).parents[2] / "haproxy-like-config" / "minimal.cfg").read_text(), "x.cfg", {})
    settings = minimal.require()
    (one,), (backend,) = settings.frontends, settings.backends

    def rate(*rates: int) -> Rate | None:
        frontends = tuple(msgspec.structs.replace(one, rate_source=each) for each in rates)
        return rate_of_source(msgspec.structs.replace(settings, frontends=frontends), backend)

    assert (rate(7), rate(7, 9)) == (Rate(7, 70), Rate(9, 90))
    assert (rate(9, 0), rate()) == (None, None)

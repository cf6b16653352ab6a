"""Limits and rules, one line of the sample changed each; whole renderings are in haproxy-like-config/broken."""

import pytest
from config_files import SAMPLE, errors, load_sample, warnings

from gateway.config import load
from gateway.config.check_times import lease_margin_ms
from gateway.config.limits import ELECTIONS_MAX
from gateway.core.timing import Timing
from gateway.wire import heartbeat


@pytest.mark.parametrize(
    ("old", "allowed", "refused"),
    [
        ("heartbeat 50ms", ["heartbeat 10ms"], ["heartbeat 9ms", "heartbeat 10001ms", "heartbeat 0", "heartbeat -1"]),
        (
            "lease 300ms",
            ["lease 61ms", "lease 60s"],
            ["lease 29ms", "lease 60ms", "lease 60001", "lease 999999999999d"],
        ),
        (
            "lease 300ms",
            ["lease 300ms\n    guard-dead-time 10ms", "lease 300ms\n    guard-dead-time 5s"],
            ["lease 300ms\n    guard-dead-time 9ms", "lease 300ms\n    guard-dead-time 5001"],
        ),
        ("connect 2s", ["connect 10ms", "connect 20s"], ["connect 9ms", "connect 20001", "connect 0"]),
        ("connect 2s", ["connect 2s\n    timeout queue 20s"], ["connect 2s\n    timeout queue 20001"]),
        (
            "connect 2s",
            ["connect 2s\n    timeout drain 0", "connect 2s\n    timeout drain 10m"],
            ["connect 2s\n    timeout drain 600001"],
        ),
        (
            "    default_backend",
            [
                "    maxconn 1\n    default_backend",
                "    maxconn 500000\n    maxconn-per-source 500000\n    default_backend",
                "    maxconn-per-source 0\n    default_backend",
                "    rate-per-source 0\n    default_backend",
                "    rate-per-source 1000000\n    default_backend",
                "    timeout client 1s\n    timeout client-hello 1s\n    default_backend",
                "    timeout client 24h\n    timeout client-hello 5m\n    default_backend",
            ],
            [
                "    maxconn 0\n    default_backend",
                "    maxconn 500001\n    default_backend",
                "    maxconn-per-source 500001\n    default_backend",
                "    rate-per-source 1000001\n    default_backend",
                "    timeout client 999\n    default_backend",
                "    timeout client 86400001\n    default_backend",
                "    timeout client-hello 999\n    default_backend",
                "    timeout client-hello 300001\n    default_backend",
            ],
        ),
        (
            "    log stdout",
            ["    relay-workers 1\n    log stdout", "    relay-workers 64\n    log stdout"],
            [f"    relay-workers {word}\n    log stdout" for word in ("0", "65", "Auto", "-1", "1.5", "''")],
        ),
        ("inter 100ms", ["inter 10ms", "inter 60s"], ["inter 9ms", "inter 61s"]),
        ("fall 3", ["fall 1", "fall 100"], ["fall 0", "fall 101", "fall +3", "fall ³", "fall " + "9" * 2000]),
        ("rise 2", ["rise 1", "rise 100"], ["rise 0", "rise 101"]),
        ("pool-vip:9618", ["pool-vip:1", "pool-vip:65535"], ["pool-vip:0", "pool-vip:65536", "pool-vip:", ":9618"]),
        ("/32 dev", ["/1 dev", "/24 dev"], ["/0 dev", "/33 dev", "/ dev", "/-1 dev", "/255.255.255.0 dev"]),
        (
            "dev eth0",
            ["dev " + "e" * 15, "dev eth0.100", "dev br-lan"],
            ["dev " + "e" * 16, "dev ..", "dev a/b", "dev ''"],
        ),
        (
            "cluster physics-pool",
            ["cluster " + "p" * 64],
            ["cluster " + "p" * 65, "cluster ''", "cluster -p", "cluster päöl"],
        ),
        ("/etc/condor-gateway/cluster.key", ["/" + "k" * 1023, '"/with blank"'], ["/" + "k" * 1024, r"/a\nb", "''"]),
        (
            "10.77.0.91:9619",
            ["192.0.2.1:1"],
            [
                "10.77.0.91",
                "10.77.0.091:9619",
                "224.0.0.1:9619",
                "255.255.255.255:9619",
                "[::]:9619",
                "[fe80::1%eth0]:9619",
                "10.77.0.91:9619:1",
                "[10.77.0.91:9619",
            ],
        ),
    ],
)
def test_each_limit_is_where_it_is_said_to_be(old, allowed, refused):
    for new in allowed:
        assert errors(load_sample((old, new))) == [], new
    for new in refused:
        assert len(errors(load_sample((old, new)))) == 1, new


def test_a_cluster_has_at_most_nine_peers():
    four = "".join(f"    peer w{n} 10.77.0.{20 + n}:9619 witness\n" for n in range(4))
    five = four + "    peer w5 10.77.0.25:9619 witness\n"
    assert errors(load_sample(("    peer gw1", f"{four}    peer gw1"))) == []
    assert "more than 9 peers" in errors(load_sample(("    peer gw1", f"{five}    peer gw1")))[0]


@pytest.mark.parametrize(
    ("section", "count", "lines"),
    [
        ("frontend", 32, "    bind pool-vip:{n}\n    default_backend managers\n"),
    ],
)
def test_sections_of_a_kind_are_limited(section, count, lines):
    def extra(number):
        return "".join(f"{section} extra{n}\n" + lines.format(n=n) for n in range(1, number + 1))

    assert errors(load(SAMPLE + extra(count - 1), "x.cfg", {})) == []
    assert errors(load(SAMPLE + extra(count), "x.cfg", {})) == [f"more than {count} sections '{section}'"]


def test_there_are_no_more_elections_than_a_heartbeat_carries():
    def extra(number):
        section = "address extra{n}\n    ip 10.77.1.{n}/32 dev eth0\n    holder gw1\n"
        return "".join(section.format(n=n) for n in range(number))

    assert errors(load(SAMPLE + extra(ELECTIONS_MAX - 2), "x.cfg", {})) == []
    (told,) = errors(load(SAMPLE + extra(ELECTIONS_MAX - 1), "x.cfg", {}))
    assert told.startswith("more than 16 addresses and backends together")
    assert ELECTIONS_MAX == heartbeat.ELECTIONS_MAX


def test_there_are_no_more_backends_than_peers_could_serve():
    def extra(number):
        peers = "".join(f"    peer m{n} 10.77.1.{n}:9619 manager\n" for n in range(1, 4))
        servers = "".join(f"backend extra{n}\n    server m{n} 10.77.1.{n}:9618\n" for n in range(1, number + 1))
        return SAMPLE.replace("    peer gw1", f"{peers}    peer gw1") + servers

    assert errors(load(extra(3), "x.cfg", {})) == []
    assert "more than 9 sections 'backend'" in errors(load(extra(9), "x.cfg", {}))


def test_a_frontend_has_at_most_sixteen_binds():
    def binds(number):
        return ("bind pool-vip:9618", "\n    ".join(f"bind pool-vip:{9618 + n}" for n in range(number)))

    assert errors(load_sample(binds(16))) == []
    assert errors(load_sample(binds(17))) == ["frontend 'matchmaker': more than 16 binds"]


def test_a_lease_is_longer_than_a_heartbeat_and_should_be_three():
    assert warnings(load_sample(("heartbeat 50ms", "heartbeat 100ms"))) == []
    assert "may end when one packet is lost" in warnings(load_sample(("heartbeat 50ms", "heartbeat 101ms")))[0]
    assert errors(load_sample(("heartbeat 50ms", "heartbeat 284ms"))) == []
    (message,) = errors(load_sample(("heartbeat 50ms", "heartbeat 285ms")))  # a leader stops 15 ms before the end
    assert "ends before it can be renewed" in message


def test_the_shortest_lease_is_taken_at_the_shortest_heartbeat_with_a_warning():
    shortest = load_sample(("heartbeat 50ms", "heartbeat 10ms"), ("lease 300ms", "lease 30ms"))
    assert shortest.settings is not None
    assert warnings(shortest) == [
        "lease 30ms at a heartbeat of 10ms may end when one packet is lost: make it at least 35ms"
    ]
    assert load_sample(("heartbeat 50ms", "heartbeat 10ms"), ("lease 300ms", "lease 35ms")).diagnostics == ()


@pytest.mark.parametrize("lease_ms", [30, 199, 200, 201, 300, 5_000, 60_000])
def test_the_margin_that_is_reckoned_with_is_that_of_the_election(lease_ms):
    assert lease_margin_ms(lease_ms) == Timing(heartbeat_ms=10, lease_ms=lease_ms).margin_ms


def test_a_guard_that_speaks_after_the_lease_is_a_warning():
    def said(time):
        return warnings(load_sample(("lease 300ms", f"lease 300ms\n    guard-dead-time {time}")))

    assert said("299ms") == []
    assert "the lease of 300ms has ended by then" in said("300ms")[0]


def test_each_side_serving_is_a_warning_where_the_usage_of_one_would_be_lost():
    serve = ("lease 300ms", "lease 300ms\n    on-partition serve")
    (_, usage) = warnings(load_sample(serve, ("    replicate accounting\n", "")))
    assert "without 'replicate accounting' in backend" in usage


def test_each_side_serving_is_a_warning_where_a_majority_could_go_on():
    (voters,) = warnings(load_sample(("lease 300ms", "lease 300ms\n    on-partition serve")))
    assert "each part of the 5 voters elects a leader of its own" in voters
    assert warnings(load_sample(("lease 300ms", "lease 300ms\n    on-partition hold"))) == []


def test_an_address_alone_is_a_configuration():
    gateways = """\
global
    cluster web
    key-file /etc/condor-gateway/cluster.key
peers lan
    peer a 10.0.0.1:9619 gateway
    peer b 10.0.0.2:9619 gateway
    peer w 10.0.0.3:9619 witness
address vip
    ip 10.0.0.100/32 dev eth0
    holder a b
address second
    ip 10.0.0.101/32 dev eth0
    holder b a
"""
    loaded = load(gateways, "x.cfg", {})
    assert loaded.diagnostics == ()
    assert loaded.settings is not None
    assert (loaded.settings.frontends, loaded.settings.backends) == ((), ())
    assert [address.holders for address in loaded.settings.addresses] == [("a", "b"), ("b", "a")]
    assert errors(load(gateways.replace("gateway\n", "witness\n"), "x.cfg", {}))[0].endswith("has the role 'gateway'")


def test_two_addresses_are_held_by_one_pair_of_gateways_and_served_by_one_frontend():
    second = "address six\n    ip fd00::100/128 dev eth0\n    holder gw1 gw2\n\nfrontend"
    loaded = load_sample(("frontend", second), ("default_backend", "bind six:9618\n    default_backend"))
    assert loaded.diagnostics == ()


@pytest.mark.parametrize(
    ("ip", "said"),
    [
        ("fe80::100/64", "link-local"),
        ("::ffff:10.77.0.100/128", "write '10.77.0.100'"),
        ("FD00:0::11/128", "own address of peer 'cm1'"),
    ],
)
def test_an_ipv6_address_that_can_be_no_virtual_one_is_refused(ip, said):
    text = SAMPLE.replace("10.77.0.100/32", ip)
    for number in ("91", "92", "11", "12", "13"):
        text = text.replace(f"10.77.0.{number}:", f"[fd00::{number}]:")
    (message,) = errors(load(text, "x.cfg", {}))
    assert said in message


def test_a_heartbeat_is_compared_with_the_default_lease():
    assert (
        "lease 300ms at a heartbeat of 400ms"
        in errors(load_sample(("heartbeat 50ms", "heartbeat 400ms"), ("    lease 300ms\n", "")))[0]
    )


def test_a_second_value_of_a_once_only_keyword_points_at_the_first():
    for line in SAMPLE.splitlines():
        words = line.split()
        if not line.startswith(" ") or words[0] in {"peer", "server", "bind", "default-server"}:
            continue
        loaded = load_sample((f"{line}\n", f"{line}\n{line}\n"))
        at = SAMPLE.splitlines().index(line) + 1
        name = " ".join(words[:2]) if words[0] in {"timeout", "option", "replicate"} else words[0]
        assert errors(loaded) == [f"second '{name}': the first is on line {at}"]
        assert loaded.diagnostics[0].line == at + 1


def test_every_keyword_that_is_required_is_missed():
    for line in (
        "cluster physics-pool",
        "key-file /etc/condor-gateway/cluster.key",
        "ip 10.77.0.100/32 dev eth0",
        "holder gw1 gw2",
        "bind pool-vip:9618 proto tcp,udp",
        "default_backend managers",
    ):
        (message,) = errors(load_sample((f"    {line}\n", "")))
        assert f"needs '{line.split()[0]}'" in message


def test_every_section_is_missed_but_a_frontend_that_is_only_asked_for():
    sections = SAMPLE.split("\n\n")
    for index, section in enumerate(sections):
        rest = "\n\n".join([*sections[:index], *sections[index + 1 :]])
        kind = section.split()[0]
        if kind == "frontend":
            assert warnings(load(rest, "x.cfg", {})) == [
                "backend 'managers' is not the default_backend of any frontend"
            ]
            continue
        assert any(f"no section '{kind}" in message for message in errors(load(rest, "x.cfg", {})))


def test_a_server_is_on_the_host_of_its_peer():
    (message,) = errors(load_sample(("cm2 10.77.0.12:9618", "cm2 10.77.0.13:9618")))
    assert message.endswith("write '10.77.0.12:9618'")


def test_a_second_value_of_an_option_on_one_line_is_refused():
    assert errors(load_sample(("fall 3 rise 2", "fall 3 fall 4"))) == ["default-server: second 'fall' on this line"]


def test_a_word_of_haproxy_is_answered_wherever_it_stands_and_ends_no_section():
    for written in ("    fullconn 4000", "fullconn 4000"):
        (message,) = errors(load_sample(("    lease", f"{written}\n    lease")))
        assert message == "'fullconn' is known in HAProxy, not here: write 'maxconn' in the frontend"


def test_a_keyword_of_another_section_is_sent_home():
    (message,) = errors(load_sample(("    balance elected", "    bind pool-vip:9618")))
    assert message == "'bind' is a keyword of 'frontend', not of 'backend': move it there"


def test_advice_waits_until_there_is_no_error():
    unused = ("holder gw1 gw2", "holder gw1")
    assert warnings(load_sample(unused)) == ["peer 'gw2' holds no address: name it after 'holder'"]
    assert warnings(load_sample(unused, ("cluster ", "clustr "))) == []


def test_a_server_that_nobody_checks_is_a_warning():
    assert "nobody checks 'cm3'" in warnings(load_sample(("10.77.0.13:9618", "10.77.0.13:9618 no-check")))[0]


def test_a_backend_replicates_at_most_sixteen_files_in_the_order_of_the_file():
    paths = [f"/srv/{n}" for n in range(17)]
    lines = [f"    replicate file {path}\n" for path in paths]
    old = "    replicate accounting\n"
    found = load_sample((old, old + "".join(lines[:16]))).settings
    assert found.backends[0].replicate_files == tuple(paths[:16])
    assert errors(load_sample((old, old + "".join(lines)))) == ["backend 'managers': more than 16 files"]


def test_the_nodes_own_state_is_not_replicated_wherever_it_is():
    old = "    replicate accounting\n"
    for state_dir, path, mistakes in (
        ("/srv/gateway", "/srv/gateway/votes", 1),
        ("/srv/gateway/", "/srv/gateway/votes", 1),
        ("/srv/gateway", "/srv/gateway2/votes", 0),
        ("/srv/gateway", "/var/lib/condor-gateway/votes", 0),
    ):
        changes = (
            ("state-dir /var/lib/condor-gateway", f"state-dir {state_dir}"),
            (old, f"{old}    replicate file {path}\n"),
        )
        assert len(errors(load_sample(*changes))) == mistakes


def test_accounting_is_not_replicated_under_a_negotiator_that_is_left_alone():
    (message,) = errors(load_sample(("    negotiator on-elected\n", "")))
    assert message.endswith("negotiators are left alone: add 'negotiator on-elected'")
    assert errors(load_sample(("    negotiator on-elected\n", ""), ("    replicate accounting\n", ""))) == []

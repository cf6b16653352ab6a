"""Limits and rules, one line of the sample changed each; whole renderings are in haproxy-like-config/broken."""

import pytest
from config_files import SAMPLE, errors, load_sample, warnings

from gateway.config import load


@pytest.mark.parametrize(
    ("old", "allowed", "refused"),
    [
        ("heartbeat 50ms", ["heartbeat 10ms"], ["heartbeat 9ms", "heartbeat 10001ms", "heartbeat 0", "heartbeat -1"]),
        (
            "lease 300ms",
            ["lease 151ms", "lease 60s"],
            ["lease 49ms", "lease 50ms", "lease 60001", "lease 999999999999d"],
        ),
        ("connect 2s", ["connect 10ms", "connect 20s"], ["connect 9ms", "connect 20001", "connect 0"]),
        ("connect 2s", ["connect 2s\n    timeout queue 20s"], ["connect 2s\n    timeout queue 20001"]),
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
        ("address", 16, "    ip 10.77.1.{n}/32 dev eth0\n    holder gw1\n"),
        ("frontend", 32, "    bind pool-vip:{n}\n    default_backend managers\n"),
        ("backend", 16, "    server cm1 10.77.0.11:9618\n"),
    ],
)
def test_sections_of_a_kind_are_limited(section, count, lines):
    def extra(number):
        return "".join(f"{section} extra{n}\n" + lines.format(n=n) for n in range(1, number + 1))

    assert errors(load(SAMPLE + extra(count - 1), "x.cfg", {})) == []
    assert errors(load(SAMPLE + extra(count), "x.cfg", {})) == [f"more than {count} sections '{section}'"]


def test_a_frontend_has_at_most_sixteen_binds():
    def binds(number):
        return ("bind pool-vip:9618", "\n    ".join(f"bind pool-vip:{9618 + n}" for n in range(number)))

    assert errors(load_sample(binds(16))) == []
    assert errors(load_sample(binds(17))) == ["frontend 'matchmaker': more than 16 binds"]


@pytest.mark.parametrize("way", ["nat", "direct"])
def test_other_ways_of_forwarding_are_refused_as_not_in_this_version(way):
    assert errors(load_sample(("forward proxy", f"forward {way}"))) == [
        f"forward: '{way}' is not in this version: write 'forward proxy'"
    ]


def test_a_lease_is_longer_than_a_heartbeat_and_should_be_three():
    assert warnings(load_sample(("heartbeat 50ms", "heartbeat 100ms"))) == []
    assert "may end when one packet is lost" in warnings(load_sample(("heartbeat 50ms", "heartbeat 101ms")))[0]
    assert errors(load_sample(("heartbeat 50ms", "heartbeat 299ms"))) == []
    assert "ends before it can be renewed" in errors(load_sample(("heartbeat 50ms", "heartbeat 300ms")))[0]


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
        name = " ".join(words[:2]) if words[0] in {"timeout", "option"} else words[0]
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


def test_every_section_is_missed():
    sections = SAMPLE.split("\n\n")
    for index, section in enumerate(sections):
        rest = "\n\n".join([*sections[:index], *sections[index + 1 :]])
        kind = section.split()[0]
        assert any(f"no section '{kind}" in message for message in errors(load(rest, "x.cfg", {})))


def test_a_server_is_on_the_host_of_its_peer():
    (message,) = errors(load_sample(("cm2 10.77.0.12:9618", "cm2 10.77.0.13:9618")))
    assert message.endswith("write '10.77.0.12:9618'")


def test_a_second_value_of_an_option_on_one_line_is_refused():
    assert errors(load_sample(("fall 3 rise 2", "fall 3 fall 4"))) == ["default-server: second 'fall' on this line"]


def test_a_word_of_haproxy_is_answered_wherever_it_stands_and_ends_no_section():
    for written in ("    maxconn 4000", "maxconn 4000"):
        (message,) = errors(load_sample(("    lease", f"{written}\n    lease")))
        assert message == "'maxconn' is known in HAProxy, not here: the relay has a limit of its own"


def test_a_keyword_of_another_section_is_sent_home():
    (message,) = errors(load_sample(("    balance elected", "    bind pool-vip:9618")))
    assert message == "'bind' is a keyword of 'frontend', not of 'backend': move it there"


def test_advice_waits_until_there_is_no_error():
    unused = ("holder gw1 gw2", "holder gw1")
    assert warnings(load_sample(unused)) == ["peer 'gw2' holds no address: name it after 'holder'"]
    assert warnings(load_sample(unused, ("cluster ", "clustr "))) == []


def test_a_server_that_nobody_checks_is_a_warning():
    assert "nobody checks 'cm3'" in warnings(load_sample(("10.77.0.13:9618", "10.77.0.13:9618 no-check")))[0]

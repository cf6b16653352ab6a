"""What a file says as a whole, what changes from one to another, and what that takes."""

import json

import pytest
from config_files import EXAMPLES, load_sample

from gateway.config import load
from gateway.config.canonical import canonical, render, written
from gateway.config.difference import Difference, Needs, differences, render_json, render_text
from gateway.config.keywords import SECTIONS
from gateway.config.origin import Origin, origin

FULL = (
    (
        "    log stdout format json\n",
        '    log stdout format short\n    relay-workers 3\n    description \'it"s\' "\\$\\"x\\""\n'
        "    stats socket '/run/a b' mode 660 group www level user\n    notify command /bin/x 'a b' \"c'd\" ''\n"
        "    notify fifo /run/f\n    notify user me\n    notify timeout 3s\n"
        "console\n    bind [::]:80\n    admin token-file /t\n    user www\n    allow-host a b\n    allow-host C.\n",
    ),
    ("    lease 300ms", "    lease 300ms\n    on-partition hold\n    guard-dead-time 40ms"),
    (
        "    default_backend",
        "    option tcplog\n    maxconn 99\n    maxconn-per-source 9\n    rate-per-source 7\n    timeout client 2h\n"
        "    timeout client-hello 9s\n    description a\n    default_backend",
    ),
    (
        "    timeout connect 2s",
        "    timeout connect 3s\n    timeout queue 6s\n    timeout drain 1s\n    description b\n    advertise off\n"
        "    replicate file /etc/x\n    replicate file '/etc/y z'",
    ),
    ("cm1 10.77.0.11:9618", "cm1 10.77.0.11:9618 backup no-check fall 9"),
    ("forward proxy", "forward proxy transparent"),
)
# Said in another way: by the lines of servers, by the order of the log's words, not at all.
OTHERWISE = {"default-server", "mode", "log"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.cfg")), ids=lambda path: path.stem)
def test_the_canonical_file_says_what_the_example_says(path):
    found = load(path.read_text(encoding="utf-8"), path.name, {}).require()
    again = load(render(canonical(found)), "x.cfg", {})
    assert differences(found, again.require()) == ()
    assert again.settings == found


def test_the_canonical_file_says_everything():
    found = load_sample(*FULL).require()
    assert load(render(canonical(found)), "x.cfg", {}).require() == found


def test_no_keyword_is_left_out_of_the_canonical_file():
    parts = canonical(load_sample(*FULL).require())
    for kind in ("global", "console", "peers", "address", "frontend", "backend"):
        (part,) = (part for part in parts if part.kind == kind)
        keywords = {line.keyword for line in part.lines} | (OTHERWISE if kind != "global" else set())
        assert set(SECTIONS[kind].keywords) <= keywords, kind


@pytest.mark.parametrize("word", ["a", "", "a b", "it's", '"', "\\", "$X", "#", "'\"\\$ x", "é"])
def test_a_word_is_written_as_it_is_read(word):
    (read,) = (
        load_sample(("cluster physics-pool", f"cluster c\n    notify command /x {written(word)}"))
        .require()
        .notify.commands
    )
    assert read == ("/x", word)


def test_two_ways_to_write_one_thing_make_no_difference():
    other = load_sample(
        ("heartbeat 50ms", "heartbeat 50"),
        ("proto tcp,udp", ""),
        ("    default-server check inter 100ms fall 3 rise 2\n", ""),
        *((f"10.77.0.1{n}:9618", f"10.77.0.1{n}:9618 check inter 100") for n in (1, 2, 3)),
    )
    assert differences(load_sample().require(), other.require()) == ()


def one(*change):
    (found,) = differences(load_sample().require(), load_sample(*change).require())
    return found


RESTART, HELD = "  [restart of every node]", "  [refused while held]"
CM1 = "10.77.0.11:9618 check inter 100ms fall 3 rise"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("heartbeat 50ms", "heartbeat 60ms", "peers lan heartbeat: 50ms -> 60ms"),
        ("cluster physics-pool", "cluster x", f"global cluster: physics-pool -> x{RESTART}"),
        ("/var/lib/condor-gateway", "/x", f"global state-dir: /var/lib/condor-gateway -> /x{RESTART}"),
        ("91:9619", "91:1", f"peers lan peer gw1: 10.77.0.91:9619 gateway -> 10.77.0.91:1 gateway{RESTART}"),
        ("0.100/32", "0.100/24", f"address pool-vip ip: 10.77.0.100/32 dev eth0 -> 10.77.0.100/24 dev eth0{HELD}"),
        ("holder gw1 gw2", "holder gw2 gw1", "address pool-vip holder: gw1 gw2 -> gw2 gw1"),
        ("holder gw1 gw2", "holder gw1", f"address pool-vip holder: gw1 gw2 -> gw1{HELD}"),
        ("option condor-check\n", "advertise on\n", "backend managers option condor-check: on -> off"),
        ("forward proxy", "forward nat transparent", "backend managers forward: proxy -> nat transparent"),
        ("11:9618", "11:9618 rise 3", f"backend managers server cm1: {CM1} 2 -> {CM1} 3"),
        ("timeout connect 2s", "timeout connect 3s", "backend managers timeout connect: 2s -> 3s"),
    ],
)
def test_a_change_says_what_was_what_is_and_what_it_takes(old, new, told):
    assert one((old, new)).render() == f"~ {told}"


def test_who_may_no_longer_lead_has_to_hand_over_before():
    gone, order = differences(load_sample().require(), load_sample(("    server cm1 10.77.0.11:9618\n", "")).require())
    assert (gone.path, gone.after, gone.needs) == ("backend managers server cm1", None, Needs.HANDED_OVER)
    assert (order.path, order.after) == ("backend managers order of servers", "cm2 cm3")


def test_sections_come_and_go_as_a_whole():
    console = ("peers lan\n", "console\npeers lan\n")
    assert one(console) == Difference(path="console", before=None, after="", needs=Needs.RELOAD)
    renamed = load_sample(("pool-vip", "vip"), ("pool-vip", "vip")).require()
    gone, bound, unbound, new = sorted(differences(load_sample().require(), renamed), key=lambda found: found.path)
    assert (gone.path, gone.needs) == ("address pool-vip", Needs.HANDED_OVER)
    assert (bound.path, bound.needs) == ("address vip", Needs.RELOAD)
    assert {unbound.path, new.path} == {"frontend matchmaker bind pool-vip:9618", "frontend matchmaker bind vip:9618"}


def test_differences_are_told_in_lines_and_as_a_document():
    changed = load_sample(
        ("heartbeat 50ms", "heartbeat 60"), ("holder gw1 gw2", "holder gw2"), ("cm3 1", "cm3 1")
    ).require()
    found = differences(load_sample().require(), changed)
    assert render_text(found) == (
        "~ peers lan heartbeat: 50ms -> 60ms\n~ address pool-vip holder: gw1 gw2 -> gw2  [refused while held]\n"
    )
    document = json.loads(json.dumps(render_json(found)))
    assert document["schema"] == 1
    assert document["differences"][0] == {
        "path": "peers lan heartbeat",
        "before": "50ms",
        "after": "60ms",
        "needs": "reload",
    }


def test_every_line_knows_where_it_comes_from():
    loaded = load_sample(*FULL)
    assert loaded.read is not None
    for part in canonical(loaded.require()):
        for line in part.lines:
            if line.text and line.keyword not in {"order of servers"}:
                at = origin(part, line, loaded.read.expanded, loaded.read.report)
                assert at is not None, line
                written_there = loaded.read.report._lines[at.line - 1].text
                assert line.keyword in written_there
                assert line.key.strip("'\"").lower() in written_there.lower() or line.keyword == "notify command"


def test_a_line_of_the_defaults_comes_from_there_and_a_default_from_nowhere():
    defaults = "defaults\n    maxconn 7000\n    maxconn-per-source 7\n\nfrontend matchmaker"
    loaded = load_sample(("frontend matchmaker", defaults))
    assert loaded.read is not None
    (part,) = (part for part in canonical(loaded.require()) if part.kind == "frontend")
    found = {line.keyword: origin(part, line, loaded.read.expanded, loaded.read.report) for line in part.lines}
    assert found["maxconn"] == Origin("gateway.cfg", 21)
    assert found["timeout client"] is None
    assert str(found["maxconn-per-source"]) == "gateway.cfg:22"

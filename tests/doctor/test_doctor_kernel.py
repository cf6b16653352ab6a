"""Promises of the doctor on a real host: nothing grave where all is well, and each thing that is spoiled is named."""

import os
import secrets
import time
from collections.abc import Iterator

import pytest

from gateway.doctor import host_facts
from gateway.doctor.checks import CHECKS
from gateway.doctor.facts import Facts
from gateway.doctor.findings import Severity, examine
from gateway.doctor.gather import NodeSilent, gather
from gateway.kernel.templates import templates
from tests.support import netns

pytestmark = pytest.mark.kernel

TEXT = """\
global
    cluster doctors
    key-file {folder}/cluster.key
    state-dir {folder}/state

peers lan
    heartbeat 50ms
    lease 300ms
    peer gw1 10.9.0.91:9619 gateway
    peer gw2 10.9.0.92:9619 gateway
    peer w1 10.9.0.93:9619 witness

address pool-vip
    ip 10.9.0.100/32 dev lan0
    holder gw1 gw2
"""
SPOILED = """\
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname "lo" accept
        tcp dport 22 accept
        ip saddr 10.9.0.92 udp dport 9619 accept
    }
    chain output {
        type filter hook output priority 0; policy accept;
        ip daddr { 10.9.0.93 } udp dport 9619 drop
    }
}
"""
ALLOWING = """\
flush ruleset
table inet filter {
    set peers { type ipv4_addr; flags interval; elements = { 10.9.0.0/24 } }
    chain peers_in { ip saddr @peers meta l4proto { tcp, udp } th dport 9619 accept; }
    chain input {
        type filter hook input priority 0; policy drop;
        ct state established,related accept
        jump peers_in
    }
}
"""


@pytest.fixture
def host(tmp_path) -> Iterator[netns.Host]:
    """gw1 of a segment on which gw2 stands too, with a file and a key of its own."""
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)
    templates()
    (tmp_path / "cluster.key").write_text(f"key 1 {secrets.token_hex(32)}\nactive 1\n")
    (tmp_path / "cluster.key").chmod(0o600)
    (tmp_path / "gateway.cfg").write_text(TEXT.format(folder=tmp_path))
    with netns.Segment("cgdoc") as segment:
        segment.host("gw2", "10.9.0.92/24")
        made = segment.host("gw1", "10.9.0.91/24")
        made.segment = segment  # type: ignore[attr-defined]
        yield made


def no_node(settings):
    def ask(request):
        raise NodeSilent("no node runs here")

    return ask


def looked(path):
    facts: Facts = gather(str(path), node="gw1", ask=no_node)
    return {(one.name, one.severity.value): one.sentence for one in examine(facts, CHECKS)}


def grave(found):
    return {key: sentence for key, sentence in found.items() if key[1] in {"warning", "error"}}


def test_a_good_host_has_no_grave_finding(host, tmp_path):
    host.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
    found = host.call(looked, tmp_path / "gateway.cfg")
    # Real time, file descriptors and the temporary state-dir are of the machine that runs the tests.
    assert {key for key in grave(found) if key[0] not in {"real-time", "open-files", "file-advice"}} == set()
    for name in ("interface", "own-address", "address-claimed", "arp-flux", "firewall-heartbeats", "key-file"):
        assert (name, Severity.OK) in found


def test_a_spoiled_host_is_told_of_each_thing(host, tmp_path):
    host.segment.plug(host, "lan1")
    host.ip("address", "add", "10.9.0.191/24", "dev", "lan1")
    host.ip("address", "add", "10.9.0.100/24", "dev", "lan1")
    host.run("sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=1", "net.ipv4.conf.all.arp_ignore=0")
    host.run("sh", "-c", f"nft -f - <<'X'\n{SPOILED}X")
    other = host.segment.host("stranger", "10.9.0.100/32")
    (tmp_path / "cluster.key").chmod(0o644)
    found = host.call(looked, tmp_path / "gateway.cfg")
    for name, severity, words in (
        ("arp-flux", "warning", "lan1 and lan0 are on one network"),
        ("address-misplaced", "error", "10.9.0.100 of 'pool-vip' is on lan1 of this host"),
        ("nonlocal-bind", "warning", "net.ipv4.ip_nonlocal_bind is on"),
        ("firewall-heartbeats", "error", "heartbeats"),
        ("firewall-stream", "error", "the stream and the questions of gw2 and the stream and the questions of w1"),
        ("address-claimed", "error", other.mac),
        ("key-file", "error", "cluster.key"),
    ):
        assert words in grave(found).get((name, severity), ""), (name, found)


def heartbeats_of(path):
    facts = gather(str(path), node="gw1", ask=no_node)
    check = [one for one in CHECKS if one.name == "firewall-heartbeats"]
    return [one.sentence for one in examine(facts, check) if one.severity is Severity.ERROR]


def test_real_rules_are_read_as_the_kernel_applies_them(host, tmp_path):
    path = tmp_path / "gateway.cfg"
    host.run("sh", "-c", f"nft -f - <<'X'\n{SPOILED}X")
    said = host.call(heartbeats_of, path)
    assert any("heartbeats of w1 (table filter, chain input)" in sentence for sentence in said)
    assert any("heartbeats to w1 (table filter, chain output)" in sentence for sentence in said)
    assert not any("gw2" in sentence for sentence in said)
    host.run("sh", "-c", f"nft -f - <<'X'\n{ALLOWING}X")
    assert host.call(heartbeats_of, path) == []


def ipv6_of(path):
    facts = gather(str(path), node="gw1", ask=no_node)
    check = [one for one in CHECKS if one.name == "ipv6-dad"]
    return [one.sentence for one in examine(facts, check) if one.severity is Severity.ERROR]


def test_an_ipv6_address_that_the_kernel_takes_for_a_duplicate_is_seen(host, tmp_path):
    """Set by somebody else, with detection on, while another host has it (RFC 4862 §5.4)."""
    text = TEXT.format(folder=tmp_path).replace("10.9.0.100/32", "fd77::100/128")
    (tmp_path / "gateway.cfg").write_text(text)
    host.segment.host("stranger", "fd77::100/128")
    host.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=1", "net.ipv6.conf.lan0.accept_dad=1")
    host.ip("-6", "address", "add", "fd77::100/128", "dev", "lan0")
    until = time.monotonic() + 10
    while "dadfailed" not in host.ip("-6", "address", "show", "dev", "lan0").stdout and time.monotonic() < until:
        time.sleep(0.1)
    assert "(dadfailed)" in " ".join(host.call(ipv6_of, tmp_path / "gateway.cfg"))
    host.run("sysctl", "-qw", "net.ipv6.conf.lan0.disable_ipv6=1")
    assert host.call(ipv6_of, tmp_path / "gateway.cfg") == ["IPv6 is switched off on lan0"]


def test_an_interface_that_is_down_and_ipv6_flags_are_seen(host):
    host.ip("link", "set", "lan0", "down")
    devices = host.call(host_facts.devices)
    assert devices["lan0"].up is False
    assert devices["lo"].loopback is True
    assert [address.ip for address in devices["lan0"].addresses] == ["10.9.0.91"]
    host.ip("link", "set", "lan0", "up")
    host.cut()
    assert host.call(host_facts.devices)["lan0"].carrier is False


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_machines_own_facts_can_be_had_without_changing_it():
    assert host_facts.kernel_version() >= (4, 0)
    assert host_facts.clock().unix_s > 1_700_000_000
    assert host_facts.state_folder("/proc/nothing/there").file_system == "proc"
    assert host_facts.descriptors(None) > 0
    assert host_facts.realtime() in {"", "operation not permitted"}
    assert "net/ipv4/ip_forward" in host_facts.sysctls(())

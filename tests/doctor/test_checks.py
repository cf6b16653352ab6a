"""Promises of the doctor's checks: each is silent on a good host, and names what is wrong on a spoiled one."""

import itertools
import re

import pytest

from gateway.config import load
from gateway.config.settings import OnPartition
from gateway.control.configuration import digest
from gateway.doctor.checks import CHECKS
from gateway.doctor.condor import Knob, parse_dump, truth, words
from gateway.doctor.facts import Clock, DeviceAddress, Mention, StateFolder
from gateway.doctor.findings import Severity, examine
from gateway.doctor.gather import certain_skew, settings_digest
from gateway.lab import cluster
from gateway.lab.topology import Topology
from tests.doctor.facts_made import (
    NOW_S,
    STATUS,
    changed,
    device,
    devices,
    elected,
    fine,
    found,
    good,
    knobs,
    said,
    settings_of,
)

OK, NOTE, WARNING, ERROR = Severity.OK, Severity.NOTE, Severity.WARNING, Severity.ERROR
TWO_IN_ONE = cluster.gateway_config(Topology(managers=2, on_partition=OnPartition.SERVE))


def both_in_one():
    """A file in which two hosts are gateways and managers at once."""
    text = re.sub(r"    peer gw\d .*\n", "", TWO_IN_ONE).replace(":9619 manager", ":9619 gateway manager")
    return text.replace("holder gw1 gw2", "holder cm1 cm2")


def test_every_check_has_a_name_of_its_own_and_says_what_is_fine():
    names = [check.name for check in CHECKS]
    assert sorted(names) == sorted(set(names))
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    assert all(check.fine for check in CHECKS)


@pytest.mark.parametrize(("node", "forward"), [*itertools.product(("gw1", "cm1"), ("proxy", "nat", "direct"))])
def test_a_good_host_has_nothing_but_fine_findings(node, forward):
    findings = examine(good(node, forward=forward), CHECKS)
    assert [finding for finding in findings if finding.severity is not OK] == []
    assert len(findings) > 20


def test_every_finding_that_is_more_than_a_note_has_a_remedy():
    spoiled = good(
        "gw1",
        key="key file 'x' does not exist: make one",
        state=StateFolder(exists=True, file_system="tmpfs"),
        kernel=(5, 10),
        realtime="operation not permitted",
        descriptors=1024,
        devices=devices(),
        status={**STATUS, "warnings": ["something"], "peers": {"gw2": {"heard_ms_ago": None}}},
    )
    grave = [one for one in examine(spoiled, CHECKS) if one.severity in {WARNING, ERROR}]
    assert len(grave) > 6
    assert all(one.remedy for one in grave)


# ---- the node


def test_an_invalid_file_is_an_error_with_its_first_line():
    facts = changed(
        good(), settings=None, me=None, invalid="gateway.cfg:3:5: error: bad\n  x\n  ^\ngateway.cfg:9:1: error: y"
    )
    assert said(
        facts, "file-valid", ERROR, "gateway.cfg:3:5: error: bad and 1 more", "condor-gateway check -f gateway.cfg"
    )
    assert fine(good(), "file-valid")


def test_warnings_of_the_file_and_a_strange_host_are_warnings():
    assert said(good(advice=("backend 'x': nobody checks cm1",)), "file-advice", WARNING, "nobody checks cm1")
    assert said(
        good(me=None, stranger="this host 'x' is none of the peers"), "node-known", WARNING, "none of the peers"
    )


def test_a_key_file_that_is_missing_or_open_is_an_error():
    sentence = "key file 'k' does not exist: make one with 'condor-gateway keygen k'"
    assert said(good(key=sentence), "key-file", ERROR, "does not exist", "make one with")
    assert fine(good(), "key-file")
    assert found(good(key=sentence, root=False), "key-file") is None


def test_who_is_not_root_is_told_that_he_sees_a_part():
    assert said(good(root=False), "root", NOTE, "in part only")


def test_votes_in_memory_are_an_error_and_a_full_disk_a_warning():
    assert said(good(state=StateFolder(exists=True, file_system="tmpfs")), "state-dir", ERROR, "is in memory (tmpfs)")
    full = StateFolder(exists=True, file_system="ext4", free_bytes=1 << 20)
    assert said(good(state=full), "state-dir", WARNING, "has 1 MiB left")
    assert said(good(state=StateFolder(exists=False)), "state-dir", NOTE, "not there yet")


def test_a_clock_that_was_never_set_is_an_error_and_one_that_nobody_keeps_a_note():
    assert said(good(clock=Clock(unix_s=1_000.0)), "clock", ERROR, "never been set")
    assert said(good(clock=Clock(unix_s=NOW_S, synchronised=False)), "clock", NOTE, "nobody keeps")


def test_an_old_kernel_is_a_warning_where_an_address_may_be_held():
    assert said(good(kernel=(5, 10)), "kernel-version", WARNING, "no netdev egress hook")
    assert said(good(kernel=(6, 1)), "kernel-version", NOTE, "flush")
    assert found(good("cm1", kernel=(5, 10)), "kernel-version") is None


def test_a_read_only_proc_is_an_error_where_the_way_needs_sysctls():
    assert said(
        good(forward="nat", sysctls_fixed=True), "sysctl-writable", ERROR, "'forward nat'", "ProtectKernelTunables"
    )
    assert said(good("cm1", forward="direct", sysctls_fixed=True), "sysctl-writable", ERROR, "'forward direct'")
    assert found(good(sysctls_fixed=True), "sysctl-writable") is None


def test_limits_that_do_not_suffice_are_warnings():
    assert said(good(realtime="operation not permitted"), "real-time", WARNING, "CAP_SYS_NICE")
    assert said(good(descriptors=4096), "open-files", WARNING, "the limit is 4096", "LimitNOFILE=")
    assert fine(good(descriptors=65_536), "open-files")
    assert said(good(forward="nat", conntrack=(900, 1000)), "conntrack-max", ERROR, "900 of 1000")
    assert said(good(forward="nat", conntrack=(1, 1000)), "conntrack-max", WARNING, "4000 clients")
    assert found(good(conntrack=(900, 1000)), "conntrack-max") is None


# ---- the network


def test_an_interface_that_is_missing_down_or_unplugged_is_an_error():
    assert said(
        good(devices=devices(device("ens3", "10.77.0.91/24"))), "interface", ERROR, "eth0", "does not have: ens3"
    )
    down = devices(device("eth0", "10.77.0.91/24", up=False))
    assert said(good(devices=down), "interface", ERROR, "eth0 is down", "ip link set eth0 up")
    unplugged = devices(device("eth0", "10.77.0.91/24", carrier=False))
    assert said(good(devices=unplugged), "interface", ERROR, "no carrier")


def test_a_host_without_its_own_address_is_not_where_its_peers_look_for_it():
    assert said(good(devices=devices(device("eth0", "10.77.0.7/24"))), "own-address", ERROR, "10.77.0.91")


def test_the_virtual_address_stands_only_where_this_node_holds_it():
    left_over = devices(device("eth0", "10.77.0.91/24", "10.77.0.100/32"))
    assert said(
        good(devices=left_over), "address-misplaced", ERROR, "does not hold 'pool-vip'", "ip address del 10.77.0.100"
    )
    held = {**STATUS, "addresses": {"pool-vip": {"held": True, "claimed_by": {}}}}
    assert fine(good(devices=left_over, status=held), "address-misplaced")
    elsewhere = devices(device("eth0", "10.77.0.91/24"), device("eth1", "10.77.0.100/24"))
    assert said(good(devices=elsewhere, status=held), "address-misplaced", ERROR, "on eth1 of this host, not on eth0")
    on_lo = devices(device("eth0", "10.77.0.11/24"))
    on_lo["lo"] = device("lo", "127.0.0.1/8", "10.77.0.100/32", loopback=True)
    assert fine(good("cm1", forward="direct", devices=on_lo), "address-misplaced")
    assert said(good("cm1", devices=on_lo), "address-misplaced", ERROR, "is on lo")


def test_a_virtual_address_in_the_hosts_own_configuration_is_an_error():
    mention = Mention(path="/etc/network/interfaces", line=7, address="10.77.0.100")
    assert said(good(mentions=(mention,)), "address-configured", ERROR, "/etc/network/interfaces, line 7")


def test_a_stranger_that_answers_for_the_address_is_an_error():
    assert said(good(answered={"pool-vip": ("02:00:00:00:00:07",)}), "address-claimed", ERROR, "02:00:00:00:00:07")
    claimed = {**STATUS, "addresses": {"pool-vip": {"held": True, "claimed_by": {"02:00:00:00:00:08": {"for_ms": 9}}}}}
    assert said(good(status=claimed), "address-claimed", ERROR, "02:00:00:00:00:08")


def test_two_interfaces_on_one_network_are_a_warning_unless_arp_is_told():
    two = devices(device("eth0", "10.77.0.91/24"), device("eth1", "10.77.0.191/24"))
    assert said(good(devices=two), "arp-flux", WARNING, "eth1 and eth0 are on one network", "arp_ignore=1")
    told = {"net/ipv4/conf/all/arp_ignore": "1"}
    assert fine(good(devices=two, sysctls=told), "arp-flux")
    other = devices(device("eth0", "10.77.0.91/24"), device("eth1", "10.78.0.1/24"))
    assert fine(good(devices=other), "arp-flux")
    assert found(good("cm1", devices=two), "arp-flux") is None


def test_a_short_prefix_without_promotion_is_a_warning():
    text = cluster.gateway_config(Topology()).replace("10.77.0.100/32", "10.77.0.100/24")
    no = {"net/ipv4/conf/all/promote_secondaries": "0", "net/ipv4/conf/eth0/promote_secondaries": "0"}
    assert said(good(text=text, sysctls=no), "promote-secondaries", WARNING, "write 10.77.0.100/32")
    assert fine(good(text=text, sysctls={**no, "net/ipv4/conf/eth0/promote_secondaries": "1"}), "promote-secondaries")
    assert found(good(sysctls=no), "promote-secondaries") is None


def test_nonlocal_bind_is_a_warning():
    assert said(
        good(sysctls={"net/ipv6/ip_nonlocal_bind": "1"}), "nonlocal-bind", WARNING, "net.ipv6.ip_nonlocal_bind=0"
    )


def test_strict_reverse_paths_are_a_warning_where_clients_own_addresses_come_in():
    two = devices(device("eth0", "10.77.0.11/24"), device("eth1", "10.9.0.1/24"))
    strict = {"net/ipv4/conf/all/rp_filter": "1"}
    assert said(good("cm1", forward="direct", devices=two, sysctls=strict), "rp-filter", WARNING, "rp_filter=2")
    assert fine(good("cm1", forward="direct", devices=two, sysctls={"net/ipv4/conf/all/rp_filter": "2"}), "rp-filter")
    assert found(good("cm1", devices=two, sysctls=strict), "rp-filter") is None


def test_networkd_is_told_to_keep_the_address():
    assert said(good(networkd={"eth0": ""}), "networkd", WARNING, "KeepConfiguration=yes")
    assert fine(good(networkd={"eth0": "yes"}), "networkd")
    assert found(good(), "networkd") is None


def test_detection_of_duplicates_does_not_silence_an_ipv6_address():
    text = cluster.gateway_config(Topology(ip_version=6))
    facts = good(text=text, devices=devices(device("eth0", "fd77::91/64")))
    assert fine(facts, "ipv6-dad")
    failed = device("eth0", "fd77::91/64")
    for flags, words_of in (({"dad_failed": True}, "dadfailed"), ({"tentative": True}, "tentative")):
        spoiled = changed(
            failed, addresses=(*failed.addresses, DeviceAddress(ip="fd77::100", prefix_length=128, **flags))
        )
        assert said(changed(facts, devices=devices(spoiled)), "ipv6-dad", ERROR, words_of)
    assert said(
        changed(facts, sysctls={"net/ipv6/conf/eth0/disable_ipv6": "1"}), "ipv6-dad", ERROR, "switched off on eth0"
    )
    assert said(changed(facts, sysctls={"net/ipv6/conf/eth0/accept_dad": "2"}), "ipv6-dad", NOTE, "accept_dad=1")


# ---- the firewall


def dropping(*letting_in, family="inet", hook="input"):
    chain = {"family": family, "table": "filter", "name": hook, "hook": hook, "prio": 0, "policy": "drop"}
    rules = [
        {
            "rule": {
                "family": family,
                "table": "filter",
                "chain": hook,
                "expr": [
                    {
                        "match": {
                            "op": "==",
                            "left": {"payload": {"protocol": protocol, "field": "dport"}},
                            "right": port,
                        }
                    },
                    {"accept": None},
                ],
            }
        }
        for protocol, port in letting_in
    ]
    return ({"chain": chain}, *rules)


def test_a_firewall_that_drops_heartbeats_is_an_error_that_names_the_peers_and_the_rule():
    facts = good(ruleset=dropping(("tcp", 22)))
    assert said(facts, "firewall-heartbeats", ERROR, "heartbeats of gw2", "heartbeats of cm3", "udp dport 9619 accept")
    assert said(facts, "firewall-stream", ERROR, "tcp dport 9619 accept")
    assert said(facts, "firewall-clients", ERROR, "clients of pool-vip:9618 (UDP)", "udp dport 9618 accept")
    assert fine(facts, "firewall-arp")


def test_a_firewall_that_lets_in_what_is_needed_is_fine():
    needed = (("udp", 9619), ("tcp", 9619), ("tcp", 9618), ("udp", 9618))
    for node in ("gw1", "cm1"):
        facts = good(node, ruleset=dropping(*needed))
        for name in ("firewall-heartbeats", "firewall-stream"):
            assert fine(facts, name)
    assert fine(good(ruleset=dropping(*needed)), "firewall-clients")
    assert fine(good("cm1", ruleset=dropping(*needed)), "firewall-collector")


def test_a_manager_whose_port_is_closed_and_a_host_that_may_not_speak_are_errors():
    assert said(good("cm1", ruleset=dropping(("udp", 9619))), "firewall-collector", ERROR, "HTCondor's port 9618 (TCP)")
    assert said(good(ruleset=dropping(hook="output")), "firewall-heartbeats", ERROR, "heartbeats to gw2")


def test_a_firewall_that_does_not_forward_is_an_error_with_nat_only():
    facts = good(forward="nat", ruleset=dropping(hook="forward"))
    assert said(facts, "firewall-clients", ERROR, "forwarded")
    assert fine(good(ruleset=dropping(hook="forward")), "firewall-clients")


def test_arp_that_is_dropped_is_an_error():
    assert said(good(ruleset=dropping(family="arp")), "firewall-arp", ERROR, "nobody would find 10.77.0.100")


def test_a_firewall_that_could_not_be_read_is_a_note():
    facts = good(ruleset=None, ruleset_unknown="'nft' is not installed")
    assert said(facts, "firewall-read", NOTE, "'nft' is not installed")
    assert found(facts, "firewall-heartbeats") is None
    assert said(good(legacy_tables=("filter",)), "firewall-read", NOTE, "iptables-legacy")


# ---- HTCondor


def test_a_manager_without_htcondor_is_an_error_and_a_gateway_needs_none():
    facts = good("cm1", condor=None, condor_unknown="HTCondor is not installed on this host")
    assert said(facts, "condor-installed", ERROR, "not installed")
    assert found(good("gw1", condor=None), "condor-installed") is None


@pytest.mark.parametrize("written", ["10.77.0.100", "10.77.0.100:9618", "10.77.0.100, cm2"])
def test_a_manager_that_points_at_the_virtual_address_is_an_error(written):
    facts = good("cm1", condor=knobs(CONDOR_HOST=written))
    assert said(facts, "condor-host", ERROR, "virtual address", "50-pool.config, line 3", "$(FULL_HOSTNAME)")


def test_a_manager_names_itself_alone():
    assert said(
        good("cm1", condor=knobs(CONDOR_HOST="cm1.lab.internal, cm2.lab.internal")),
        "condor-host",
        ERROR,
        "itself alone",
    )
    for own in ("CM1.lab.internal", "cm1", "10.77.0.11"):
        assert fine(good("cm1", condor=knobs(CONDOR_HOST=own)), "condor-host")


def test_a_gateway_with_htcondor_is_told_which_address_its_tools_should_have():
    assert fine(good("gw1", condor=knobs(CONDOR_HOST="10.77.0.100")), "condor-host")
    assert said(good("gw1", condor=knobs(CONDOR_HOST="old-cm")), "condor-host", NOTE, "CONDOR_HOST = 10.77.0.100")


def test_the_collector_of_a_manager_is_its_own_and_at_the_port_of_the_file():
    assert said(
        good("cm1", condor=knobs(COLLECTOR_HOST="10.77.0.100")), "collector-host", ERROR, "would not know itself"
    )
    assert said(good("cm1", condor=knobs(COLLECTOR_HOST="cm1, cm2")), "collector-host", WARNING, "2 collectors")
    assert said(
        good("cm1", condor=knobs(COLLECTOR_HOST="cm1:9700")), "collector-host", ERROR, "port 9700", "10.77.0.11:9618"
    )


def test_a_negotiator_that_starts_at_boot_is_an_error_and_the_nodes_own_is_not():
    assert said(
        good("cm1", condor=knobs(DAEMON_LIST="MASTER COLLECTOR NEGOTIATOR")),
        "daemon-list",
        ERROR,
        "use role:CentralManager",
    )
    assert fine(good("cm1", condor=knobs(DAEMON_LIST=elected("MASTER COLLECTOR NEGOTIATOR"))), "daemon-list")
    twice = knobs(DAEMON_LIST=elected("MASTER, COLLECTOR, NEGOTIATOR NEGOTIATOR"))
    assert said(good("cm1", condor=twice), "daemon-list", ERROR, "NEGOTIATOR is in DAEMON_LIST")


def test_had_beside_us_or_no_collector_is_an_error():
    assert said(
        good("cm1", condor=knobs(DAEMON_LIST="MASTER COLLECTOR HAD REPLICATION")),
        "daemon-list",
        ERROR,
        "HAD and REPLICATION",
    )
    assert said(good("cm1", condor=knobs(DAEMON_LIST="MASTER")), "daemon-list", ERROR, "no COLLECTOR")


def test_the_negotiators_name_and_interval_are_looked_at():
    assert said(good("cm1", condor=knobs(NEGOTIATOR_ARGS="")), "negotiator-args", WARNING, "-sock negotiator")
    assert said(good("cm1", condor=knobs(NEGOTIATOR_INTERVAL="60")), "negotiator-interval", NOTE, "up to 60 s")


def test_long_sessions_are_warnings_and_a_file_that_is_not_read_an_error():
    long = knobs(SEC_DAEMON_SESSION_DURATION="86400")
    assert said(good("cm1", condor=long), "session-duration", WARNING, "counts before condor-gateway's 2 s")
    by_default = knobs(SEC_DAEMON_SESSION_DURATION=("86400", ""))
    assert fine(good("cm1", condor=by_default), "session-duration")
    assert said(
        good("cm1", condor=knobs(COLLECTOR__SEC_DEFAULT_SESSION_DURATION="300")), "session-duration", WARNING, "= 300"
    )
    unread = good("cm1", condor=knobs(COLLECTOR__SEC_DEFAULT_SESSION_DURATION=None))
    assert said(unread, "session-duration", ERROR, "is not read by HTCondor here")
    assert fine(changed(unread, status=None), "session-duration")


def test_tcp_forwarding_host_is_an_error():
    assert said(
        good("cm1", condor=knobs(TCP_FORWARDING_HOST="10.77.0.100")), "forwarding-host", ERROR, "stands still for 20 s"
    )


def test_htcondor_listens_where_direct_sends_and_is_named_by_its_own_address():
    deaf = good("cm1", forward="direct", condor=knobs(BIND_ALL_INTERFACES="False"))
    assert said(deaf, "condor-interface", ERROR, "BIND_ALL_INTERFACES = True")
    confused = good("cm1", forward="direct", condor=knobs(NETWORK_INTERFACE="10.77.*"))
    assert said(confused, "condor-interface", WARNING, "take 10.77.0.100", "NETWORK_INTERFACE = 10.77.0.11")


def test_a_host_that_is_both_keeps_the_addresss_port_free():
    assert said(
        good("cm1", text=both_in_one()), "condor-interface", ERROR, "takes port 9618", "BIND_ALL_INTERFACES = False"
    )
    assert fine(good("cm1", text=both_in_one(), condor=knobs(BIND_ALL_INTERFACES="False")), "condor-interface")


@pytest.mark.parametrize(
    ("entries", "admitted"),
    [
        ("10.77.0.*", True),
        ("10.77.0.0/24", True),
        ("*/10.77.0.0/24", True),
        ("condor@password/10.77.0.*", True),
        ("somebody@physics.example", True),
        ("*.physics.example", True),  # a name: any address may have it
        ("10.78.0.*", False),
        ("10.78.0.0/16 10.79.0.1", False),
    ],
)
def test_lists_by_host_must_let_gateways_and_managers_in(entries, admitted):
    facts = good("cm1", condor=knobs(ALLOW_DAEMON=entries))
    assert fine(facts, "condor-allow") is admitted
    if not admitted:
        assert said(
            facts, "condor-allow", WARNING, "ALLOW_DAEMON lets 10.77.0.91, 10.77.0.92, 10.77.0.12, 10.77.0.13 not in"
        )
        only_managers = good("cm1", forward="direct", condor=knobs(ALLOW_DAEMON=entries))
        assert said(only_managers, "condor-allow", WARNING, "lets 10.77.0.12, 10.77.0.13 not in")


def test_a_file_that_a_former_manager_left_is_a_warning():
    left = {
        "COLLECTOR.SEC_DEFAULT_SESSION_DURATION": Knob(
            value="2", where="/etc/condor/config.d/zz-condor-gateway.config, line 9"
        )
    }
    assert said(
        good("gw1", condor=left), "condor-leftover", WARNING, "delete /etc/condor/config.d/zz-condor-gateway.config,"
    )
    assert found(good("cm1", condor=left), "condor-leftover") is None


def test_htcondors_answer_is_read_with_its_places():
    text = (
        "# Configuration from machine: cm1\n\n# Parameters with names that match ^X$:\n"
        "A_LIST = one, two\n # at: /etc/condor/x, line 2, use SECURITY:recommended_v9_0+10\n # raw: $(B)\n"
        "EMPTY = \n # at: <Default>\n # raw: \n # default: \n"
    )
    assert parse_dump(text) == {
        "A_LIST": Knob(value="one, two", where="/etc/condor/x, line 2, use SECURITY:recommended_v9_0+10", raw="$(B)"),
        "EMPTY": Knob(value=""),
    }
    assert words("one, two three,") == ["one", "two", "three"]
    assert truth({"X": Knob(value="T")}, "X") is True
    assert truth({}, "X", default=True) is True


# ---- the running node and its peers


def test_a_node_that_does_not_run_is_a_note():
    assert said(
        good(status=None, status_unknown="no condor-gateway answers"), "node-running", NOTE, "no condor-gateway answers"
    )


def test_what_the_node_says_of_itself_is_passed_on():
    status = {**STATUS, "warnings": ["no real-time priority"], "reloads": {"failure": "other peers"}}
    assert said(good(status=status), "node-warnings", WARNING, "no real-time priority")
    assert said(good(status=status), "node-warnings", WARNING, "the last reload was refused: other peers")


def test_a_file_that_the_node_has_not_read_is_a_warning():
    assert said(good(running="d0"), "file-loaded", WARNING, "condor-gateway reload")
    assert fine(good(running="d1"), "file-loaded")
    assert found(good(), "file-loaded") is None
    assert settings_digest(settings_of()) == digest(settings_of())  # what a node says of what it runs by


@pytest.mark.parametrize(("ago", "words_of"), [(None, "never since"), (7_000, "not for 7 s")])
def test_a_peer_that_is_not_heard_is_a_warning(ago, words_of):
    status = {**STATUS, "peers": {"gw2": {"heard_ms_ago": ago}}}
    assert said(good(status=status), "peers-heard", WARNING, "peer gw2", words_of)


def test_an_election_without_a_leader_is_an_error():
    nobody = {"kind": "matchmaker", "leader": None, "candidates": {"cm1": None, "cm2": {"fit": False}}}
    status = {**STATUS, "elections": {"managers": nobody}}
    assert said(good(status=status), "leaders", ERROR, "nobody leads matchmaker 'managers': no candidate is fit")


def test_leaders_that_change_often_are_a_warning_with_the_cause():
    changes = tuple({"at": NOW_S - n * 60, "election": "pool-vip", "cause": "lease-expired"} for n in range(5))
    assert said(good(changes=changes), "flapping", WARNING, "'pool-vip' had 5 leaders", "lease-expired")
    planned = tuple({**change, "cause": "requested"} for change in changes)
    long_ago = tuple({**change, "at": NOW_S - 90_000} for change in changes)
    assert fine(good(changes=planned), "flapping")
    assert fine(good(changes=long_ago), "flapping")


def test_packets_of_another_key_are_a_warning_and_replays_are_not():
    status = {**STATUS, "heartbeats": {"refused": {"unknown-key": 5, "replayed": 9}}}
    assert [sentence for _, sentence, _ in found(good(status=status), "refused-packets")] == [
        "5 packets were refused as 'unknown-key'"
    ]


def test_peers_with_another_file_program_or_clock_are_named():
    peers = {
        "gw2": {"digest": "d2", "program": "1.1", "ahead_s": 5.0, "findings": []},
        "cm1": {"digest": "d1", "program": "1.0", "ahead_s": 0.2, "findings": []},
        "cm2": {"error": "it did not answer within 5 s"},
    }
    facts = good(peers=peers)
    assert said(facts, "same-file", ERROR, "is on gw2", "copy gateway.cfg")
    assert said(facts, "same-program", NOTE, "gw2 1.1")
    assert said(facts, "clock-skew", NOTE, "gw2 is 5.0 s ahead of")
    assert said(facts, "peers-asked", WARNING, "cm2 could not be asked")
    assert fine(changed(facts, peers={"cm1": peers["cm1"]}), "same-file")
    assert found(good(), "same-file") is None


def test_what_peers_find_on_themselves_is_passed_on_but_for_what_is_fine():
    findings = [
        {"severity": "error", "name": "key-file", "sentence": "key file 'k' does not exist", "remedy": "make one"},
        {"severity": "note", "name": "clock", "sentence": "nobody keeps it", "remedy": ""},
        {"severity": "nonsense"},
    ]
    assert found(good(peers={"gw2": {"findings": findings}}), "peer") == [
        (ERROR, "gw2: key-file: key file 'k' does not exist", "make one")
    ]
    assert fine(good(peers={"gw2": {"findings": []}}), "peer")


@pytest.mark.parametrize(
    ("began", "ended", "skew"), [(101.0, 102.0, 0.0), (111.0, 112.0, 7.0), (95.0, 96.0, -5.0), (99.9, 104.9, -0.1)]
)
def test_a_skew_is_what_the_times_of_asking_can_not_explain(began, ended, skew):
    assert certain_skew(100.0, 105.0, began, ended) == pytest.approx(skew)


def test_the_file_that_a_test_makes_of_two_hosts_is_valid():
    loaded = load(both_in_one(), "gateway.cfg", {})
    assert loaded.settings is not None, loaded.diagnostics
    assert settings_of(both_in_one()).addresses[0].holders == ("cm1", "cm2")

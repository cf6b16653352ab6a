"""Promises of the configuration files that the lab writes for HTCondor and for the gateway."""

from gateway.config import load
from gateway.config.settings import Forward, OnPartition, Role
from gateway.lab import cluster, condor, network
from gateway.lab.topology import Kind, System, Topology, Updates


def settings(text):
    """What an HTCondor configuration says: name -> value, the last one wins."""
    pairs = [line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in pairs}


def pool_file(topology, name):
    return condor.pool_config(topology, topology.host(name))


def test_entities_are_told_the_address_and_whom_to_trust_and_nothing_else():
    for name in ("submit1", "exec1", "exec2"):
        written = [line for line in pool_file(Topology(), name).splitlines() if line and not line.startswith("#")]
        assert written == ["CONDOR_HOST = 10.77.0.100", "use SECURITY : recommended_v9_0"]


def test_the_matchmaker_is_not_named_in_what_a_namespace_needs():
    topology = Topology()
    for host in topology.hosts:
        if host.kind is not Kind.GATEWAY:
            text = condor.lab_config(topology, host)
            assert "CONDOR_HOST" not in text
            assert "10.77.0.100" not in text


def test_no_host_lets_htcondor_write_the_machines_sysctls():
    for system in System:
        topology = Topology(system=system)
        for host in topology.hosts:
            if host.kind is not Kind.GATEWAY:
                assert settings(condor.lab_config(topology, host))["ENABLE_KERNEL_TUNING"] == "False"


def test_managers_name_themselves_and_never_the_virtual_address():
    for name in ("cm1", "cm2", "cm3"):
        text = pool_file(Topology(), name)
        assert settings(text)["CONDOR_HOST"] == "$(FULL_HOSTNAME)"
        assert not any("10.77.0.100" in value for value in settings(text).values())


def test_no_manager_of_ours_starts_a_negotiator_at_boot():
    topology = Topology()
    for host in topology.of_kind(Kind.MANAGER):
        daemons = settings(condor.lab_config(topology, host) + condor.pool_config(topology, host))["DAEMON_LIST"]
        assert daemons.split() == ["MASTER", "COLLECTOR"]


def test_a_pool_speaks_the_one_ip_version_that_was_asked_for():
    for version, enabled in ((4, ("True", "False")), (6, ("False", "True"))):
        topology = Topology(ip_version=version)
        for name in ("cm1", "submit1", "exec1"):
            text = settings(condor.lab_config(topology, topology.host(name)))
            assert (text["ENABLE_IPV4"], text["ENABLE_IPV6"]) == enabled
            assert text["NETWORK_INTERFACE"] == topology.host(name).address
    assert "CONDOR_HOST = [fd77::100]" in pool_file(Topology(ip_version=6), "exec1")
    assert "fd77::12 cm2.lab.internal cm2" in cluster.hosts_file(Topology(ip_version=6))


def test_ads_go_by_udp_where_that_was_asked_for_and_managers_are_told_nothing_of_it():
    for updates, entities in ((Updates.TCP, None), (Updates.UDP, "False")):
        topology = Topology(updates=updates)
        for name, wanted in (("submit1", entities), ("exec1", entities), ("cm1", None)):
            text = settings(condor.lab_config(topology, topology.host(name)))
            assert text.get("UPDATE_COLLECTOR_WITH_TCP") == wanted


def test_a_plain_pool_has_one_negotiator():
    topology = Topology(system=System.PLAIN)
    having = [host.name for host in topology.hosts if "NEGOTIATOR\n" in condor.pool_config(topology, host)]
    assert having == ["cm1"]


def test_managers_keep_collector_sessions_short():
    assert settings(pool_file(Topology(), "cm1"))["COLLECTOR.SEC_DEFAULT_SESSION_DURATION"] == "2"


def test_every_host_has_a_slot_for_each_that_was_asked_for():
    topology = Topology(slots=3)
    text = settings(condor.lab_config(topology, topology.host("exec1")))
    assert (text["NUM_CPUS"], text["NUM_SLOTS_TYPE_1"], text["SLOT_TYPE_1_PARTITIONABLE"]) == ("3", "3", "False")


def test_the_signing_key_file_holds_no_byte_that_would_end_the_key_early():
    key = bytes(range(32))
    stored = condor.signing_key_file(key)
    scramble = (b"\xde\xad\xbe\xef" * 16)[: len(stored)]
    assert bytes(a ^ b for a, b in zip(stored, scramble, strict=True)) == key.hex().encode()


def test_the_gateways_file_is_one_that_the_gateway_accepts():
    topology = Topology(managers=3, gateways=2, forward=Forward.PROXY)
    loaded = load(cluster.gateway_config(topology), "gateway.cfg", {})
    assert loaded.diagnostics == ()
    assert loaded.settings is not None
    assert [peer.name for peer in loaded.settings.peers] == ["gw1", "gw2", "cm1", "cm2", "cm3"]
    assert loaded.settings.peer("cm2").roles == {Role.MANAGER}
    assert loaded.settings.addresses[0].ip == "10.77.0.100"
    assert loaded.settings.addresses[0].holders == ("gw1", "gw2")
    assert [server.endpoint.host for server in loaded.settings.backends[0].servers] == [
        "10.77.0.11",
        "10.77.0.12",
        "10.77.0.13",
    ]


def test_the_gateways_file_says_of_partitions_what_the_lab_was_asked_for():
    for policy in (None, OnPartition.HOLD, OnPartition.SERVE):
        loaded = load(cluster.gateway_config(Topology(managers=2, on_partition=policy)), "gateway.cfg", {})
        assert loaded.settings is not None
        assert loaded.settings.on_partition is (policy or OnPartition.HOLD)


def test_every_host_can_be_found_by_its_name():
    lines = cluster.hosts_file(Topology()).splitlines()
    assert "10.77.0.12 cm2.lab.internal cm2" in lines
    assert len(lines) == 1 + len(Topology().hosts)


def test_every_host_has_one_cable_to_the_switch():
    topology = Topology()
    text = network.cabling(topology)
    for host in topology.hosts:
        assert f"link add {host.name} type veth peer name eth0 address {host.mac} netns cglab-lab-{host.name}\n" in text


def test_every_startd_says_in_its_log_when_it_told_the_collector():
    for system in System:
        topology = Topology(system=system)
        for host in topology.of_kind(Kind.EXECUTE):
            assert settings(condor.lab_config(topology, host))["STARTD_DEBUG"] == "D_FULLDEBUG"

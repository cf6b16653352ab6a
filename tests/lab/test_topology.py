"""Promises of the lab's topology: names, addresses, limits."""

import pytest

from gateway.config import load
from gateway.config.settings import Forward
from gateway.lab.cluster import gateway_config
from gateway.lab.errors import LabError
from gateway.lab.topology import Kind, System, Topology, lab_of_namespace


def test_the_default_lab_has_the_hosts_of_the_documentation():
    hosts = {host.name: host.address for host in Topology().hosts}
    assert hosts == {
        "cm1": "10.77.0.11",
        "cm2": "10.77.0.12",
        "cm3": "10.77.0.13",
        "gw1": "10.77.0.91",
        "gw2": "10.77.0.92",
        "submit1": "10.77.0.21",
        "exec1": "10.77.0.31",
        "exec2": "10.77.0.32",
    }


def test_addresses_and_ethernet_addresses_are_never_given_twice():
    hosts = Topology(managers=9, gateways=9, submit=9, execute=50).checked().hosts
    assert len({host.address for host in hosts}) == len(hosts) == 77
    assert len({host.mac for host in hosts}) == len(hosts)
    assert "10.77.0.100" not in {host.address for host in hosts}


def test_a_lab_of_ipv6_gives_its_hosts_the_same_numbers_and_ethernet_addresses():
    four, six = Topology(), Topology(ip_version=6).checked()
    assert [host.address for host in six.hosts][:4] == ["fd77::11", "fd77::12", "fd77::13", "fd77::91"]
    assert [host.mac for host in six.hosts] == [host.mac for host in four.hosts]
    assert (six.virtual_address, six.condor_host) == ("fd77::100", "[fd77::100]")
    assert Topology(ip_version=6, system=System.PLAIN).condor_host == "[fd77::11]"


def test_both_halves_have_some_of_every_kind_and_together_every_host():
    one, other = Topology(managers=3, submit=2).halves
    assert one == ("cm1", "cm2", "gw1", "submit1", "exec1")
    assert other == ("cm3", "gw2", "submit2", "exec2")


def test_host_names_fit_the_kernels_limit_for_interfaces():
    assert all(len(host.name) <= 15 for host in Topology(managers=9, gateways=9, execute=50).hosts)


@pytest.mark.parametrize("system", [System.HAD, System.PLAIN])
def test_only_our_system_has_gateways(system):
    assert Topology(system=system).of_kind(Kind.GATEWAY) == ()


def test_entities_look_for_the_matchmaker_where_the_system_has_it():
    assert Topology().condor_host == "10.77.0.100"
    assert Topology(system=System.PLAIN).condor_host == "10.77.0.11"
    assert Topology(system=System.HAD, managers=2).condor_host == "cm1.lab.internal,cm2.lab.internal"


@pytest.mark.parametrize("name", ["", "Lab", "a-b", "1lab", "l" * 17, "../etc", "lab\n"])
def test_a_name_that_could_be_taken_for_something_else_is_refused(name):
    with pytest.raises(LabError, match="cannot name a lab"):
        Topology(name=name).checked()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"managers": 0}, "0 managers: a lab has 1 to 9"),
        ({"gateways": 0}, "0 gateways: a lab has 1 to 9"),
        ({"submit": 10}, "10 submit hosts: a lab has 1 to 9"),
        ({"execute": 51}, "51 execute hosts: a lab has 1 to 50"),
        ({"slots": 65}, "65 slots on each execute host: a lab has 1 to 64"),
        ({"ip_version": 5}, "no IP version 5: a lab has 4 or 6"),
        ({"ip_version": 6, "system": System.HAD}, "speaks IPv4 alone: choose --ip-version 4"),
        ({"transparent": True, "forward": Forward.DIRECT}, "leave 'transparent' away"),
    ],
)
def test_a_number_out_of_its_limits_is_refused_with_the_limits(wrong, message):
    with pytest.raises(LabError, match=message):
        Topology(**wrong).checked()


def test_an_unknown_host_is_answered_with_those_there_are():
    with pytest.raises(LabError, match=r"no host 'cm4' in lab 'lab': it has cm1, cm2, cm3, gw1"):
        Topology().host("cm4")


def test_only_the_labs_own_namespaces_are_taken_for_its_own():
    assert lab_of_namespace(Topology(name="one").namespace("cm1")) == "one"
    assert lab_of_namespace("cglab-one-switch") == "one"
    for foreign in ("cglab", "cglab-one", "cglab-one-two-three", "other-one-cm1", "cglab--cm1", "xcglab-one-cm1"):
        assert lab_of_namespace(foreign) is None


@pytest.mark.parametrize("ip_version", [4, 6])
@pytest.mark.parametrize("forward", list(Forward))
def test_a_lab_forwards_in_any_way_that_the_language_has(forward, ip_version):
    asked = Topology(forward=forward, ip_version=ip_version)
    assert asked.checked() is asked
    found = load(gateway_config(asked), "gateway.cfg", {})
    assert found.diagnostics == ()
    assert found.require().backends[0].forward is forward
    assert found.require().addresses[0].ip == asked.virtual_address


@pytest.mark.parametrize("forward", [Forward.PROXY, Forward.NAT])
def test_a_transparent_lab_says_so_in_the_gateways_file(forward):
    found = load(gateway_config(Topology(forward=forward, transparent=True).checked()), "gateway.cfg", {})
    assert found.diagnostics == ()
    assert found.require().backends[0].transparent

"""How virtual machines are reached and cut off, as far as it is text."""

import subprocess

import pytest

from gateway.lab.errors import LabError
from gateway.lab.machines import faults
from gateway.lab.machines.contract import Node
from gateway.lab.machines.inventory import Inventory, Machine
from gateway.lab.machines.scenarios import minority
from gateway.lab.machines.series import chosen
from gateway.lab.machines.shell import entering, remote

LISTED = """\
 Interface   Type      Source                  Model    MAC
------------------------------------------------------------------------
 vnet4       network   condor-gateway-vm-ssh   virtio   52:54:00:AA:00:01
 vnet5       network   condor-gateway-vm       virtio   52:54:00:aa:00:02
"""


def test_taps_and_macs_are_read_from_what_virsh_lists():
    assert faults.interfaces(LISTED) == [("vnet4", "52:54:00:aa:00:01"), ("vnet5", "52:54:00:aa:00:02")]


def test_ports_of_the_private_network_are_those_of_its_bridge():
    assert faults.bridged('[{"ifname": "vnet5"}, {"ifname": "vnet7"}]') == {"vnet5", "vnet7"}
    assert faults.bridged("") == set()


def test_only_the_qemu_of_a_machine_is_signalled():
    line = "/usr/bin/qemu-system-x86_64 -name guest=lab_cm1,debug-threads=on -S "
    assert faults.runs(line, "lab_cm1")
    assert not faults.runs(line, "lab_cm")
    assert not faults.runs("grep -- -name guest=lab_cm1, ", "lab_cm1")
    assert not faults.runs("", "lab_cm1")


def test_partition_drops_frames_both_ways_and_spares_each_side():
    rules = faults.cutting(["a"], ["b", "c"])
    assert '"a" . "b", "b" . "a", "a" . "c", "c" . "a"' in rules
    assert '"b" . "c"' not in rules


def test_partition_of_one_side_is_refused():
    with pytest.raises(LabError, match="two sides"):
        faults.cutting(["a"], [])


def test_second_partition_replaces_the_first():
    assert faults.cutting(["a"], ["b"]).startswith(faults.mending())


def test_command_of_another_user_goes_through_sudo_with_its_arguments_whole():
    assert remote("root", ["echo", "a b"]) == "cd /tmp && exec echo 'a b'"
    line = remote("vagrant", ["condor_q"], "physicist", {"X": "1 2"})
    assert line == "cd /tmp && exec sudo -n -H -u physicist -- env 'X=1 2' condor_q"


def test_ssh_to_a_host_that_is_not_there_names_those_that_are():
    machine = Machine(
        name="cm1", domain="d", address="10.77.0.11", ssh_address="192.0.2.1", ssh_port=22, ssh_user="root",
        ssh_key="key", roles=("manager",),
    )  # fmt: skip
    there = Inventory(
        machines=(machine,), entering=(), environment={}, bridge="b", accelerator="tcg", provider="libvirt", asked=""
    )
    assert entering(there, "cm1", ["true"])[-2:] == ["--", "cd /tmp && exec true"]
    with pytest.raises(LabError, match="there are cm1"):
        entering(there, "cm9", [])


def nodes(**roles):
    return [Node(name=name, address="", roles=frozenset(of.split())) for name, of in roles.items()]


class Pool:
    def __init__(self, **roles):
        self.nodes = nodes(**roles)


def test_small_partition_takes_one_of_three_votes_away():
    small = Pool(cm1="gateway manager", cm2="gateway manager", w1="witness submit execute")
    assert minority(small, leader="cm1", holder="cm2") == ("cm2",)
    assert minority(small, leader="cm1", holder="cm1") == ("cm1",)


def test_full_partition_takes_holder_and_elected_manager_away():
    full = Pool(gw1="gateway", gw2="gateway", cm1="manager", cm2="manager", cm3="manager", submit1="submit")
    assert minority(full, leader="cm1", holder="gw2") == ("gw2", "cm1")


def test_unknown_scenario_is_refused_with_those_that_there_are():
    assert [one.name for one in chosen(["manager-cut", "switchover"])] == ["switchover", "manager-cut"]
    with pytest.raises(LabError, match="manager-cut"):
        chosen(["coffee"])


@pytest.mark.kernel
def test_kernel_takes_the_rules_of_a_partition_and_gives_them_back():
    rules = faults.cutting(["vnet1"], ["vnet2", "vnet3"])
    for text in (rules, rules, faults.mending(), faults.mending()):  # twice: nobody asks what is there
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", 'nft -f - && nft list ruleset; echo "$?"'],
            input=text, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        assert done.stdout.endswith("0\n"), done.stderr
        assert ("drop" in done.stdout) is (text is rules)

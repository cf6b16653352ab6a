"""The virtual address: what is added, removed and left alone, against the real kernel."""

import errno
import ipaddress
import socket
import time

import pytest

from gateway.kernel.address import VirtualAddress, local_addresses
from gateway.kernel.netlink import KernelRefused
from tests.support.netns import DEVICE, Host, Segment

pytestmark = pytest.mark.kernel

IP = "10.77.0.100"


@pytest.fixture
def host(segment: Segment) -> Host:
    return segment.host("gw1", "10.77.0.91/24")


def held(host: Host) -> set[str]:
    shown = host.ip("-o", "address", "show", "dev", DEVICE).stdout.splitlines()
    return {line.split()[3] for line in shown if " fe80" not in line}


def add() -> bool:
    return VirtualAddress(IP, 32, DEVICE).add()


def remove() -> bool:
    return VirtualAddress(IP, 32, DEVICE).remove()


def present() -> bool:
    return VirtualAddress(IP, 32, DEVICE).present()


def test_added_address_is_on_the_device(host: Host) -> None:
    assert host.call(add) is True
    assert f"{IP}/32" in held(host)
    assert host.call(present) is True


def test_adding_again_says_that_it_was_there(host: Host) -> None:
    assert host.call(add) is True
    assert host.call(add) is False


def test_removing_again_says_that_it_was_not_there(host: Host) -> None:
    host.call(add)
    assert host.call(remove) is True
    assert host.call(remove) is False
    assert host.call(present) is False


def test_only_the_exact_prefix_is_removed(host: Host) -> None:
    host.ip("address", "add", f"{IP}/24", "dev", DEVICE)
    assert host.call(present) is False
    assert host.call(remove) is False
    host.call(add)
    assert host.call(remove) is True
    assert held(host) == {"10.77.0.91/24", f"{IP}/24"}


def test_a_stale_address_is_removed_at_start(host: Host) -> None:
    host.ip("address", "add", f"{IP}/32", "dev", DEVICE)
    assert host.call(remove) is True
    assert held(host) == {"10.77.0.91/24"}


def test_a_wider_address_of_ours_leaves_the_hosts_own_one_of_that_network(host: Host) -> None:
    def come_and_go() -> None:
        ours = VirtualAddress(IP, 24, DEVICE)
        ours.add()
        ours.remove()

    host.call(come_and_go)
    assert held(host) == {"10.77.0.91/24"}


def test_ipv6_address_answers_at_once_and_is_never_a_source(host: Host) -> None:
    def come() -> bool:
        return VirtualAddress("fd77::100", 128, DEVICE).add()

    host.run("sysctl", "-qw", f"net.ipv6.conf.{DEVICE}.accept_dad=1")
    assert host.call(come) is True
    shown = host.ip("-6", "address", "show", "dev", DEVICE).stdout
    words = set(shown.split("fd77::100", 1)[1].splitlines()[0].split())
    assert {"/128", "nodad", "deprecated"} <= words
    assert "tentative" not in words

    def go() -> tuple[bool, bool, bool]:
        ours = VirtualAddress("fd77::100", 128, DEVICE)
        return ours.present(), ours.remove(), ours.present()

    assert host.call(go) == (True, True, False)


@pytest.mark.parametrize("own", ["fd77::91/64", "fd77:1::91/64"], ids=["same-network", "another-network"])
def test_an_ipv6_address_with_a_wide_prefix_leaves_the_hosts_own_one_alone(host: Host, own: str) -> None:
    host.ip("address", "add", own, "dev", DEVICE)

    def come_and_go() -> bool:
        ours = VirtualAddress("fd77::100", 64, DEVICE)
        ours.add()
        return ours.present() and ours.remove()

    def network() -> str:
        return host.ip("-6", "route", "show", str(ipaddress.ip_interface(own).network)).stdout

    before = network()
    assert DEVICE in before
    assert host.call(come_and_go) is True
    assert held(host) == {"10.77.0.91/24", own}
    assert network() == before, "the network's route is the host's own still"


def test_an_ipv6_address_answers_although_another_host_has_it(segment: Segment, host: Host) -> None:
    """Duplicate address detection would leave it silent for ever (dadfailed) after a failover that came too early."""
    for device in ("all", DEVICE):
        host.run("sysctl", "-qw", f"net.ipv6.conf.{device}.accept_dad=1")
    segment.host("slow", "fd77::100/64")
    host.call(lambda: VirtualAddress("fd77::100", 128, DEVICE).add())
    time.sleep(1.2)  # detection would have ended by now
    shown = host.ip("-6", "address", "show", "dev", DEVICE).stdout
    words = set(shown.split("fd77::100", 1)[1].splitlines()[0].split())
    assert not words & {"dadfailed", "tentative"}


@pytest.mark.parametrize("promote", [0, 1])
def test_the_hosts_own_address_and_ours_in_one_network_do_not_take_each_other_along(host: Host, promote: int) -> None:
    """Linux removes secondary addresses with the primary one unless it may promote them; a /32 is never either."""
    host.run("sysctl", "-qw", f"net.ipv4.conf.{DEVICE}.promote_secondaries={promote}")
    host.call(add)
    host.ip("address", "del", "10.77.0.91/24", "dev", DEVICE)
    assert held(host) == {f"{IP}/32"}
    host.ip("address", "add", "10.77.0.91/24", "dev", DEVICE)
    host.call(remove)
    assert held(host) == {"10.77.0.91/24"}


def test_removing_ours_puts_back_what_linux_removes_with_it(segment: Segment) -> None:
    """Here Linux would take the host's own address, which came later, along with ours."""
    host = segment.host("gw1", f"{IP}/24", "10.77.0.91/24", "10.77.0.92/24")
    host.run("sysctl", "-qw", f"net.ipv4.conf.{DEVICE}.promote_secondaries=0")
    assert host.call(lambda: VirtualAddress(IP, 24, DEVICE).remove()) is True
    assert held(host) == {"10.77.0.91/24", "10.77.0.92/24"}


@pytest.mark.parametrize(("ip", "prefix_length"), [(IP, 32), (IP, 24), ("fd77::100", 128), ("fd77::100", 64)])
def test_the_farewell_removes_exactly_the_address_in_another_process(host: Host, ip: str, prefix_length: int) -> None:
    host.ip("address", "add", "fd77::91/64", "dev", DEVICE)

    def come() -> bytes:
        ours = VirtualAddress(ip, prefix_length, DEVICE)
        ours.add()
        return ours.farewell

    def send(request: bytes) -> bytes:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as opened:
            opened.send(request)
            opened.setblocking(False)
            try:
                return opened.recv(1_000)
            except BlockingIOError:
                return b""

    request = host.call(come)
    assert f"{ip}/{prefix_length}" in held(host)
    assert host.call(send, request) == b"", "it wants no answer"
    assert held(host) == {"10.77.0.91/24", "fd77::91/64"}


def test_a_missing_device_is_named_with_those_that_there_are(host: Host) -> None:
    with pytest.raises(KernelRefused) as caught:
        host.call(VirtualAddress, IP, 32, "eth9")
    assert caught.value.errno == errno.ENODEV
    sentence = "cannot use the device 'eth9': no such device; write one of this host's devices after `dev`: lan0, lo"
    assert str(caught.value) == sentence


def test_without_permission_the_refusal_says_what_to_do(host: Host) -> None:
    def add_as_nobody() -> bool:
        import os

        ours = VirtualAddress(IP, 32, DEVICE)
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        return ours.add()

    with pytest.raises(KernelRefused, match="run as root or give the service CAP_NET_ADMIN") as caught:
        host.call(add_as_nobody)
    assert caught.value.errno == errno.EPERM
    assert held(host) == {"10.77.0.91/24"}


def test_a_device_that_was_made_anew_gets_the_address(host: Host) -> None:
    def add_to_second() -> tuple[bool, bool]:
        import subprocess

        make = ["ip", "link", "add", "lan1", "type", "veth", "peer", "name", "lan2"]
        subprocess.run(make, check=True)
        ours = VirtualAddress(IP, 32, "lan1")
        subprocess.run(["ip", "link", "delete", "lan1"], check=True)
        gone = (ours.present(), ours.remove())
        assert gone == (False, False)
        subprocess.run(make, check=True)
        return ours.add(), ours.present()

    assert host.call(add_to_second) == (True, True)


def test_local_addresses_are_those_of_all_devices_and_families(host: Host) -> None:
    host.ip("address", "add", "fd77::91/64", "dev", DEVICE)
    found = host.call(local_addresses)
    assert {"127.0.0.1", "::1", "10.77.0.91", "fd77::91"} <= found
    assert IP not in found


def test_adding_and_removing_takes_no_time_that_a_heartbeat_would_notice(host: Host) -> None:
    def median_us() -> float:
        ours = VirtualAddress(IP, 32, DEVICE)
        taken = []
        for _ in range(200):
            before = time.perf_counter()
            ours.add()
            ours.present()
            ours.remove()
            taken.append(time.perf_counter() - before)
        return sorted(taken)[100] * 1e6

    measured = host.call(median_us)
    print(f"add + present + remove: {measured:.0f} us")
    assert measured < 3_000

"""The virtual address on a manager's loopback device: heard, and claimed nowhere. Real ARP and neighbour discovery."""

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.kernel.loopback import LoopbackAddress, remove_leftovers
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.sysctl import Sysctls, read_sysctl
from tests.support.netns import DEVICE, Host, Segment

pytestmark = pytest.mark.kernel

IP, IPV6 = "10.77.0.100", "fd77::100"
SETTINGS = [f"net/ipv4/conf/{of}/{name}" for of in ("all", DEVICE) for name in ("arp_ignore", "arp_announce")]


@pytest.fixture
def manager(segment: Segment) -> Host:
    return segment.host("m1", "10.77.0.11/24", "fd77::11/64")


@pytest.fixture
def neighbour(segment: Segment) -> Host:
    return segment.host("client", "10.77.0.5/24", "fd77::5/64")


def on(manager: Host, folder: Path, ip: str, act: Callable[[LoopbackAddress], Any]) -> Any:
    """Act on the address in a process that ends then."""
    return manager.call(lambda: act(LoopbackAddress(ip, DEVICE, Sysctls(folder / "sysctls"), folder / "loopback")))


def take(address: LoopbackAddress) -> tuple[list[str], bool]:
    return address.prepare(), address.add()


def settings(manager: Host) -> list[str]:
    found: list[str] = manager.call(lambda: [read_sysctl(name) for name in SETTINGS])
    return found


@pytest.mark.parametrize("ip", [IP, IPV6])
def test_the_address_is_heard_but_never_announced_nor_answered_for(
    manager: Host, neighbour: Host, tmp_path: Path, ip: str
) -> None:
    said = manager.capture()
    assert on(manager, tmp_path, ip, take) == ([], True)
    assert manager.call(lambda: socket.create_server((ip, 1), family=10 if ":" in ip else 2) is not None)
    assert not neighbour.ping(ip, 1.0)
    assert neighbour.neighbour(ip) is None
    # By its MAC, as a gateway sends to it.
    neighbour.ip("neigh", "replace", ip, "lladdr", manager.mac, "dev", DEVICE)
    assert neighbour.ping(ip)
    packed = socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
    for frame in said.frames(outgoing=True):
        arp = frame.data[12:14] == b"\x08\x06"
        discovery = frame.data[12:14] == b"\x86\xdd" and frame.data[20] == 58 and frame.data[54] in range(133, 138)
        assert not ((arp or discovery) and packed in frame.data)


def test_a_second_device_on_the_segment_answers_for_it_neither(
    segment: Segment, manager: Host, neighbour: Host, tmp_path: Path
) -> None:
    segment.plug(manager, "lan1")
    manager.ip("address", "add", "10.77.0.12/24", "dev", "lan1")
    on(manager, tmp_path, IP, take)
    assert not neighbour.ping(IP, 1.0)
    assert neighbour.neighbour(IP) is None


@pytest.mark.parametrize(("ip", "towards"), [(IP, "10.77.0.5"), (IPV6, "fd77::5")])
def test_the_address_is_never_chosen_as_a_source(manager: Host, tmp_path: Path, ip: str, towards: str) -> None:
    on(manager, tmp_path, ip, take)

    def source() -> str:
        with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect((towards, 1))
            return str(asking.getsockname()[0])

    assert manager.call(source) != ip
    if ":" not in ip:  # not even where the device has no other
        manager.ip("address", "flush", "dev", DEVICE)
        manager.ip("route", "add", "10.77.0.0/24", "dev", DEVICE)
        assert manager.call(source) != ip


def test_settings_stand_before_the_address_and_are_put_back_after_it(manager: Host, tmp_path: Path) -> None:
    before = settings(manager)

    def early(address: LoopbackAddress) -> None:
        with contextlib.suppress(KernelRefused):
            address.add()
        assert not address.present()

    on(manager, tmp_path, IP, early)
    on(manager, tmp_path, IP, take)
    assert settings(manager) == ["1", "2", "1", "2"]

    def leave(address: LoopbackAddress) -> bool:
        here = address.present()
        address.close()
        Sysctls(tmp_path / "sysctls").restore()
        return here

    assert on(manager, tmp_path, IP, leave)
    assert settings(manager) == before
    assert IP not in manager.ip("address", "show", "dev", "lo").stdout
    assert list(tmp_path.iterdir()) == []


def test_a_stricter_setting_stays(manager: Host, tmp_path: Path) -> None:
    manager.run("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=2")
    on(manager, tmp_path, IP, take)
    assert settings(manager)[0] == "2"


@pytest.mark.parametrize("ip", [IP, IPV6])
def test_what_a_crash_leaves_is_removed(manager: Host, tmp_path: Path, ip: str) -> None:
    on(manager, tmp_path, ip, take)
    assert manager.call(remove_leftovers, tmp_path / "loopback") == ip
    assert manager.call(remove_leftovers, tmp_path / "loopback") is None
    assert ip not in manager.ip("address", "show", "dev", "lo").stdout


@pytest.mark.parametrize("ip", [IP, IPV6])
def test_another_process_can_say_farewell(manager: Host, tmp_path: Path, ip: str) -> None:
    on(manager, tmp_path, ip, take)
    farewell = on(manager, tmp_path, ip, lambda address: address.farewell)

    def send() -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as opened:
            opened.send(farewell)

    manager.call(send)
    assert ip not in manager.ip("address", "show", "dev", "lo").stdout


def test_adding_and_removing_twice_is_no_error(manager: Host, tmp_path: Path) -> None:
    def act(address: LoopbackAddress) -> list[bool]:
        address.prepare()
        return [address.add(), address.add(), address.remove(), address.remove()]

    assert on(manager, tmp_path, IP, act) == [True, False, True, False]


def test_a_strict_reverse_path_filter_is_warned_of(manager: Host, tmp_path: Path) -> None:
    manager.run("sysctl", "-qw", f"net.ipv4.conf.{DEVICE}.rp_filter=1")
    (warning,), _ = on(manager, tmp_path, IP, take)
    assert warning.startswith("rp_filter is 1 on 'lan0': clients that this host answers by another device")

"""Kernel settings: changed, put back, and never taken from somebody else. In namespaces; of the real ones none."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.kernel.netlink import KernelRefused
from gateway.kernel.sysctl import Sysctls, read_sysctl
from tests.support.netns import DEVICE, Host, Segment

pytestmark = pytest.mark.kernel

IGNORE = f"net/ipv4/conf/{DEVICE}/arp_ignore"
ANNOUNCE = f"net/ipv4/conf/{DEVICE}/arp_announce"
RANGE = "net/ipv4/ip_local_port_range"


@pytest.fixture
def host(segment: Segment) -> Host:
    return segment.host("mgr", "10.77.0.11/24")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "sysctls.json"


def values(host: Host, *names: str) -> list[str]:
    shown: list[str] = host.call(lambda: [read_sysctl(name) for name in names])
    return shown


def on(host: Host, function: Callable[[], None]) -> None:
    host.call(function)


def test_settings_are_changed_and_put_back_by_a_later_process(host: Host, record: Path) -> None:
    before = values(host, IGNORE, ANNOUNCE, RANGE)
    on(host, lambda: Sysctls(record).set({IGNORE: "1", RANGE: "10000 65000"}))
    on(host, lambda: Sysctls(record).set({ANNOUNCE: "2", IGNORE: "2"}))
    assert values(host, IGNORE, ANNOUNCE, RANGE) == ["2", "2", "10000 65000"]
    assert record.exists()
    on(host, Sysctls(record).restore)
    assert values(host, IGNORE, ANNOUNCE, RANGE) == before
    assert not record.exists()


def test_a_setting_that_somebody_else_changed_meanwhile_stays_theirs(host: Host, record: Path) -> None:
    on(host, lambda: Sysctls(record).set({IGNORE: "1", ANNOUNCE: "2"}))
    host.run("sysctl", "-qw", IGNORE.replace("/", ".") + "=8")
    on(host, Sysctls(record).restore)
    assert values(host, IGNORE, ANNOUNCE) == ["8", "0"]


def test_a_setting_that_had_its_value_is_not_put_back(host: Host, record: Path) -> None:
    host.run("sysctl", "-qw", IGNORE.replace("/", ".") + "=1")
    on(host, lambda: Sysctls(record).set({IGNORE: "1"}))
    assert not record.exists()
    on(host, Sysctls(record).restore)
    assert values(host, IGNORE) == ["1"]


def test_nothing_is_changed_that_cannot_be_recorded(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def change() -> None:
        with contextlib.suppress(KernelRefused):
            Sysctls(tmp_path / "file" / "record").set({IGNORE: "1"})

    on(host, change)
    assert values(host, IGNORE) == ["0"]


def test_an_unknown_setting_is_named_and_what_was_done_can_be_undone(host: Host, record: Path) -> None:
    with pytest.raises(KernelRefused, match="cannot read /proc/sys/net/ipv4/conf/nic0/arp_ignore: no such file"):
        on(host, lambda: Sysctls(record).set({"net/ipv4/conf/nic0/arp_ignore": "1"}))
    with pytest.raises(KernelRefused, match="cannot write 'x' to /proc/sys/net/ipv4/conf/lan0/arp_announce"):
        on(host, lambda: Sysctls(record).set({IGNORE: "1", ANNOUNCE: "x"}))
    on(host, Sysctls(record).restore)
    assert values(host, IGNORE, ANNOUNCE) == ["0", "0"]


def test_a_setting_of_a_device_that_is_gone_is_forgotten(segment: Segment, host: Host, record: Path) -> None:
    segment.plug(host, "lan1")
    on(host, lambda: Sysctls(record).set({"net/ipv4/conf/lan1/arp_ignore": "1", IGNORE: "1"}))
    host.ip("link", "delete", "lan1")
    on(host, Sysctls(record).restore)
    assert values(host, IGNORE) == ["0"]
    assert not record.exists()


def test_a_record_of_another_kernel_is_stale(segment: Segment, host: Host, record: Path) -> None:
    """After a boot the settings are fresh: an administrator's own value, equal to ours, is not ours."""
    on(host, lambda: Sysctls(record).set({IGNORE: "1"}))
    other = segment.host("other", "10.77.0.12/24")
    other.run("sysctl", "-qw", IGNORE.replace("/", ".") + "=1")
    on(other, Sysctls(record).restore)
    assert values(other, IGNORE) == ["1"]


def test_a_file_that_is_no_record_is_not_believed(host: Host, record: Path) -> None:
    record.write_text("[1, 2]")
    with pytest.raises(KernelRefused, match="it is no record of ours"):
        on(host, Sysctls(record).restore)

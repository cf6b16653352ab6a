"""Who else claims the address, IPv4 or IPv6: probes and the watch for conflicts, between real kernels."""

import errno
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether

from gateway.kernel import ethernet
from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from gateway.kernel.fence import Fence
from gateway.kernel.neighbour import ConflictWatch, who_has
from gateway.kernel.netlink import KernelRefused
from tests.support.netns import DEVICE, Capture, Host, Segment

pytestmark = pytest.mark.kernel

STRANGER_MAC = "02:00:00:00:00:66"


class Family(NamedTuple):
    """The address in question, and those of the hosts on its subnet."""

    name: str
    ip: str
    nobody: str
    hosts: str  # an address on the subnet, its last digits left out
    subnet_bits: int
    alone_bits: int

    def on_subnet(self, number: int) -> str:
        return f"{self.hosts}{number}/{self.subnet_bits}"

    @property
    def alone(self) -> str:
        return f"{self.ip}/{self.alone_bits}"

    def virtual(self) -> VirtualAddress:
        return VirtualAddress(self.ip, self.alone_bits, DEVICE)


IPV4 = Family("ipv4", "10.77.0.100", "0.0.0.0", "10.77.0.", 24, 32)
IPV6 = Family("ipv6", "fd77::100", "::", "fd77::", 64, 128)
# What holds for one family only: ARP answers for any address of the host, neighbour discovery does not.
only_ipv4 = pytest.mark.parametrize("family", [IPV4], indirect=True, ids=lambda family: family.name)


@pytest.fixture(params=[IPV4, IPV6], ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture
def host(segment: Segment, family: Family) -> Host:
    return segment.host("gw1", family.on_subnet(91), mac="02:00:00:00:00:91")


@pytest.fixture
def stranger(segment: Segment, family: Family) -> Host:
    return segment.host("stranger", family.on_subnet(66), mac=STRANGER_MAC)


def hold(host: Host, family: Family, device: str = DEVICE) -> None:
    host.ip("address", "add", family.alone, "dev", device)


def ask(family: Family, wait_ms: int = 400, count: int = 2) -> frozenset[str]:
    async def main() -> frozenset[str]:
        return await who_has(family.ip, DEVICE, wait_ms=wait_ms, count=count)

    return trio.run(main)


def test_a_stranger_that_answers_is_named_by_its_mac(family: Family, host: Host, stranger: Host) -> None:
    hold(stranger, family)
    assert host.call(ask, family) == {STRANGER_MAC}


def test_a_free_address_has_no_holder(family: Family, host: Host, stranger: Host) -> None:
    assert host.call(ask, family) == frozenset()


def test_every_holder_is_named(segment: Segment, family: Family, host: Host, stranger: Host) -> None:
    """Whatever the prefix length with which it holds the address."""
    second = segment.host("second", family.on_subnet(67), f"{family.ip}/{family.subnet_bits}", mac="02:00:00:00:00:67")
    hold(stranger, family)
    assert host.call(ask, family) == {STRANGER_MAC, second.mac}


def test_our_own_address_is_no_conflict(family: Family, host: Host, stranger: Host) -> None:
    hold(host, family)
    assert host.call(ask, family) == frozenset()


@only_ipv4
def test_our_own_answer_by_another_device_is_no_conflict(segment: Segment, family: Family, host: Host) -> None:
    """Linux answers for any of its addresses on any of its devices."""
    segment.plug(host, "lan1")
    hold(host, family, "lan1")
    capture = host.capture()
    assert host.call(ask, family) == frozenset()
    answered = [Ether(frame.data)[ARP] for frame in capture.frames(protocol=0x0806, outgoing=False)]
    assert any(one.op == 2 and one.psrc == family.ip for one in answered)


def said(capture: Capture, family: Family, mac: str) -> list[tuple[bool, str]]:
    """Return for each frame about the address that came from `mac`: whether it asks, and its source address."""
    if family is IPV4:
        frames = [Ether(frame.data)[ARP] for frame in capture.frames(protocol=0x0806, outgoing=False)]
        return [(one.op == 1 and one.pdst == family.ip, one.psrc) for one in frames if one.hwsrc == mac]
    frames = [Ether(frame.data) for frame in capture.frames(protocol=0x86DD, outgoing=False)]
    return [
        (kind is ICMPv6ND_NS, one[IPv6].src)
        for one in frames
        for kind in (ICMPv6ND_NS, ICMPv6ND_NA)
        if one.src == mac and kind in one and one[kind].tgt == family.ip
    ]


def test_the_probe_claims_nothing_and_changes_nobodys_cache(
    segment: Segment, family: Family, host: Host, stranger: Host
) -> None:
    hold(stranger, family)
    client = segment.host("client", family.on_subnet(5))
    assert client.ping(family.ip)
    capture = stranger.capture()  # an IPv6 question goes to those only who listen to the address's multicast group
    host.call(ask, family, wait_ms=200, count=2)
    assert said(capture, family, host.mac) == [(True, family.nobody)] * 2
    assert client.neighbour(family.ip) == STRANGER_MAC


def test_a_link_that_is_down_has_no_holder_and_is_no_error(family: Family, host: Host, stranger: Host) -> None:
    hold(stranger, family)
    host.ip("link", "set", DEVICE, "down")
    assert host.call(ask, family, wait_ms=200) == frozenset()


def test_a_standby_behind_its_fence_sees_who_holds_the_address(family: Family, host: Host, stranger: Host) -> None:
    def ask_from_behind() -> frozenset[str]:
        fence = Fence(family.ip, DEVICE, "vip")
        fence.install()
        return ask(family)

    hold(stranger, family)
    assert host.call(ask_from_behind) == {STRANGER_MAC}


def watch(family: Family, run_s: float) -> list[tuple[str, str]]:
    """Hold the address and watch; return what was seen."""
    seen: list[tuple[str, str]] = []
    family.virtual().add()

    async def main() -> None:
        conflicts = ConflictWatch(
            family.ip, DEVICE, lambda mac: seen.append(("claim", mac)), lambda mac: seen.append(("ended", mac))
        )
        with trio.move_on_after(run_s):
            async with trio.open_nursery() as nursery:
                await nursery.start(conflicts.run)
                Announcer(family.ip, DEVICE).burst(2)  # what we say ourselves is no conflict

    trio.run(main)
    return seen


def test_another_hosts_claim_is_seen_and_its_end(family: Family, host: Host, stranger: Host) -> None:
    watching = host.start(watch, family, 4.0)
    time.sleep(0.5)

    def claim() -> None:
        ours = family.virtual()
        ours.add()
        Announcer(family.ip, DEVICE).burst(2)
        time.sleep(0.3)
        ours.remove()

    stranger.call(claim)
    assert watching.result() == [("claim", STRANGER_MAC), ("ended", STRANGER_MAC)]


def test_a_claim_that_goes_on_does_not_end(family: Family, host: Host, stranger: Host) -> None:
    watching = host.start(watch, family, 4.0)
    time.sleep(0.5)

    def claim() -> None:
        family.virtual().add()
        Announcer(family.ip, DEVICE).burst(1)

    stranger.call(claim)
    seen = watching.result()
    assert seen[0] == ("claim", STRANGER_MAC)
    assert set(seen) == {("claim", STRANGER_MAC)}
    assert 2 <= len(seen) <= 5  # reported again, once a second at most


def test_our_own_announcement_by_another_device_is_no_claim(segment: Segment, family: Family, host: Host) -> None:
    segment.plug(host, "lan1")
    watching = host.start(watch, family, 1.5)
    time.sleep(0.3)
    host.call(lambda: Announcer(family.ip, "lan1").burst(2))
    assert watching.result() == []


def test_ordinary_questions_for_the_address_are_no_claim(family: Family, host: Host, stranger: Host) -> None:
    watching = host.start(watch, family, 1.5)
    time.sleep(0.3)
    assert stranger.ping(family.ip)
    assert stranger.call(ask, family, wait_ms=200) == {host.mac}
    assert watching.result() == []


def packet_sockets() -> frozenset[str]:
    """Return the inodes of this namespace's packet sockets that are bound to a protocol: those that listen."""
    lines = Path("/proc/self/net/packet").read_text().splitlines()[1:]
    return frozenset(line.split()[-1] for line in lines if line.split()[3] != "0000")


def test_a_claimant_is_asked_through_the_socket_that_listens(family: Family, host: Host, stranger: Host) -> None:
    """Closing a packet socket halts the thread until all CPUs have passed by: longer than a short lease may last."""

    def watch_sockets() -> tuple[list[str], set[frozenset[str]]]:
        seen: list[str] = []
        sockets: set[frozenset[str]] = set()
        family.virtual().add()

        async def main() -> None:
            conflicts = ConflictWatch(family.ip, DEVICE, lambda mac: seen.append(mac), lambda mac: None)
            with trio.move_on_after(4.0):
                async with trio.open_nursery() as nursery:
                    await nursery.start(conflicts.run)
                    while True:  # until the time is over
                        sockets.add(packet_sockets())
                        await trio.sleep(0.01)

        trio.run(main)
        return seen, sockets

    watching = host.start(watch_sockets)
    time.sleep(0.5)

    def claim() -> None:
        family.virtual().add()
        Announcer(family.ip, DEVICE).burst(1)

    stranger.call(claim)
    capture = stranger.capture()
    seen, sockets = watching.result()
    assert set(seen) == {STRANGER_MAC}
    assert sum(asks for asks, _ in said(capture, family, host.mac)) >= 4, "it was asked meanwhile"
    assert len(sockets) == 1, "one and the same socket all the time"
    assert len(sockets.pop()) == 1


class SlowlyClosed(socket.socket):
    """A packet socket whose end takes as long as a busy kernel's."""

    def close(self) -> None:
        time.sleep(1.0)
        super().close()


def test_the_end_of_a_watch_keeps_nobody_waiting_and_leaks_no_socket(family: Family, host: Host) -> None:
    def watch_and_end() -> tuple[int, float, int]:
        open_at_once = ethernet.open_packet_socket

        def open_slowly(device: str, protocol: int, program: Sequence[ethernet.Instruction]) -> socket.socket:
            opened = open_at_once(device, protocol, program)
            return SlowlyClosed(socket.AF_PACKET, socket.SOCK_RAW, 0, fileno=opened.detach())

        ethernet.open_packet_socket = open_slowly  # type: ignore[assignment]

        async def main() -> tuple[int, float]:
            conflicts = ConflictWatch(family.ip, DEVICE, lambda mac: None, lambda mac: None)
            async with trio.open_nursery() as nursery:
                await nursery.start(conflicts.run)
                while_watching = len(packet_sockets())
                ended = time.monotonic()
                nursery.cancel_scope.cancel()
            return while_watching, time.monotonic() - ended

        while_watching, took_s = trio.run(main)
        until = time.monotonic() + 10
        while packet_sockets() and time.monotonic() < until:
            time.sleep(0.05)
        return while_watching, took_s, len(packet_sockets())

    while_watching, took_s, afterwards = host.call(watch_and_end)
    assert while_watching == 1
    assert took_s < 0.5
    assert afterwards == 0


def test_a_device_that_goes_away_during_a_claim_ends_the_watch_with_its_reason(
    family: Family, host: Host, stranger: Host
) -> None:
    def watch_until_gone() -> str:
        with pytest.raises(ExceptionGroup) as raised:
            watch(family, 10.0)
        (error,) = raised.value.exceptions
        assert isinstance(error, KernelRefused)
        return errno.errorcode[error.errno]

    hold(stranger, family)
    watching = host.start(watch_until_gone)
    time.sleep(0.5)
    stranger.call(lambda: Announcer(family.ip, DEVICE).burst(1))
    time.sleep(0.5)
    host.ip("link", "delete", DEVICE)
    assert watching.result() == "ENODEV"


def test_links_that_change_without_pause_do_not_end_the_watch(family: Family, host: Host, stranger: Host) -> None:
    def watch_unsteady() -> list[tuple[str, str]]:
        def never_still() -> frozenset[str]:
            raise KernelRefused("read the kernel's tables", errno.EINTR, "they change without pause; try again")

        ethernet.local_macs = never_still
        return watch(family, 2.5)

    watching = host.start(watch_unsteady)
    time.sleep(0.5)
    hold(stranger, family)
    stranger.call(lambda: Announcer(family.ip, DEVICE).burst(1))
    assert ("claim", STRANGER_MAC) in watching.result()

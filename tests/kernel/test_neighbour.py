"""Who else claims the address: probes and the watch for conflicts, between real kernels."""

import time

import pytest
import trio
from scapy.layers.l2 import ARP, Ether

from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from gateway.kernel.neighbour import ConflictWatch, who_has
from tests.support.netns import DEVICE, Host, Segment

pytestmark = pytest.mark.kernel

IP = "10.77.0.100"
STRANGER_MAC = "02:00:00:00:00:66"


@pytest.fixture
def host(segment: Segment) -> Host:
    return segment.host("gw1", "10.77.0.91/24", mac="02:00:00:00:00:91")


@pytest.fixture
def stranger(segment: Segment) -> Host:
    return segment.host("stranger", "10.77.0.66/24", mac=STRANGER_MAC)


def ask(wait_ms: int = 400, count: int = 2) -> frozenset[str]:
    async def main() -> frozenset[str]:
        return await who_has(IP, DEVICE, wait_ms=wait_ms, count=count)

    return trio.run(main)


def test_a_stranger_that_answers_is_named_by_its_mac(host: Host, stranger: Host) -> None:
    stranger.ip("address", "add", f"{IP}/32", "dev", DEVICE)
    assert host.call(ask) == {STRANGER_MAC}


def test_a_free_address_has_no_holder(host: Host, stranger: Host) -> None:
    assert host.call(ask) == frozenset()


def test_every_holder_is_named(segment: Segment, host: Host, stranger: Host) -> None:
    second = segment.host("second", "10.77.0.67/24", f"{IP}/32", mac="02:00:00:00:00:67")
    stranger.ip("address", "add", f"{IP}/32", "dev", DEVICE)
    assert host.call(ask) == {STRANGER_MAC, second.mac}


def test_our_own_address_is_no_conflict(host: Host, stranger: Host) -> None:
    host.ip("address", "add", f"{IP}/32", "dev", DEVICE)
    assert host.call(ask) == frozenset()


def test_our_own_answer_by_another_device_is_no_conflict(segment: Segment, host: Host) -> None:
    """Linux answers for any of its addresses on any of its devices."""
    segment.plug(host, "lan1")
    host.ip("address", "add", f"{IP}/32", "dev", "lan1")
    capture = host.capture()
    assert host.call(ask) == frozenset()
    answered = [Ether(frame.data)[ARP] for frame in capture.frames(protocol=0x0806, outgoing=False)]
    assert any(one.op == 2 and one.psrc == IP for one in answered)


def test_the_probe_claims_nothing_and_changes_nobodys_cache(segment: Segment, host: Host, stranger: Host) -> None:
    stranger.ip("address", "add", f"{IP}/32", "dev", DEVICE)
    client = segment.host("client", "10.77.0.5/24")
    assert client.ping(IP)
    capture = client.capture()
    host.call(ask, wait_ms=200, count=2)
    probes = [Ether(frame.data)[ARP] for frame in capture.frames(protocol=0x0806, outgoing=False)]
    assert [(one.op, one.psrc, one.pdst) for one in probes if one.hwsrc == host.mac] == [(1, "0.0.0.0", IP)] * 2
    assert client.neighbour(IP) == STRANGER_MAC


def test_a_link_that_is_down_has_no_holder_and_is_no_error(host: Host, stranger: Host) -> None:
    stranger.ip("address", "add", f"{IP}/32", "dev", DEVICE)
    host.ip("link", "set", DEVICE, "down")
    assert host.call(ask, wait_ms=200) == frozenset()


def watch(run_s: float) -> list[tuple[str, str]]:
    """Hold the address and watch; return what was seen."""
    seen: list[tuple[str, str]] = []
    VirtualAddress(IP, 32, DEVICE).add()

    async def main() -> None:
        conflicts = ConflictWatch(
            IP, DEVICE, lambda mac: seen.append(("claim", mac)), lambda mac: seen.append(("ended", mac))
        )
        with trio.move_on_after(run_s):
            async with trio.open_nursery() as nursery:
                await nursery.start(conflicts.run)
                Announcer(IP, DEVICE).burst(2)  # what we say ourselves is no conflict

    trio.run(main)
    return seen


def test_another_hosts_claim_is_seen_and_its_end(host: Host, stranger: Host) -> None:
    watching = host.start(watch, 4.0)
    time.sleep(0.5)

    def claim() -> None:
        ours = VirtualAddress(IP, 32, DEVICE)
        ours.add()
        Announcer(IP, DEVICE).burst(2)
        time.sleep(0.3)
        ours.remove()

    stranger.call(claim)
    assert watching.result() == [("claim", STRANGER_MAC), ("ended", STRANGER_MAC)]


def test_a_claim_that_goes_on_does_not_end(host: Host, stranger: Host) -> None:
    watching = host.start(watch, 4.0)
    time.sleep(0.5)

    def claim() -> None:
        VirtualAddress(IP, 32, DEVICE).add()
        Announcer(IP, DEVICE).burst(1)

    stranger.call(claim)
    seen = watching.result()
    assert seen[0] == ("claim", STRANGER_MAC)
    assert set(seen) == {("claim", STRANGER_MAC)}
    assert 2 <= len(seen) <= 5  # reported again, once a second at most


def test_our_own_announcement_by_another_device_is_no_claim(segment: Segment, host: Host) -> None:
    segment.plug(host, "lan1")
    watching = host.start(watch, 1.5)
    time.sleep(0.3)
    host.call(lambda: Announcer(IP, "lan1").burst(2))
    assert watching.result() == []


def test_ordinary_questions_for_the_address_are_no_claim(host: Host, stranger: Host) -> None:
    watching = host.start(watch, 1.5)
    time.sleep(0.3)
    assert stranger.ping(IP)
    assert stranger.call(ask, wait_ms=200) == {host.mac}
    assert watching.result() == []

"""Who else claims an IPv6 address: solicitations as in duplicate address detection, and the watch for claims."""

import time

import pytest
import trio
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether

from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from gateway.kernel.fence import Fence
from gateway.kernel.neighbour import ConflictWatch, who_has
from tests.support.netns import DEVICE, Host, Segment

pytestmark = pytest.mark.kernel

IP = "fd77::100"
STRANGER_MAC = "02:00:00:00:00:66"


@pytest.fixture
def host(segment: Segment) -> Host:
    return segment.host("gw1", "fd77::91/64", mac="02:00:00:00:00:91")


@pytest.fixture
def stranger(segment: Segment) -> Host:
    return segment.host("stranger", "fd77::66/64", mac=STRANGER_MAC)


def ask(wait_ms: int = 400, count: int = 2) -> frozenset[str]:
    async def main() -> frozenset[str]:
        return await who_has(IP, DEVICE, wait_ms=wait_ms, count=count)

    return trio.run(main)


def test_every_stranger_that_answers_is_named_by_its_mac(segment: Segment, host: Host, stranger: Host) -> None:
    assert host.call(ask) == frozenset()
    stranger.ip("address", "add", f"{IP}/128", "dev", DEVICE)
    assert host.call(ask) == {STRANGER_MAC}
    second = segment.host("second", f"{IP}/64", mac="02:00:00:00:00:67")
    assert host.call(ask) == {STRANGER_MAC, second.mac}


def test_our_own_address_is_no_conflict(host: Host, stranger: Host) -> None:
    host.ip("address", "add", f"{IP}/128", "dev", DEVICE)
    assert host.call(ask) == frozenset()


def test_the_question_claims_nothing_and_changes_nobodys_cache(segment: Segment, host: Host, stranger: Host) -> None:
    stranger.ip("address", "add", f"{IP}/128", "dev", DEVICE)
    client = segment.host("client", "fd77::5/64")
    assert client.ping(IP)
    capture = stranger.capture()
    host.call(ask, wait_ms=200, count=2)
    asked = [Ether(frame.data) for frame in capture.frames(protocol=0x86DD, outgoing=False)]
    ours = [one for one in asked if one.src == host.mac and ICMPv6ND_NS in one and one[ICMPv6ND_NS].tgt == IP]
    assert [one[IPv6].src for one in ours] == ["::"] * 2
    assert client.neighbour(IP) == STRANGER_MAC


def test_a_standby_behind_its_fence_sees_who_holds_the_address(host: Host, stranger: Host) -> None:
    def ask_from_behind() -> frozenset[str]:
        fence = Fence(IP, DEVICE, "vip")
        fence.install()
        return ask()

    stranger.ip("address", "add", f"{IP}/128", "dev", DEVICE)
    assert host.call(ask_from_behind) == {STRANGER_MAC}


def watch(run_s: float) -> list[tuple[str, str]]:
    """Hold the address and watch; return what was seen."""
    seen: list[tuple[str, str]] = []
    VirtualAddress(IP, 128, DEVICE).add()

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
        ours = VirtualAddress(IP, 128, DEVICE)
        ours.add()
        Announcer(IP, DEVICE).burst(2)
        time.sleep(0.3)
        ours.remove()

    stranger.call(claim)
    assert watching.result() == [("claim", STRANGER_MAC), ("ended", STRANGER_MAC)]


def test_ordinary_questions_for_the_address_are_no_claim(host: Host, stranger: Host) -> None:
    watching = host.start(watch, 1.5)
    time.sleep(0.3)
    assert stranger.ping(IP)
    assert stranger.call(ask, wait_ms=200) == {host.mac}
    assert watching.result() == []

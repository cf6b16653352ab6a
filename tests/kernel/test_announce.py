"""Announcements: what is on the wire, and what the neighbours' kernels make of it."""

import subprocess
import time
from collections.abc import Callable

import pytest
import trio
import trio.testing
from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP, Ether

from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from gateway.kernel.netlink import KernelRefused
from tests.support.netns import DEVICE, Capture, Host, Segment

pytestmark = pytest.mark.kernel

IP = "10.77.0.100"
ETH_P_ARP = 0x0806


@pytest.fixture
def host(segment: Segment) -> Host:
    return segment.host("gw1", "10.77.0.91/24", mac="02:00:00:00:00:91")


@pytest.fixture
def capture(segment: Segment, host: Host) -> Capture:
    return segment.host("client", "10.77.0.5/24").capture()


def announcements(capture: Capture, count: int, within_s: float = 5) -> list[ARP]:
    frames = capture.wait(count, within_s, protocol=ETH_P_ARP, outgoing=False)
    return [Ether(frame.data)[ARP] for frame in frames]


def test_announcement_is_sent_as_request_and_as_reply(host: Host, capture: Capture) -> None:
    def burst() -> str:
        announcer = Announcer(IP, DEVICE)
        announcer.burst(1)
        return announcer.mac

    assert host.call(burst) == "02:00:00:00:00:91"
    request, reply = announcements(capture, 2)
    assert (request.op, request.hwsrc, request.psrc, request.pdst) == (1, "02:00:00:00:00:91", IP, IP)
    assert (reply.op, reply.hwsrc, reply.psrc, reply.pdst) == (2, "02:00:00:00:00:91", IP, IP)
    assert reply.hwdst == "02:00:00:00:00:91"
    frames = capture.frames(protocol=ETH_P_ARP)
    assert {frame.data[:6] for frame in frames} == {b"\xff" * 6}


@pytest.mark.parametrize("form", [0, 1], ids=["request", "reply"])
def test_each_form_alone_flips_a_neighbours_fresh_cache(segment: Segment, host: Host, form: int) -> None:
    client = segment.host("client", "10.77.0.5/24")
    other = segment.host("gw2", f"{IP}/24")
    assert client.ping(IP)
    assert client.neighbour(IP) == other.mac

    def take() -> None:
        VirtualAddress(IP, 32, DEVICE).add()
        announcer = Announcer(IP, DEVICE)
        announcer._frames = announcer._frames[form : form + 1]
        announcer.burst(1)

    host.call(take)
    until = time.monotonic() + 2
    while client.neighbour(IP) != host.mac and time.monotonic() < until:
        time.sleep(0.02)
    assert client.neighbour(IP) == "02:00:00:00:00:91"


def run_on_a_fast_clock(still_mine: Callable[[float], bool]) -> tuple[float, int]:
    """Run an announcer on a virtual clock; `still_mine` gets its seconds. Returns the end and the frames sent."""

    async def main() -> tuple[float, int]:
        announcer = Announcer(IP, DEVICE)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            await nursery.start(announcer.run, lambda: still_mine(trio.current_time() - begun))
        return trio.current_time() - begun, announcer.sent_total

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_announcements_are_repeated_after_a_second_and_then_slowly(host: Host, capture: Capture) -> None:
    def schedule() -> list[float]:
        asked: list[float] = []

        def note(at_s: float) -> bool:
            asked.append(round(at_s, 1))
            return at_s < 200

        run_on_a_fast_clock(note)
        return asked

    # Three rounds of two frames at once, then one round at a time; asked before every frame.
    assert host.call(schedule) == [0.0] * 6 + [1.1] * 2 + [2.2] * 2 + [5.0] * 2 + [65.0] * 2 + [125.0] * 2 + [
        185.0
    ] * 2 + [245.0]
    assert len(announcements(capture, 18)) == 18


def test_announcing_again_begins_anew_and_not_oftener_than_once_a_second(host: Host, capture: Capture) -> None:
    def schedule() -> list[float]:
        asked: list[float] = []

        async def main() -> None:
            announcer = Announcer(IP, DEVICE)
            begun = trio.current_time()

            def note() -> bool:
                asked.append(round(trio.current_time() - begun, 1))
                return asked[-1] < 40

            async with trio.open_nursery() as nursery:
                await nursery.start(announcer.run, note)
                await trio.sleep(30)
                announcer.again()
                await trio.sleep(0.1)
                for _ in range(5):
                    announcer.again()
                    await trio.sleep(0.1)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        return asked

    first = [0.0] * 6 + [1.1] * 2 + [2.2] * 2 + [5.0] * 2
    again = [30.0] * 6 + [31.0] * 6 + [32.1] * 2 + [33.2] * 2 + [36.0] * 2
    assert host.call(schedule) == [*first, *again, 96.0]


def test_the_announcer_follows_a_device_that_gets_another_mac(host: Host, capture: Capture) -> None:
    def change() -> tuple[bool, bool]:
        announcer = Announcer(IP, DEVICE)
        unchanged = announcer.follow()
        subprocess.run(["ip", "link", "set", DEVICE, "address", "02:00:00:00:00:77"], check=True)
        changed = announcer.follow()
        announcer.burst(1)
        return unchanged, changed

    assert host.call(change) == (False, True)
    assert {one.hwsrc for one in announcements(capture, 2) if one.psrc == IP} == {"02:00:00:00:00:77"}


def test_the_announcer_follows_a_device_that_was_made_anew(host: Host) -> None:
    def lose_the_device() -> tuple[str, bool, int, int]:
        make = ["ip", "link", "add", "lan1", "type", "veth", "peer", "name", "lan2"]
        subprocess.run(make, check=True)
        subprocess.run(["ip", "link", "set", "lan1", "address", "02:00:00:00:00:77"], check=True)
        announcer = Announcer(IP, "lan1")
        subprocess.run(["ip", "link", "delete", "lan1"], check=True)
        announcer.burst(1)
        try:
            announcer.follow()
            said = "it followed a device that is not there"
        except KernelRefused as refused:
            said = refused.remedy
        subprocess.run(make, check=True)
        for device in ("lan1", "lan2"):
            subprocess.run(["ip", "link", "set", device, "up"], check=True)
        changed = announcer.follow()
        announcer.burst(1)
        return said, changed, announcer.failed_total, announcer.sent_total

    said, changed, failed, sent = host.call(lose_the_device)
    assert said.startswith("write one of this host's devices")
    assert (changed, failed, sent) == (True, 2, 2)


def test_announcer_stops_between_two_frames_when_the_lease_ends(host: Host, capture: Capture) -> None:
    def lose_after_seven() -> tuple[float, int]:
        answers = iter([True] * 7 + [False])
        return run_on_a_fast_clock(lambda _: next(answers))

    ended_s, sent = host.call(lose_after_seven)
    assert (round(ended_s, 1), sent) == (1.1, 7)
    assert len(announcements(capture, 8, within_s=0.5)) == 7


def test_announcer_sends_nothing_when_the_address_was_never_ours(host: Host, capture: Capture) -> None:
    assert host.call(run_on_a_fast_clock, lambda _: False) == (0.0, 0)
    assert announcements(capture, 1, within_s=0.3) == []


def test_a_link_that_is_down_costs_frames_but_no_error(host: Host) -> None:
    def burst() -> tuple[bool, int, int]:
        announcer = Announcer(IP, DEVICE)
        finished = announcer.burst(2)
        return finished, announcer.sent_total, announcer.failed_total

    host.ip("link", "set", DEVICE, "down")
    assert host.call(burst) == (True, 0, 4)


def test_ipv6_is_announced_by_an_unsolicited_advertisement(segment: Segment, host: Host) -> None:
    client = segment.host("client", "fd77::5/64")
    capture = client.capture()

    def burst() -> None:
        announcer = Announcer("fd77::100", DEVICE)
        announcer.burst(1)

    host.call(burst)
    until = time.monotonic() + 5
    found: list[ICMPv6ND_NA] = []
    while not found and time.monotonic() < until:
        capture.wait(1, 0.1)
        decoded = (Ether(frame.data) for frame in capture.frames(protocol=0x86DD, outgoing=False))
        found = [frame[ICMPv6ND_NA] for frame in decoded if ICMPv6ND_NA in frame]
    assert [(one.tgt, one.S, one.O, one.lladdr) for one in found if one.tgt == "fd77::100"] == [
        ("fd77::100", 0, 1, "02:00:00:00:00:91")
    ]


def test_a_device_without_ethernet_is_refused(host: Host) -> None:
    host.ip("tuntap", "add", "tun7", "mode", "tun")
    with pytest.raises(KernelRefused, match="not an Ethernet device"):
        host.call(Announcer, IP, "tun7")

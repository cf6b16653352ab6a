"""The address as one node keeps it: put back, announced, defended, mended, and nothing without the lease."""

import multiprocessing
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from scapy.layers.l2 import ARP, Ether

from gateway.config.settings import Address
from gateway.control.address import RETRY_S, AddressService
from gateway.control.preflight import StartRefused
from gateway.core.actions import Cause
from gateway.kernel.address import VirtualAddress, local_addresses
from gateway.kernel.announce import Announcer
from gateway.kernel.clock import boot_ms
from gateway.kernel.templates import templates
from tests.control.address_harness import IP, VIP, VIP6, Core, with_service
from tests.support import netns
from tests.support.netns import DEVICE, Capture, Host, Segment

pytestmark = pytest.mark.kernel

STRANGER_MAC = "02:00:00:00:00:66"


@pytest.fixture
def segment() -> Iterator[Segment]:
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)
    templates()
    with Segment("cgs") as made:
        yield made


@pytest.fixture
def host(segment: Segment) -> Host:
    return segment.host("gw1", "10.77.0.91/24", "fd77::91/64", mac="02:00:00:00:00:91")


@pytest.fixture
def client(segment: Segment) -> Host:
    return segment.host("client", "10.77.0.5/24", "fd77::5/64")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)


def claims(capture: Capture, mac: str, ip: str = IP) -> list[float]:
    """Return when `mac` announced the address."""
    found = []
    for frame in capture.frames(protocol=0x0806, outgoing=False):
        packet = Ether(frame.data)[ARP]
        if packet.hwsrc == mac and packet.psrc == packet.pdst == ip:
            found.append(frame.at_s)
    return found


@pytest.mark.parametrize("address", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_the_kernels_state_is_the_last_decision_after_a_storm_of_them(
    host: Host, client: Host, address: Address
) -> None:
    async def storm(service: AddressService, core: Core) -> list[bool]:
        right = []
        for turn in range(200):
            if turn % 3 == 2:
                await trio.lowlevel.checkpoint()  # let tasks of the last hold begin, and be cancelled
            core.lose() if core.serving else core.win()
            if turn % 7 == 0:  # as the core does when something else fails meanwhile
                core.lose()
            right.append((address.ip in local_addresses()) is core.serving)
        if not core.serving:
            core.win()
        await trio.sleep(0.2)
        return right

    def run_storm() -> list[bool]:
        async def body(service: AddressService, core: Core) -> list[bool]:
            right = await storm(service, core)
            right.append(address.ip in local_addresses())
            return right

        return with_service(body, address)

    assert host.call(run_storm) == [True] * 201


@pytest.mark.parametrize("address", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_a_node_that_may_bind_addresses_of_others_announces_only_what_it_holds(
    host: Host, client: Host, address: Address
) -> None:
    """With ip_nonlocal_bind nothing in the kernel would stop it; here there is no fence either."""
    host.run("sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=1", "net.ipv6.ip_nonlocal_bind=1")

    async def tempt(service: AddressService, core: Core) -> tuple[int, int, int]:
        service.announce_again()
        service._claimed(STRANGER_MAC)
        service._unclaimed(STRANGER_MAC)
        core.win(lease_ms=-1)  # a decision that comes too late
        await trio.sleep(0.1)
        before = service.status()["announced_total"]
        core.win()
        await trio.sleep(0.1)
        core.lose()
        held = service.status()["announced_total"]
        service.announce_again()
        service._claimed(STRANGER_MAC)
        service._unclaimed(STRANGER_MAC)
        await trio.sleep(0.1)
        return before, held, service.status()["announced_total"]

    def without_a_fence() -> tuple[int, int, int]:
        from gateway.kernel import nftables

        nftables.HOOK_INGRESS = nftables.HOOK_EGRESS = 7  # a hook that this kernel does not know
        return with_service(tempt, address)

    before, held, after = host.call(without_a_fence)
    assert before == 0
    assert held > 0
    assert after == held


def test_an_address_that_is_removed_again_and_again_is_put_back_each_time(host: Host, client: Host) -> None:
    """As systemd-networkd and dhclient remove what they did not add, at each of their restarts."""

    async def remove_often(service: AddressService, core: Core) -> list[bool]:
        core.win()
        back = []
        for _ in range(30):
            ip("address", "del", f"{IP}/32", "dev", DEVICE)
            back.append(await core.wait(lambda: IP in local_addresses(), within_s=1))
        ip("address", "flush", "dev", DEVICE, "scope", "global")
        back.append(await core.wait(lambda: IP in local_addresses(), within_s=1))
        back.append(core.serving)
        core.lose()
        await trio.sleep(0.1)
        back.append(IP not in local_addresses())
        return back

    assert host.call(with_service, remove_often) == [True] * 33


def test_the_hosts_own_address_may_go_and_take_ours_along(host: Host, client: Host) -> None:
    wide = Address(name="vip", ip=IP, prefix_length=24, device=DEVICE, holders=("gw1",))
    host.run("sysctl", "-qw", f"net.ipv4.conf.{DEVICE}.promote_secondaries=0")

    async def restart_network(service: AddressService, core: Core) -> tuple[list[str], bool, bool]:
        core.win()
        ip("address", "del", "10.77.0.91/24", "dev", DEVICE)
        back = await core.wait(lambda: IP in local_addresses(), within_s=1)
        ip("address", "add", "10.77.0.91/24", "dev", DEVICE)
        core.lose()
        return service.warnings, back, "10.77.0.91" in local_addresses()

    warnings, back, own = host.call(with_service, restart_network, wide)
    assert (back, own) == (True, True)
    assert ["write /32, or set net.ipv4.conf.lan0.promote_secondaries=1" in warning for warning in warnings] == [True]


@pytest.mark.parametrize("address", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_a_device_that_was_made_anew_serves_again_with_its_new_mac(segment: Segment, address: Address) -> None:
    host = segment.host("gw1")
    on_lan1 = Address(name="vip", ip=address.ip, prefix_length=address.prefix_length, device="lan1", holders=("gw1",))
    make = ("link", "add", "lan1", "type", "veth", "peer", "name", "lan2")

    async def lose_the_device(service: AddressService, core: Core) -> Any:
        core.win()
        served = [address.ip in local_addresses()]
        ip("link", "delete", "lan1")
        served.append(await core.wait(lambda: not core.serving))
        reason = core.reason
        ip(*make)
        ip("link", "set", "lan1", "address", "02:00:00:00:00:78")
        ip("link", "set", "lan2", "up")
        ip("link", "set", "lan1", "up")
        served.append(await core.wait(lambda: core.fit, within_s=RETRY_S + 5))
        core.win()
        served += [core.serving, address.ip in local_addresses(), service._fence.renew(1_000)]
        return served, reason, service._announcer.mac

    def run() -> Any:
        ip(*make)
        for device in ("lan1", "lan2"):
            ip("link", "set", device, "up")
        return with_service(lose_the_device, on_lan1)

    served, reason, mac = host.call(run)
    assert served == [True] * 6
    assert "lan1" in reason
    assert mac == "02:00:00:00:00:78"


def test_another_mac_of_the_device_is_announced(host: Host, client: Host) -> None:
    async def change(service: AddressService, core: Core) -> None:
        core.win()
        await trio.sleep(1.1)
        ip("link", "set", DEVICE, "address", "02:00:00:00:00:77")
        await trio.sleep(0.5)

    assert client.ping("10.77.0.91")
    changing = host.start(with_service, change)
    until = time.monotonic() + 10
    while client.neighbour(IP) != "02:00:00:00:00:77" and time.monotonic() < until:
        client.ping(IP, 0.1)
    assert client.neighbour(IP) == "02:00:00:00:00:77"
    changing.result()


def test_a_fence_that_is_lost_is_built_again(host: Host, client: Host) -> None:
    async def lose_the_fence(service: AddressService, core: Core) -> list[bool]:
        from gateway.kernel import nftables
        from gateway.kernel.nftables import Batch

        def lose() -> None:
            assert service._fence._nftables.transact(Batch([nftables.delete_table(service._fence.table)])) is None

        right = []
        core.win()
        lose()
        service.extend(service._until_ms + 100)  # refused: give up
        right += [not core.serving, IP not in local_addresses(), not core.fit]
        right.append(await core.wait(lambda: core.fit))
        core.win()
        right.append(core.serving and IP in local_addresses())
        core.lose()
        lose()  # while it stands by
        core.win()
        right.append(IP not in local_addresses() and not core.serving)
        right.append(await core.wait(lambda: core.fit))
        core.win()
        right.append(core.serving and IP in local_addresses())
        return right

    assert host.call(with_service, lose_the_fence) == [True] * 8


def test_what_the_kernel_refuses_for_good_is_tried_again_slowly(host: Host, client: Host) -> None:
    async def serve_without_ipv6(service: AddressService, core: Core) -> tuple[bool, str, float, bool]:
        host.run("sysctl", "-qw", f"net.ipv6.conf.{DEVICE}.disable_ipv6=1")
        begun = trio.current_time()
        core.win()
        served, reason = core.serving, core.reason
        await core.wait(lambda: core.fit, within_s=RETRY_S + 5)
        took_s = trio.current_time() - begun
        host.run("sysctl", "-qw", f"net.ipv6.conf.{DEVICE}.disable_ipv6=0")
        core.win()
        return served, reason, took_s, core.serving

    served, reason, took_s, again = host.call(with_service, serve_without_ipv6, VIP6)
    assert not served
    assert "IPv6 is switched off on lan0" in reason
    assert took_s >= RETRY_S * 0.9
    assert again


def test_a_conflict_is_defended_at_most_once_a_second_and_shown(segment: Segment, host: Host) -> None:
    stranger = segment.host("stranger", "10.77.0.66/24", mac=STRANGER_MAC)
    capture = segment.host("client", "10.77.0.5/24").capture()

    def claim() -> None:
        announcer = Announcer(IP, DEVICE)
        until = time.monotonic() + 3
        while time.monotonic() < until:  # a flood of claims
            announcer.burst(1)
            time.sleep(0.01)

    async def hold(service: AddressService, core: Core) -> tuple[dict[str, Any], dict[str, Any], float]:
        core.win()
        await trio.sleep(6.5)  # past the announcements of the start
        began = time.time()
        contested = None
        stranger_began = await core.wait(lambda: service.conflicts.claims_total > 0, within_s=10)
        assert stranger_began
        await trio.sleep(2.5)
        contested = service.status()
        await core.wait(lambda: not service.status()["claimed_by"], within_s=10)
        await trio.sleep(0.2)
        return contested, service.status(), began

    holding = host.start(with_service, hold)
    time.sleep(7.5)
    flood_began = time.time()
    stranger.call(claim)
    flood_ended = time.time()
    contested, after, _ = holding.result()
    assert contested["claimed_by"].keys() == {STRANGER_MAC}
    assert contested["claimed_by"][STRANGER_MAC]["for_ms"] >= 2_000
    assert 2 <= contested["defences_total"] <= 4
    assert after["claimed_by"] == {}
    assert after["conflicts_total"] >= 3
    ours = claims(capture, host.mac)
    during = [at_s for at_s in ours if flood_began <= at_s <= flood_ended]
    assert 4 <= len(during) <= 2 * 5, "a round is two frames"
    assert [at_s for at_s in ours if at_s > flood_ended], "announced again when the claim has ended"


def test_announcing_again_tells_everybody_at_once(host: Host, client: Host) -> None:
    """After a partition has healed, neighbours that have learned the other side's MAC must not stay with it."""

    async def heal(service: AddressService, core: Core) -> float:
        core.win()
        await trio.sleep(1.2)
        service.announce_again()
        asked = time.time()
        await trio.sleep(1.5)
        return asked

    capture = client.capture()
    asked = host.call(with_service, heal)
    after = [at_s - asked for at_s in claims(capture, host.mac) if at_s >= asked]
    assert len([delay_s for delay_s in after if delay_s < 0.5]) >= 6
    assert [delay_s for delay_s in after if delay_s > 1.0], "and again when an ARP locktime of 1 s is over"


@pytest.mark.parametrize("arp_ignore", [0, 1])
def test_a_second_device_that_answers_for_the_first_is_warned_of(segment: Segment, host: Host, arp_ignore: int) -> None:
    segment.plug(host, "lan1")
    host.run("sysctl", "-qw", f"net.ipv4.conf.all.arp_ignore={arp_ignore}")
    client = segment.host("client", "10.77.0.5/24")
    capture = client.capture()

    async def hold(service: AddressService, core: Core) -> list[str]:
        core.win()
        await trio.sleep(1.0)
        return service.warnings

    holding = host.start(with_service, hold)
    time.sleep(0.6)
    client.ping(IP, 0.5)
    warnings = holding.result()
    told = "lan1 of this host answers ARP for addresses of lan0"
    assert any(told in warning for warning in warnings) is (arp_ignore == 0)
    answered = {Ether(frame.data)[ARP].hwsrc for frame in capture.frames(protocol=0x0806, outgoing=False)}
    assert (len(answered & {mac for mac in answered if mac != client.mac}) > 1) is (arp_ignore == 0)


def test_taking_the_address_takes_no_time_that_a_client_would_notice(host: Host, client: Host) -> None:
    async def take(service: AddressService, core: Core) -> float:
        taken = []
        for _ in range(100):
            before = time.perf_counter()
            core.win()
            taken.append(time.perf_counter() - before)
            core.lose()
            await trio.lowlevel.checkpoint()
        return sorted(taken)[50] * 1e6

    for address in (VIP, VIP6):
        measured = host.call(with_service, take, address)
        print(f"start of {address.ip}: {measured:.0f} us")
        assert measured < 5_000


@pytest.mark.parametrize("address", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_the_next_process_goes_on_with_address_and_lease(host: Host, client: Host, address: Address) -> None:
    async def leave(service: AddressService, core: Core) -> None:
        core.win()
        service.keep()

    async def resume(service: AddressService, core: Core) -> bool:
        from gateway.kernel.clock import boot_ms

        there = address.ip in local_addresses()
        core.term, core.serving = 1, True
        service.resume(1, boot_ms() + 30_000)
        await trio.sleep(0.3)
        return there and core.serving and service.holds()

    host.call(with_service, leave, address)
    assert client.ping(address.ip)
    assert host.call(with_service, resume, address, adopt=True) is True
    assert not client.ping(address.ip, 0.3), "the end of the second was an ordinary one"


def test_a_lease_that_ran_out_between_two_processes_is_not_gone_on_with(host: Host, client: Host) -> None:
    async def leave(service: AddressService, core: Core) -> None:
        core.win(lease_ms=100)
        service.keep()

    async def resume(service: AddressService, core: Core) -> bool:
        from gateway.kernel.clock import boot_ms

        core.term, core.serving = 1, True
        service.resume(1, boot_ms() + 30_000)
        core.step()
        return core.serving or IP in local_addresses()

    host.call(with_service, leave)
    time.sleep(0.2)
    assert host.call(with_service, resume, adopt=True) is False


def test_a_kernel_that_cannot_keep_the_lease_is_named_in_the_status(host: Host, client: Host) -> None:
    async def ask(service: AddressService, core: Core) -> tuple[str, str, list[str]]:
        core.win()
        return service.fence_state, service.status()["fence"], service.warnings

    def on_an_old_kernel() -> tuple[str, str, list[str]]:
        from gateway.kernel import nftables

        nftables.HOOK_INGRESS = nftables.HOOK_EGRESS = 7  # a hook that this kernel does not know
        return with_service(ask)

    state, shown, warnings = host.call(on_an_old_kernel)
    assert state == shown
    assert state.startswith("none: cannot build the fence")
    assert len(warnings) == 1
    assert warnings[0].startswith("the lease of 'vip' is not kept by the kernel: ")
    assert host.call(with_service, ask)[0] == "kernel"


@pytest.mark.parametrize("address", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_a_stranger_that_answers_for_the_address_is_refused_at_the_start(
    segment: Segment, host: Host, address: Address
) -> None:
    from gateway.config.settings import Endpoint, Peer
    from gateway.control import preflight

    class Known:
        def peer(self, name: str) -> Peer:
            return Peer(name=name, endpoint=Endpoint("10.77.0.92", 9619), roles=frozenset())

    def ask() -> None:
        me = Known().peer("gw1")
        trio.run(preflight.require_no_stranger, Known(), address, me)

    host.call(ask)
    other = segment.host("gw2", "10.77.0.92/24", f"{address.ip}/{address.prefix_length}")
    host.call(ask)  # a holder that answers is the cluster at work
    other.ip("address", "del", f"{address.ip}/{address.prefix_length}", "dev", DEVICE)
    stranger = segment.host("stranger", "10.77.0.66/24", mac=STRANGER_MAC)
    stranger.call(lambda: VirtualAddress(address.ip, address.prefix_length, DEVICE).add())
    with pytest.raises(StartRefused, match=f"is answered on lan0 by {STRANGER_MAC}"):
        host.call(ask)
    assert os.getpid()  # this process has touched nothing


@pytest.mark.parametrize("address", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_a_hold_that_began_too_late_in_its_lease_begins_with_the_first_extension(host: Host, address: Address) -> None:
    async def late(service: AddressService, core: Core) -> tuple[bool, bool]:
        core.win(lease_ms=5)  # less than a tick of the kernel's clock: the votes took their time
        before = address.ip in local_addresses()
        service.extend(boot_ms() + 30_000)
        return before, address.ip in local_addresses()

    assert host.call(with_service, late, address) == (False, True)


class _Noting:
    """Lives by the lease of an address, and notes whether that was on this host already."""

    def __init__(self) -> None:
        self.there: list[bool] = []

    def grant(self, lease_ms: int) -> None:
        self.there.append(IP in local_addresses())

    def extend(self, lease_ms: int) -> None: ...

    def linger(self) -> None: ...

    def revoke(self) -> None: ...


def test_what_forwards_is_ready_before_this_host_answers_for_the_address(host: Host) -> None:
    """Else what clients send in between reaches the host's own ports, which reset it."""

    async def win(service: AddressService, core: Core) -> tuple[list[bool], bool]:
        noting = _Noting()
        service._followers = (noting,)
        core.win()
        return noting.there, IP in local_addresses()

    assert host.call(with_service, win) == ([False], True)


def test_who_waits_for_an_answer_is_reset_when_the_address_is_handed_over(host: Host, client: Host) -> None:
    """It sends nothing that the next holder could reset, and would wait for as long as it can."""
    listening, held, answered = (multiprocessing.Event() for _ in range(3))

    async def serve(service: AddressService, core: Core) -> None:
        core.win()
        with socket.create_server((IP, 9618)):
            listening.set()
            await trio.to_thread.run_sync(held.wait, 10)
            service.stop(core.term, Cause.REQUESTED, at_once=False)
            await trio.to_thread.run_sync(answered.wait, 10)

    def wait_for_an_answer() -> str:
        listening.wait(10)
        with socket.create_connection((IP, 9618), 5) as asking:
            asking.sendall(b"a question")
            held.set()
            try:
                asking.recv(1)
            except OSError as error:
                return type(error).__name__
            finally:
                answered.set()
            return "an answer"

    serving = host.start(with_service, serve)
    assert client.call(wait_for_an_answer) == "ConnectionResetError"
    serving.result(20)

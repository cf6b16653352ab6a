"""The lease in the kernel: what passes, until when, and who may change it. Real kernels, real frames."""

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from scapy.layers import inet, l2
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether

from gateway.kernel import nftables
from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from gateway.kernel.fence import Fence
from gateway.kernel.neighbour import who_has
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nftables import Batch, Nftables, Refusal
from tests.support.netns import DEVICE, Child, Host, Segment

pytestmark = pytest.mark.kernel

IP = "10.77.0.100"
NAME = "pool-vip"
TABLE = f"condor-gateway-{NAME}"
ARP, IPV4 = 0x0806, 0x0800
PORT = 9618
needs_nft = pytest.mark.skipif(shutil.which("nft") is None, reason="needs the `nft` command as the other program")


@pytest.fixture
def holder(segment: Segment) -> Host:
    return segment.host("gw1", "10.77.0.91/24", f"{IP}/32", mac="02:00:00:00:00:91")


@pytest.fixture
def client(segment: Segment) -> Host:
    return segment.host("client", "10.77.0.5/24")


@pytest.fixture
def service(holder: Host) -> Iterator[None]:
    """A UDP and a TCP echo on the holder, in a process that nothing stops."""
    echoing = holder.start(echo)
    yield
    echoing.kill()


def echo() -> None:
    import select

    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((IP, PORT))
    listening = socket.create_server((IP, PORT))
    while True:  # until killed
        for ready in select.select([datagrams, listening], [], [])[0]:
            if ready is datagrams:
                data, source = datagrams.recvfrom(2_048)
                with contextlib.suppress(OSError):  # the fence dropped the answer
                    datagrams.sendto(data, source)
            else:
                listening.accept()[0].close()


def udp_answers(within_s: float = 0.3) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(within_s)
        try:
            asking.sendto(b"?", (IP, PORT))
            return asking.recv(10) == b"?"
        except OSError:
            return False


def tcp_answers(within_s: float = 0.3) -> bool:
    try:
        socket.create_connection((IP, PORT), within_s).close()
    except OSError:
        return False
    return True


def answers(client: Host) -> dict[str, bool]:
    """Ask by each protocol, ARP last because the others need it."""
    client.ip("neigh", "flush", "dev", DEVICE)
    client.ip("neigh", "replace", IP, "lladdr", "02:00:00:00:00:91", "dev", DEVICE, "nud", "reachable")
    found = {"udp": client.call(udp_answers), "tcp": client.call(tcp_answers), "icmp": client.ping(IP, 0.3)}
    client.ip("neigh", "flush", "dev", DEVICE)
    client.call(udp_answers)
    return found | {"arp": client.neighbour(IP) is not None}


def leave(fence: Fence) -> None:
    """Leave the fence as a process that dies leaves it."""
    fence.close()


def build(*, lease_ms: int = 0, keep_lease: bool = False) -> bool:
    fence = Fence(IP, DEVICE, NAME)
    fence.install(keep_lease=keep_lease)
    if lease_ms:
        fence.grant(lease_ms)
    leave(fence)
    return fence.owned


def hold(lease_ms: int, every_s: float) -> list[tuple[float, bool]]:
    """Hold the lease until a renewal is refused, then try once more and announce; returns the last renewals."""
    fence = Fence(IP, DEVICE, NAME)
    fence.install()
    announcer = Announcer(IP, DEVICE)
    fence.grant(lease_ms)
    # At once, not after the first wait: who freezes this process waits only until the address answers.
    done = [(time.time(), fence.renew(lease_ms))]
    while True:  # until the lease has ended
        time.sleep(every_s)
        before = time.time()
        done.append((before, fence.renew(lease_ms)))
        if not done[-1][1]:
            announcer.burst(3)
            done.append((time.time(), fence.renew(lease_ms)))
            leave(fence)
            return done[-3:]


def start_holding(holder: Host, client: Host, lease_ms: int, every_s: float) -> Child:
    """Start `hold` behind a fence that is shut already, and wait until the address answers."""
    holder.call(build)
    holding = holder.start(hold, lease_ms, every_s)
    until = time.monotonic() + 10
    while not client.ping(IP, 0.1):
        assert time.monotonic() < until, "the address never answered"
    return holding


def test_frames_pass_only_while_the_lease_lives(holder: Host, client: Host, service: None) -> None:
    everything = {"udp": True, "tcp": True, "icmp": True, "arp": True}
    assert answers(client) == everything
    holder.call(build)
    assert answers(client) == dict.fromkeys(everything, False)
    holder.call(build, lease_ms=30_000)
    assert answers(client) == everything


def test_the_hosts_own_addresses_are_no_concern_of_the_fence(holder: Host, client: Host) -> None:
    holder.call(build)
    assert client.ping("10.77.0.91")
    assert not client.ping(IP, 0.3)


def flood_with_questions(for_s: float) -> None:
    """Ask for the address by ARP, ICMP and UDP every 2 ms, with raw frames that need no answer to go out."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as asking:
        asking.bind((DEVICE, 0))
        mac = asking.getsockname()[4].hex(":")
        to_holder = Ether(src=mac, dst="02:00:00:00:00:91") / inet.IP(src="10.77.0.5", dst=IP)
        question = l2.ARP(op=1, hwsrc=mac, psrc="10.77.0.5", pdst=IP, hwdst="00:00:00:00:00:00")
        frames = [
            bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / question),
            bytes(to_holder / inet.ICMP(id=7) / b"12345678"),
            bytes(to_holder / inet.UDP(sport=7777, dport=PORT) / b"12345678"),
        ]
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            for frame in frames:
                asking.send(frame)
            time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_stopped_or_killed_holder_says_nothing_after_its_lease(
    holder: Host, client: Host, service: None, number: signal.Signals
) -> None:
    holding = start_holding(holder, client, 500, 0.05)
    capture = client.capture()
    asking = client.start(flood_with_questions, 2.0)
    time.sleep(0.7)
    holding.signal(number)
    stopped = time.time()
    asking.result()

    says = {"arp": [], "icmp": [], "udp": []}
    for frame in capture.frames(outgoing=False):
        if frame.data[12:14] == ARP.to_bytes(2, "big"):
            if frame.data[28:32] == socket.inet_aton(IP):
                says["arp"].append(frame.at_s)
        elif frame.data[12:14] == IPV4.to_bytes(2, "big") and frame.data[26:30] == socket.inet_aton(IP):
            says["icmp" if frame.data[23] == 1 else "udp"].append(frame.at_s)
    for protocol, times in says.items():
        assert [at_s for at_s in times if at_s < stopped], f"{protocol} answered before"
        late_ms = (max(times) - stopped) * 1000
        print(f"{protocol}: last answer {late_ms:.0f} ms after {number.name}")
        # The lease of the last renewal began before the signal; 20 ms for the clocks of this test itself.
        assert late_ms <= 520


def test_a_thawed_holder_can_neither_renew_nor_announce(holder: Host, client: Host) -> None:
    holding = start_holding(holder, client, 200, 0.02)
    holding.signal(signal.SIGSTOP)
    time.sleep(0.6)
    capture = client.capture()
    holding.signal(signal.SIGCONT)
    assert [renewed for _, renewed in holding.result()] == [True, False, False]
    assert not client.ping(IP, 0.3)
    claims = [
        frame for frame in capture.frames(protocol=ARP, outgoing=False) if frame.data[28:32] == socket.inet_aton(IP)
    ]
    assert claims == []


def test_announcements_pass_while_the_lease_lives(holder: Host, client: Host) -> None:
    def announce() -> int:
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        fence.grant(5_000)
        announcer = Announcer(IP, DEVICE)
        announcer.burst(1)
        return announcer.sent_total

    capture = client.capture()
    assert holder.call(announce) == 2
    assert len(capture.wait(2, 5, protocol=ARP, outgoing=False)) == 2


def test_a_renewed_lease_goes_on(holder: Host, client: Host) -> None:
    def renew_for_a_second() -> list[bool]:
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        fence.grant(400)
        done = []
        for _ in range(10):
            time.sleep(0.1)
            done.append(fence.renew(400))
        fence.renew(5_000)
        return done

    assert holder.call(renew_for_a_second) == [True] * 10
    assert client.ping(IP)


def test_an_expired_lease_is_not_revived(holder: Host, client: Host) -> None:
    def expire() -> tuple[bool, bool]:
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        fence.grant(50)
        time.sleep(0.1)
        return fence.renew(5_000), fence.renew(5_000)

    assert holder.call(expire) == (False, False)
    assert not client.ping(IP, 0.3)


def test_a_new_lease_is_not_granted_over_a_living_one(holder: Host) -> None:
    def grant_twice() -> None:
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        fence.grant(5_000)
        fence.grant(5_000)

    with pytest.raises(KernelRefused, match="a lease still lives: renew it or revoke it first"):
        holder.call(grant_twice)


def test_a_revoked_lease_ends_at_once_and_another_may_follow(holder: Host, client: Host) -> None:
    def revoke(*, again: bool) -> None:
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        fence.revoke()
        fence.grant(30_000)
        fence.revoke()
        fence.revoke()
        if again:
            fence.grant(30_000)

    holder.call(revoke, again=False)
    assert not client.ping(IP, 0.3)
    holder.call(revoke, again=True)
    assert client.ping(IP)


@pytest.mark.parametrize("lease_ms", [-5, 0, 1, 9])
def test_a_lease_too_short_to_count_is_none(holder: Host, client: Host, lease_ms: int) -> None:
    def grant() -> tuple[bool, bool]:
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        granted = fence.grant(lease_ms)
        fence.grant(30_000)
        return granted, fence.renew(lease_ms)

    assert holder.call(grant) == (False, False)
    assert not client.ping(IP, 0.3)


def test_a_removed_fence_leaves_nothing(holder: Host, client: Host) -> None:
    def come_and_go() -> None:
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        fence.remove()

    holder.call(come_and_go)
    assert holder.call(lambda: Nftables().table(TABLE)) is None
    assert client.ping(IP)


def test_a_host_without_the_lease_reaches_the_holder_and_heeds_its_announcements(segment: Segment) -> None:
    standby = segment.host("gw2", "10.77.0.92/24")
    first = segment.host("gw1", "10.77.0.91/24", f"{IP}/32")
    standby.call(build)
    assert standby.ping(IP)
    assert standby.neighbour(IP) == first.mac

    async def ask() -> frozenset[str]:
        return await who_has(IP, DEVICE, wait_ms=300, count=2)

    def probe() -> frozenset[str]:
        import trio

        return trio.run(ask)

    assert standby.call(probe) == {first.mac}
    first.ip("address", "del", f"{IP}/32", "dev", DEVICE)
    time.sleep(1.1)  # Linux ignores a second change within its ARP locktime
    successor = segment.host("gw3", "10.77.0.93/24")

    def take() -> None:
        VirtualAddress(IP, 32, DEVICE).add()
        Announcer(IP, DEVICE).burst(2)

    successor.call(take)
    until = time.monotonic() + 3
    while standby.neighbour(IP) != successor.mac and time.monotonic() < until:
        time.sleep(0.02)
    assert standby.neighbour(IP) == successor.mac
    assert standby.ping(IP)


def test_the_next_process_rebuilds_what_a_dead_one_left_and_shuts_it(holder: Host, client: Host) -> None:
    assert holder.call(build, lease_ms=30_000) is True
    assert client.ping(IP)
    assert holder.call(build) is True
    assert not client.ping(IP, 0.3)


def test_the_next_process_may_adopt_a_living_lease_without_a_gap(holder: Host, client: Host) -> None:
    def adopt() -> tuple[bool, bool]:
        fence = Fence(IP, DEVICE, NAME)
        fence.install(keep_lease=True)
        return fence.owned, fence.renew(30_000)

    holder.call(build, lease_ms=30_000)
    assert holder.call(adopt) == (True, True)
    assert client.ping(IP)


def test_a_leftover_for_another_device_is_rebuilt_for_ours(holder: Host, client: Host) -> None:
    def leave_one_on_loopback() -> None:
        leave_on = Fence(IP, "lo", NAME)
        leave_on.install()
        leave(leave_on)

    holder.call(leave_one_on_loopback)
    assert client.ping(IP)
    holder.call(build, keep_lease=True)
    assert not client.ping(IP, 0.3)


def test_a_second_process_is_refused_while_the_first_lives(holder: Host, client: Host) -> None:
    holding = start_holding(holder, client, 3_000, 0.05)
    with pytest.raises(KernelRefused, match="another process holds it: is another condor-gateway running here"):
        holder.call(build)
    assert client.ping(IP)
    holding.kill()
    assert holder.call(build) is True


@needs_nft
def test_other_programs_tables_are_never_touched(holder: Host) -> None:
    rules = "table inet theirs { chain c { type filter hook input priority 0; accept; }; }\n"
    rules += f"table netdev theirs {{ set lease {{ type ipv4_addr; elements = {{ {IP} }}; }}; }}\n"
    holder.call(subprocess.run, ["nft", "-f", "-"], input=rules, text=True, check=True, timeout=10)

    def ruleset() -> list[str]:
        shown = holder.run("nft", "-j", "list", "ruleset").stdout
        return [json.dumps(entry) for entry in json.loads(shown)["nftables"] if TABLE not in json.dumps(entry)]

    before = ruleset()

    def whole_life() -> None:
        for _ in range(2):
            fence = Fence(IP, DEVICE, NAME)
            fence.install()
            fence.grant(100)
            fence.renew(100)
            fence.revoke()
            leave(fence)
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        fence.remove()

    holder.call(whole_life)
    assert ruleset() == before
    assert TABLE not in holder.run("nft", "list", "tables").stdout


@needs_nft
def test_other_programs_cannot_flush_the_fence(holder: Host, client: Host) -> None:
    holding = start_holding(holder, client, 1_000, 0.05)
    holder.run("nft", "flush", "ruleset", check=False)
    refused = holder.run("nft", "delete", "table", "netdev", TABLE, check=False)
    assert refused.returncode != 0
    holding.signal(signal.SIGSTOP)
    time.sleep(1.1)
    assert not client.ping(IP, 0.3)


@needs_nft
def test_a_table_of_our_name_that_is_not_ours_is_left_alone(holder: Host) -> None:
    holder.run("nft", "add", "table", "netdev", TABLE)
    with pytest.raises(KernelRefused, match=f"is not ours: `nft delete table netdev {TABLE}`"):
        holder.call(build)
    assert TABLE in holder.run("nft", "list", "tables").stdout


def test_a_device_made_anew_is_fenced_again(segment: Segment) -> None:
    host = segment.host("gw1")

    def lose_the_device() -> tuple[bool, bool, bool]:
        make = ["ip", "link", "add", "lan1", "type", "veth", "peer", "name", "lan2"]
        subprocess.run(make, check=True)
        fence = Fence(IP, "lan1", NAME)
        fence.install()
        fence.grant(30_000)
        subprocess.run(["ip", "link", "delete", "lan1"], check=True)
        subprocess.run(make, check=True)
        fence.install()
        return fence.intact(), fence.renew(1_000), fence.grant(1_000)

    assert host.call(lose_the_device) == (True, False, True)


def test_a_fence_that_is_gone_is_an_error_not_an_expired_lease(holder: Host) -> None:
    def lose_the_table() -> None:
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        fence.grant(30_000)
        fence._nftables.transact(Batch([nftables.delete_table(TABLE)]))
        fence.renew(30_000)

    with pytest.raises(KernelRefused, match="the fence is gone: install it again") as caught:
        holder.call(lose_the_table)
    assert caught.value.errno == errno.ENOENT


def test_without_permission_the_refusal_says_what_to_do(holder: Host) -> None:
    def build_as_nobody() -> None:
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        build()

    with pytest.raises(KernelRefused, match="run as root or give the service CAP_NET_ADMIN"):
        holder.call(build_as_nobody)


def test_a_kernel_without_lasting_owners_gets_a_table_without_owner(holder: Host, client: Host) -> None:
    """As before Linux 6.9, where the kernel refuses the flag `persist`."""

    def build_on_an_older_kernel() -> tuple[bool, bool]:
        transact = Nftables.transact

        def without_persist(self: Nftables, batch: Batch) -> Refusal | None:
            flag = nftables.number(2, nftables.TABLE_OWNER | nftables.TABLE_PERSIST)
            return Refusal(0, errno.EOPNOTSUPP) if flag in batch.data else transact(self, batch)

        Nftables.transact = without_persist  # type: ignore[method-assign]
        first = Fence(IP, DEVICE, NAME)
        first.install()
        leave(first)
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        return fence.owned, fence.grant(5_000) and fence.renew(30_000)

    assert holder.call(build_on_an_older_kernel) == (False, True)
    assert client.ping(IP)
    holder.call(build)
    assert not client.ping(IP, 0.3)


def test_a_kernel_without_netdev_chains_is_too_old_and_nothing_is_changed(holder: Host) -> None:
    def build_on_an_old_kernel() -> None:
        nftables.HOOK_INGRESS = nftables.HOOK_EGRESS = 7  # a hook that this kernel does not know
        build()

    with pytest.raises(KernelRefused, match=r"it needs nf_tables with netdev chains"):
        holder.call(build_on_an_old_kernel)
    assert holder.call(lambda: Nftables().table(TABLE)) is None


def build_weakly(*, lease_ms: int = 0, keep_lease: bool = False) -> tuple[str, bool]:
    nftables.HOOK_EGRESS = 7  # as before Linux 5.16
    fence = Fence(IP, DEVICE, NAME)
    fence.install(keep_lease=keep_lease)
    if keep_lease:
        return fence.state, fence.renew(lease_ms)
    return fence.state, bool(lease_ms) and fence.grant(lease_ms) and fence.renew(lease_ms)


def test_a_kernel_without_egress_chains_gets_a_weaker_fence_that_says_so(
    holder: Host, client: Host, service: None
) -> None:
    everything = {"udp": True, "tcp": True, "icmp": True, "arp": True}
    assert holder.call(build_weakly) == ("kernel, raw frames pass (before Linux 5.16)", False)
    assert answers(client) == dict.fromkeys(everything, False)
    assert client.ping("10.77.0.91")
    assert holder.call(build_weakly, lease_ms=30_000)[1]
    assert answers(client) == everything
    assert holder.call(build_weakly, lease_ms=300, keep_lease=True)[1]  # adopted, and shortened
    time.sleep(0.35)
    assert holder.call(build_weakly, lease_ms=300, keep_lease=True)[1] is False
    assert answers(client) == dict.fromkeys(everything, False)


def test_the_weaker_fence_stops_what_the_host_says_by_itself(holder: Host, client: Host) -> None:
    """Only what is said is looked at here: the questions come in by a device that no rule watches."""

    def speak(*, lease_ms: int) -> list[bool]:
        build_weakly(lease_ms=lease_ms)
        said = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaking:
            speaking.bind((IP, 0))
            for _ in range(2):  # the first waits for the neighbour
                try:
                    speaking.sendto(b"!", ("10.77.0.5", PORT))
                    said.append(True)
                except PermissionError:
                    said.append(False)
        time.sleep(0.2)
        return said

    capture = client.capture()
    assert holder.call(speak, lease_ms=0) == [False, False]
    assert [frame for frame in capture.frames(outgoing=False) if socket.inet_aton(IP) in frame.data] == []
    assert holder.call(speak, lease_ms=30_000) == [True, True]
    assert [frame for frame in capture.frames(outgoing=False) if socket.inet_aton(IP) in frame.data] != []


def test_the_weaker_fence_is_replaced_by_the_stronger_and_removed_like_it(holder: Host, client: Host) -> None:
    def come_and_go() -> None:
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        assert fence.state == "kernel"
        fence.remove()

    def tables() -> list[bool]:
        opened = Nftables()
        return [opened.table(TABLE, family) is not None for family in (5, 3, 2)]

    holder.call(build_weakly)
    assert holder.call(tables) == [True, True, True]
    holder.call(come_and_go)
    assert holder.call(tables) == [False, False, False]
    assert client.ping(IP)


def test_ipv6_is_fenced_with_its_neighbour_discovery(segment: Segment) -> None:
    holder = segment.host("gw1", "fd77::91/64", mac="02:00:00:00:00:91")
    client = segment.host("client", "fd77::5/64")

    def serve(*, lease_ms: int) -> None:
        VirtualAddress("fd77::100", 128, DEVICE).add()
        fence = Fence("fd77::100", DEVICE, NAME)
        fence.install()
        fence.grant(lease_ms)
        # From a link-local source, by a raw socket: only the target tells that it speaks for the address.
        advertisement = (
            Ether(src="02:00:00:00:00:91", dst="33:33:00:00:00:01")
            / IPv6(src="fe80::91", dst="ff02::1", hlim=255)
            / ICMPv6ND_NA(tgt="fd77::100", R=0, S=0, O=1)
            / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:91")
        )
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as opened:
            opened.bind((DEVICE, 0))
            with contextlib.suppress(OSError):
                opened.send(bytes(advertisement))
        Announcer("fd77::100", DEVICE).burst(1)

    def ask() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking:
            asking.sendto(b"?", ("fd77::100", PORT))

    def advertised(lease_ms: int) -> int:
        capture = client.capture()
        holder.call(serve, lease_ms=lease_ms)
        client.ip("neigh", "flush", "dev", DEVICE)
        client.call(ask)
        time.sleep(0.3)
        decoded = [Ether(frame.data) for frame in capture.frames(protocol=0x86DD, outgoing=False)]
        return sum(ICMPv6ND_NA in one and one[ICMPv6ND_NA].tgt == "fd77::100" for one in decoded)

    assert advertised(0) == 0
    assert client.neighbour("fd77::100") is None
    assert advertised(30_000) >= 3  # ours, the announcer's, and the kernel's answer
    assert client.neighbour("fd77::100") == "02:00:00:00:00:91"


def test_renewing_takes_no_time_that_a_heartbeat_would_notice(holder: Host) -> None:
    def median_us() -> float:
        fence = Fence(IP, DEVICE, NAME)
        fence.install()
        fence.grant(10_000)
        taken = []
        for _ in range(500):
            before = time.perf_counter()
            assert fence.renew(10_000)
            taken.append(time.perf_counter() - before)
        return sorted(taken)[250] * 1e6

    measured = holder.call(median_us)
    print(f"renew: {measured:.1f} us")
    assert measured < 1_000

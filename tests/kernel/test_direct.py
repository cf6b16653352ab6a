"""Direct return: what reaches the elected manager, past which gateway, until when. Real kernels, real frames."""

import json
import socket
import subprocess
import time
from pathlib import Path

import pytest
from scapy.layers import inet
from scapy.layers.l2 import Ether

from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from gateway.kernel.direct import Direct
from gateway.kernel.direct_rules import HELD_NEW_MS
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nft_expressions import Rate
from gateway.kernel.offload import merges_received
from tests.support.direct_pool import PORT, TABLE, Pool, ask, channel, on_direct, say, serve, stream_to
from tests.support.nat_net import burst
from tests.support.netns import DEVICE, Segment, ip

pytestmark = pytest.mark.kernel

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
IPV4 = 0x0800


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def pool(segment: Segment, tmp_path: Path, request: pytest.FixtureRequest) -> Pool:
    return Pool(segment, tmp_path, request.param)


@pytest.fixture
def pool4(segment: Segment, tmp_path: Path) -> Pool:
    return Pool(segment, tmp_path)


def to_address(frame_data: bytes, address: str) -> bool:
    """Tell whether an IPv4 frame goes to the address."""
    return frame_data[12:14] == IPV4.to_bytes(2, "big") and frame_data[30:34] == socket.inet_aton(address)


def test_the_elected_manager_serves_clients_and_sees_their_own_address(pool: Pool) -> None:
    pool.hold(pool.gw1, pool.m1)
    assert pool.ask(TCP) == f"m1 {pool.client_ip} 10"
    assert pool.ask(UDP) == f"m1 {pool.client_ip} 10"
    assert pool.ask(UDP, size=3_000) == f"m1 {pool.client_ip} 3000"  # fragments after the first have no port


def test_the_switch_learns_no_client_at_the_gateways_port(pool4: Pool) -> None:
    pool4.hold(pool4.gw1, pool4.m1)
    seen = pool4.m1.capture()
    assert pool4.ask(TCP) != ""
    sources = {frame.data[6:12].hex(":") for frame in seen.frames(outgoing=False) if to_address(frame.data, pool4.ip)}
    assert sources == {pool4.gw1.mac}


def test_the_kernel_counts_what_it_forwards(pool: Pool) -> None:
    pool.hold(pool.gw1, pool.m1)
    before = pool.counters(pool.gw1)
    for size in (10, 3_000):
        pool.ask(UDP, size)
    pool.ask(TCP)
    after = pool.counters(pool.gw1)
    counted = {name: after[name] - before[name] for name in before}
    assert counted["datagrams_total"] == 2
    assert counted["connections_total"] == 1
    assert counted["held_total"] == 0
    assert counted["packets_total"] >= 1 + 3 + 4  # a datagram, its three fragments, a connection
    assert counted["bytes_total"] > 3_010


def test_a_client_that_connects_too_fast_waits_for_its_next_second_and_others_do_not(pool: Pool) -> None:
    pool.hold(pool.gw1, pool.m1)
    before = pool.counters(pool.gw1)
    pool.gw1.call(on_direct, pool.ip, lambda direct: None, rate=Rate(10, 10))  # as a reload with another limit
    bursting = pool.client.start(burst, pool.ip, 15)
    time.sleep(0.3)
    assert pool.gw2.call(ask, pool.ip, TCP, 10).startswith("m1 ")
    soon, later = bursting.result()
    bursting.kill()
    assert 10 <= soon < 15, "as many as its bucket holds, and those that came into it meanwhile"
    assert later == 15, "dropped, not refused: its kernel tries again"
    after = pool.counters(pool.gw1)
    assert after["refused_total"] - before["refused_total"] >= 15 - soon
    assert after["connections_total"] - before["connections_total"] == 16


def test_a_switch_resets_old_connections_and_serves_new_ones_at_once(pool: Pool) -> None:
    pool.hold(pool.gw1, pool.m1)

    def client(reading: socket.socket, writing: socket.socket) -> tuple[str, str, bool]:
        with stream_to(pool.ip) as stream:
            before = say(stream)
            writing.send(b"!")
            reading.recv(1)
            try:
                after = say(stream)
            except ConnectionResetError:
                return before, "reset", True
            return before, after, False

    (reading, switched), (connected, writing) = channel(), channel()
    running = pool.client.start(client, reading, writing)
    connected.recv(1)
    pool.switch(pool.gw1, pool.m2)
    assert pool.ask(TCP) == f"m2 {pool.client_ip} 10"
    assert pool.ask(UDP, 3_000) == f"m2 {pool.client_ip} 3000"
    switched.send(b"!")
    assert running.result() == (f"m1 {pool.client_ip} 1", "reset", True)


def test_nothing_is_forwarded_without_a_living_lease(pool4: Pool) -> None:
    pool4.hold(pool4.gw1, pool4.m1, lease_ms=2_000)
    pool4.direct(pool4.gw1, lambda direct: direct.extend(300))
    time.sleep(0.4)
    counted = pool4.counters(pool4.gw1)
    seen = pool4.m1.capture()
    assert pool4.ask(TCP) == ""
    assert pool4.ask(UDP) == ""
    assert pool4.counters(pool4.gw1) == counted
    assert [frame for frame in seen.frames(outgoing=False) if to_address(frame.data, pool4.ip)] == []


def test_an_ended_lease_is_neither_extended_nor_lingered_on(pool4: Pool) -> None:
    def expire(direct: Direct) -> list[bool]:
        direct.grant(50)
        time.sleep(0.1)
        return [direct.extend(5_000), direct.linger(), direct.extend(5_000)]

    assert pool4.direct(pool4.gw1, expire) == [False, False, False]


def test_a_lease_can_be_taken_again_while_the_former_lingers(pool4: Pool) -> None:
    pool4.hold(pool4.gw1, pool4.m1)

    def resign_and_return(direct: Direct) -> tuple[bool, bool]:
        lingers = direct.linger(60_000)
        return lingers, direct.grant(60_000)

    assert pool4.direct(pool4.gw1, resign_and_return) == (True, True)
    time.sleep(1.2)
    assert pool4.ask() != ""


def test_a_gateway_that_takes_the_address_over_asks_the_kernel_for_nothing_that_it_refuses(pool4: Pool) -> None:
    """A refused transaction takes 11 ms, in which nobody announces the address."""

    def take_over(direct: Direct) -> list[bool]:
        transact, refused = direct._nftables.transact, []

        def note(batch):
            refusal = transact(batch)
            refused.append(refusal is not None)
            return refusal

        direct._nftables.transact = note
        direct.grant(60_000)
        return refused

    assert pool4.direct(pool4.gw1, take_over) == [False]


def test_lingering_ends_by_itself(pool4: Pool) -> None:
    pool4.hold(pool4.gw1, pool4.m1)
    assert pool4.direct(pool4.gw1, lambda direct: direct.linger(60_000))
    assert pool4.ask() != ""
    time.sleep(1.2)
    assert pool4.ask() == ""


def test_a_revoked_lease_ends_at_once(pool4: Pool) -> None:
    pool4.hold(pool4.gw1, pool4.m1)
    pool4.direct(pool4.gw1, lambda direct: direct.revoke())
    assert pool4.ask() == ""


def test_a_connection_begun_without_a_server_stays_with_the_relay(pool: Pool) -> None:
    pool.hold(pool.gw1, pool.m1)
    pool.gw1.start(serve, "relay", pool.ip)
    pool.switch(pool.gw1, None)
    time.sleep(0.2)

    def client(reading: socket.socket, writing: socket.socket) -> list[str]:
        with stream_to(pool.ip) as stream:
            said = []
            for _ in range(3):
                writing.send(b"!")
                reading.recv(1)
                said.append(say(stream).split()[0])
            return said

    (reading, go), (ready, writing) = channel(), channel()
    running = pool.client.start(client, reading, writing)
    for server in (None, pool.m1, pool.m2):
        ready.recv(1)
        pool.switch(pool.gw1, server)
        go.send(b"!")
    assert running.result() == ["relay", "relay", "relay"]
    assert pool.ask(TCP).split()[0] == "m2"
    assert pool.counters(pool.gw1)["held_total"] == 1


def test_datagrams_without_a_server_are_the_relays_and_fragments_too(pool: Pool) -> None:
    pool.hold(pool.gw1, pool.m1)
    pool.gw1.start(serve, "relay", pool.ip)
    pool.switch(pool.gw1, None)
    time.sleep(0.2)
    assert pool.ask(UDP, 3_000) == f"relay {pool.client_ip} 3000"
    pool.switch(pool.gw1, pool.m1)
    assert pool.ask(UDP, 3_000) == f"m1 {pool.client_ip} 3000"


def test_open_connections_go_on_while_nobody_is_elected(pool: Pool) -> None:
    """The same manager may be elected again; if another is, it resets them."""
    pool.hold(pool.gw1, pool.m1)

    def client(reading: socket.socket, writing: socket.socket) -> list[str]:
        with stream_to(pool.ip) as stream:
            said = [say(stream).split()[0]]
            writing.send(b"!")
            reading.recv(1)
            return [*said, say(stream).split()[0]]

    (reading, go), (ready, writing) = channel(), channel()
    running = pool.client.start(client, reading, writing)
    ready.recv(1)
    pool.switch(pool.gw1, None)
    go.send(b"!")
    assert running.result() == ["m1", "m1"]


def test_a_gateway_that_never_knew_a_server_resets_nothing(pool: Pool) -> None:
    """It may have started just now, and taken over from one that forwarded."""
    pool.hold(pool.gw1, pool.m1)
    mac, ip_of_pool, bits = pool.m1.mac, pool.ip, pool.bits

    def client(reading: socket.socket, writing: socket.socket) -> list[str]:
        with stream_to(pool.ip, within_s=20) as stream:
            said = [say(stream).split()[0]]
            writing.send(b"!")
            reading.recv(1)
            return [*said, say(stream).split()[0]]

    def take_over(direct: Direct) -> None:
        direct.grant(60_000)
        VirtualAddress(ip_of_pool, bits, DEVICE).add()
        Announcer(ip_of_pool, DEVICE).burst(1)

    (reading, go), (ready, writing) = channel(), channel()
    running = pool.client.start(client, reading, writing)
    ready.recv(1)
    time.sleep(1.1)  # Linux ignores a second change of a MAC within its ARP locktime
    pool.gw1.cut()
    pool.direct(pool.gw2, take_over)
    go.send(b"!")
    time.sleep(0.5)
    pool.direct(pool.gw2, lambda direct: direct.switch(mac))
    assert running.result() == ["m1", "m1"]


def test_a_flood_of_syns_without_a_server_is_bounded_and_forgotten(pool4: Pool) -> None:
    pool4.hold(pool4.gw1, pool4.m1)
    pool4.switch(pool4.gw1, None)
    mac = pool4.gw1.mac
    syn = raw(pool4, mac, inet.TCP(sport=1, dport=PORT, flags="S"))
    pool4.client.call(send_raw, [syn[:34] + port.to_bytes(2, "big") + syn[36:] for port in range(1_024, 3_024)])
    time.sleep(0.2)
    assert pool4.counters(pool4.gw1)["held_total"] >= 2_000
    listed = pool4.gw1.run("nft", "-j", "list", "set", "netdev", TABLE, "held").stdout
    expires = [one["elem"]["expires"] for one in json.loads(listed)["nftables"][1]["set"]["elem"]]
    assert len(expires) >= 2_000
    assert max(expires) <= HELD_NEW_MS / 1000


def test_a_standby_forwards_no_flooded_frames(pool4: Pool) -> None:
    """A switch that does not know a MAC floods: the frame reaches the standby, which has rules and even a lease."""
    pool4.hold(pool4.gw1, pool4.m1)
    mac = pool4.m1.mac

    def lease(direct: Direct) -> None:
        direct.switch(mac)
        direct.grant(60_000)

    pool4.direct(pool4.gw2, lease)
    ip("-n", pool4.gw2._switch, "link", "set", "br0", "type", "bridge", "ageing_time", "0")  # a hub
    seen = pool4.gw2.capture()
    assert pool4.ask(TCP) == f"m1 {pool4.client_ip} 10"
    frames = [frame for frame in seen.frames() if to_address(frame.data, pool4.ip)]
    assert [frame for frame in frames if not frame.outgoing], "the standby saw the frames"
    assert [frame for frame in frames if frame.outgoing] == []


def send_raw(frames: list[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sending:
        sending.bind((DEVICE, 0))
        for frame in frames:
            sending.send(frame)


def raw(pool: Pool, target_mac: str, payload: object, **fields: object) -> bytes:
    header = inet.IP(src=pool.client_ip, dst=pool.ip, **fields)
    return bytes(Ether(src=pool.client.mac, dst=target_mac) / header / payload)


def test_frames_to_everybody_are_not_forwarded(pool4: Pool) -> None:
    pool4.hold(pool4.gw1, pool4.m1)
    before = pool4.counters(pool4.gw1)["datagrams_total"]
    datagram = inet.UDP(sport=7, dport=PORT) / b"?"
    groups = ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "33:33:00:00:00:01"]
    pool4.client.call(send_raw, [raw(pool4, mac, datagram) for mac in groups])
    time.sleep(0.1)
    # Not packets: the managers hear it as well, answer, and the client tells them by ICMP that nobody listens.
    assert pool4.counters(pool4.gw1)["datagrams_total"] == before


def numbered(frame: bytes, number: int) -> bytes:
    """Return an IPv4 frame with another identification; its checksum was made for 0."""
    total = (~int.from_bytes(frame[24:26], "big") & 0xFFFF) + number
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return frame[:18] + number.to_bytes(2, "big") + frame[20:24] + checksum.to_bytes(2, "big") + frame[26:]


def test_a_flood_of_fragments_is_not_kept_at_the_gateway(pool4: Pool) -> None:
    pool4.hold(pool4.gw1, pool4.m1)
    mac = pool4.gw1.mac
    before = pool4.counters(pool4.gw1)
    first = raw(pool4, mac, inet.UDP(sport=7, dport=PORT, len=4_000) / bytes(200), id=0, flags="MF")
    pool4.client.call(send_raw, [numbered(first, number) for number in range(2_000)])
    time.sleep(0.2)
    after = pool4.counters(pool4.gw1)
    assert after["packets_total"] - before["packets_total"] == 2_000
    snmp = pool4.gw1.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in snmp if line.startswith("Ip:"))
    assert dict(zip(names, values, strict=True))["ReasmReqds"] == "0"
    assert pool4.ask(UDP) == f"m1 {pool4.client_ip} 10"


def test_icmp_errors_follow_their_connection(pool4: Pool) -> None:
    """The path's limit on packets is of no use but to the one who sends: the server, or the relay for what it holds."""
    pool4.hold(pool4.gw1, pool4.m1)
    mac = pool4.gw1.mac

    def too_big(client_port: int) -> bytes:
        quoted = inet.IP(src=pool4.ip, dst=pool4.client_ip) / inet.TCP(sport=PORT, dport=client_port)
        return raw(pool4, mac, inet.ICMP(type=3, code=4, nexthopmtu=1_300) / bytes(quoted)[:28])

    def errors_at_server(client_port: int) -> int:
        seen = pool4.m1.capture()
        pool4.client.call(send_raw, [too_big(client_port)])
        time.sleep(0.1)
        return len([f for f in seen.frames(outgoing=False) if to_address(f.data, pool4.ip) and f.data[23] == 1])

    assert errors_at_server(40_001) == 1
    pool4.switch(pool4.gw1, None)
    assert errors_at_server(40_001) == 1
    syn = inet.TCP(sport=40_002, dport=PORT, flags="S")
    pool4.client.call(send_raw, [raw(pool4, mac, syn)])
    pool4.switch(pool4.gw1, pool4.m1)
    assert errors_at_server(40_002) == 0


def test_the_rules_follow_a_changed_mac(pool: Pool) -> None:
    pool.hold(pool.gw1, pool.m1)
    pool.gw1.ip("link", "set", DEVICE, "address", "02:00:00:00:00:99")

    def follow() -> tuple[list[bool], str]:
        return [False], Direct(pool.ip, DEVICE, "pool-vip").mac

    assert pool.gw1.call(follow)[1] == "02:00:00:00:00:99"

    # A process that is there while it changes, as control is.
    def change_and_follow(direct: Direct) -> list[bool]:
        followed = [direct.follow()]
        subprocess.run(["ip", "link", "set", DEVICE, "address", "02:00:00:00:00:98"], check=True)
        return [*followed, direct.follow(), direct.follow()]

    assert pool.direct(pool.gw1, change_and_follow) == [False, True, False]
    pool.client.ip("neigh", "flush", "dev", DEVICE)
    before = pool.counters(pool.gw1)["packets_total"]
    assert pool.ask(TCP) == f"m1 {pool.client_ip} 10"
    assert pool.counters(pool.gw1)["packets_total"] > before


def test_a_successor_adopts_lease_server_and_held_connections(pool4: Pool) -> None:
    pool4.hold(pool4.gw1, pool4.m1)
    counted = pool4.counters(pool4.gw1)  # each of these is a process of its own that adopts
    assert pool4.ask() != ""
    assert pool4.counters(pool4.gw1)["connections_total"] == counted["connections_total"] + 1


def test_removed_rules_leave_nothing(pool4: Pool) -> None:
    def remove() -> None:
        direct = Direct(pool4.ip, DEVICE, "pool-vip")
        direct.install(keep=True)
        direct.remove()

    pool4.gw1.call(remove)
    assert "direct" not in pool4.gw1.run("nft", "list", "tables").stdout


def test_a_server_of_no_single_host_is_refused(pool4: Pool) -> None:
    with pytest.raises(ValueError, match="is not the MAC of one host"):
        pool4.direct(pool4.gw1, lambda direct: direct.switch("ff:ff:ff:ff:ff:ff"))


def test_rules_that_are_gone_are_named(pool4: Pool) -> None:
    def use() -> None:
        Direct(pool4.ip, DEVICE, "other").grant(100)

    with pytest.raises(KernelRefused, match="the rules are gone: install them again"):
        pool4.gw1.call(use)


def test_the_address_itself_is_asked_for_at_the_gateway_alone(pool: Pool) -> None:
    """ARP and neighbour discovery stay local, also unicast to the gateway's MAC, and no manager answers."""
    pool.hold(pool.gw1, pool.m1)
    seen = [pool.m1.capture(), pool.m2.capture()]
    for _ in range(2):
        pool.client.ip("neigh", "flush", "dev", DEVICE)
        assert pool.ask() != ""
    assert pool.client.neighbour(pool.ip) == pool.gw1.mac
    # Asked by its MAC alone, as a neighbour is that was known once.
    pool.client.ip("neigh", "change", pool.ip, "lladdr", pool.gw1.mac, "dev", DEVICE, "nud", "probe")
    time.sleep(0.3)
    assert "REACHABLE" in pool.client.ip("neigh", "show", pool.ip, "dev", DEVICE).stdout
    packed = socket.inet_pton(socket.AF_INET6 if ":" in pool.ip else socket.AF_INET, pool.ip)
    for capture in seen:
        for frame in capture.frames(outgoing=True):
            arp, discovery = frame.data[12:14] == b"\x08\x06", frame.data[12:14] == b"\x86\xdd" and frame.data[20] == 58
            assert not ((arp or discovery) and packed in frame.data)


def test_the_devices_offloads_are_looked_at(pool4: Pool) -> None:
    assert pool4.direct(pool4.gw1, lambda direct: direct.hazards()) == []
    with pytest.raises(KernelRefused, match="cannot ask for the offloads of 'nic0'"):
        pool4.gw1.call(merges_received, "nic0")

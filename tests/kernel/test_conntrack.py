"""The table of flows: what is dropped and listed, how full it is, and what the operator is told. Real kernels."""

import errno
import socket

import pytest

from gateway.kernel import conntrack
from gateway.kernel.conntrack import Conntrack, Fill, Flow
from gateway.kernel.netlink import KernelRefused
from tests.support.nat_net import PORT, Net, ask, build, exchange, follow, in_client
from tests.support.netns import Host, Segment

pytestmark = pytest.mark.kernel

OURS = 0x0FFF_0000


@pytest.fixture
def tracked(segment: Segment) -> Net:
    net = build(segment, 4)
    follow(net, 0)
    return net


def test_flows_are_listed_as_their_clients_opened_them(tracked: Net) -> None:
    with in_client(tracked, exchange, tracked.ip, 1.0, False):
        tracked.client.call(ask, tracked.ip, "udp")
        flows = tracked.gateway.call(lambda: sorted(Conntrack().flows(0x4_0000, 0x0FFC_0000)))
    client, virtual = socket.inet_aton(tracked.of_client()), socket.inet_aton(tracked.ip)
    assert [flow._replace(source_port=0) for flow in flows] == [
        Flow(socket.IPPROTO_TCP, client, 0, virtual, PORT, True),
        Flow(socket.IPPROTO_UDP, client, 0, virtual, PORT, False),
    ]


def test_a_flush_drops_the_flows_of_a_mark_and_no_others(tracked: Net) -> None:
    tracked.client.call(ask, tracked.ip)
    tracked.client.call(ask, tracked.ip, "udp")

    def count(mark: int) -> int:
        return len(list(Conntrack().flows(mark, OURS)))

    tcp, udp = 0x4_0000, 0x6_0000
    assert [tracked.gateway.call(count, mark) for mark in (tcp, udp)] == [1, 1]
    tracked.gateway.call(lambda: Conntrack().flush(udp, OURS))
    assert [tracked.gateway.call(count, mark) for mark in (tcp, udp)] == [1, 0]


def test_a_flush_without_flows_is_no_error(segment: Segment) -> None:
    segment.host("gw1", "10.77.0.91/24").call(lambda: Conntrack().flush(1, OURS))


def test_the_fill_counts_the_flows_of_this_host(tracked: Net) -> None:
    before = tracked.gateway.call(lambda: Conntrack().fill())
    for _ in range(5):
        tracked.client.call(ask, tracked.ip, "udp")
    after = tracked.gateway.call(lambda: Conntrack().fill())
    assert after.flows - before.flows >= 5
    assert after.flows_max == int(tracked.gateway.run("sysctl", "-n", "net.netfilter.nf_conntrack_max").stdout)
    assert 0 < after.fraction < 1


def test_losses_are_those_of_all_cpus(segment: Segment) -> None:
    assert segment.host("gw1", "10.77.0.91/24").call(lambda: Conntrack().losses()) == (0, 0, 0)


@pytest.fixture
def host(segment: Segment) -> Host:
    return segment.host("gw1", "10.77.0.91/24")


def test_a_table_nearly_full_is_warned_of_with_the_number_to_set(host: Host) -> None:
    def warned(flows: int) -> list[str]:
        table = Conntrack()
        table.fill = lambda: Fill(flows, 1_000)  # type: ignore[method-assign]
        return table.warnings()

    assert host.call(warned, 799) == []
    assert host.call(warned, 800) == [
        "the kernel tracks 800 of at most 1000 flows and drops packets beyond: "
        "set net.netfilter.nf_conntrack_max to 2000 or more"
    ]


def test_timeouts_that_forget_idle_connections_are_warned_of(host: Host) -> None:
    def warned() -> list[str]:
        return Conntrack().warnings()

    assert host.call(warned) == []
    host.run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_established=600")
    (said,) = host.call(warned)
    assert "after 600 s" in said
    assert "set net.netfilter.nf_conntrack_tcp_timeout_established to 3600 or more" in said


def test_without_permission_the_refusal_names_the_capability(host: Host) -> None:
    def flush_as_nobody() -> tuple[int, str]:
        import os

        os.setresgid(65_534, 65_534, 65_534)
        os.setresuid(65_534, 65_534, 65_534)
        try:
            Conntrack().flush(1, OURS)
        except KernelRefused as refused:
            return refused.errno, refused.remedy
        return 0, ""

    number, remedy = host.call(flush_as_nobody)
    assert number == errno.EPERM
    assert "CAP_NET_ADMIN" in remedy


def test_a_flow_without_ports_is_passed_over() -> None:
    assert conntrack._flow_of(memoryview(bytes(4))) is None

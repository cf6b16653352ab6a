"""The translation's tables: whose they are, what others may do to them, what is left of them. Real kernels."""

import shutil
import socket
import subprocess
import time

import pytest

from gateway.config.settings import Endpoint
from gateway.kernel import nftables
from gateway.kernel.conntrack import Conntrack
from gateway.kernel.nat import Nat
from gateway.kernel.nat_rules import Listener
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nftables import Batch
from tests.support.nat_net import (
    PORT,
    SERVER_PORT,
    Net,
    ask,
    build,
    conversation,
    datagrams,
    follow,
    in_client,
    listening,
    service,
    with_nat,
)
from tests.support.netns import Segment

pytestmark = pytest.mark.kernel

TABLE = "condor-gateway-pool-nat"
needs_nft = pytest.mark.skipif(shutil.which("nft") is None, reason="needs the `nft` command as the other program")


@pytest.fixture
def net(segment: Segment) -> Net:
    return build(segment, 4)


def test_other_bits_of_a_flows_mark_are_left_alone(net: Net) -> None:
    rule = "ct state new ct mark set 0xfabcbeef"
    net.gateway.run("nft", f"table ip other {{ chain c {{ type filter hook prerouting priority -150; {rule}; }}; }}")
    follow(net, 0)
    net.client.call(ask, net.ip)

    def kept() -> int:
        return len(list(Conntrack().flows(0xF000_BEEF, 0xF000_FFFF)))

    assert net.gateway.call(kept) == 1
    follow(net, 1)
    assert net.gateway.call(kept) == 0, "it was known by our bits alone"


def test_flows_that_are_not_ours_survive_a_switch(net: Net) -> None:
    follow(net, 0)
    net.gateway.run(
        "nft",
        "table ip other { chain c { type nat hook prerouting priority -150; "
        f"tcp dport 9999 ct mark set 0xff dnat to 10.77.0.21:{SERVER_PORT}; }}; "
        "chain d { type nat hook postrouting priority 90; ct mark 0xff masquerade; }; }",
    )

    def talk() -> list[str]:
        with socket.create_connection((net.ip, 9_999), 3) as stream:
            names = []
            for _ in range(50):
                names.append(conversation(stream)[0])
                time.sleep(0.02)
            return names

    with in_client(net, talk) as talking:
        time.sleep(0.3)
        follow(net, 1)
        assert set(talking.result()) == {"s1"}


@needs_nft
def test_other_programs_cannot_take_the_translation_away(net: Net) -> None:
    def held(nat: Nat) -> tuple[int, str, bool]:
        nat.switch(net.endpoints[0])
        refused = subprocess.run(["nft", "delete", "table", "ip", TABLE], capture_output=True, check=False).returncode
        subprocess.run(["nft", "flush", "ruleset"], capture_output=True, check=False)
        return refused, nat.state, nat.intact()

    refused, state, intact = net.gateway.call(with_nat, held, service(net.ip))
    assert refused
    assert state == "kernel"
    assert intact
    assert net.client.call(ask, net.ip)[0] == "s1"


@needs_nft
def test_a_table_of_our_name_that_is_not_ours_is_refused_and_left_alone(net: Net) -> None:
    net.gateway.run("nft", f"add table ip {TABLE}")
    with pytest.raises(KernelRefused, match=f"not ours: `nft delete table ip {TABLE}`"):
        follow(net, 0)
    assert TABLE in net.gateway.run("nft", "list", "tables").stdout
    assert "ip6" not in net.gateway.run("nft", "list", "tables").stdout


def test_a_second_process_is_refused_while_the_first_lives(net: Net) -> None:
    with_first = net.gateway.start(with_nat, lambda nat: time.sleep(20), service(net.ip))
    time.sleep(0.3)
    with pytest.raises(KernelRefused, match="another process holds it"):
        follow(net, 0)
    with_first.kill()
    follow(net, 0)
    assert net.client.call(ask, net.ip)[0] == "s1"


def test_after_removal_nothing_is_left_and_no_flow_goes_on(net: Net) -> None:
    # Another program's translation: without any, the kernel would forget all flows with ours.
    rule = "udp dport 9 dnat to 10.77.0.21"
    net.gateway.run("nft", f"table ip other {{ chain c {{ type nat hook prerouting priority 0; {rule}; }}; }}")
    follow(net, 0)

    def remove() -> None:
        nat = Nat("pool", [service(net.ip)])
        nat.install(keep=True)
        nat.remove()

    with in_client(net, datagrams, net.ip, 50, 0.01, 1) as sending:
        time.sleep(0.2)
        net.gateway.call(remove)
        names = sending.result()
    assert names[0] == "s1"
    assert names[-1] == "relay"
    assert TABLE not in net.gateway.run("nft", "list", "tables").stdout
    assert net.client.call(ask, net.ip)[0] == "relay"


def test_a_new_start_without_keeping_has_no_server_and_no_flows(net: Net) -> None:
    follow(net, 0)
    with in_client(net, datagrams, net.ip, 50, 0.01, 1) as sending:
        time.sleep(0.2)
        net.gateway.call(with_nat, lambda nat: None, service(net.ip), keep=False)
        assert sending.result()[-1] == "relay"


def test_a_service_taken_away_is_the_relays_again(net: Net) -> None:
    follow(net, 0)
    with in_client(net, datagrams, net.ip, 50, 0.01, 1) as sending:
        time.sleep(0.2)
        listening(net.gateway, "other relay", net.ip, PORT + 1)
        net.gateway.call(with_nat, lambda nat: None, service(net.ip, name="other", port=PORT + 1))
        assert sending.result()[-1] == "relay"


def test_tables_that_somebody_changed_are_an_error_with_its_remedy(net: Net) -> None:
    def lost(nat: Nat) -> None:
        nat.switch(net.endpoints[0])
        nat._tables.nftables.transact(Batch([nftables.delete_table(TABLE, family=nftables.NFPROTO_IPV4)]))
        assert not nat.intact()
        with pytest.raises(KernelRefused, match="install it again"):
            nat.switch(net.endpoints[1])
        nat.install(keep=True)
        nat.switch(net.endpoints[1])

    net.gateway.call(with_nat, lost, service(net.ip))
    assert net.client.call(ask, net.ip)[0] == "s2"


def test_marks_are_given_again_only_when_nobody_has_them(net: Net) -> None:
    """Two generations take turns: who still drains from the last switch but one must be gone."""
    third = Endpoint(net.endpoints[0].host, SERVER_PORT + 1)
    listening(net.servers[0], "s3", third.host, third.port)
    follow(net, 0)

    def twice(nat: Nat) -> None:
        for to in (net.endpoints[1], third):
            nat.switch(to)
            time.sleep(0.2)
        nat.expel()

    with in_client(net, datagrams, net.ip, 100, 0.01, 1) as sending:
        time.sleep(0.2)
        net.gateway.call(with_nat, twice, service(net.ip))
        names = sending.result()
    assert (names[0], names[-1]) == ("s1", "s3")


def test_a_listener_more_is_served_like_the_others_at_once(net: Net) -> None:
    follow(net, 0)
    old = service(net.ip)
    more = old._replace(listeners=(*old.listeners, Listener(net.ip, "tcp", PORT + 1)))
    assert net.gateway.call(with_nat, lambda nat: nat.switch(net.endpoints[0]), more) is False
    assert net.client.call(ask, net.ip, port=PORT + 1)[0] == "s1"
    net.gateway.call(with_nat, lambda nat: nat.switch(net.endpoints[1]), more)
    assert net.client.call(ask, net.ip, port=PORT + 1)[0] == "s2"


def test_one_of_two_services_must_be_named(net: Net) -> None:
    def unnamed(nat: Nat) -> None:
        nat.switch(net.endpoints[0])

    with pytest.raises(ValueError, match="there is no service None, only pool, other"):
        net.gateway.call(with_nat, unnamed, service(net.ip), service(net.ip, name="other", port=PORT + 1))


def test_two_services_for_one_port_are_refused() -> None:
    with pytest.raises(ValueError, match="two services"):
        Nat("pool", [service("10.0.0.1"), service("10.0.0.1", name="other")])


def test_a_kernel_without_lasting_owners_gets_tables_without_owner(net: Net) -> None:
    def on_old_kernel() -> str:
        nftables.TABLE_PERSIST = 0x80  # no kernel knows it
        return str(with_nat(lambda nat: (nat.switch(net.endpoints[0]), nat.state)[1], service(net.ip), keep=False))

    assert net.gateway.call(on_old_kernel) == "kernel, others may change it (before Linux 6.9)"
    assert net.client.call(ask, net.ip)[0] == "s1"

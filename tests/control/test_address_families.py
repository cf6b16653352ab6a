"""Addresses of both families, and several of them, on one pair of gateways: each is an election of its own."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import DEVICE, Segment
from tests.support.nodes import Nodes, address_text, backend_text, frontend_text, head_text, segment_for_nodes

pytestmark = pytest.mark.kernel

NODES = {"gw1": "10.77.8.1", "gw2": "10.77.8.2", "w1": "10.77.8.4", "w2": "10.77.8.6"}
MANAGER_IP = "10.77.8.5"


class Pair(Nodes):
    """Two gateways, two witnesses and a client; a majority of five also without one gateway and the manager."""

    def __init__(self, segment: Segment, folder: Path) -> None:
        super().__init__(segment, folder)
        for number, (name, address) in enumerate(NODES.items(), 1):
            segment.host(name, f"{address}/24", f"fd77:8::{number}/64")
        self.client = segment.host("client", "10.77.8.50/24", "fd77:8::50/64")

    def start_with(
        self, addresses: dict[str, str], holders: dict[str, str], devices: dict[str, str] | None = None
    ) -> None:
        """Start all nodes with these addresses, each with a frontend."""
        sections = ""
        for name, ip in addresses.items():
            sections += address_text(name, ip, holders[name], devices[name] if devices else DEVICE)
            sections += frontend_text(f"{name}-front", name)
        sections += backend_text(MANAGER_IP)
        for name in NODES:
            head = head_text("families", NODES | {"cm1": MANAGER_IP}, self.folder, name)
            self.config(name).write_text(head + sections)
            self.start(name)

    def fit_addresses(self, name: str) -> int:
        """Return for how many addresses this gateway says that it could hold them."""
        elections = self.status(name).get("elections", {}).values()
        return sum(bool((election["candidates"].get(name) or {}).get("fit")) for election in elections)

    def holding(self, ip: str) -> list[str]:
        """Return the gateways whose kernel has the address."""
        shown = {name: self.host(name).ip("-o", "address", "show").stdout for name in ("gw1", "gw2")}
        return [name for name, text in shown.items() if f" {ip} " in text]

    def accepts(self, ip: str) -> bool:
        """Return whether the relay takes a TCP connection of the client at the address."""
        return bool(self.client.call(_connects, ip))


def _connects(ip: str) -> bool:
    try:
        socket.create_connection((ip, 9618), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with segment_for_nodes("cgf", tmp_path) as segment, Pair(segment, tmp_path) as made:
        yield made


@pytest.mark.parametrize("prefix_length", [128, 64])
def test_an_ipv6_address_alone_is_served_and_moves_when_its_holder_is_killed(pair: Pair, prefix_length: int) -> None:
    ip = f"fd77:8::100/{prefix_length}"
    pair.start_with({"vip": ip}, {"vip": "gw1 gw2"})
    pair.wait(lambda: len(pair.holding(ip)) == 1 and pair.accepts("fd77:8::100"))
    (first,) = pair.holding(ip)
    assert pair.client.ping("fd77:8::100")
    assert pair.client.neighbour("fd77:8::100") == pair.host(first).mac
    pair.end(first, signal.SIGKILL)
    successor = "gw2" if first == "gw1" else "gw1"
    pair.wait(lambda: successor in pair.holding(ip))
    assert pair.client.ping("fd77:8::100", 3)
    assert pair.client.neighbour("fd77:8::100") == pair.host(successor).mac
    assert pair.accepts("fd77:8::100")


def test_addresses_of_both_families_are_two_elections_and_a_clean_stop_moves_both(pair: Pair) -> None:
    ips = {"vip4": "10.77.8.100/32", "vip6": "fd77:8::100/128"}
    pair.start_with(ips, dict.fromkeys(ips, "gw1 gw2"))
    pair.wait(lambda: all(len(pair.holding(ip)) == 1 for ip in ips.values()))
    pair.wait(lambda: pair.accepts("10.77.8.100") and pair.accepts("fd77:8::100"))
    elections = pair.status("w1")["elections"]
    assert {"vip4", "vip6"} <= elections.keys()
    tables = pair.host("gw1").run("nft", "list", "tables").stdout.split("\n")
    assert {"table netdev condor-gateway-families-vip4", "table netdev condor-gateway-families-vip6"} <= set(tables)
    pair.end("gw1", signal.SIGTERM)
    assert not any("gw1" in pair.holding(ip) for ip in ips.values())
    pair.wait(lambda: all(pair.holding(ip) == ["gw2"] for ip in ips.values()))
    pair.wait(lambda: pair.accepts("10.77.8.100") and pair.accepts("fd77:8::100"))


def test_each_gateway_holds_one_of_two_addresses_and_the_other_takes_over_its_own(pair: Pair) -> None:
    """Which gateway starts with which address is a matter of who is fit: here each has one cable of two at first."""
    ips = {"north": "10.77.8.100/32", "south": "10.77.8.101/32"}
    devices = {"north": "lan1", "south": "lan2"}
    for name in ("gw1", "gw2"):
        pair.host(name).run("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
        for device in devices.values():
            pair.segment.plug(pair.host(name), device)
    pair.host("gw1").ip("link", "set", "lan2", "down")
    pair.host("gw2").ip("link", "set", "lan1", "down")
    pair.start_with(ips, {"north": "gw1 gw2", "south": "gw2 gw1"}, devices)
    pair.wait(lambda: pair.holding(ips["north"]) == ["gw1"] and pair.holding(ips["south"]) == ["gw2"])
    pair.wait(lambda: pair.client.ping("10.77.8.100") and pair.client.ping("10.77.8.101"))
    pair.host("gw1").ip("link", "set", "lan2", "up")
    pair.host("gw2").ip("link", "set", "lan1", "up")
    pair.wait(lambda: pair.fit_addresses("gw1") == 2)
    pair.end("gw2", signal.SIGKILL)
    pair.wait(lambda: "gw1" in pair.holding(ips["south"]))
    assert "gw1" in pair.holding(ips["north"]), "the other address stays where it is"
    pair.wait(lambda: pair.client.ping("10.77.8.100") and pair.client.ping("10.77.8.101"))
    lan1, lan2 = (pair.host("gw1").run("cat", f"/sys/class/net/{device}/address").stdout for device in devices.values())
    assert pair.client.neighbour("10.77.8.100") == lan1.strip()
    assert pair.client.neighbour("10.77.8.101") == lan2.strip()

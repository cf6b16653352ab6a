"""A small cluster of real `condor-gateway run` processes on a switch of network namespaces."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import netns
from tests.support.nodes import Nodes, address_text, backend_text, frontend_text, head_text, segment_for_nodes

ADDRESS = "10.77.9.100"
# Three gateways and a witness are a majority of five, also when one of them dies. The manager never starts: what is
# tried here needs no HTCondor.
NODES = {"gw1": "10.77.9.1", "gw2": "10.77.9.2", "gw3": "10.77.9.3", "w1": "10.77.9.4"}
MANAGER_IP = "10.77.9.5"


class Cluster(Nodes):
    """Hosts, and the nodes that run on them."""

    def __init__(self, segment: netns.Segment, folder: Path) -> None:
        super().__init__(segment, folder)
        sections = address_text("vip", f"{ADDRESS}/32", "gw1 gw2 gw3") + frontend_text("matchmaker", "vip")
        sections += backend_text(MANAGER_IP, elected_negotiator=True)
        for name, ip in NODES.items():
            segment.host(name, f"{ip}/24")
            self.config(name).write_text(head_text("tests", NODES | {"cm1": MANAGER_IP}, folder, name) + sections)
        segment.host("client", "10.77.9.50/24")

    def holder(self, asked: str) -> str | None:
        status = self.status(asked)
        return status["elections"]["vip"]["leader"] if status else None

    def wait_holder(self, asked: str, *, other_than: str | None = None, within_s: float = 20) -> str:
        """Return who holds the address, as `asked` sees it; fail when nobody does in time."""

        def held() -> str | None:
            holder = self.holder(asked)
            return None if holder == other_than else holder

        return str(self.wait(held, "somebody holds the address", within_s))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster of four hosts, nothing started yet."""
    with segment_for_nodes("cgc", tmp_path) as segment, Cluster(segment, tmp_path) as made:
        yield made

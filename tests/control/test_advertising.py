"""What the pool is told of the nodes. The tools are faked: with a real collector in test_on_a_pool.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from gateway.config import load
from gateway.control import advertising as module
from gateway.control.advertising import EVERY_S, make_advertising
from gateway.core.orders import OrderBook
from gateway.core.timing import Timing
from gateway.matchmaker.condor import ToolFailed
from gateway.matchmaker.gateway_ads import render_ad
from gateway.wire.messages import Orders

ROOT = Path(__file__).parents[2]
TIMING = Timing(heartbeat_ms=100, lease_ms=1_000)
CHANGE = {"at": 1_795_449_731.2, "election": "pool-vip", "from": "gw1", "cause": "died", "gap_ms": 12}


class Bench:
    """The elected manager whose collector is a list."""

    def __init__(self, monkeypatch):
        path = ROOT / "haproxy-like-config" / "minimal.cfg"
        settings = load(path.read_text(), str(path), {}).require()
        backend = settings.backends[0]
        self.leads = True
        self.names = tuple(peer.name for peer in settings.peers)
        me = backend.servers[0].name
        self.vip = settings.addresses[0].name
        self.elections = {
            self.vip: SimpleNamespace(leader=self.names[-1], leader_term=8),
            backend.name: SimpleNamespace(leader=me, leader_term=5),
        }
        book = OrderBook(me, TIMING, Orders())
        node = SimpleNamespace(me=me, voters=self.names, elections=self.elections, heard_ms={}, book=book)
        history = SimpleNamespace(last=lambda name: CHANGE if name == self.vip else None)
        manager = SimpleNamespace(name=backend.name, holds=lambda: self.leads)
        self.made = make_advertising(settings, node, history, [manager])
        self.advertising = self.made[backend.name]
        self.done = []

        async def send(collector, ads):
            self.done.append((str(collector), ads))
            if self.fails:
                raise ToolFailed("condor_advertise", "no answer within 5000 ms")

        async def remove(collector, cluster, nodes):
            self.done.append(("removed", nodes))

        self.fails = False
        monkeypatch.setattr(module, "send_ads", send)
        monkeypatch.setattr(module, "remove_others", remove)
        monkeypatch.setattr(module, "boot_ms", lambda: round(trio.current_time() * 1000))


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


async def test_each_node_has_an_ad_that_says_what_it_holds_since_when_and_why(bench):
    ads = {ad["Node"]: ad for ad in bench.advertising.ads()}
    assert set(ads) == set(bench.names)
    holder = ads[bench.elections[bench.vip].leader]
    assert (holder["Holds"], holder["Term"], holder["LastChangeCause"]) == ([bench.vip], 8, "died")
    assert (holder["HeldSince"], holder["LastGapMs"]) == (1_795_449_731, 12)
    others = [ad for name, ad in ads.items() if not ad["Holds"]]
    assert others
    assert all("Term" not in ad for ad in others)
    assert len({ad["Matchmaker"] for ad in ads.values()}) == 1


async def test_ads_are_sent_at_once_when_something_changes_and_else_every_minute(bench, nursery, autojump_clock):
    await nursery.start(bench.advertising.run)
    await trio.sleep(0.5)
    assert [where for where, _ in bench.done] == ["removed", str(bench.advertising._collector)]
    await trio.sleep(EVERY_S - 2)
    assert len(bench.done) == 2
    bench.elections[bench.vip].leader = None
    await trio.sleep(2)
    assert len(bench.done) == 3
    await trio.sleep(2 * EVERY_S)
    assert len(bench.done) == 5


async def test_a_manager_that_does_not_lead_sends_nothing(bench, nursery, autojump_clock):
    bench.leads = False
    await nursery.start(bench.advertising.run)
    await trio.sleep(2 * EVERY_S)
    assert bench.done == []


async def test_a_collector_that_refuses_is_asked_again_a_minute_later(bench, nursery, autojump_clock):
    bench.fails = True
    await nursery.start(bench.advertising.run)
    await trio.sleep(EVERY_S - 1)
    assert len(bench.done) == 2
    await trio.sleep(2)
    assert len(bench.done) == 3


def test_an_ad_is_written_in_the_syntax_of_classads():
    ad = {"Name": 'a "b"\\\n', "Alive": True, "Term": 8, "Holds": ["x", "y"], "Empty": []}
    assert render_ad(ad) == ('Name = "a \\"b\\"\\\\ "\nAlive = true\nTerm = 8\nHolds = { "x", "y" }\nEmpty = { }\n')

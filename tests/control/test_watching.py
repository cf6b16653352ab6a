"""What changes on a node without a task that says so. Fakes for what is watched: each is a value."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import trio

from gateway.control import watching as module
from gateway.control.history import History
from gateway.control.watching import Watching, sentence_of
from gateway.core.orders import OrderBook, paused
from gateway.core.timing import Timing
from gateway.kernel.sd_notify import SystemdNotifier
from gateway.wire.messages import Orders

TIMING = Timing(heartbeat_ms=100, lease_ms=1_000)


class Bench:
    """A node that is watched, with a clock of its own."""

    def __init__(self, monkeypatch, tmp_path):
        self.now_ms = 100_000
        monkeypatch.setattr(module, "boot_ms", lambda: self.now_ms)
        self.history = History(tmp_path / "history.jsonl", "me", {}, lambda peer: None)
        elections = {
            "pool-vip": SimpleNamespace(serving_term=3, leader="me"),
            "pool": SimpleNamespace(serving_term=None, leader="cm2"),
            "other": SimpleNamespace(serving_term=None, leader=None),
        }
        self.node = SimpleNamespace(
            me="me",
            voters=("me", "cm1"),
            heard_ms={"cm1": self.now_ms},
            timing=TIMING,
            book=OrderBook("me", TIMING, Orders()),
            elections=elections,
        )
        self.warnings = []
        self.standbys = {}
        self.watching = Watching(
            history=self.history,
            node=self.node,
            warnings=lambda: self.warnings,
            matchmakers={"pool": lambda: {"accounting": {"standbys": self.standbys}}},
            notifier=SystemdNotifier({}),
        )

    def look(self, after_ms=0):
        """Return what is told of the next look."""
        self.now_ms += after_ms
        before = self.history.seq
        self.watching.look()
        skipped = ("seq", "at", "node")
        return [
            {key: value for key, value in event.items() if key not in skipped}
            for event in self.history._events
            if event["seq"] > before
        ]


@pytest.fixture
def bench(monkeypatch, tmp_path):
    return Bench(monkeypatch, tmp_path)


def test_a_peer_that_falls_silent_is_told_once_and_so_is_its_return(bench):
    assert bench.look() == []
    assert bench.look(2_000) == []
    assert bench.look(1_500) == [{"event": "peer-lost", "peer": "cm1", "reason": "silent for 3.5 s"}]
    assert bench.look(5_000) == []
    bench.node.heard_ms["cm1"] = bench.now_ms
    assert bench.look() == [{"event": "peer-returned", "peer": "cm1"}]


def test_a_peer_that_was_never_heard_is_told_after_a_while(bench):
    bench.node.heard_ms.clear()
    assert bench.look(5_000) == []
    assert bench.look(10_000) == [{"event": "peer-lost", "peer": "cm1", "reason": "it has never been heard"}]


def test_a_standby_that_falls_behind_is_told_and_so_is_its_return(bench):
    bench.standbys["cm2"] = {"connected": True, "lag_ms": 0}
    assert bench.look() == []
    bench.standbys["cm2"] = {"connected": True, "lag_ms": 2_500}
    (told,) = bench.look()
    assert (told["event"], told["standby"], told["reason"]) == (
        "standby-behind",
        "cm2",
        "its accounting is 2500 ms old",
    )
    bench.standbys["cm2"] = {"connected": False, "lag_ms": 0}
    assert bench.look() == [], "it is behind still"
    bench.standbys["cm2"] = {"connected": True, "lag_ms": 0}
    assert [told["event"] for told in bench.look()] == ["standby-whole"]


def test_a_warning_is_told_once(bench):
    bench.warnings.append("the disk is full")
    assert bench.look() == [{"event": "warning", "reason": "the disk is full"}]
    assert bench.look() == []


def test_systemd_is_told_what_the_node_does(bench):
    assert sentence_of(bench.node) == "holds pool-vip; pool is at cm2; nobody leads other"
    bench.node.book.put_in_force(paused(Orders(), by="me", at_s=0, reason=""))
    assert sentence_of(bench.node).startswith("paused; holds")


async def test_the_watchdog_hears_in_time_and_no_more_often_than_it_needs(bench, nursery, autojump_clock):
    alive = []
    bench.watching._notifier = SimpleNamespace(
        watchdog_s=15.0, ready=lambda: None, status=lambda text: None, alive=lambda: alive.append(trio.current_time())
    )
    await nursery.start(bench.watching.run)
    await trio.sleep(100)
    gaps = [later - earlier for earlier, later in pairwise(alive)]
    assert all(13 <= gap <= 15 for gap in gaps)
    assert len(alive) >= 7

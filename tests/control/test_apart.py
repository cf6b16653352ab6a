"""Hosts that can't be reached go from the collector of a side that serves apart, and from nobody else's."""

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio

from gateway.config.settings import Backend, Endpoint, Peer, Role, Server
from gateway.control import apart
from gateway.control.apart import Apart, endpoint_of, unreachable
from gateway.core.node import ElectionPlan, Node
from gateway.core.timing import Timing
from gateway.kernel.clock import boot_ms
from gateway.matchmaker.census import Ad, Key
from gateway.matchmaker.condor import ToolFailed
from gateway.matchmaker.prime import AskReport

OWN = Endpoint("127.0.0.1", 9618)
NEAR, FAR = Endpoint("127.0.0.3", 1), Endpoint("127.0.0.2", 1)
LEASE_MS = 300


def test_where_a_daemon_listens_is_read_from_its_address() -> None:
    assert endpoint_of("<10.77.0.31:9618?addrs=10.77.0.31-9618&sock=startd_1>") == Endpoint("10.77.0.31", 9618)
    assert endpoint_of("<[fd00::31]:9618?sock=x>") == Endpoint("fd00::31", 9618)
    assert endpoint_of("<10.77.0.31:9618>") == Endpoint("10.77.0.31", 9618)


@pytest.mark.parametrize("address", ["<10.0.0.1:9618?CCBID=10.0.0.9:9618%3faddrs#3&sock=x>", "", "10.0.0.1:9618"])
def test_who_is_reached_by_ccb_alone_or_has_no_address_is_not_tried(address: str) -> None:
    assert endpoint_of(address) is None


async def test_a_host_that_refuses_a_connection_is_reached() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert await unreachable([Endpoint("127.0.0.1", taken.getsockname()[1])]) == frozenset()


async def test_a_host_that_never_answers_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "CONNECT_S", 0.05)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        there = Endpoint(*full.getsockname())
        with socket.create_connection(full.getsockname()), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(full.getsockname())  # the queue is full now: the kernel drops what comes
            assert await unreachable([there]) == frozenset({there})


async def test_a_host_whose_first_answer_is_lost_is_reached() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        there = Endpoint(*full.getsockname())
        with socket.create_connection(full.getsockname()), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(full.getsockname())  # the queue is full now: the kernel drops what comes
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_accept_soon, full)
                assert await unreachable([there]) == frozenset()


async def _accept_soon(listener: socket.socket) -> None:
    await trio.sleep(apart.TRY_AGAIN_S / 2)
    listener.accept()[0].close()  # room for one


class Pool:
    """One manager's collector, and which of its hosts answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ads = {
            Key("slot", "slot1@near"): _ad(NEAR),
            Key("slot", "slot1@far"): _ad(FAR),
            Key("submitter", "alice@far", "far"): _ad(FAR),
            Key("schedd", "far"): _ad(FAR),
            Key("master", "cm1"): _ad(OWN),
        }
        self.lost = {FAR}
        self.asked: list[set[str]] = []
        self.restarts = 0
        self.fails = 0  # so many times the collector gives no answer
        monkeypatch.setattr(apart.census, "take", self._take)
        monkeypatch.setattr(apart, "invalidate", self._invalidate)
        monkeypatch.setattr(apart, "unreachable", self._unreachable)
        monkeypatch.setattr(apart.prime, "ask_for_updates", self._ask)
        monkeypatch.setattr(apart, "LOOK_S", 0.01)
        monkeypatch.setattr(apart, "ASK_AGAIN_S", 0.01)
        monkeypatch.setattr(apart.prime, "SETTLED_MS", 10)
        timing = Timing(heartbeat_ms=50, lease_ms=LEASE_MS)
        plans = (ElectionPlan("managers", ("cm1", "cm2")),)
        self.node = Node(me="cm1", voters=("cm1", "cm2"), plans=plans, timing=timing, saved={}, now_ms=boot_ms())
        peer = Peer(name="cm1", endpoint=OWN, roles=frozenset({Role.MANAGER}))
        backend = Backend(name="managers", servers=(Server(name="cm1", endpoint=OWN),))
        self.apart = Apart(backend, peer, LEASE_MS, self._restart)

    def hear(self) -> None:
        """Hear the other node, now and for a long time."""
        self.node.heard_ms["cm2"] = boot_ms() + 3_600_000

    def lose(self) -> None:
        self.node.heard_ms["cm2"] = boot_ms() - 10 * LEASE_MS

    async def _take(self, collector: Endpoint, *, timeout_ms: int) -> dict[Key, Ad]:
        if self.fails:
            self.fails -= 1
            raise ToolFailed("condor_status", "no answer")
        return dict(self.ads)

    async def _invalidate(self, collector: Endpoint, ads: dict[Key, Ad], *, timeout_ms: int) -> int:
        assert collector == OWN
        for key in ads:
            del self.ads[key]
        return len(ads)

    async def _unreachable(self, hosts: dict[Endpoint, object]) -> frozenset[Endpoint]:
        return frozenset(self.lost & set(hosts))

    async def _ask(self, startds: set[str], schedds: set[str]) -> AskReport:
        self.asked.append(startds | schedds)
        return AskReport(asked=len(startds) + len(schedds), failed={})

    async def _restart(self) -> int:
        self.restarts += 1
        return 1

    def names(self) -> set[str]:
        return {key.name for key in self.ads}


def _ad(endpoint: Endpoint) -> Ad:
    return Ad(f"<{endpoint}?sock=x>", 1, 1, 1)


async def _while_running(pool: Pool, what: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.apart.run, pool.node)
        await what()
        nursery.cancel_scope.cancel()


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 (numbers have no events)
            await trio.sleep(0.01)


async def _some_looks() -> None:
    await trio.sleep(0.2)


async def test_hosts_of_the_other_side_are_withdrawn_and_the_negotiator_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(monkeypatch)
    pool.lose()
    await _while_running(pool, lambda: _until(lambda: pool.restarts == 1))
    assert pool.names() == {"slot1@near", "cm1"}
    assert pool.apart.status() == {"ads_apart": 3, "ads_apart_total": 3}


async def test_nothing_is_withdrawn_while_every_node_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch)
    pool.hear()
    await _while_running(pool, _some_looks)
    assert (len(pool.ads), pool.restarts) == (5, 0)


async def test_a_manager_that_reaches_nobody_keeps_its_ads(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch)
    pool.lose()
    pool.lost = {NEAR, FAR}
    await _while_running(pool, _some_looks)
    assert (len(pool.ads), pool.restarts) == (5, 0)


async def test_who_was_withdrawn_is_asked_for_its_ads_when_all_nodes_are_heard_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(monkeypatch)
    pool.lose()

    async def heal() -> None:
        await _until(lambda: pool.restarts == 1)
        pool.hear()
        await _until(lambda: bool(pool.asked))
        pool.ads |= {Key("slot", "slot1@far"): _ad(FAR), Key("schedd", "far"): _ad(FAR)}
        await _until(lambda: pool.apart.status()["ads_apart"] == 0)
        await trio.sleep(0.1)

    await _while_running(pool, heal)
    assert pool.asked[0] == {f"<{FAR}?sock=x>"}


async def test_startds_are_asked_at_a_heal_and_schedds_when_address_and_matchmaker_have_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(monkeypatch)
    for key in list(pool.ads):
        if key.kind in ("schedd", "submitter"):
            pool.ads[key] = Ad(f"<{FAR}?sock=schedd>", 1, 1, 1)
    monkeypatch.setattr(apart.prime, "SETTLED_MS", 1_000)
    pool.lose()
    asked_s: dict[str, float] = {}

    async def heal() -> None:
        await _until(lambda: pool.restarts == 1)
        pool.hear()
        healed = trio.current_time()
        for daemon in ("x", "schedd"):
            await _until(lambda daemon=daemon: any(f"<{FAR}?sock={daemon}>" in asked for asked in pool.asked))
            asked_s[daemon] = trio.current_time() - healed

    await _while_running(pool, heal)
    assert asked_s["x"] < 1.0 <= asked_s["schedd"]


async def test_a_host_that_answers_again_gets_its_ads_back_while_others_are_still_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(monkeypatch)
    monkeypatch.setattr(apart, "AGAIN_S_MIN", 0.05)
    other = Endpoint("127.0.0.4", 1)
    pool.ads[Key("slot", "slot1@other")] = _ad(other)
    pool.lost = {FAR, other}
    pool.lose()

    async def come_back() -> None:
        await _until(lambda: pool.restarts == 1)
        pool.lost = {other}
        await _until(lambda: bool(pool.asked))
        pool.ads |= {Key("slot", "slot1@far"): _ad(FAR), Key("schedd", "far"): _ad(FAR)}
        await _until(lambda: pool.apart.status()["ads_apart"] == 1)

    await _while_running(pool, come_back)
    assert set().union(*pool.asked) == {f"<{FAR}?sock=x>"}
    assert pool.restarts == 1


async def test_a_host_that_never_sends_its_ads_again_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch)
    pool.lose()

    async def heal() -> None:
        await _until(lambda: pool.restarts == 1)
        pool.hear()
        await _until(lambda: pool.apart.status()["ads_apart"] == 0)

    await _while_running(pool, heal)
    assert len(pool.asked) == apart.ASKED_TIMES_MAX


async def test_a_collector_that_gave_no_answer_is_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch)
    monkeypatch.setattr(apart, "AGAIN_S_MIN", 3_600.0)
    monkeypatch.setattr(apart, "FAILED_AGAIN_S", 0.01)
    pool.fails = 2
    pool.lose()
    await _while_running(pool, lambda: _until(lambda: pool.restarts == 1))


async def test_a_cut_is_seen_while_hosts_of_the_one_before_it_are_asked_for_their_ads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(monkeypatch)
    monkeypatch.setattr(apart, "ASK_AGAIN_S", 3_600.0)
    pool.lose()

    async def heal_and_cut() -> None:
        await _until(lambda: pool.restarts == 1)
        pool.hear()
        await _until(lambda: bool(pool.asked))
        pool.ads[Key("slot", "slot1@far")] = _ad(FAR)
        pool.lose()
        await _until(lambda: pool.restarts == 2)

    await _while_running(pool, heal_and_cut)
    assert Key("slot", "slot1@far") not in pool.ads

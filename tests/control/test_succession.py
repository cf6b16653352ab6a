"""Succession: what the old process makes sure of before it lets go."""

import os
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from gateway.config.limits import WORKERS_MAX
from gateway.control import succession
from gateway.control.guard import GuardLink
from gateway.control.inheritance import (
    DESCRIPTORS_MAX,
    FORMAT,
    Answer,
    Channel,
    Done,
    Estate,
    Offer,
    RelayState,
    RelayWorker,
    TakeOverFailed,
)
from gateway.control.succession import Legacy, Parts, await_heir, bequeath, take_over
from gateway.core.node import Node
from gateway.core.snapshot import capture, unsettled
from gateway.relay.workers import Workers
from gateway.wire.seal import SealState
from tests.core.playbook import Script


class Steps(trio.abc.Instrument):
    """Counts how often any task has had its turn."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_no_task_runs_between_the_last_look_at_the_elections_and_the_letting_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps, looked, let_go = Steps(), [], []

    def look(node: Node) -> str:
        looked.append(steps.count)
        return unsettled(node)

    monkeypatch.setattr(succession, "unsettled", look)
    monkeypatch.setattr(succession, "let_go", lambda parts: let_go.append(steps.count))
    link, script = GuardLink(None), Script().awake()
    script.ask("a", 1)  # a vote is on its way to the disk
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    nothing = cast(Any, None)
    parts = Parts(script.node, nothing, nothing, nothing, nothing, link, (), (), "tests")

    async def be_the_heir() -> None:
        heir = Channel(theirs)
        offer, _ = await heir.receive(10)
        assert isinstance(offer, Offer)
        script.ask("a", 2)  # another one, after the offer
        heir.send(Answer(""))
        await trio.sleep(0.05)
        script.persisted(2)

    trio.lowlevel.add_instrument(steps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_the_heir)
        nursery.start_soon(_persist_soon, script)
        link._heirs_in.send_nowait(ours)
        channel, _ = await await_heir(parts)
    channel.close()
    theirs.close()
    assert len(let_go) == 1
    assert looked[-1] == let_go[0]


async def _persist_soon(script: Script) -> None:
    await trio.sleep(0.05)
    script.persisted(1)


async def test_an_heir_that_does_not_fit_is_let_go_of_by_name() -> None:
    link, script = GuardLink(None), Script().awake()
    nothing = cast(Any, None)
    parts = Parts(script.node, nothing, nothing, nothing, nothing, link, (), (), "tests")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    heir = Channel(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(await_heir, parts)
        link._heirs_in.send_nowait(ours)
        await heir.receive(10)
        heir.send(Answer("the peers have changed"))
        with trio.fail_after(10):
            while not link.reload_failure:  # noqa: ASYNC110 (the link has no event for it)
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    heir.close()
    assert link.reload_failure == "the peers have changed"


async def test_a_successor_of_another_version_is_an_answer_and_ends_nobody() -> None:
    link, script = GuardLink(None), Script().awake()
    nothing = cast(Any, None)
    parts = Parts(script.node, nothing, nothing, nothing, nothing, link, (), (), "tests")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(await_heir, parts)
        link._heirs_in.send_nowait(ours)
        theirs.send(b"what a later version says")
        with trio.fail_after(10):
            while not link.reload_failure:  # noqa: ASYNC110 (the link has no event for it)
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    theirs.close()
    assert "of a version that hands over otherwise" in link.reload_failure


@pytest.mark.parametrize(
    ("cluster", "addresses", "said"),
    [
        ("others", {"vip": "as 10.0.0.1/32 on eth0"}, "the cluster 'tests' has become 'others'"),
        ("tests", {"vip": "as 10.0.0.1/32 on bond0"}, "on eth0, and in the file it is as 10.0.0.1/32 on bond0"),
        ("tests", {}, "in the file it is gone"),
    ],
)
async def test_what_a_holder_holds_must_stay_where_it_is(cluster: str, addresses: dict[str, str], said: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    old, new = Channel(ours), Channel(theirs)
    script = Script().awake()
    old.send(Offer("tests", {"vip": "as 10.0.0.1/32 on eth0"}, capture(script.node), FORMAT))
    with pytest.raises(TakeOverFailed, match=r"hand it over first|restart the node"):
        await take_over(new, lambda: Script().node, cluster, addresses)
    answer, _ = await old.receive(10)
    assert isinstance(answer, Answer)
    assert said in answer.refused
    old.close()
    new.close()


async def test_what_is_handed_over_otherwise_is_refused_while_the_old_process_can_go_on() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    old, new = Channel(ours), Channel(theirs)
    old.send(Offer("tests", {}, capture(Script().awake().node), FORMAT - 1))
    with pytest.raises(TakeOverFailed, match="of a version that hands over otherwise"):
        await take_over(new, lambda: Script().node, "tests", {})
    answer, _ = await old.receive(10)
    assert isinstance(answer, Answer)
    assert "restart the node" in answer.refused
    old.close()
    new.close()


class Guarded:
    """Stands where the guard's link is: knows relays by their numbers."""

    def __init__(self, *dead: int) -> None:
        self.dead = dead
        self.adopted: list[tuple[int, int]] = []

    def adopt_relay(self, token: int, pid: int) -> str:
        if pid in self.dead:
            raise ProcessLookupError
        self.adopted.append((token, pid))
        return f"relay {pid}"


def inherited(*pids: int) -> tuple[Any, list[socket.socket]]:
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in pids]
    workers = tuple(RelayWorker(number=number, token=number + 1, pid=pid) for number, pid in enumerate(pids))
    was = SimpleNamespace(relay=RelayState(workers=workers, routes={}), relay_ends=tuple(end for end, _ in pairs))
    return was, [end for _, end in pairs]


def parts_with(link: Guarded, count: int) -> tuple[Any, Workers]:
    workers = Workers(count)
    return SimpleNamespace(link=link, forwarding=SimpleNamespace(workers=workers)), workers


def test_every_relay_process_that_lives_is_gone_on_with() -> None:
    was, theirs = inherited(71, 72, 73)
    link = Guarded(72)
    parts, workers = parts_with(link, 3)
    succession._adopt_relays(parts, was)
    assert link.adopted == [(1, 71), (3, 73)]
    assert [relay._adopted and relay._adopted[1] for relay in workers.relays] == ["relay 71", None, "relay 73"]
    for end in (*theirs, *was.relay_ends):
        end.close()


def test_relay_processes_that_are_too_many_now_are_told_the_end() -> None:
    was, (kept, dismissed) = inherited(71, 72)
    parts, workers = parts_with(Guarded(), 1)
    succession._adopt_relays(parts, was)
    assert workers.relays[0]._adopted is not None
    dismissed.settimeout(10)
    assert dismissed.recv(1) == b""
    kept.setblocking(False)
    with pytest.raises(BlockingIOError):
        kept.recv(1)
    for end in (kept, dismissed, *was.relay_ends):
        end.close()


async def test_the_number_of_the_last_event_is_handed_over_as_it_was_at_the_end_of_all_tasks() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    old, new = Channel(ours), Channel(theirs)
    state = capture(Script().awake().node)
    estate = Estate(
        lanes=0,
        node=state,
        seal=SealState(boot_id=b"", peers={}),
        relay=RelayState(workers=(), routes={}),
        matchmakers={},
    )
    async with trio.open_nursery() as nursery:
        old.send(Offer("tests", {}, state, FORMAT))
        nursery.start_soon(bequeath, old, Legacy(estate, ()), 17)
        was = await take_over(new, lambda: Script().node, "tests", {})
        new.send(Done())
    assert was.history_seq == 17
    old.close()
    new.close()


async def test_an_estate_with_as_many_relays_as_a_node_may_have_arrives_whole() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    old, new = Channel(ours), Channel(theirs)
    opened = tuple(os.dup(ours.fileno()) for _ in range(DESCRIPTORS_MAX))
    old.send(Answer(""), opened)
    _, received = await new.receive(10)
    assert len(received) == DESCRIPTORS_MAX == 2 + WORKERS_MAX
    for descriptor in (*opened, *received):
        os.close(descriptor)
    old.close()
    new.close()

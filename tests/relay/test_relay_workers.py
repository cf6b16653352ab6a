"""Several relay processes on the same ports: each lives by itself, and none has more clients than it can carry."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from relay_harness import DEADLINE_S, ask, ask_on, connect, echo, how_it_ended, listener, tcp_server, wait_until

from gateway.config.settings import Endpoint
from gateway.relay.client import OwnChild, RelayDied, RelayStarted
from gateway.relay.limits import demand, fit, share
from gateway.relay.messages import Configure, Ready, Report, Switched, WhenDown
from gateway.relay.workers import Workers, workers_count

CROWD = 240
CLIENTS = 40  # the chance that one of two workers gets none of them is 2 in 10^12


@asynccontextmanager
async def open_workers(count, spawn=None):
    workers = Workers(count, spawn)
    async with trio.open_nursery() as nursery:
        await nursery.start(workers.run)
        yield workers
        nursery.cancel_scope.cancel()


async def event(relay, kind):
    with trio.fail_after(DEADLINE_S):
        while True:
            found = await relay.events.receive()
            if isinstance(found, kind):
                return found


async def listening(workers, *listeners):
    workers.configure(listeners)
    for relay in workers.relays:
        await event(relay, Ready)


def now(relay, field="connections_now", name="matchmaker-tcp"):
    report = relay.latest_report
    return sum(getattr(each, field) for each in report.listeners if each.name == name) if report else 0


async def test_clients_are_spread_over_the_workers_and_all_are_served():
    async with tcp_server(echo) as server, open_workers(2) as workers, contextlib.AsyncExitStack() as stack:
        front = listener(reuse_port=True)
        await listening(workers, front)
        workers.route("pool", Endpoint("127.0.0.1", server), 1)
        clients = [await stack.enter_async_context(await connect(front.port)) for _ in range(CLIENTS)]
        for client in clients:
            assert await ask_on(client) == b"?"
        await wait_until(lambda: sum(now(relay) for relay in workers.relays) == CLIENTS)
        assert all(now(relay) for relay in workers.relays)


async def test_a_worker_that_dies_takes_only_its_own_clients_along_and_is_replaced():
    async with tcp_server(echo) as server, open_workers(2) as workers, contextlib.AsyncExitStack() as stack:
        front = listener(reuse_port=True)
        await listening(workers, front)
        workers.route("pool", Endpoint("127.0.0.1", server), 1)
        clients = [await stack.enter_async_context(await connect(front.port)) for _ in range(CLIENTS)]
        for client in clients:
            await ask_on(client)
        await wait_until(lambda: sum(now(relay) for relay in workers.relays) == CLIENTS)
        kept, pid = now(workers.relays[1]), workers.relays[1].pid
        os.kill(workers.relays[0].pid, signal.SIGKILL)
        await event(workers.relays[0], RelayDied)
        assert await ask(front.port) == b"?", "the other one serves meanwhile"
        answers = [await answer_of(client) for client in clients]
        assert (answers.count(b"?"), answers.count("ended")) == (kept, CLIENTS - kept)
        await event(workers.relays[0], Ready)
        assert workers.relays[1].pid == pid
        for _ in range(CLIENTS):
            assert await ask(front.port) == b"?"
        assert all(now(relay, "connections_total") for relay in workers.relays)


async def answer_of(client):
    """The answer of the server, or that the connection has ended."""
    try:
        return await ask_on(client) or "ended"
    except trio.BrokenResourceError:
        return "ended"


class NeverUp:
    """A relay process that can't be started."""

    def __init__(self, end):
        end.close()
        self.pid = None
        self.started, self.ended = trio.Event(), trio.Event()
        self.scope = trio.CancelScope()
        self.status, self.reason = 127, "out of memory"

    async def live(self):
        self.started.set()
        self.ended.set()

    def kill(self):
        pass


async def test_a_worker_that_never_comes_up_holds_up_nobody():
    made = []

    def spawn(end):
        made.append(None)
        return NeverUp(end) if len(made) != 2 else OwnChild(end)

    async with tcp_server(echo) as server:
        with trio.fail_after(DEADLINE_S):
            async with open_workers(2, spawn) as workers:
                up = next(relay for relay in workers.relays if relay.pid is not None)
                front = listener(reuse_port=True)
                workers.configure([front])
                await event(up, Ready)
                workers.route("pool", Endpoint("127.0.0.1", server), 1)
                await event(up, Switched)
                assert [await ask(front.port) for _ in range(5)] == [b"?"] * 5


async def test_a_switch_reaches_the_clients_of_all_workers():
    async with tcp_server(echo) as server, open_workers(2) as workers, contextlib.AsyncExitStack() as stack:
        front = listener(reuse_port=True)
        await listening(workers, front)
        workers.route("pool", Endpoint("127.0.0.1", server), 1)
        clients = [await stack.enter_async_context(await connect(front.port)) for _ in range(CLIENTS)]
        for client in clients:
            await ask_on(client)
        workers.route("pool", Endpoint("127.0.0.1", server), 2)
        assert {await how_it_ended(client) for client in clients} == {"reset"}


async def test_only_the_first_worker_stands_between_a_collector_and_its_standbys():
    """Else a connect that another one still accepts would not be refused at once."""
    async with open_workers(2) as workers:
        view = listener(name="view", when_down=WhenDown.REFUSE)
        workers.configure([view])
        assert [(await event(relay, Ready)).listeners for relay in workers.relays] == [1, 0]


def test_as_many_workers_as_cores_unless_a_number_is_written(monkeypatch):
    assert workers_count(3) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)))
    assert workers_count(0) == 5
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert workers_count(0) == 8


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_shares_of_all_workers_are_the_limit_rounded_up(workers):
    whole = listener(connections_max=10, silent_max=5, held_max=10, source_max=1, flows_max=4_000)
    part = share(whole, workers)
    for field in ("connections_max", "silent_max", "held_max", "source_max", "flows_max"):
        assert 0 <= getattr(part, field) * workers - getattr(whole, field) < workers
    assert share(listener(source_max=0), workers).source_max == 0, "none stays none"


def test_limits_are_cut_to_what_the_descriptors_carry_and_no_further():
    fronts = [listener(name="a", connections_max=4_000, silent_max=2_000), listener("udp", name="b", flows_max=4_000)]
    assert fit(fronts, 20_000) == tuple(fronts)
    for descriptors in (64, 256, 1_024, 4_096, 13_000):
        cut = fit(fronts, descriptors)
        assert demand(cut) <= descriptors
        assert cut[0].connections_max < 4_000
        assert cut[0].held_max <= cut[0].connections_max
        assert demand(cut) > descriptors * 2 / 3 - 64, "what is left over is a reserve"


def test_beyond_its_descriptors_a_relay_refuses_and_leaves_nobody_hanging():
    """Its hard limit is 150: most of these clients find no room, and each of them is told so."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.relay", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150)),
        )
    ours.settimeout(DEADLINE_S)
    (front,) = fit([listener(hold_ms=60_000, hello_ms=60_000)], 150)
    assert front.connections_max < 60
    with ours, contextlib.ExitStack() as stack:
        ours.send(msgspec.msgpack.encode(Configure(listeners=(front,))))
        while not isinstance(decode(ours.recv(65_536)), Ready):
            pass
        clients = []
        for number in range(CROWD):
            with contextlib.suppress(ConnectionError):  # so early that connect itself tells
                clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", front.port), DEADLINE_S)))
                if number % 2:  # the others have nothing to say yet
                    clients[-1].sendall(b"hello")
        stats, vitals = settled(ours)
        assert stats.held_now == front.connections_max
        assert 0 < stats.silent_now <= front.silent_max
        assert (stats.maxconn_refused_total > 0, stats.accept_paused_total) == (True, 0)
        assert vitals.descriptors_max == 150
        assert stats.connections_now < vitals.descriptors < 150
        assert sum(not is_gone(client) for client in clients) == stats.connections_now
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


def settled(ours):
    """The figures when everybody was accepted, and nothing changed for a second."""
    last = None
    for _ in range(DEADLINE_S):
        report = decode(ours.recv(65_536))
        (stats,) = report.listeners
        if stats.connections_total == CROWD and stats == last:
            return stats, report.vitals
        last = stats
    raise AssertionError(last)


def decode(data):
    return msgspec.msgpack.decode(data, type=Ready | Report)


def is_gone(client):
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_a_report_says_what_the_process_uses():
    async with open_workers(1) as workers:
        await event(workers.relays[0], RelayStarted)
        await wait_until(lambda: workers.relays[0].latest_report is not None)
        vitals = workers.relays[0].latest_report.vitals
        opened = len(os.listdir(f"/proc/{workers.relays[0].pid}/fd"))
        assert abs(vitals.descriptors - opened) <= 1
        assert vitals.descriptors_max == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        assert vitals.resident_kib > 1_000

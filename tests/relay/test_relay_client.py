"""The relay process as control sees it: told, answered, replaced."""

import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from functools import partial

import msgspec
import pytest
import trio
from relay_harness import DEADLINE_S, ask, ask_on, connect, echo, how_it_ended, listener, tcp_server, wait_until

from gateway.config.settings import Endpoint
from gateway.relay import client
from gateway.relay.client import Relay, RelayDied, RelayStarted, open_relay
from gateway.relay.messages import Configure, ListenFailed, Ready, Report

NOBODY = 1  # nobody serves tcpmux


async def test_killed_relay_is_replaced_and_told_everything_again(harness):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.listen(front)
        await harness.switch(server)
        assert await ask(front.port) == b"?"
        first = harness.relay.pid
        os.kill(first, signal.SIGKILL)
        died = await harness.event(RelayDied)
        assert died.status == -signal.SIGKILL
        started = await harness.event(RelayStarted)
        assert started.pid == harness.relay.pid != first
        assert await harness.event(Ready) == Ready(listeners=1)
        assert await ask(front.port) == b"?"


async def test_orders_given_while_no_relay_runs_reach_the_next_one(harness):
    async with tcp_server(echo) as server:
        front = listener()
        os.kill(harness.relay.pid, signal.SIGKILL)
        await harness.event(RelayDied)
        assert harness.relay.pid is None
        harness.relay.route("pool", Endpoint("127.0.0.1", server), 7)
        harness.relay.configure([front])
        await harness.event(Ready)
        assert await ask(front.port) == b"?"


async def test_stopped_relay_does_not_block_control_and_gets_the_last_orders(harness):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.listen(front)
        os.kill(harness.relay.pid, signal.SIGSTOP)
        try:
            for epoch in range(1, 20_000):
                harness.relay.route("pool", Endpoint("127.0.0.1", NOBODY), epoch)
            harness.relay.route("pool", Endpoint("127.0.0.1", server), 20_000)
        finally:
            os.kill(harness.relay.pid, signal.SIGCONT)
        assert await ask(front.port) == b"?"


async def test_relay_that_is_slow_to_start_is_given_the_time_for_its_first_words(harness, monkeypatch):
    await harness.listen(listener())
    monkeypatch.setattr(client, "SILENCE_MS_MAX", 40)  # Python alone takes longer to start
    os.kill(harness.relay.pid, signal.SIGKILL)
    await harness.event(RelayDied)
    assert await harness.event(Ready) == Ready(listeners=1)


async def test_relay_ends_with_its_control():
    async with open_relay() as relay:
        pid = relay.pid
        assert is_alive(pid)
    await wait_until(lambda: not is_alive(pid))


async def test_relay_ends_when_its_control_is_killed():
    """Also when it is stopped and can't see that: the kernel ends it."""
    program = (
        "import trio, os, signal, sys\n"
        "from gateway.relay.client import open_relay\n"
        "async def main():\n"
        "    async with open_relay() as relay:\n"
        "        await wait_ready(relay)\n"
        "        print(relay.pid, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "async def wait_ready(relay):\n"
        "    while relay.latest_report is None: await trio.sleep(0.01)\n"
        "trio.run(main)\n"
    )
    async with trio.open_nursery() as nursery:
        control = await nursery.start(
            partial(trio.run_process, [sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
        )
        with trio.fail_after(DEADLINE_S):
            pid = int(await control.stdout.receive_some())
        os.kill(pid, signal.SIGSTOP)
        control.kill()
        await wait_until(lambda: not is_alive(pid))


def is_alive(pid):
    """Whether it is there and no zombie that nobody has waited for yet."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_relay_outlives_the_idle_threads_of_control(monkeypatch):
    """The kernel's parent-death signal is bound to the thread that forked; trio ends idle ones after ten seconds."""
    monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.1)
    async with open_relay() as relay:
        pid = relay.pid
        await wait_until(lambda: relay.latest_report is not None)
        await trio.sleep(0.5)
        assert relay.pid == pid
        assert is_alive(pid)


async def test_port_in_use_is_answered_with_the_reason_and_taken_when_it_is_free(harness):
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        front = listener(port=occupant.getsockname()[1])
        failed = await harness.listen(front)
        assert isinstance(failed, ListenFailed)
        assert (failed.listener, failed.port, failed.reason.split(":")[0]) == (front.name, front.port, "EADDRINUSE")
    assert await harness.event(Ready) == Ready(listeners=1)


async def test_address_of_another_host_is_answered_with_the_reason(harness):
    front = msgspec.structs.replace(listener(), host="192.0.2.1")  # RFC 5737
    failed = await harness.listen(front)
    assert isinstance(failed, ListenFailed)
    assert failed.reason.startswith("EADDRNOTAVAIL")


async def test_freebind_listens_on_an_address_that_is_not_here_yet(harness):
    fronts = [
        msgspec.structs.replace(listener(kind, name=f"{kind} {host}"), host=host, freebind=True)
        for host in ("192.0.2.1", "2001:db8::1")
        for kind in ("tcp", "udp")
    ]
    assert await harness.listen(*fronts) == Ready(listeners=4)


async def test_ipv6_clients_reach_an_ipv4_server(harness):
    front = msgspec.structs.replace(listener(), host="::1")
    async with tcp_server(echo) as server:
        await harness.switch(server)
        await harness.listen(front)
        async with await trio.open_tcp_stream("::1", front.port) as stream:
            assert await ask_on(stream) == b"?"


async def test_unchanged_listener_keeps_its_clients_when_others_come_and_go(harness):
    async with tcp_server(echo) as server:
        kept, gone = listener(name="kept"), listener(name="gone")
        await harness.switch(server)
        await harness.listen(kept, gone)
        async with await connect(kept.port) as stays, await connect(gone.port) as goes:
            assert await ask_on(stays) == await ask_on(goes) == b"?"
            limits_changed = msgspec.structs.replace(kept, hold_ms=1)
            new = listener(name="new")
            assert await harness.listen(limits_changed, new) == Ready(listeners=2)
            assert await how_it_ended(goes) == "reset"
            assert await ask_on(stays) == b"?"
            assert await ask(gone.port) == "ECONNREFUSED"
            assert await ask(new.port) == b"?"


async def test_port_may_move_to_another_name(harness):
    front = listener(name="old")
    await harness.listen(front)
    assert await harness.listen(msgspec.structs.replace(front, name="new")) == Ready(listeners=1)


def start_relay_by_hand():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.relay", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
    ours.settimeout(DEADLINE_S)
    return ours, process


@pytest.mark.parametrize("order", [b"\xc1", b"nonsense", msgspec.msgpack.encode({"type": "dance"})])
def test_broken_order_ends_the_relay_loudly(order):
    ours, process = start_relay_by_hand()
    with ours:
        ours.send(order)
        _out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert b"DecodeError" in err or b"ValidationError" in err


def test_end_of_the_control_socket_ends_the_relay_in_peace():
    ours, process = start_relay_by_hand()
    assert isinstance(msgspec.msgpack.decode(ours.recv(65_536), type=Report | Ready), Report)
    ours.close()
    _out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, b"")


def test_sigterm_ends_the_relay():
    ours, process = start_relay_by_hand()
    with ours:
        ours.recv(65_536)
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == -signal.SIGTERM


def test_relay_started_by_hand_says_how_it_is_started():
    result = subprocess.run([sys.executable, "-m", "gateway.relay"], capture_output=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(b"usage:")


def test_relay_imports_little():
    program = "import sys, gateway.relay.__main__; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.split()
    assert not {"scapy", "pyroute2", "cryptography", "structlog"} & set(modules)


async def test_older_epoch_is_refused():
    relay = Relay()
    relay.route("pool", None, 2)
    with pytest.raises(ValueError, match="epoch 1 is older than 2"):
        relay.route("pool", None, 1)


@pytest.mark.parametrize(("sudden", "drain_ms"), [(True, 0), (False, 60_000)])
async def test_planned_switch_that_overtakes_a_sudden_one_spares_nobody(sudden, drain_ms):
    """The relay is stuck, and will be told of the last server alone: clients of the first one must not go on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        relay = Relay()
        relay._socket = ours
        relay.route("pool", Endpoint("127.0.0.1", 1), 1)
        with suppress(BlockingIOError):
            while True:  # until it is full
                ours.send(b"nothing")
        if sudden:
            relay.route("pool", Endpoint("127.0.0.1", 2), 2)
        else:
            relay.route("pool", None, 1)  # an election: its clients go on
        relay.route("pool", Endpoint("127.0.0.1", 3), 3, drain_ms=60_000)
        assert relay._unsent["route pool"].drain_ms == drain_ms


async def test_too_many_listeners_are_refused():
    relay = Relay()
    with pytest.raises(ValueError, match="at most 120000"):
        relay.configure([listener(name=f"front {number}", port=1) for number in range(1000)])


async def test_configuration_is_one_whole(harness):
    """What is not named is closed, all of it."""
    front = listener()
    await harness.listen(front)
    assert await harness.listen() == Ready(listeners=0)
    assert await ask(front.port) == "ECONNREFUSED"


def test_accept_pauses_without_file_descriptors_and_goes_on_later():
    """The limit is lowered from outside; held clients go away, and the next ones are served."""
    ours, process = start_relay_by_hand()
    front = listener(hold_ms=60_000, hello_ms=0)
    try:
        ours.send(msgspec.msgpack.encode(Configure(listeners=(front,))))
        read_until(ours, Ready)
        leave_descriptors(process.pid, 3)
        clients = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(6)]
        ticks = cpu_ticks(process.pid)
        report = read_until(ours, Report, lambda report: report.listeners[0].accept_paused_total >= 3)
        assert report.listeners[0].connections_now == 3
        assert report.listeners[0].accept_paused_total < 100, "paused, not spinning"
        assert cpu_ticks(process.pid) - ticks < 100
        for client in clients[:3]:
            client.close()
        read_until(ours, Report, lambda report: report.listeners[0].connections_total == 6)
        for client in clients:
            client.close()
    finally:
        ours.close()
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def leave_descriptors(pid, count):
    """Let a process open `count` more descriptors.

    The limit is on their numbers, not on how many there are (getrlimit(2)): the control socket has kept the number that
    it had in this process, which may be high where tests before have left descriptors open. And what is only there at
    some of the looks, the process has opened for a moment (in /proc, to report what it uses).
    """
    used = set.intersection(*({int(name) for name in os.listdir(f"/proc/{pid}/fd")} for _ in range(20)))
    free = [number for number in range(max(used) + count + 1) if number not in used]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[count], free[count]))


def read_until(ours, kind, condition=lambda _answer: True):
    for _ in range(100):
        answer = msgspec.msgpack.decode(ours.recv(65_536), type=Ready | ListenFailed | Report)
        if isinstance(answer, kind) and condition(answer):
            return answer
    raise AssertionError(f"no such {kind.__name__}")


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])
